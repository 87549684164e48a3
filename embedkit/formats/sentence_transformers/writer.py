"""The folder layout of sentence-transformers, written without that library.

`embedkit.formats.sentence_transformers.reader` reads it.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.formats.folder import SOFT_PROMPT_FILE, TRAIN_ONLY_FILE, write_json
from embedkit.formats.registry import DUAL_KINDS, TEXT_KINDS, FolderWriter, writers
from embedkit.formats.sentence_transformers.modules import POOLING_FLAGS, POOLING_NAMES
from embedkit.formats.tensors import write_tensors
from embedkit.formats.transformers import dual_writer
from embedkit.formats.weights import write_weights
from embedkit.models.heads.layers import ACTIVATIONS, Cut, Dense, LayerNorm, UnitLength
from embedkit.models.heads.sparse_code import SparseCode, sparse_code_of
from embedkit.models.inputs.tokens import SLOT, is_prefix

if TYPE_CHECKING:
    from embedkit.models.base import Model

# the form of the released all-MiniLM-L6-v2 folder, which every version reads
MODULES = {
    name: f"sentence_transformers.models.{name}"
    for name in ("Transformer", "Dense", "LayerNorm", "Normalize", "Pooling", "StaticEmbedding")
} | {"SparseAutoEncoder": "sentence_transformers.sparse_encoder.models.SparseAutoEncoder"}
SEES_PADDING = frozenset({"convbert", "fnet", "mobilebert"})
"""Architectures in which padding changes the states of real tokens even where a mask marks it."""
_POOLING = {ours: theirs for theirs, ours in POOLING_NAMES.items()}


def reasons_against(model: Model) -> list[str]:
    """Reasons why sentence-transformers cannot give the same vectors; empty when it can.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> reasons_against(StaticEncoder(tokenizer(), dim=4, ngrams=2))
    ['its StaticEmbedding has no word n-grams']
    """
    reasons = []
    parts = model.pooling.split("+") if model.pooling is not None else []
    reasons += [f"it has no {part} pooling" for part in parts if part not in _POOLING]
    if model.kind not in ("text", "static"):
        reasons.append(f"a {model.kind} model alone is none of its modules")
    templates = [name for name, text in model.prompts.items() if not is_prefix(text)]
    if templates:
        reasons.append(f"prompt {templates[0]!r} is a template with text behind the slot")
    reasons += model.beyond_modules
    layers = [layer for layer in getattr(model, "layers", []) if not layer.train_only]
    if any(isinstance(layer, Cut) for layer in layers[:-1]) or (
        layers and isinstance(layers[-1], Cut) and model.normalize
    ):
        reasons.append("something stands behind the cut of its vectors")
    if model.ngrams > 1:
        reasons.append("its StaticEmbedding has no word n-grams")
    return reasons


def notes_for_readers(model: Any) -> list[str]:
    """Warnings for those who read a saved folder with sentence-transformers or transformers.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart").model)
    >>> model.pooling = "max+cls"
    >>> notes_for_readers(model)
    ['pooling max+cls is read by sentence-transformers from 5.4 on']
    """
    notes = []
    kind = model.encoder.config.model_type if model.kind == "text" else ""
    if kind in SEES_PADDING:
        notes.append(
            f"{kind} sees the padding of its batch: in other libraries the vector of a text changes with the texts "
            "beside it; embedkit computes it without padding, as they do for one text at a time"
        )
    if model.kind == "text" and not _has_order_of_flags(model.pooling):
        notes.append(f"pooling {model.pooling} is read by sentence-transformers from 5.4 on")
    if model.kind == "text" and model.tokenizer.pad_token is None:
        end = model.tokenizer.eos_token
        notes.append(
            "its tokenizer has no padding token; the saved one pads with " f"{end!r}, which the mask hides" if end else
            "its tokenizer has neither padding nor end token: sentence-transformers encodes one text at a time only"
        )  # fmt: skip
    cuts = [layer.dim for layer in model.layers if isinstance(layer, Cut)] if model.kind == "text" else []
    if cuts:
        notes.append(f"sentence-transformers 5.2 does not read truncate_dim ({cuts[-1]}) and gives whole vectors")
    return notes


def _has_order_of_flags(pooling: str) -> bool:
    names = [_POOLING[part] for part in pooling.split("+") if part in _POOLING]
    return names == [name for name in POOLING_FLAGS.values() if name in names]


def write_model(model: Model, folder: Path) -> dict[str, Any]:
    """The spec of `model` with the sub-folder of each dense layer, as in ``embedkit.json``; writes all its files.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> Path("words").mkdir()
    >>> spec = write_model(StaticEncoder(tokenizer(), dim=4), Path("words"))
    >>> sorted(path.name for path in Path("words").iterdir())
    ['1_Normalize', 'config_sentence_transformers.json', 'model.safetensors', 'modules.json', 'tokenizer.json']
    """
    spec = model.spec()
    is_text = model.kind in ("text", "clip-text")
    modules = [("Transformer" if is_text else "StaticEmbedding", "")]
    write_weights(model, folder)
    if is_text:
        modules += _write_text_parts(model, folder, spec)
    if model.normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
        (folder / modules[-1][1]).mkdir()
        write_json(folder / modules[-1][1] / "config.json", {})
    listing = [
        {"idx": place, "name": str(place), "path": path, "type": MODULES[name]}
        for place, (name, path) in enumerate(modules)
    ]
    if reasons_against(model):
        listing = [{"idx": 0, "name": "0", "path": "", "type": f"embedkit.models.{type(model).__name__}"}]
    write_json(folder / "modules.json", listing)
    write_json(folder / "config_sentence_transformers.json", _settings(model))
    return spec


def _settings(model: Model) -> dict[str, Any]:
    import torch
    import transformers

    cuts = [layer.dim for layer in getattr(model, "layers", []) if isinstance(layer, Cut)]
    return {
        "__version__": {
            "sentence_transformers": "5.2.0", "transformers": transformers.__version__, "pytorch": torch.__version__,
        },
        "model_type": "SentenceTransformer" if sparse_code_of(model) is None else "SparseEncoder",
        "prompts": {name: text.removesuffix(SLOT) for name, text in model.prompts.items()},
        "default_prompt_name": model.default_prompt,
        "similarity_fn_name": model.similarity_fn_name,
        **({"truncate_dim": cuts[-1]} if cuts else {}),
        # model2vec reads a table of this layout too, and looks for both here only
        **({"normalize": model.normalize, "max_length": model.max_length} if model.kind == "static" else {}),
    }  # fmt: skip


def _write_text_parts(model: Any, folder: Path, spec: dict[str, Any]) -> list[tuple[str, str]]:
    """Pooling and layers; adds their folders to `spec`."""
    settings: dict[str, Any] = {"max_seq_length": model.max_length, "do_lower_case": False}
    if getattr(model.encoder, "pooler", 0) is None and "add_pooling_layer" in signature(type(model.encoder)).parameters:
        settings["model_args"] = {"add_pooling_layer": False}  # else a random one, with a report of missing weights
    write_json(folder / "sentence_bert_config.json", settings)
    modules = [("Pooling", "1_Pooling")]
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", _pooling_config(model))
    kept_back: dict[str, Any] = {}
    train_only = 0
    for layer, entry in zip(model.layers, spec["dense"], strict=True):
        if layer.train_only:
            kept_back |= {f"{train_only}.{key}": value for key, value in layer.state_dict().items()}
            train_only += 1
        elif not isinstance(layer, Cut):
            modules.append(_write_layer(layer, folder, len(modules) + 1, entry))
    if kept_back:
        write_tensors(kept_back, folder, TRAIN_ONLY_FILE)
    if model.soft_prompt is not None:
        write_tensors(model.soft_prompt.state_dict(), folder, SOFT_PROMPT_FILE)
    return modules


def _pooling_config(model: Any) -> dict[str, Any]:
    """Flags, which every version reads; where several are concatenated in another order than that of the flags, the
    form of version 5.4 and later."""
    modes = [_POOLING[part] for part in model.pooling.split("+") if part in _POOLING]
    if not _has_order_of_flags(model.pooling):
        size = {"embedding_dimension": model.hidden_size}
        return {**size, "pooling_mode": modes, "include_prompt": model.pool_prompt}
    return {
        "word_embedding_dimension": model.hidden_size,
        **{flag: mode in modes for flag, mode in POOLING_FLAGS.items()},
        "include_prompt": model.pool_prompt,
    }


_LAYERS = {Dense: "Dense", LayerNorm: "LayerNorm", UnitLength: "Normalize", SparseCode: "SparseAutoEncoder"}


def _write_layer(layer: Any, folder: Path, number: int, entry: dict[str, Any]) -> tuple[str, str]:
    """Write one layer's folder and return its module and name; `entry` of the spec gets the name if it has weights."""
    kind = _LAYERS[type(layer)]
    name = f"{number}_{kind}"
    (folder / name).mkdir()
    config: dict[str, Any] = {}
    if isinstance(layer, Dense):
        config = _dense_config(layer)
    elif isinstance(layer, LayerNorm):
        config = {"dimension": layer.norm.normalized_shape[0]}
    elif isinstance(layer, SparseCode):
        inputs, outputs = len(layer.pre_bias), len(layer.latent_bias)
        config = {"input_dim": inputs, "hidden_dim": outputs, "k": layer.k, "normalize": False}
        config["k_aux"] = min(512, outputs)
    write_json(folder / name / "config.json", config)
    if layer.state_dict():
        write_tensors(layer.state_dict(), folder / name)
        entry["folder"] = name
    return kind, name


def _dense_config(layer: Dense) -> dict[str, Any]:
    activation = ACTIVATIONS[layer.activation]
    return {
        "in_features": layer.linear.in_features, "out_features": layer.linear.out_features,
        "bias": layer.linear.bias is not None, "activation_function": f"{activation.__module__}.{activation.__name__}",
    }  # fmt: skip


def _write(model: Any, folder: Path, samples: int = 100) -> dict[str, Any]:
    """The report of a new sentence-transformers folder, empty but for a dual encoder.

    Raises
    ------
    ModelError
        When sentence-transformers would give other vectors.
    """
    if model.kind == "dual":
        return dual_writer.write(model, folder, samples)
    if model.kind == "concatenation":
        one = model.merged()
        if one is None:
            raise ModelError(
                "sentence-transformers has no module for the vectors of several encoders side by side; what it can "
                "express are static encoders of one tokenizer, fused with --raw (unit=False)",
                remedy="save it as an embedkit folder, or export its models one by one",
            )  # fmt: skip
        model = one
    reasons = reasons_against(model)
    if reasons:
        raise ModelError(
            f"sentence-transformers cannot express this model: {'; '.join(reasons)}",
            remedy="save it as an embedkit folder",
        )
    write_model(model, folder)
    (folder / TRAIN_ONLY_FILE).unlink(missing_ok=True)
    return {}


writers.add("sentence-transformers")(FolderWriter(TEXT_KINDS | DUAL_KINDS | {"concatenation"}, _write))
