"""Cross-encoders and other sequence classifiers: folders of transformers and of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError, need
from embedkit.formats.detect import locate
from embedkit.formats.folder import FolderPlan, read_json
from embedkit.formats.safety import check_code, check_text, check_weights
from embedkit.formats.tensors import check_complete, reading
from embedkit.formats.transformers.tokenizer import read_tokenizer

if TYPE_CHECKING:
    import torch

ACTIVATIONS = ("identity", "sigmoid", "softmax", "tanh")
_OWN = "sentence_transformers."


@dataclass
class Classifier:
    """A sequence classifier with its tokenizer.

    Attributes
    ----------
    model : torch.nn.Module
        Maps a tokenizer's batch to ``logits`` (N, L).
    tokenizer : transformers tokenizer
        Of pairs of texts.
    max_length : int
        Tokens of a pair; the longer text is cut first.
    activation : str
        One of `ACTIVATIONS`, from logits to scores.
    labels : tuple of str
        Names of the L outputs.

    Examples
    --------
    >>> Classifier(None, None, 512, "softmax", ("contradiction", "entailment", "neutral")).labels.index("entailment")
    1
    """

    model: Any
    tokenizer: Any
    max_length: int
    activation: str
    labels: tuple[str, ...]


def read_classifier(
    name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> Classifier | Callable[..., Any]:
    """A cross-encoder or another sequence classifier, on the CPU in float32.

    Those whose score is more than the logits of one transformers model (a language model's yes and no, prompts) are
    sentence-transformers' to read; what comes back then is its ``CrossEncoder``.

    Raises
    ------
    ModelError
        Not such a folder, incomplete, damaged, or with an activation that is not known.
    UnsafeFileError
        Reading it would run code.
    MissingExtraError
        sentence-transformers is needed, and not installed.

    Examples
    --------
    >>> read_classifier("cross.zip")
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: cross.zip: no such model folder; check the path, or give a hub id like org/name
    """
    folder = locate(name, revision, trust_remote_code, allow_pickle)
    check_weights(FolderPlan(folder, folder, "classifier"), allow_pickle)
    check_code(folder, trust_remote_code)
    check_text(folder)
    config = read_json(folder / "config.json")
    own = folder / "config_sentence_transformers.json"
    settings = read_json(own) if own.is_file() else {}
    modules = folder / "modules.json"
    listing = [str(one.get("type")) for one in read_json(modules)] if modules.is_file() else []
    # modules that do not say whose they are were written before cross-encoders had any
    kind = settings.get("model_type") or ("SentenceTransformer" if listing else "CrossEncoder")
    if kind != "CrossEncoder":
        raise ModelError("is a model of vectors, no cross-encoder", where=str(folder),
                         remedy="give it as --model, and a cross-encoder here")  # fmt: skip
    architecture = str((config.get("architectures") or ["ForSequenceClassification"])[0])
    if len(listing) > 1 or architecture.endswith("ForCausalLM") or settings.get("default_prompt_name"):
        return _of_sentence_transformers(folder, listing)
    if not architecture.endswith("ForSequenceClassification"):
        raise ModelError(f"is a {architecture}, which does not score pairs", where=str(folder),
                         remedy="give a cross-encoder: a folder of a ...ForSequenceClassification")  # fmt: skip
    return _classifier(folder, config, settings, trust_remote_code, allow_pickle)


def _classifier(
    folder: Path, config: dict[str, Any], settings: dict[str, Any], trust_remote_code: bool, allow_pickle: bool
) -> Classifier:
    import torch
    from transformers import AutoModelForSequenceClassification

    with reading(folder):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, weights_only=True,
            use_safetensors=not allow_pickle or any(folder.glob("*.safetensors")), trust_remote_code=trust_remote_code,
        )  # fmt: skip
    check_complete(report, folder)
    tokenizer = read_tokenizer(folder, trust_remote_code)
    count = model.config.num_labels
    lengths = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    sizes = [length for length in lengths if length is not None and 0 < length < 1_000_000]
    labels = tuple(str(model.config.id2label[place]) for place in range(count))
    activation = _activation(config, settings, count, folder)
    return Classifier(model.eval().requires_grad_(False), tokenizer, min(sizes, default=512), activation, labels)


def _activation(config: dict[str, Any], settings: dict[str, Any], count: int, folder: Path) -> str:
    """From logits to scores, as sentence-transformers saves it; without a word the sigmoid of one output, the logits
    of several."""
    path = (
        settings.get("activation_fn") or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
    )  # fmt: skip
    if path is None:
        return "sigmoid" if count == 1 else "identity"
    name = str(path).rpartition(".")[2].lower()
    if name not in ACTIVATIONS:
        raise ModelError(f"the activation {path!r} is not known here", where=str(folder),
                         remedy=f"write one of torch.nn's into config.json: {', '.join(ACTIVATIONS)}")  # fmt: skip
    return name


def _of_sentence_transformers(folder: Path, listing: list[str]) -> Callable[..., Any]:
    need("sentence-transformers", "st", "a cross-encoder of several modules", module="sentence_transformers")
    foreign = [kind for kind in listing if not kind.startswith(_OWN)]
    if foreign:
        raise ModelError(f"has a module {foreign[0]!r} of its own code", where=str(folder),
                         remedy="load it with CrossEncoder, and give the object in Python")  # fmt: skip
    from sentence_transformers import CrossEncoder

    with reading(folder):
        return CrossEncoder(str(folder), device="cpu", local_files_only=True)


def activate(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """Scores (N, L) of logits (N, L).

    Examples
    --------
    >>> import torch
    >>> activate(torch.zeros(1, 2), "softmax")
    tensor([[0.5000, 0.5000]])
    """
    if activation == "softmax":
        return logits.softmax(dim=-1)
    return {"identity": lambda: logits, "sigmoid": logits.sigmoid, "tanh": logits.tanh}[activation]()
