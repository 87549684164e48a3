"""CoOp: learned words in front of the names of classes, with the rest of a dual encoder frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Positive
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.targets import TargetFacts
from embedkit.errors import DataError, RecipeError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.common.head_settings import HeadSettings, head_settings
from embedkit.views.image import Transform, image_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("coop")
class CoOp(Method):
    """Context optimisation (Zhou et al. 2022, section 3.2): a softmax over all classes, not over the batch.

    ``-log softmax_k(scale cos(image, text_k))`` of a row's class, text k being the learned words and the name of class
    k. The words are entries of the text tower's vocabulary, all the rest is frozen, so that the saved model is a dual
    encoder like any other, whose default prompt "context" puts them in front of a text. The paper also has words for
    each class apart and words behind the name; these do not fit one prompt and are not here.

    Parameters
    ----------
    target : str
        The column with the names of classes; rows without one are left out of the mean.
    context : str
        Words that the learned ones start from.
    length : int, optional
        So many words with a random start instead; 16 and 4 in the paper.
    temperature : float, optional
        The divisor of cosines; the model's own scale when None, 0.01 where it has none.
    transform : str or mapping
        Random changes of images, see `embedkit.views.image.Transform`.

    Examples
    --------
    >>> method = CoOp()
    >>> sorted(method.contract.roles), method.objective
    (['class:label_name', 'image'], None)
    """

    paper: ClassVar[str] = "Zhou et al. 2022, IJCV, Learning to Prompt for Vision-Language Models, section 3.2"
    own_shapes: ClassVar[bool] = True
    """See `View`."""
    gives_patches: ClassVar[bool] = False  # type: ignore[misc]
    contract: ClassVar[Contract] = Contract(frozenset({"image"}))
    objective: ClassVar[dict[str, Any] | None] = None

    def __init__(
        self, target: str = "label_name", context: str = "a photo of a", length: Count | None = None,
        temperature: Positive | None = None, transform: str | Mapping[str, Any] | None = "clip",
    ) -> None:  # fmt: skip
        self.head: HeadSettings = head_settings({"target": target}, "method.target")
        self.context, self.length, self.temperature = context, length, temperature
        self.transform = Transform.of(transform)
        if not context.strip() and length is None:
            raise RecipeError("has no words", where="method.context", remedy="give words, or method.length")
        self.contract = Contract(frozenset({"image"}), frozenset({self.head.role}))  # type: ignore[misc]
        self.reads = frozenset({self.head.role})  # type: ignore[misc]
        self.classes: tuple[str, ...] = ()
        self.names: Inputs | None = None

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def learn_targets(self, facts: Mapping[str, TargetFacts]) -> None:
        self.classes = self.head.resolved(facts.get(self.head.role)).classes
        if all(name.isdecimal() for name in self.classes):
            raise DataError(
                f"the classes of column {self.head.target!r} are numbers, {', '.join(self.classes[:3])}",
                where="data.train", remedy="set method.target to the column that has their names",
            )  # fmt: skip

    def targets(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        from embedkit.methods.common.head_terms import encoded

        return {"class": encoded("class", [row.get(self.head.role) for row in rows], self.classes, len(self.classes))}

    def adapt(self, model: Model) -> None:
        from embedkit.methods.branches.contexts import class_inputs, learn_context

        learn_context(model, self.context, self.length)
        self.names = class_inputs(model, self.classes)

    def notes(self, model: Model) -> list[str]:
        return [f"{len(self.classes)} classes; the saved model's default prompt 'context' has the learned words"]

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return {"anchor": self.image_view(rows, self.transform, [random(i) for i in range(len(rows))])}

    def image_view(
        self, rows: Sequence[Row], transform: Transform | None, generators: Sequence[np.random.Generator]
    ) -> View:  # fmt: skip
        """The images of rows, with the number of each row's class and its place."""
        images = image_inputs([row["image"] for row in rows], transform, generators)
        places = np.arange(len(rows))
        data = {"class": self.targets(rows)["class"], "place": places}
        return View(images, places.tolist(), tower="image", data=data, own_shapes=self.own_shapes)

    def scale(self, model: Any) -> float:
        """The factor on cosines."""
        return 1.0 / self.temperature if self.temperature is not None else model.scale or 100.0

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.branches.contexts import class_logits, class_loss

        assert self.names is not None
        texts = model(self.names.to(embeddings.device))
        target = torch.as_tensor(inputs.data["class"], device=embeddings.device)
        logits = class_logits(embeddings, texts, self.scale(model))
        return {"classes": class_loss(logits, target, batch.targets["class"])}
