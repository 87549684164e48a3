"""Concepts of captions as a frozen teacher sees them, beside a method on images: DiHT's concept distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Positive
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.targets import TargetFacts
from embedkit.errors import RecipeError, nearest
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.common.head_settings import HeadSettings, head_settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("concepts")
class Concepts(Method):
    """Concept distillation (Radenovic et al. 2023, CVPR, DiHT, section 3.2; details from memory), as an auxiliary.

    A linear classifier on the vectors of the frozen guide learns the concepts of the caption, say its nouns from
    ``embedkit label --nouns``: cross-entropy with equal shares of a row's concepts. What it says of an image is the
    target of a linear classifier on the trained tower's vector: ``-sum_k p_k log q_k`` with p and q the two softmax at
    one temperature. Both classifiers are for training only, and the guide gets no gradient. Rows without a concept are
    in the second term alone. The paper trains the teacher's classifier before, and has a second pair for attributes.

    Parameters
    ----------
    target : str
        The column with a list of concepts.
    view : str
        The view of images of the method beside it.
    temperature : float
        Divisor of both classifiers' logits in the second term.

    Examples
    --------
    >>> sorted(Concepts().contract_beside.accepts)
    ['classes:nouns']
    """

    paper: ClassVar[str] = "Radenovic et al. 2023, CVPR, Filtering, Distillation, and Hard Negatives, section 3.2"
    contract: ClassVar[Contract] = Contract(frozenset({"image"}))
    objective: ClassVar[dict[str, Any] | None] = None
    reads_main: ClassVar[bool] = True
    reads_guide: ClassVar[bool] = True

    def __init__(self, target: str = "nouns", view: str = "anchor", temperature: Positive = 1.0) -> None:
        self.head: HeadSettings = head_settings({"target": target, "kind": "classes"}, "auxiliary.concepts")
        self.view, self.temperature = view, temperature
        self.contract = Contract(frozenset({"image"}), frozenset({self.head.role}))  # type: ignore[misc]
        self.reads = frozenset({self.head.role})  # type: ignore[misc]
        self.classes: tuple[str, ...] = ()

    @property
    def contract_beside(self) -> Contract:
        return Contract(frozenset(), self.contract.accepts)

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        if views and (self.view not in views or views[self.view].tower != "image"):
            images = [name for name, view in views.items() if view.tower == "image"]
            raise RecipeError(f"there is no view of images {self.view!r}", where="auxiliary.concepts.view",
                              remedy=nearest(self.view, images))  # fmt: skip
        return {}

    def learn_targets(self, facts: Mapping[str, TargetFacts]) -> None:
        self.classes = self.head.resolved(facts.get(self.head.role)).classes

    def targets(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        from embedkit.methods.common.head_terms import encoded

        values = [row[self.head.role] for row in rows]
        return {"concepts": encoded("classes", values, self.classes, len(self.classes))}

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        return nn.ModuleDict({"student": nn.Linear(model.training_dim, len(self.classes))})

    def fit_guide(self, parts: nn.ModuleDict, dim: int) -> None:
        """Add the teacher's classifier, which reads the guide's vectors."""
        from torch import nn

        parts["teacher"] = nn.Linear(dim, len(self.classes))

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch.nn.functional as F

        rows, owner = batch.rows, batch.owner[self.view]
        mine = (owner >= rows.start) & (owner < rows.stop)
        target = batch.targets["concepts"][owner]
        has = target.nan_to_num().sum(dim=1) > 0
        slow = parts["teacher"](batch.guide[self.view].detach().to(outputs[self.view].dtype))
        own, t = mine & has, self.temperature
        shares = target[own].to(slow.dtype) / target[own].to(slow.dtype).sum(dim=1, keepdim=True)
        teacher = F.cross_entropy(slow[own], shares, reduction="sum") / has.sum().clamp(min=1)
        fast = parts["student"](outputs[self.view][mine])
        student = F.cross_entropy(fast / t, (slow[mine].detach() / t).softmax(dim=1), reduction="sum") / len(owner)
        return {"teacher": teacher, "concepts": student}
