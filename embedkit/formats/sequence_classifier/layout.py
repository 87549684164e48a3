"""Where an architecture's sequence classifier has the two layers of its head. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

MARK = "embedkit_classifier.json"
"""Target, classes and the way to the vector, beside the files of transformers."""


@dataclass(frozen=True)
class Place:
    """The layers of a head over the first token: a hidden one of the encoder's width, and the output.

    Attributes
    ----------
    hidden, output : str
        Their names in the classifier.
    activation : str
        Between them, a key of `embedkit.models.heads.layers.ACTIVATIONS`.

    Examples
    --------
    >>> PLACES["roberta"].output
    'classifier.out_proj'
    """

    hidden: str
    output: str
    activation: str


_TWO = Place("classifier.dense", "classifier.out_proj", "tanh")
PLACES = {
    "bert": Place("bert.pooler.dense", "classifier", "tanh"),
    "ernie": Place("ernie.pooler.dense", "classifier", "tanh"),
    "albert": Place("albert.pooler", "classifier", "tanh"),
    "distilbert": Place("pre_classifier", "classifier", "relu"),
    "electra": Place("classifier.dense", "classifier.out_proj", "gelu"),
    "roberta": _TWO, "xlm-roberta": _TWO, "camembert": _TWO, "mpnet": _TWO,
}  # fmt: skip
"""By ``model_type``."""
PROBLEMS = {
    "class": "single_label_classification", "soft": "single_label_classification",
    "classes": "multi_label_classification", "degrees": "multi_label_classification", "number": "regression",
}  # fmt: skip
"""transformers' ``problem_type`` for each kind of target."""
