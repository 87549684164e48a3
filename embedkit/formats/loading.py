"""Reading models from embedkit, sentence-transformers and transformers folders or the hub.

The folder is checked before anything heavy is imported, so that a wrong name costs no time.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError, UserError, nearest
from embedkit.formats.detect import inspect, locate
from embedkit.formats.embedkit.feature import KINDS as FEATURE_KINDS
from embedkit.formats.embedkit.feature import read_feature
from embedkit.formats.folder import SOFT_PROMPT_FILE, TRAIN_ONLY_FILE, FolderPlan
from embedkit.formats.registry import readers
from embedkit.formats.tensors import load_exactly, read_safetensors, read_tensors, reading
from embedkit.formats.transformers.encoder import pretrained_pooler, read_encoder
from embedkit.formats.transformers.tokenizer import check_vocabulary, fit_length, read_tokenizer
from embedkit.models.encode.quantization import RANGES_FILE, VectorRanges

if TYPE_CHECKING:
    import torch

    from embedkit.models.base import Model
    from embedkit.models.heads.layers import Layer

NO_POOLING = "names no pooling"
OPEN_CLIP = "open_clip:"
POOLER = "pooler"
"""As a name of pooling: the first token through the layer that `pretrained_pooler` reads."""
_log = logging.getLogger(__name__)
_ATTRIBUTES = ("max_seq_length", "prompts", "default_prompt_name", "similarity_fn_name")
"""Arguments of sentence-transformers that are attributes of a model, in the order in which they are set."""
_ANSWERS = {
    "truncate_dim": "give it to encode, or as --truncate-dim on the command line",
    "cache_folder": "set the environment variable HF_HOME",
    "backend": "`embedkit export MODEL FOLDER --format onnx` writes a model for ONNX Runtime",
    "tokenizer_kwargs": "set max_length, or change tokenizer_config.json of the folder",
    "model_kwargs": "set dtype",
    "token": "set the environment variable HF_TOKEN",
}
"""Other arguments of sentence-transformers -> the way here."""


def load(
    name_or_path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    *,
    allow_pickle: bool = False,
    pooling: str | None = None,
    max_length: int | None = None,
    layers: int | None = None,
    route: str | None = None,
    local_files_only: bool = False,
    **others: Any,
) -> Model:
    """A model ready to encode (in evaluation mode).

    Parameters
    ----------
    name_or_path : str or Path
        A folder of embedkit, sentence-transformers, transformers, peft, model2vec or open_clip, the folder of a run,
        or a hub id; ``local-dir:`` and ``hf-hub:`` may stand in front, as in open_clip. ``open_clip:ARCHITECTURE/TAG``
        is a pretrained model of open_clip, without a tag one with random weights, with the file of a checkpoint in its
        place that one.
    device : str or torch.device, optional
        The best one available when None.
    dtype : str or torch.dtype, optional
        Type of the parameters; float32 when None, whatever the file holds. "int8" and "auto" keep float32 and encode
        as `Model.at_dtype` does.
    trust_remote_code : bool
        Allow the model to bring its own Python code.
    revision : str, optional
        Branch, tag or commit of a hub id.
    allow_pickle : bool
        Allow weights in a pickle, which are then read with ``weights_only=True``.
    pooling, max_length : optional
        Replace the folder's own settings. ``pooling="pooler"`` is [CLS] through the layer that the encoder was
        pretrained with, which SimCSE's released supervised models are scored by.
    layers : int, optional
        The first layers of a text encoder alone, for models that were trained for it (objective ``adaptive-layers``).
    route : str, optional
        The route of a sentence-transformers folder whose queries and documents go through different modules.
    local_files_only : bool
        Look for a hub id in the hub's cache only.
    others
        What sentence-transformers calls the same: ``max_seq_length``; ``prompts``, ``default_prompt_name`` and
        ``similarity_fn_name`` in place of the folder's. Its other arguments are answered.

    Raises
    ------
    ModelError
        Not a model, incomplete, damaged, or made of unknown parts.
    UserError
        An argument that is not known, a device that is not here.
    UnsafeFileError
        Reading it would run code, and that was not allowed.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> folder = StaticEncoder(tokenizer(), dim=4).save("words")
    >>> embedkit.load("words").encode(["a red lamp", "a huge house"]).shape
    (2, 4)
    """
    for name in others:
        if name not in _ATTRIBUTES:
            remedy = _ANSWERS.get(name) or nearest(name, [*_ATTRIBUTES, "max_length", "pooling", "device", "dtype"])
            raise UserError(f"load takes no argument {name!r}", remedy=remedy)
    if device is not None:  # before the model is looked for
        device = best_device(device)
    if str(name_or_path).startswith(OPEN_CLIP):
        from embedkit.formats.open_clip.towers import load_tag

        return _placed(load_tag(str(name_or_path).removeprefix(OPEN_CLIP), allow_pickle=allow_pickle), device, dtype)
    root = locate(name_or_path, revision, trust_remote_code, allow_pickle, fetch=not local_files_only)
    plan = inspect(root, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, route=route)
    if (plan.kind == "dual" or plan.members) and (pooling is not None or max_length is not None):
        one = "member" if plan.members else "tower"
        raise ModelError(
            f"pooling and max_length belong to one {one}", where=str(name_or_path), remedy="leave them out"
        )
    if pooling is not None:
        plan.spec["pooling"] = pooling
    if max_length is not None:
        plan.spec["max_length"] = max_length
    model = assemble(plan, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    if (root / RANGES_FILE).is_file():
        model.vector_ranges = VectorRanges.load(root / RANGES_FILE)
    if layers is not None:
        if plan.kind != "text":
            raise ModelError(f"is a {plan.kind} model", where=str(name_or_path), remedy="leave layers out")
        text: Any = model
        model = text.with_layers(layers)
    if layers is None and pooling is None:  # with others the vectors are not those that the heads were trained on
        model.classifiers = readers[plan.origin]().classifiers(root)
    for name in (name for name in _ATTRIBUTES if name in others):
        setattr(model, name, others[name])
    return _placed(model, device, dtype)


def _placed(model: Model, device: str | torch.device | None, dtype: str | torch.dtype | None) -> Model:
    """The model on its device, in its type, ready to encode."""
    from embedkit.models.execution.dtypes import dtype_name

    other = dtype is not None and dtype_name(dtype) in ("int8", "auto")
    model = model.to(device=best_device(device), dtype=as_dtype(None if other else dtype)).eval()
    return model.at_dtype(dtype) if dtype is not None and other else model


def best_device(device: str | torch.device | None) -> torch.device:
    """The device of this name; the best one here for None.

    Examples
    --------
    >>> best_device("cpu")
    device(type='cpu')
    """
    import torch

    if device is not None:
        from embedkit.models.encode.arguments import device_here

        return device_here(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """A floating point type by name; float32 for None.

    Examples
    --------
    >>> as_dtype("bf16"), as_dtype(None)
    (torch.bfloat16, torch.float32)
    """
    from embedkit.models.execution.dtypes import FLOATS, dtype_name

    name = dtype_name("fp32" if dtype is None else dtype)
    if name not in FLOATS:
        raise UserError(f"parameters cannot be {name}", remedy=nearest(name, FLOATS))
    return FLOATS[name]


def assemble(
    plan: FolderPlan,
    *,
    overrides: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Model:
    """The model of an inspected folder, on the CPU in float32.

    `overrides` are keys of the transformers configuration to replace (dropout rates).

    Raises
    ------
    ModelError
        When the parts are damaged, or do not belong together.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> folder = StaticEncoder(tokenizer(), dim=4).save("static")
    >>> assemble(inspect(folder)).embedding.weight.dtype
    torch.float32
    """
    with reading(plan.root):
        model = _assembled(plan, overrides, trust_remote_code, allow_pickle)
    if plan.similarity != "cosine":
        model.similarity_fn_name = plan.similarity
    guessed = plan.spec.get("pooling") == plan.own_pooling
    for note in [note for note in plan.notes if guessed or NO_POOLING not in note]:
        _log.warning("%s: %s", plan.root, note)
    return model


def _assembled(
    plan: FolderPlan, overrides: dict[str, Any] | None, trust_remote_code: bool, allow_pickle: bool
) -> Model:
    if plan.kind == "static":
        from embedkit.formats.model2vec.static import read_static

        return read_static(plan, allow_pickle=allow_pickle)
    if plan.kind == "dual":
        return readers[plan.origin]().dual(plan, allow_pickle=allow_pickle)
    if plan.members:
        return readers[plan.origin]().combined(plan)
    if plan.kind in FEATURE_KINDS:
        return read_feature(plan)
    if plan.kind == "open_clip-text":
        from embedkit.formats.open_clip.text_tower import read_text

        return read_text(plan)
    if plan.kind not in ("text", "clip-text"):
        kinds = "known: chain, clip-text, concatenation, dual, feature, multi, multi-prompt, open_clip-text, sequence, "
        kinds += "static, text"
        raise ModelError(f"unknown kind of model {plan.kind!r}", where=str(plan.root), remedy=kinds)
    from embedkit.models.modules.clip_text import ClipTextEncoder
    from embedkit.models.modules.text import TextEncoder

    encoder = read_encoder(plan.weights, overrides, trust_remote_code, allow_pickle)
    if plan.adapter is not None:
        from embedkit.formats.peft.merging import merge_adapter

        encoder = merge_adapter(encoder, plan.adapter)
    tokenizer = read_tokenizer(plan.tokenizer or plan.weights, trust_remote_code, plan.lower_case)
    check_vocabulary(plan, encoder, tokenizer)
    fit_length(plan, encoder, tokenizer)
    layers = _layers(plan, allow_pickle)
    spec = {"normalize": False, **plan.spec}
    if spec.get("pooling") == POOLER:
        layers.insert(0, pretrained_pooler(encoder, allow_pickle=allow_pickle))
        spec["pooling"] = "cls"
    cls = ClipTextEncoder if plan.kind == "clip-text" else TextEncoder
    model = cls(encoder, tokenizer, dense=layers, **spec)
    if model.soft_prompt is not None:
        model.soft_prompt.load_state_dict(read_safetensors(plan.root / SOFT_PROMPT_FILE))
    return model


def _layers(plan: FolderPlan, allow_pickle: bool) -> list[Layer]:
    """The layers on the pooled vector with their weights, those of training only at the end."""
    from embedkit.models.heads.layers import new_layer

    layers = [new_layer(settings) for settings in [*(settings for _, settings in plan.dense), *plan.train_only]]
    for layer, (folder, _) in zip(layers, plan.dense, strict=False):
        if folder is not None:
            load_exactly(layer, read_tensors(folder, allow_pickle), folder)
    if plan.train_only:
        tensors = read_safetensors(plan.root / TRAIN_ONLY_FILE)
        for number, layer in enumerate(layers[len(plan.dense) :]):
            prefix = f"{number}."
            layer.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return layers
