"""CLIP and its nearest relatives: images and their captions in one space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, NotNegative, Share, Template, refuse_idle
from embedkit.data.schema.contract import Contract
from embedkit.errors import RecipeError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.views.image import Transform, image_inputs
from embedkit.views.mixing import USE, Mix, partners

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


def chosen_texts(texts: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    """`count` different entries of a list in a drawn order (all of them when there are fewer).

    Examples
    --------
    >>> chosen_texts(["a dog", "a dog runs", "a brown dog"], 2, np.random.default_rng(0))
    ['a brown dog', 'a dog runs']
    """
    order = np.argsort(random.bit_generator.random_raw(len(texts)), kind="stable")  # type: ignore[attr-defined]
    return [texts[place] for place in order[:count]]


class ImageText(Method):
    """Base of methods on images with captions.

    Views: ``anchor``, the image, randomly cropped; ``positive``, one of its captions (or `captions` of them, each a
    positive), drawn anew each time. Rows that show the same image or say the same caption, or are of one group, are
    positives of each other and not negatives (target "shared-input").

    Parameters
    ----------
    transform : str or mapping
        Random changes of the image, see `embedkit.views.image.Transform`; "none" for the model's preprocessing alone.
    captions : int
        Captions of an image in a step.
    template : str, optional
        Text with ``{}`` around each caption, e.g. "a photo of a {}." for class names.
    mixup : float
        Mix neighbouring rows of a batch with a share from Beta(mixup, mixup), 0 for none: by the coin of a step their
        pixels or their texts' vectors (ZeroVL, Cui et al. 2022, section 3.2). A row learns from both captions by
        their shares.
    mix_texts, cutmix : float
        Probability that texts are mixed, and that images are mixed by a box and not by adding up (Yun et al. 2019).

    Examples
    --------
    >>> method = ImageText(transform="none", template="a photo of a {}.")
    >>> rows = [{"image": b"", "texts": ["cat"]}, {"image": b"", "texts": ["dog"]}]
    >>> method.views(rows, np.random.default_rng)["positive"]
    View(inputs=['cat', 'dog'], owner=[0, 1], prompt='a photo of a {}.', tower='text', ...)
    """

    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"image", "texts"}), accepts=frozenset({"label", "group"})
    )
    objective: ClassVar[dict[str, Any] | None] = {"name": "clip", "temperature": 0.07, "target": "shared-input"}

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "clip", captions: Count = 1,
        template: Template | None = None, mixup: NotNegative = 0.0, mix_texts: Share = 0.5, cutmix: Share = 0.0,
    ) -> None:  # fmt: skip
        self.transform = Transform.of(transform)
        self.captions, self.template = captions, template
        self.mixup, self.mix_texts, self.cutmix, self.image_size = mixup, mix_texts, cutmix, (1, 1)
        if not mixup:
            refuse_idle(ImageText, {"mix_texts": mix_texts, "cutmix": cutmix}, "method", "mixup")
        if mixup and (captions > 1 or self.transform is None or self.transform.crop is None):
            what = "several captions" if captions > 1 else "images of any size"
            raise RecipeError(f"{what} cannot be mixed", where="method.mixup",
                              remedy="set captions: 1, and a transform with a crop")  # fmt: skip

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        generators = [random(i) for i in range(len(rows))]
        texts = [chosen_texts(row["texts"], self.captions, g) for row, g in zip(rows, generators, strict=True)]
        owner = [i for i, captions in enumerate(texts) for _ in captions]
        images = self.images(rows, generators)
        if self.mixup:
            images = self._mixed(images, random(-1))
        return {
            "anchor": images,
            "positive": View([text for captions in texts for text in captions], owner, self.template),
        }

    def images(self, rows: Sequence[Row], generators: Sequence[np.random.Generator]) -> View:
        """One view of the image of every row."""
        images = image_inputs([row["image"] for row in rows], self.transform, generators)
        return View(images, list(range(len(rows))), tower="image")

    def _mixed(self, view: View, random: np.random.Generator) -> View:
        """The images mixed with their partners where it is their turn, and the way to the partners."""
        mix, way = Mix.drawn(random, self.mixup, self.cutmix, self.mix_texts), partners(len(view.inputs))
        inputs = view.inputs if mix.texts else [
            image if not step else replace(image, partner=view.inputs[i + step], mix=mix)
            for i, (image, step) in enumerate(zip(view.inputs, way[:, 0].tolist(), strict=True))
        ]  # fmt: skip
        return replace(view, inputs=inputs, places=way, own_shapes=False)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        if not self.mixup:
            return outputs
        import torch

        mix = Mix.drawn(batch.random(USE), self.mixup, self.cutmix, self.mix_texts)
        way = batch.places["anchor"][:, 0]
        partner = torch.arange(len(way), device=way.device) + way
        share = mix.share_of(self.image_size)
        batch.mix = (partner, share)
        texts = outputs["positive"]
        mixed = share * texts + (1.0 - share) * texts[partner] if mix.texts else texts
        return {**outputs, "positive": mixed}

    def adapt(self, model: Model) -> None:
        """Note the size of images, by which shares of boxes are counted."""
        self.image_size = model.preprocess.size if model.preprocess is not None else (1, 1)


@methods.add("clip")
class Clip(ImageText):
    """CLIP (Radford et al. 2021, section 2.3).

    Objective: softmax cross-entropy over the cosines of the whole batch, images to texts and texts to images, with a
    learned scale that starts at 1 / 0.07 and is at most 100.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["clip"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['image', 'texts'], 'clip')
    """

    paper: ClassVar[str] = "Radford et al. 2021, ICML, section 2.3"
