"""The pooling of a plain transformers folder: sentence-transformers' choice, with a note."""

from __future__ import annotations

from embedkit.errors import ModelError
from embedkit.formats.folder import DUAL_TYPES, FolderPlan, read_json

_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")

_GUESSES = {
    "causal": ("last-token", "its last token, for it is a causal language model"),
    "simcse": ("cls", "its first token, for SimCSE's code wrote it (pooling pooler adds its layer mlp; PromptBERT's "
                      "reads a mask in a template)"),
    "any": ("mean", "the mean of its tokens"),
}  # fmt: skip
"""Pooling and what is said of it by the kind of a folder."""


def default_pooling(plan: FolderPlan) -> None:
    """Set the pooling of a plan whose folder names none: the last token for a ``*ForCausalLM``, the first for a
    ``*ForCL`` of SimCSE's code, else the mean, as sentence-transformers has it since version 5.4; the guess is a note.

    Raises
    ------
    ModelError
        The folder holds a model of images, of which only the text half could be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}')
    >>> plan = FolderPlan(Path(), Path(), "text")
    >>> default_pooling(plan)
    >>> plan.spec
    {'pooling': 'last-token'}
    """
    path = plan.weights / "config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise ModelError("is no JSON object", where=str(path), remedy="write the folder again")
    kind, name = str(config.get("model_type")), str((config.get("architectures") or [""])[0])
    if "vision_config" in config and kind not in DUAL_TYPES and "auto_map" not in config:  # that is refused as code
        raise ModelError(
            f"a {kind} model reads images in a way that embedkit does not have", where=str(path),
            remedy=f"models of texts and images that are read: {', '.join(DUAL_TYPES)} and open_clip's",
        )  # fmt: skip
    causal = name.endswith("ForCausalLM") and config.get("is_causal", True)
    plan.spec["pooling"], token = _GUESSES["causal" if causal else "simcse" if name.endswith("ForCL") else "any"]
    plan.notes.append(f"the folder names no pooling: a text is {token}; set pooling (model.pooling) for another")
    if name.endswith(_HEADS):
        plan.notes.append(f"{name}: a classifier or reranker, whose head is not used: no encoder of sentences yet")
