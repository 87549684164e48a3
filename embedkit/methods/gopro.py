"""GOPro: learned words that an image moves, alike for its random views, with a dual encoder frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from embedkit.config.settings import Count, NotNegative, Positive
from embedkit.errors import ModelError
from embedkit.methods.base import Row, View, methods
from embedkit.methods.coop import CoOp
from embedkit.views.image import Transform

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch

VIEWS = ("anchor", "image1", "image2")


@methods.add("gopro")
class GOPro(CoOp):
    """Generated and optimised prompts (Singha et al. 2023, BMVC; official code mainaksingha01/GOPro).

    The words of `CoOp` are moved by what a generator makes of an image: its vector (content), and mean and deviation of
    its patches (style). Losses: the cross-entropy over classes with the words of the image; ``consistency`` times the
    mean squared difference of the classes' unit vectors between the image and each of two strong views of it; and an
    objective on the views, SimCLR's behind a projector, with weight 0.1. The model's projections are trained too.

    The saved model has the words moved by the mean over images (a running mean of decay 0.99), so that it encodes texts
    without an image. In the paper style is of all layers, and one strong view AugMix's; its code moves all words alike.

    Parameters
    ----------
    hidden, size : int
        Width of the generator's hidden layer, and of the projector's output.
    strong : str or mapping
        Transform of the two strong views; the others as in `CoOp`.

    Examples
    --------
    >>> sorted(GOPro().provides), GOPro().sizes
    (['anchor', 'image1', 'image2'], {'image1': 512, 'image2': 512})
    """

    paper: ClassVar[str] = "Singha et al. 2023, BMVC, GOPro: Generate and Optimize Prompts in CLIP"
    own_shapes: ClassVar[bool] = False
    objective: ClassVar[dict[str, Any] | None] = {"name": "sum", "terms": [
        {"name": "ntxent", "temperature": 0.1, "weight": 0.1, "inputs": {"anchor": "image1", "positive": "image2"}},
    ]}  # fmt: skip

    def __init__(
        self, target: str = "label_name", context: str = "a photo of a", length: Count | None = None,
        temperature: Positive | None = None, transform: str | Mapping[str, Any] | None = "clip",
        strong: str | Mapping[str, Any] | None = "moco",
        consistency: NotNegative = 1.0, hidden: Count = 128, size: Count = 512,
    ) -> None:  # fmt: skip
        super().__init__(target, context, length, temperature, transform)
        self.strong = Transform.of(strong, "method.strong")
        self.consistency, self.hidden, self.size = consistency, hidden, size
        self.first = 0

    provides = frozenset(VIEWS)  # type: ignore[assignment]

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return self.provides

    @property
    def sizes(self) -> dict[str, int]:  # type: ignore[override]
        return dict.fromkeys(VIEWS[1:], self.size)

    def picture_side(self, side: int) -> int:
        return math.ceil(side * max(1.0 if one is None else one.margin for one in (self.transform, self.strong)))

    def adapt(self, model: Model) -> None:
        super().adapt(model)
        text: Any = model.text
        if not (getattr(text, "causal", False) or text.fixed_length):
            what = "moved words need a text tower without a norm on its words"
            raise ModelError(what, where="model", remedy="use CLIP's or SigLIP's, or the method coop")
        self.first = int(text.tokenizer.convert_tokens_to_ids("[context0]"))
        model.projections.requires_grad_(True)  # type: ignore[union-attr]

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.methods.branches.contexts import Generator
        from embedkit.models.heads.projector import projector

        dual: Any = model
        words, width = len(dual.text.tokenizer) - self.first, dual.text.hidden_size
        generator = Generator(dual.dim + 2 * dual.image.token_width, self.hidden, words, width)
        return nn.ModuleDict(
            {"generator": generator, "head": projector(dual.dim, 0, self.size, layers=1, last_norm=True)}
        )

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        generators = [random(i) for i in range(len(rows))]
        transforms = {"anchor": self.transform, "image1": self.strong, "image2": self.strong}
        return {name: self.image_view(rows, transform, generators) for name, transform in transforms.items()}

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        from embedkit.methods.branches.contexts import content_and_style

        return content_and_style(model, inputs)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        from embedkit.models.heads.projector import together

        width: Any = parts["head"][0].in_features  # type: ignore[index]
        cut = {name: features[:, :width] for name, features in outputs.items()}
        return cut | together(parts["head"], {name: cut[name] for name in VIEWS[1:]})

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch
        import torch.nn.functional as F

        from embedkit.methods.branches.contexts import class_logits, class_loss, shifted_texts

        if name != "anchor" or self.names is None:  # the rows of an image are read once
            return {}
        place, target = (torch.as_tensor(inputs.data[key], device=embeddings.device) for key in ("place", "class"))
        names, features = self.names.to(embeddings.device), [batch.own[view][place] for view in VIEWS]
        moves = [parts["generator"](x) for x in features]
        texts = [F.normalize(shifted_texts(model, names, self.first, move), dim=2) for move in moves]
        logits = class_logits(features[0][:, : texts[0].shape[2]], texts[0], self.scale(model))
        apart = torch.stack([(texts[0] - other).square().mean(dim=(1, 2)).sum() for other in texts[1:]]).sum()
        return {"classes": class_loss(logits, target, batch.targets["class"]),
                "consistency": self.consistency * apart / batch.size}  # fmt: skip

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        parts["generator"].follow(outputs["anchor"])  # type: ignore[operator]

    def keep(self, model: Model, parts: nn.ModuleDict) -> None:
        """Move the words of the model by the mean over images."""
        import torch

        text, generator = cast(Any, model.text), cast(Any, parts["generator"])
        with torch.no_grad():
            text.encoder.get_input_embeddings().weight[self.first :] += generator.value()
