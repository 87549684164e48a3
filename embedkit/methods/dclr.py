"""DCLR: negatives that are noise moved by its gradient, and no weight for negatives that may be positives."""

from __future__ import annotations

from typing import Any, ClassVar

from embedkit.config.settings import Fidelity
from embedkit.methods.base import methods
from embedkit.methods.simcse import SimCSEUnsupervised


@methods.add("dclr")
class DCLR(SimCSEUnsupervised):
    """Debiased contrastive learning (Zhou et al. 2022, ACL, section 3).

    Views: SimCSE's dropout pair. The objective ``dclr`` adds noise vectors to the negatives, moved by gradient ascent
    towards where the batch is not uniform, and uses the *guide*, a frozen complementary SimCSE model, to take the
    weight from negatives whose cosine there reaches ``phi``. Without a guide section all weights are 1.

    ``fidelity: code`` is what the official code computes, a binary cross-entropy of softmax probabilities with weights
    that multiply logits; ``paper`` is the printed formula (both are written down in the objective). As in the code, the
    recipes train through the encoder's own pretrained pooler (a new one where it has none, as RoBERTa) and, for base
    models, a new Linear + Tanh behind it, and compare by the guide's pooler, which in SimCSE's released models is the
    head they were trained with, with the guide's dropout on; checkpoints are chosen by the mean of STS-B and SICK-R
    dev, of the pooler's output, while [CLS] is tested. Not imitated: the attention mask is never passed to the encoder
    there, so that padding is attended to (texts here have none).

    Parameters
    ----------
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["dclr"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'dclr')
    """

    paper: ClassVar[str] = "Zhou et al. 2022, ACL, section 3"
    objective: ClassVar[dict[str, Any]] = {"name": "dclr", "temperature": 0.05, "phi": 0.9, "noise": 1.0}

    def __init__(self, fidelity: Fidelity = "code") -> None:
        self.objective = {**type(self).objective, "fidelity": fidelity}  # type: ignore[misc]
