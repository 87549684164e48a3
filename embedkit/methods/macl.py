"""MACL: a temperature that follows the alignment of the batch, on top of SimCSE."""

from __future__ import annotations

from typing import Any, ClassVar

from embedkit.methods.base import methods
from embedkit.methods.simcse import SimCSEUnsupervised


@methods.add("macl")
class MACL(SimCSEUnsupervised):
    """Model-aware contrastive learning on SimCSE's views (Huang et al. 2023, ICML).

    With A the mean cosine of the batch's positive pairs (no gradient), ``tau = temperature * (1 + alpha * (A -
    offset))``; with P_i the softmax probability of the positive, the loss is the mean of ``-log P_i / (1 - P_i)``, the
    factor without gradient, computed in log space. The gradient by the positive's logit is then -1 for every anchor,
    so that the loss *value* means little: watch ``sts`` instead. ``alpha`` 0 without ``reweight`` is SimCSE.

    Only the loss function of the official code is released, and the paper's values for sentences (temperature, alpha,
    offset) could not be read: 0.05, 0.5 and 0 are SimCSE's temperature and the defaults of a public vision
    implementation. Tune ``objective.alpha`` and ``objective.offset`` on STS-B dev. The laws of the paper's first
    version (``temperature * alpha^A``) are another method and are not here; code and paper agree on this one.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["macl"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'macl')
    """

    paper: ClassVar[str] = "Huang et al. 2023, ICML, Model-Aware Contrastive Learning, section 3"
    objective: ClassVar[dict[str, Any]] = {
        "name": "macl", "direction": "rows", "temperature": 0.05, "alpha": 0.5, "offset": 0.0,
    }  # fmt: skip
