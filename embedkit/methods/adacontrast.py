"""A classifier of images goes on learning on images without labels: pseudo labels by a vote of neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, NotNegative
from embedkit.data.schema.contract import Contract
from embedkit.errors import RecipeError
from embedkit.methods.base import Row, View, methods
from embedkit.methods.moco import MoCo
from embedkit.views.crops import Crop
from embedkit.views.image import ImageInput, Transform, prepare_images

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.config.recipe import GuideConfig
    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch

WEAK = "view3"


@methods.add("adacontrast")
class AdaContrast(MoCo):
    """Test-time adaptation of an encoder with a kept classifier (Chen et al. 2022, CVPR), from memory of the paper.

    The pseudo label of an image is the class that its nearest neighbours in a queue find likeliest on average: the
    queue holds the running mean's vectors of weak views and what the running mean of the classifier says of them. An
    image is sought by the encoder's vector of its weak view. Before the first step a pass over the images as they are
    fills the queue: as many as it holds, in the order of the first epoch (the authors' code reads all and keeps some).
    Terms: ``weight`` times the cross-entropy of a strong view with the pseudo label, ``diversity`` times the negative
    entropy of the mean prediction. In the objective, MoCo's, images of one pseudo label do not repel each other.

    Parameters
    ----------
    head : str, optional
        Target of the classifier, where the model keeps several.
    neighbours, vectors : int
        How many vote, and the size of the queue.
    weight, diversity : float
    transform, hidden, size
        Of the two strong views and of the projector of the contrast, see `ImageViews`; the weak view is "weak".

    Examples
    --------
    >>> method = AdaContrast()
    >>> sorted(method.views([{"image": b"one"}], np.random.default_rng)), method.followed
    (['anchor', 'positive', 'view3'], ('projector', 'classifier'))
    """

    paper: ClassVar[str] = "Chen et al. 2022, CVPR, Contrastive Test-Time Adaptation"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"image"}))
    objective: ClassVar[dict[str, Any] | None] = {
        "name": "moco", "temperature": 0.07, "size": 16_384, "direction": {"name": "rows", "keys": "guide"}
    }  # fmt: skip
    followed: ClassVar[tuple[str, ...]] = ("projector", "classifier")  # type: ignore[misc]
    gives: ClassVar[frozenset[str]] = frozenset({"group"})  # type: ignore[misc]
    listed_views: ClassVar[frozenset[str]] = frozenset()  # type: ignore[misc]

    def __init__(
        self, head: str | None = None, neighbours: Count = 10, vectors: Count = 16_384, weight: NotNegative = 1.0,
        diversity: NotNegative = 1.0, transform: str | Mapping[str, Any] | None = None, hidden: Count = 512,
        size: Count = 128,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.crops = [*self.crops, Crop(Transform.of("weak"))]
        self.head, self.neighbours, self.vectors = head, neighbours, vectors
        self.weight, self.diversity, self.start_rows = weight, diversity, vectors

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def use_guide(self, guide: GuideConfig | None) -> None:
        super().use_guide(guide)
        if "classifier" not in self.guide_parts:
            raise RecipeError("the running mean lacks the classifier", where="guide.parts", remedy="leave it out")

    def parts(self, model: Model) -> nn.ModuleDict:
        from embedkit.models.heads.voters import Voters, kept_classifier

        self.head, classifier = kept_classifier(model, self.head)
        parts = super().parts(model)
        parts.update({"classifier": classifier, "voters": Voters(self.vectors, model.training_dim, classifier.outputs)})
        return parts

    def learn_start(self, model: Model, parts: nn.ModuleDict, rows: Sequence[Row]) -> None:
        """Put these images, as they are, into the queue."""
        for place in range(0, len(rows), 256):
            images = prepare_images(model, [ImageInput(row["image"]) for row in rows[place : place + 256]])
            parts["voters"].look(model, parts["classifier"], images)  # type: ignore[operator]

    def keep(self, model: Model, parts: nn.ModuleDict) -> None:
        from embedkit.models.heads.classifier import kept

        model.classifiers = {**model.classifiers, str(self.head): kept(parts["classifier"])}  # type: ignore[arg-type]

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        views = super().views(rows, random)
        views[WEAK].guided, views[WEAK].settings = True, {"still": True}
        return views

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """The vectors of a view, without gradient those of the weak one."""
        import torch

        with torch.set_grad_enabled(torch.is_grad_enabled() and not settings.pop("still", False)):
            return super().embed(model, parts, inputs, **settings)

    def project_guide(
        self, vectors: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:  # fmt: skip
        """Projected keys; of the weak view vectors and the classifier's probabilities side by side."""
        import torch

        weak = vectors[WEAK]
        votes = torch.cat([weak, parts["classifier"](weak).softmax(dim=1)], dim=1)
        return {**super().project_guide({n: z for n, z in vectors.items() if n != WEAK}, batch, parts), WEAK: votes}

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        """Projected strong views; the pseudo labels are the groups of the batch."""
        voters: Any = parts["voters"]
        weak = outputs[WEAK].detach()
        batch.group = voters(weak, parts["classifier"](weak).softmax(dim=1).detach(), self.neighbours).argmax(dim=1)
        return super().project({name: z for name, z in outputs.items() if name != WEAK}, batch, parts)

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch
        import torch.nn.functional as F

        logits = parts["classifier"](outputs["anchor"])
        assert batch.group is not None
        pseudo = F.cross_entropy(logits[batch.rows], batch.group[batch.rows], reduction="sum") / batch.size
        mean = logits.softmax(dim=1).mean(dim=0)
        negative_entropy = torch.special.xlogy(mean, mean).sum() * batch.share
        return {"pseudo": self.weight * pseudo, "diversity": self.diversity * negative_entropy}

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        """Put what the running means say of this step's images into the queue."""
        parts["voters"].follow(batch.guide[WEAK])  # type: ignore[operator]
