"""ClusterNS: centroids that move with the batches give hard negatives and tell likely false ones."""

from __future__ import annotations

from typing import Any, ClassVar

from embedkit.config.settings import Fidelity
from embedkit.methods.base import methods
from embedkit.methods.simcse import SimCSEUnsupervised


@methods.add("clusterns")
class ClusterNS(SimCSEUnsupervised):
    """Clustering-aware negative sampling (Deng et al. 2023, Findings of ACL, section 3).

    Views: SimCSE's dropout pair. The objective ``clusterns`` keeps centroids (bank ``centroids`` of the kernel, with
    its start rule and settings): the second nearest centroid of each sentence is a hard negative of the whole batch,
    and the bidirectional margin loss keeps sentences of one cluster, likely false negatives, a little less alike than
    the positive. In their prompted form the recipes have the method ``promptbert-unsup`` with the same objective.

    ``fidelity: code`` moves a centroid by the *sum* of its sentences, as the release does, ``paper`` by their mean.
    Where processes share a batch the release keeps centroids of its own on each; here they are the same. False
    negatives stay in InfoNCE's denominator, as there; ``objective.drop_same: true`` leaves them out.

    Parameters
    ----------
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["clusterns"](fidelity="paper").objective["update"]
    'mean'
    """

    paper: ClassVar[str] = "Deng et al. 2023, Findings of ACL, section 3"
    objective: ClassVar[dict[str, Any]] = {"name": "clusterns", "temperature": 0.05, "margin_weight": 1e-3}

    def __init__(self, fidelity: Fidelity = "code") -> None:
        update = "sum" if fidelity == "code" else "mean"
        self.objective = {**type(self).objective, "update": update}  # type: ignore[misc]
