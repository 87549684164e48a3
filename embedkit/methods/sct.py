"""SCT: small models that learn to see one view in the light of the other, by themselves or from a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Fidelity, Whole
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.pairs import role_views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("sct")
class SCT(Method):
    """Self-supervised cross-view training (Limkonchotiwat et al. 2023, TACL, section 3).

    Views: two texts of the same meaning, in the paper two back-translations of a sentence (by German and by French), as
    roles anchor and positive. The *guide* gives the reference vectors. Self-supervised it is the encoder itself,
    without gradient and without projector, in a forward pass of its own with dropout: ``guide: {ema: 0.0}``, a running
    mean that forgets all but the newest weights. The online vectors pass a projector of three Linear(d, 10 d) - ReLU -
    Linear(10 d, d), which is dropped at inference. The objective ``sct`` compares the distribution of similarities of
    one view's online vector over the other view's queue with that of the other view's reference.

    Distillation: ``guide: {model: ...}`` is the teacher and ``projector: 0``; where the teacher is wider, the recipe
    gives the student a tanh head of the teacher's size, which stays at inference. The official code trains a student
    that SCT has trained before; so ``model.name`` is such a folder. The paper's joint loss of both parts is not here.

    ``fidelity: code`` adds the two directions, ``paper`` takes their mean. The code runs 20 epochs where the paper says
    10, ends after 7 of them without a new best (``evaluation.patience`` counts evaluations; the recipes keep the best
    and do not set it), and feeds the teacher's vectors from a file.

    Parameters
    ----------
    projector : int
        Blocks of the projector; 0 for none.
    expansion : int
        Hidden size of a block by d.
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["sct"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor', 'positive'], 'sct')
    """

    paper: ClassVar[str] = "Limkonchotiwat et al. 2023, TACL, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor", "positive"}))
    objective: ClassVar[dict[str, Any]] = {"name": "sct"}

    def __init__(self, projector: Whole = 3, expansion: Count = 10, fidelity: Fidelity = "code") -> None:
        self.projector, self.expansion = projector, expansion
        self.objective = {**type(self).objective, "fidelity": fidelity}  # type: ignore[misc]

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        dim = model.training_dim
        blocks = [
            layer
            for _ in range(self.projector)
            for layer in (nn.Linear(dim, self.expansion * dim), nn.ReLU(), nn.Linear(self.expansion * dim, dim))
        ]
        return nn.ModuleDict({"projector": nn.Sequential(*blocks)} if blocks else {})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return role_views(rows)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        if "projector" not in parts:
            return outputs
        return {name: parts["projector"](z) for name, z in outputs.items()}
