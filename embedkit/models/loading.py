"""Reading models from embedkit, sentence-transformers and transformers folders or the hub.

The folder is checked before anything heavy is imported, so that a wrong name costs no time.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError, UserError, nearest
from embedkit.models.folder import SOFT_PROMPT_FILE, TRAIN_ONLY_FILE, FolderPlan, inspect, locate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from embedkit.models.base import Model
    from embedkit.models.text import Dense

OPEN_CLIP = "open_clip:"
POOLER = "pooler"
"""As a name of pooling: the first token through the layer that `pretrained_pooler` reads."""
_log = logging.getLogger(__name__)


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
) -> Model:
    """A model ready to encode (in evaluation mode).

    Parameters
    ----------
    name_or_path : str or Path
        A folder of embedkit, sentence-transformers, transformers or open_clip, or a hub id; ``local-dir:`` and
        ``hf-hub:`` may stand in front, as in open_clip. ``open_clip:ARCHITECTURE/TAG`` is a pretrained model of
        open_clip, without a tag one with random weights.
    device : str or torch.device, optional
        The best one at hand when None.
    dtype : str or torch.dtype, optional
        Type of the parameters; float32 when None, whatever the file holds.
    trust_remote_code : bool
        Allow the model to bring its own Python code.
    revision : str, optional
        Branch, tag or commit of a hub id.
    allow_pickle : bool
        Allow weights in a pickle, which are then read with ``weights_only=True``.
    pooling, max_length : optional
        Replace the folder's own settings. ``pooling="pooler"`` is [CLS] through the layer that the encoder was
        pretrained with, which SimCSE's released supervised models are scored by.

    Raises
    ------
    ModelError
        Not a model, incomplete, damaged, or made of unknown parts.
    UnsafeFileError
        Reading it would run code, and that was not allowed.
    """
    if str(name_or_path).startswith(OPEN_CLIP):
        from embedkit.interop.open_clip import load_tag  # gate: folders of other libraries

        return load_tag(str(name_or_path).removeprefix(OPEN_CLIP)).to(_device(device), as_dtype(dtype)).eval()
    root = locate(name_or_path, revision, trust_remote_code, allow_pickle)
    plan = inspect(root, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    if plan.kind == "dual" and (pooling is not None or max_length is not None):
        raise ModelError("pooling and max_length belong to one tower", where=str(name_or_path), remedy="leave them out")
    if pooling is not None:
        plan.spec["pooling"] = pooling
    if max_length is not None:
        plan.spec["max_length"] = max_length
    model = assemble(plan, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    return model.to(device=_device(device), dtype=as_dtype(dtype)).eval()


def _device(device: str | torch.device | None) -> torch.device:
    import torch

    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """A floating point type by name; float32 for None."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    known = {
        "float32": torch.float32, "fp32": torch.float32, "float64": torch.float64, "fp64": torch.float64,
        "float16": torch.float16, "fp16": torch.float16, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    }  # fmt: skip
    if dtype is None:
        return torch.float32
    if dtype not in known:
        raise UserError(f"unknown dtype {dtype!r}", remedy=nearest(dtype, known))
    return known[dtype]


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
    """
    with reading(plan.root):
        return _assembled(plan, overrides, trust_remote_code, allow_pickle)


def _assembled(
    plan: FolderPlan, overrides: dict[str, Any] | None, trust_remote_code: bool, allow_pickle: bool
) -> Model:
    if plan.kind == "static":
        from embedkit.models.static import read_static

        return read_static(plan, allow_pickle=allow_pickle)
    if plan.kind == "dual":
        return _dual(plan, allow_pickle)
    if plan.kind not in ("text", "clip-text"):
        known = "known: clip-text, dual, static, text"
        raise ModelError(f"unknown kind of model {plan.kind!r}", where=str(plan.root), remedy=known)
    from embedkit.models.clip_text import ClipTextEncoder
    from embedkit.models.text import Dense, TextEncoder

    encoder = read_encoder(plan.weights, overrides, trust_remote_code, allow_pickle)
    tokenizer = read_tokenizer(plan.weights, trust_remote_code, plan.lower_case)
    dense = [Dense(**settings) for settings in [*(settings for _, settings in plan.dense), *plan.train_only]]
    for layer, (folder, _) in zip(dense, plan.dense, strict=False):
        layer.load_state_dict(read_tensors(folder, allow_pickle))
    if plan.train_only:
        kept = read_safetensors(plan.root / TRAIN_ONLY_FILE)
        for number, layer in enumerate(dense[len(plan.dense) :]):
            prefix = f"{number}."
            layer.load_state_dict({k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)})
    spec = {"normalize": False, **plan.spec}
    if spec.get("pooling") == POOLER:
        dense.insert(0, pretrained_pooler(encoder, allow_pickle=allow_pickle))
        spec["pooling"] = "cls"
    cls = ClipTextEncoder if plan.kind == "clip-text" else TextEncoder
    model = cls(encoder, tokenizer, dense=dense, **spec)
    if model.soft_prompt is not None:
        model.soft_prompt.load_state_dict(read_safetensors(plan.root / SOFT_PROMPT_FILE))
    return model


def _dual(plan: FolderPlan, allow_pickle: bool) -> Model:
    if plan.origin == "embedkit":
        from embedkit.models.dual_folder import read_dual

        return read_dual(plan)
    if plan.origin == "open_clip":
        from embedkit.interop import open_clip  # gate: folders of other libraries

        return open_clip.read(plan.root, allow_pickle=allow_pickle)
    from embedkit.interop import dual_reading  # gate: folders of other libraries

    return dual_reading.read(plan, allow_pickle=allow_pickle)


def read_encoder(
    folder: Path, overrides: dict[str, Any] | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> Any:
    """The transformers encoder of a folder in float32, without pooling layer and without the heads of a masked LM.

    Raises
    ------
    ModelError
        When the folder lacks some of the encoder's weights, or they do not fit.
    """
    import torch
    from transformers import AutoConfig

    with reading(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        for key, value in (overrides or {}).items():
            setattr(config, key, value)
        encoder, report = _encoder_class(config, trust_remote_code).from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, local_files_only=True,
            use_safetensors=not allow_pickle or any(folder.glob("*.safetensors")), weights_only=True,
            trust_remote_code=trust_remote_code, **_encoder_settings(config),
        )  # fmt: skip
    check_complete(report, folder)
    if report["unexpected_keys"]:
        names = sorted({key.split(".")[0] for key in report["unexpected_keys"]})
        _log.info("%s: %d weights not used (%s)", folder, len(report["unexpected_keys"]), ", ".join(names))
    return encoder


def pretrained_pooler(encoder: Any, train_only: bool = False, allow_pickle: bool = False) -> Dense:
    """The layer on the first token that an encoder was pretrained with, Linear + Tanh, from the folder it came from.

    BERT's was trained to tell following sentences (Devlin et al. 2019, section 3.1). The released models of SimCSE keep
    their head under the same name, and the supervised ones are scored through it (Gao et al. 2021, section 6.3).

    Raises
    ------
    ModelError
        When the folder holds none.
    """
    from embedkit.models.text import Dense

    base = encoder.base_model_prefix
    stems = [f"{prefix}{stem}" for prefix in ("", f"{base}.") for stem in ("pooler.dense", "pooler")]
    wanted = {key: [f"{stem}.{key}" for stem in stems] for key in ("weight", "bias")}
    found = find_tensors(encoder, wanted, allow_pickle)
    if len(found) < len(wanted):
        where = encoder.name_or_path or "a random encoder"
        raise ModelError("holds no pooler, BERT's layer on [CLS]", where=where, remedy="use pooling cls or mean")
    outputs, inputs = found["weight"].shape
    layer = Dense(inputs, outputs, "tanh", train_only=train_only)
    layer.linear.load_state_dict(found)
    return layer


def find_tensors(encoder: Any, wanted: Mapping[str, Sequence[str]], allow_pickle: bool = False) -> dict[str, Tensor]:
    """What else stands in the files that an encoder came from: for each key of `wanted` the first of its names there.

    The tensors are float32; a key without one is absent. A pickle is looked into where `allow_pickle` says so and the
    safetensors hold nothing.
    """
    from safetensors import safe_open

    folder, found = Path(encoder.name_or_path), dict[str, "Tensor"]()
    if not encoder.name_or_path or not folder.is_dir():
        return found

    def take(held: set[str], read: Callable[[str], Tensor]) -> None:
        for key, names in wanted.items():
            name = next((name for name in names if name in held), None)
            if name is not None:
                found.setdefault(key, read(name).float())

    with reading(folder):
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                take(set(file.keys()), file.get_tensor)
        if not found and allow_pickle:
            import torch

            for path in sorted(folder.glob("pytorch_model*.bin")):
                tensors = torch.load(path, map_location="cpu", weights_only=True)
                take(set(tensors), tensors.__getitem__)
    return found


def new_encoder(config: Any) -> Any:
    """A randomly initialised encoder of a transformers configuration."""
    settings = _encoder_settings(config)
    cls = _encoder_class(config, False)
    direct = getattr(cls, "from_config", None) or getattr(cls, "_from_config")  # noqa: B009
    return direct(config, **settings)


def _encoder_class(config: Any, trust_remote_code: bool) -> Any:
    from transformers import AutoModel, SiglipTextModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    if config.model_type == "siglip_text_model":  # known to no automatic class
        return SiglipTextModel
    whole = AutoModel._model_mapping.get(type(config), None)
    encoder = MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), None)
    return AutoModel if encoder is None or encoder is whole else encoder  # T5: the encoder without the decoder


def _encoder_settings(config: Any) -> dict[str, Any]:
    """Keywords of the model's constructor: no pooling layer, our attention where the architecture can run packed."""
    import inspect as source

    from transformers import AutoModel

    from embedkit.models.attention import ATTENTION
    from embedkit.models.packing import PACKABLE

    settings: dict[str, Any] = {}
    if config.model_type in PACKABLE:
        settings["attn_implementation"] = ATTENTION
    cls = AutoModel._model_mapping.get(type(config), None)
    if cls is not None and not isinstance(cls, tuple) and "add_pooling_layer" in source.signature(cls).parameters:
        settings["add_pooling_layer"] = False
    return settings


def read_tokenizer(folder: Path, trust_remote_code: bool = False, lower_case: bool = False) -> Any:
    """The tokenizer of a folder; `lower_case` puts a step in front that lower-cases the text, as sentence-transformers
    does for folders that ask for it."""
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"the tokenizer cannot be read ({reason})", where=str(folder)) from error
    if lower_case:
        core = getattr(tokenizer, "backend_tokenizer", None)
        if core is None:
            raise ModelError("do_lower_case needs tokenizer.json", where=str(folder), remedy="save a fast tokenizer")
        steps = [normalizers.Lowercase(), *([core.normalizer] if core.normalizer is not None else [])]
        core.normalizer = normalizers.Sequence(steps)
    return tokenizer


def read_tensors(folder: Path, allow_pickle: bool = False) -> dict[str, Any]:
    """The weights of a module's folder: model.safetensors, or a pickle where that is allowed."""
    path = folder / "model.safetensors"
    if path.is_file() or not allow_pickle:
        return read_safetensors(path)
    import torch

    with reading(folder):
        tensors: dict[str, Any] = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    return tensors


def read_safetensors(path: Path) -> dict[str, Any]:
    """All tensors of a file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelError("file is missing", where=str(path), remedy="the model folder is incomplete") from None
    except SafetensorError as error:
        raise ModelError(f"is damaged ({error})", where=str(path), remedy="copy or write it again") from error


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Read a folder by transformers, quietly; whatever goes wrong inside is the folder's.

    Raises
    ------
    ModelError
        Instead of any error inside but those meant for people: a damaged file can make those readers raise anything.
    """
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "Weights only load failed" in reason:
            reason = "the pickle holds more than tensors, so it could run code"
        raise ModelError(f"cannot be loaded ({reason})", where=str(folder), remedy="is the folder complete?") from error


def check_complete(report: dict[str, Any], folder: Path) -> None:
    """Refuse a transformers model whose loading report names weights that are missing or of another shape.

    Raises
    ------
    ModelError
        With the number of such weights and the first of them.
    """
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("position_ids"))
    if missing or report["mismatched_keys"]:
        keys = missing or sorted(str(key) for key in report["mismatched_keys"])
        raise ModelError(
            f"{len(keys)} weights are missing or have another shape (first: {keys[0]})",
            where=str(folder), remedy="config.json and the weights do not belong together",
        )  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no load reports of transformers inside."""
    from transformers.utils import logging as hf

    shown, level = hf.is_progress_bar_enabled(), hf.get_verbosity()
    hf.disable_progress_bar()
    hf.set_verbosity_error()
    try:
        yield
    finally:
        hf.set_verbosity(level)
        if shown:
            hf.enable_progress_bar()
