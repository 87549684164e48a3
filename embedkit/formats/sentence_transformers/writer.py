"""The folder layout of sentence-transformers, written without that library.

`embedkit.formats.folder` reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.formats.folder import SOFT_PROMPT_FILE, TRAIN_ONLY_FILE, write_json
from embedkit.formats.registry import DUAL_KINDS, TEXT_KINDS, FolderWriter, writers
from embedkit.formats.sentence_transformers.reader import POOLING_NAMES
from embedkit.formats.transformers import dual_writer
from embedkit.formats.weights import write_weights
from embedkit.models.inputs.tokens import SLOT, is_prefix

if TYPE_CHECKING:
    from embedkit.models.base import Model

_BASE = "sentence_transformers.base.modules"
_OWN = "sentence_transformers.sentence_transformer.modules"
MODULES = {
    "Transformer": f"{_BASE}.transformer.Transformer",
    "Dense": f"{_BASE}.dense.Dense",
    "Normalize": f"{_BASE}.normalize.Normalize",
    "Pooling": f"{_OWN}.pooling.Pooling",
    "StaticEmbedding": f"{_OWN}.static_embedding.StaticEmbedding",
}
_ACTIVATIONS = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
_POOLING = {ours: theirs for theirs, ours in POOLING_NAMES.items()}


def reasons_against(model: Model) -> list[str]:
    """Why sentence-transformers cannot give the same vectors; empty when it can."""
    reasons = []
    if model.pooling is not None and model.pooling not in _POOLING:
        reasons.append(f"it has no {model.pooling} pooling")
    if model.kind in ("clip-text", "dual"):
        reasons.append(f"a {model.kind} model alone is none of its modules")
    templates = [name for name, text in model.prompts.items() if not is_prefix(text)]
    if templates:
        reasons.append(f"prompt {templates[0]!r} is a template with text behind the slot")
    reasons += model.beyond_modules
    if model.ngrams > 1:
        reasons.append("its StaticEmbedding has no word n-grams")
    return reasons


def write_model(model: Model, folder: Path) -> dict[str, Any]:
    """Write all files of `model` into `folder`.

    Returns the model's spec with the sub-folder of each dense layer, as ``embedkit.json`` holds it.
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

    return {
        "__version__": {
            "sentence_transformers": "5.2.0", "transformers": transformers.__version__, "pytorch": torch.__version__,
        },
        "model_type": "SentenceTransformer",
        "prompts": {name: text.removesuffix(SLOT) for name, text in model.prompts.items()},
        "default_prompt_name": model.default_prompt,
        "similarity_fn_name": "cosine",
    }  # fmt: skip


def _write_text_parts(model: Any, folder: Path, spec: dict[str, Any]) -> list[tuple[str, str]]:
    """Pooling and dense layers; adds their folders to `spec`."""
    from safetensors.torch import save_file

    # the one-line form that every version since 2.0 reads
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": model.max_length, "do_lower_case": False})
    modules = [("Pooling", "1_Pooling")]
    if model.pooling in _POOLING:
        mode = _POOLING[model.pooling]
        (folder / "1_Pooling").mkdir()
        saved = {"embedding_dimension": model.hidden_size, "pooling_mode": mode, "include_prompt": True}
        write_json(folder / "1_Pooling" / "config.json", saved)
    kept_back: dict[str, Any] = {}
    train_only = 0
    for layer, entry in zip(model.layers, spec["dense"], strict=True):
        tensors = {key: value.detach().cpu().contiguous() for key, value in layer.state_dict().items()}
        if layer.train_only:
            kept_back |= {f"{train_only}.{key}": value for key, value in tensors.items()}
            train_only += 1
            continue
        name = f"{len(modules) + 1}_Dense"
        modules.append(("Dense", name))
        entry["folder"] = name
        (folder / name).mkdir()
        write_json(folder / name / "config.json", _dense_config(layer))
        save_file(tensors, folder / name / "model.safetensors")
    if kept_back:
        save_file(kept_back, folder / TRAIN_ONLY_FILE)
    if model.soft_prompt is not None:
        save_file(model.soft_prompt.state_dict(), folder / SOFT_PROMPT_FILE)
    return modules


def _dense_config(layer: Any) -> dict[str, Any]:
    return {
        "in_features": layer.linear.in_features, "out_features": layer.linear.out_features,
        "bias": layer.linear.bias is not None, "activation_function": _ACTIVATIONS[layer.activation],
    }  # fmt: skip


def write(model: Any, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Write a sentence-transformers folder.

    Raises
    ------
    ModelError
        When sentence-transformers would give other vectors.
    """
    if model.kind == "dual":
        return dual_writer.write(model, folder, samples)
    reasons = reasons_against(model)
    if reasons:
        raise ModelError(
            f"sentence-transformers cannot express this model: {'; '.join(reasons)}",
            remedy="save it as an embedkit folder",
        )
    write_model(model, folder)
    (folder / TRAIN_ONLY_FILE).unlink(missing_ok=True)
    return {}


writers.add("sentence-transformers")(FolderWriter(TEXT_KINDS | DUAL_KINDS, write))
