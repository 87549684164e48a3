"""Heads that tell targets of a row from its vector: by themselves, or beside any other method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract, Limit
from embedkit.data.schema.targets import TargetFacts
from embedkit.errors import ModelError, RecipeError, nearest
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.common.head_settings import head_settings
from embedkit.methods.pairs import role_views
from embedkit.views.image import Transform, image_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("heads")
class Heads(Method):
    """Classifiers, regressions and adversaries on the sentence's vector, one for each target of the rows.

    A head is a linear layer, or one hidden layer before it, on what the encoder gives for a view, before any projection
    of the method beside it. Rows without a target are left out of the mean of its loss. Beside another method (recipe
    key ``auxiliary: [{name: heads, weight: 1.0, heads: [{target: genre}]}]``) it reads that method's own vectors, with
    no further forward pass.

    With ``reverse`` the encoder gets the head's gradient with the other sign, so that its vectors come to say nothing
    of the target (domain-adversarial training, Ganin et al. 2016, section 4).

    Parameters
    ----------
    heads : list of mappings
        Their settings, see `embedkit.methods.common.head_settings.HeadSettings`.
    image : bool
        By itself: read the images of the rows, not their texts (CatLIP, Mehta et al. 2024).
    transform : str or mapping, optional
        Their random changes in training; the model's preprocessing alone when not given.

    Examples
    --------
    >>> method = Heads([{"target": "genre"}, {"target": "domain", "reverse": 1.0}])
    >>> sorted(method.contract.accepts), method.objective
    (['class:domain', 'class:genre'], None)
    """

    paper: ClassVar[str] = "Ganin et al. 2016, JMLR, section 4; Devlin et al. 2019, NAACL, section 4"
    objective: ClassVar[dict[str, Any] | None] = None
    reads_main: ClassVar[bool] = True

    def __init__(
        self, heads: Sequence[Mapping[str, Any]] = ({"target": "label"},), image: bool = False,
        transform: str | Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.heads = [head_settings(one, f"method.heads.{place}") for place, one in enumerate(heads)]
        names = [head.target for head in self.heads]
        if not names or len(set(names)) < len(names):
            raise RecipeError("two heads have one target" if names else "there is no head", where="method.heads",
                              remedy="give a list of heads, each with a target of its own")  # fmt: skip
        if transform is not None and not image:
            raise RecipeError("changes images, and texts are read", where="method.transform", remedy="set image: true")
        self.image, self.facts, self.transform = image, dict[str, TargetFacts](), Transform.of(transform)
        self.reads = frozenset(head.role for head in self.heads)  # type: ignore[misc]
        limits: dict[str, Limit] = {h.role: frozenset(h.classes) for h in self.heads if h.classes and h.named}
        inputs = {"image"} if image else {view for head in self.heads for view in head.views}
        self.contract = Contract(frozenset(inputs), self.reads, limits)  # type: ignore[misc]

    @property
    def contract_beside(self) -> Contract:
        return Contract(frozenset(), self.contract.accepts, self.contract.limits)

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def learn_targets(self, facts: Mapping[str, TargetFacts]) -> None:
        self.facts = {head.target: head.resolved(facts.get(head.role)) for head in self.heads}

    def targets(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        from embedkit.methods.common.head_terms import encoded

        numbers = {}
        for head in self.heads:
            facts = self.facts[head.target]
            values = [row[head.role] for row in rows]
            numbers[head.target] = encoded(head.kind, values, facts.classes, facts.width)
        return numbers

    def adapt(self, model: Model) -> None:
        if self.image and model.kind != "dual":
            raise ModelError(f"is a {model.kind} model", where="model.kind", remedy="use a dual model: it sees images")
        if self.image:
            model.train_images_alone()  # type: ignore[operator]
        layers = getattr(model, "layers", ())
        if any(head.keep for head in self.heads) and not all(
            layer.runs(True) and layer.runs(False) for layer in layers
        ):
            raise ModelError(
                "a head to keep reads vectors that the model gives in training only", where="method.heads",
                remedy="take train_only out of model.head, or set keep: false",
            )  # fmt: skip

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        facts = dict(self.facts) or {head.target: head.resolved(None) for head in self.heads}
        return nn.ModuleDict({h.target: h.module(model.training_dim, facts[h.target]) for h in self.heads})

    def keep(self, model: Model, parts: nn.ModuleDict) -> None:
        from embedkit.models.heads.classifier import kept

        heads: Any = parts
        own = {head.target: kept(heads[head.target]) for head in self.heads if head.keep}
        model.classifiers = {**model.classifiers, **own}

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        if self.image:
            generators = [random(i) for i in range(len(rows))]
            pictures = image_inputs([row["image"] for row in rows], self.transform, generators)
            return {"anchor": View(pictures, list(range(len(rows))), tower="image")}
        return {name: view for name, view in role_views(rows).items() if name in self.contract.requires}

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        if self.image:
            raise RecipeError("beside a method heads read its views", where="auxiliary.heads.image",
                              remedy="leave image and transform out, and name a view of images in views")  # fmt: skip
        for head in self.heads if views else ():
            for name in head.views:
                if name not in views:
                    raise RecipeError(f"there is no view {name!r} here", where="auxiliary.heads",
                                      remedy=nearest(name, list(views)))  # fmt: skip
                views[name].settings.pop("key", None)  # a view of the running mean's alone is the encoder's too
        return {}

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        return {f"head-{head.target}": head.term(outputs, batch, parts[head.target]) for head in self.heads}
