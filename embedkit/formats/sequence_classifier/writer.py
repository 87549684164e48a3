"""Export of a kept classifier with its encoder as transformers' ``AutoModelForSequenceClassification``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.formats.folder import write_json
from embedkit.formats.registry import FolderWriter, writers
from embedkit.formats.sequence_classifier.layout import MARK, PLACES, PROBLEMS, Place

if TYPE_CHECKING:
    from embedkit.models.heads.classifier import TargetHead
    from embedkit.models.modules.text import TextEncoder

TOLERANCE = 1e-4
"""The largest difference of a logit, as a share of the largest logit, with which a folder is written."""


def write(model: TextEncoder, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Fill an empty folder; the report compares the logits of `samples` texts by transformers with ours.

    Raises
    ------
    ModelError
        There is not one kept head, or the architecture's classifier computes something else.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.models.heads.classifier import TargetHead
    >>> model = build(load_recipe("quickstart", {"model.pooling": "cls"}).model).eval()
    >>> size = model.hidden_size
    >>> model.classifiers = {"tone": TargetHead(size, 2, "class", ["glad", "sad"], hidden=size)}
    >>> Path("tones").mkdir()
    >>> write(model, Path("tones"), samples=4)["logits"]["difference"] < 1e-6
    True
    """
    from embedkit.formats.parity import probe_texts
    from embedkit.formats.tensors import quiet, write_tokenizer

    name, head = _one_head(model)
    place = PLACES.get(model.encoder.config.model_type)
    reason = reason_against(model, head, place)
    if reason is not None or place is None:
        raise ModelError(f"transformers' classifier cannot express the head {name!r}: {reason}", remedy=_remedy(place))
    theirs = _classifier(model, head, place)
    texts = probe_texts(samples)
    difference, largest = _differences(model, head, theirs, texts)
    if difference > TOLERANCE * largest:
        raise ModelError(f"transformers gives other logits for the head {name!r}, by up to {difference:.2g}",
                         remedy="keep it in the folder of embedkit, whose models classify")  # fmt: skip
    with quiet():
        theirs.save_pretrained(folder)
        write_tokenizer(model.tokenizer, folder)
    use = {"normalize": model.normalize, "max_length": model.max_length, "prompts": model.prompts,
           "default_prompt": model.default_prompt}  # fmt: skip
    write_json(folder / MARK, {"target": name, "kind": head.kind, "classes": list(head.classes), "spec": use})
    return {"target": name, "logits": {"texts": len(texts), "difference": difference, "largest": largest}, "use": use}


def _one_head(model: TextEncoder) -> tuple[str, TargetHead]:
    heads = dict(model.classifiers)
    if len(heads) != 1:
        what = f"heads are kept for {', '.join(heads)}" if heads else "no head is kept with the model"
        remedy = "keep one head alone" if heads else "train it with keep: true"
        raise ModelError(f"{what}, and a sequence classifier has one", remedy=remedy)
    return next(iter(heads.items()))


def reason_against(model: TextEncoder, head: TargetHead, place: Place | None) -> str | None:
    """Why an architecture's classifier computes something else than a head behind the model; None when it does not.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.models.heads.classifier import TargetHead
    >>> model = build(load_recipe("quickstart").model)
    >>> reason_against(model, TargetHead(model.hidden_size, 2, "class"), PLACES["bert"])
    'it reads the first token, the model pools by mean'
    """
    if place is None:
        return f"none is known for {model.encoder.config.model_type}"
    if model.pooling != "cls":
        return f"it reads the first token, the model pools by {model.pooling}"
    if model.beyond_modules:
        return model.beyond_modules[0]
    if any(not layer.train_only for layer in model.layers):
        return "it reads the first token as it is, and the model has layers on its vector"
    if (head.hidden, head.activation) != (model.hidden_size, place.activation):
        own = f"{head.hidden} numbers and {head.activation}" if head.hidden else "none"
        return f"its hidden layer has {model.hidden_size} numbers and {place.activation}, the head {own}"
    return None


def _remedy(place: Place | None) -> str:
    if place is None:
        return "keep it in the folder of embedkit, whose models classify"
    return (
        f"train with model.pooling: cls, no model.head, and a head with hidden: the encoder's width, activation: "
        f"{place.activation}"
    )


def _classifier(model: TextEncoder, head: TargetHead, place: Place) -> Any:
    """transformers' model with the weights of encoder and head."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from embedkit.models.modules.adapters import has_adapters, merged_state

    config = copy.deepcopy(model.encoder.config)
    names = head.classes or tuple(f"LABEL_{number}" for number in range(head.outputs))
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    config.num_labels, config.problem_type = head.outputs, PROBLEMS[head.kind]
    theirs = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    own = merged_state(model.encoder) if has_adapters(model.encoder) else model.encoder.state_dict()
    needs = theirs.base_model.state_dict()
    theirs.base_model.load_state_dict(needs | {key: value for key, value in own.items() if key in needs})
    lost = [key for key in {*needs} ^ {*own} if not key.startswith("pooler.")]
    if lost:
        raise ModelError(f"transformers' classifier has not the weights of the encoder: {sorted(lost)[0]}",
                         remedy="keep it in the folder of embedkit, whose models classify")  # fmt: skip
    for path, prefix in ((place.hidden, "layers.0.linear."), (place.output, "layers.1.")):
        state = {key.removeprefix(prefix): x for key, x in head.state_dict().items() if key.startswith(prefix)}
        theirs.get_submodule(path).load_state_dict(state)
    return theirs


def _differences(model: TextEncoder, head: TargetHead, theirs: Any, texts: list[str]) -> tuple[float, float]:
    """The largest difference of a logit by transformers from ours, and the largest logit."""
    import numpy as np
    import torch

    tokens = [model.prepare([text], prompt="") for text in texts]
    with torch.inference_mode():
        ours = head(torch.from_numpy(np.asarray(model.encode(texts, prompt="", normalize=False), np.float32)))
        logits = torch.cat([theirs(input_ids=one.ids[None]).logits for one in tokens])
    return float((ours - logits).abs().max()), float(ours.abs().max())


writers.add("sequence-classifier")(FolderWriter(frozenset({"text"}), write))
