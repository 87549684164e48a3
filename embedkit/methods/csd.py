"""CSD: a model learns new classes and stays comparable with the one that it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from embedkit.config.settings import Fidelity
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods


@methods.add("csd")
class CSD(Method):
    """Contrastive supervised distillation (Barletti et al. 2022, ICIAP), for texts with labels.

    View: the text once. The guide is the frozen model of the task before, in evaluation mode; the student starts from
    it. Objective: SupCon whose positives are the student's and the teacher's vectors of the same label, the others'
    vectors of both kinds negatives, temperature 0.07, and the batch-hard triplet loss on cosines with margin 1. An
    index that the old model has made stays of use, because new vectors are learnt against old ones.

    ``fidelity: code`` has student and teacher among the candidates, ``paper`` the teacher alone. The paper's further
    terms for later tasks, cross-entropy over the new classes and distillation of the logits of the old ones, need a
    classifier and are not part of this method. The released code leaves the teacher in the mode that it was copied in.

    Parameters
    ----------
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> CSD("paper").objective["terms"][0]
    {'name': 'csd', 'temperature': 0.07, 'keys': 'guide'}
    """

    paper: ClassVar[str] = "Barletti et al. 2022, ICIAP, Contrastive Supervised Distillation"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor", "label"}))
    objective: ClassVar[dict[str, Any] | None] = {"name": "sum", "terms": []}

    def __init__(self, fidelity: Fidelity = "code") -> None:
        triplet = {"name": "batch-hard-triplet", "score": "cosine", "margin": 1.0}
        contrast = {"name": "csd", "temperature": 0.07, "keys": "both" if fidelity == "code" else "guide"}
        self.objective = {"name": "sum", "terms": [contrast, triplet]}  # type: ignore[misc]

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return {"anchor": View([row["anchor"] for row in rows], list(range(len(rows))))}
