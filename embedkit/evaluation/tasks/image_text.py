"""Image-text retrieval: the captions of an image, and the image of a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from embedkit.errors import DataError, NonFiniteError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.gallery import Example, search_examples
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.stats import Array, Samples, unit_rows
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Cutoffs, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.look import Look
from embedkit.evaluation.datasets.tables import content_hash, open_table
from embedkit.evaluation.mteb.parts import MtebPart, labelled, search
from embedkit.retrieval.exact import exact_top_k


class ImageTextSettings(TaskSettings):
    """``cutoffs``: depths k. ``captions``: only the first so many of each image. ``folds``: score so many equal parts
    of consecutive images apart and average (COCO 1K: 5 folds of 1,000; Faghri et al. 2018).

    Examples
    --------
    >>> ImageTextSettings(cutoffs=(1, 5)).cutoffs
    (1, 5)
    """

    cutoffs: Cutoffs = (1, 5, 10)
    captions: int | None = Field(None, gt=0)
    folds: int = Field(1, gt=0)


class _Search:
    """Images and texts (I, D), (T, D) searched by each other, `depth` answers each; `owner` (T,) is a text's image."""

    def __init__(self, images: Array, texts: Array, owner: Array, depth: int) -> None:
        self.images, self.texts, self.owner = images, texts, owner
        self.scores, self.places = exact_top_k(images, [(0, texts)], depth, len(texts))
        self.back_scores, self.back_places = exact_top_k(texts, [(0, images)], depth, len(images))
        self.right = owner[self.places] == np.arange(len(images))[:, None]  # (I, k)
        self.owned = self.back_places == owner[:, None]  # (T, k)

    def examples(self, images: Sequence[Item], texts: Sequence[Item]) -> list[Example]:
        """Searches both ways to look at."""
        to_text = search_examples(
            "image to text", images, texts, self.scores, self.places, self.right, self._own_text
        )  # fmt: skip
        to_image = search_examples(
            "text to image", texts, images, self.back_scores, self.back_places, self.owned, self._own_image
        )  # fmt: skip
        return to_text + to_image

    def _own_text(self, image: int) -> tuple[int, float]:
        """The nearest text of an image, and its score."""
        own = np.flatnonzero(self.owner == image)
        scores = self.texts[own] @ self.images[image]
        return int(own[scores.argmax()]), float(scores.max())

    def _own_image(self, text: int) -> tuple[int, float]:
        image = int(self.owner[text])
        return image, float(self.images[image] @ self.texts[text])


@TASKS.add("image-text")
class ImageTextTask(Task):
    """Mean x 100 of the hit rates at every cutoff, both ways (CLIP's "R@k"; Radford et al. 2021).

    ``hit_rate@k``: share of queries with any right answer among the first k, what CLIP papers call R@k.
    ``recall@k``: share of the right answers that are there, what MTEB calls recall; at most 1/5 at k = 1 for an image
    with five captions. Data: columns ``image`` and ``captions`` (a list).

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from PIL import Image
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> shades = {"black": 0, "white": 255}
    >>> for name, shade in shades.items():
    ...     Image.new("L", (8, 8), shade).save(f"{name}.png")
    >>> def brightness(item):
    ...     return shades[item] if isinstance(item, str) else item.getpixel((0, 0))[0]
    >>> model = SimpleNamespace(encode=lambda items: np.array([[brightness(item), 9.0] for item in items]))
    >>> cells = {"image": ["black.png", "white.png"], "captions": [["black"], ["white"]]}
    >>> opening = Opening(Table(cells, [1, 2], "shades"), "test")
    >>> task = ImageTextTask(TaskConfig(name="shades", kind="image-text"), opening)
    >>> task.score(Embedder(model)).metrics["image_to_text_hit_rate@1"]
    100.0
    """

    settings_type = ImageTextSettings
    hub_type = "image-text-retrieval"
    mteb_ways = ("-i2t", "-t2i")

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = open_table(config, opening.data, opening.split, opening.folder)
        table = self.own_table(table, {"image": "image", "texts": "captions"})
        self.source = table.source
        self.images: list[Item] = list(table.images("image"))
        captions = [row[: self.settings.captions] for row in table.lists("captions")]
        self.texts: list[Item] = [caption for row in captions for caption in row]
        self.owner = np.array([place for place, row in enumerate(captions) for _ in row])
        if len(self.images) % self.settings.folds:
            what = f"{len(self.images)} images cannot be cut into {self.settings.folds} equal folds"
            raise DataError(what, where=table.source, remedy="set folds to a divisor")
        self.expect_rows(len(self.images))

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """Images with captions."""
        if not {"image", "texts"} <= set(look.roles):
            return None
        return f"images and their captions (columns {look.roles['image']!r}, {look.roles['texts']!r})"

    @property
    def data(self) -> dict[str, Any]:
        """Source, images, captions and the hash of both."""
        digest = content_hash(self.images, self.texts, self.owner.tolist())
        return {"source": self.source, "rows": len(self.images), "captions": len(self.texts), "sha256": digest}

    def requests(self) -> list[Request]:
        """All images, all captions."""
        return [Request(self.images), Request(self.texts)]

    def as_mteb(self) -> list[MtebPart]:
        """Two retrieval tasks of mteb: captions of an image, images of a caption."""
        from mteb.abstasks.retrieval import AbsTaskRetrieval

        images, texts = [f"i{n}" for n in range(len(self.images))], [f"t{n}" for n in range(len(self.texts))]
        owners = [images[owner] for owner in self.owner.tolist()]
        there: dict[str, dict[str, int]] = {name: {} for name in images}
        for text, owner in zip(texts, owners, strict=True):
            there[owner][text] = 1
        back = {text: {owner: 1} for text, owner in zip(texts, owners, strict=True)}
        pictures, captions = labelled(self.images, "id", images), labelled(self.texts, "id", texts)
        ways = {"i2t": search(captions, pictures, there), "t2i": search(pictures, captions, back)}
        return [
            MtebPart(AbsTaskRetrieval, "Any2AnyRetrieval", way, "hit_rate_at_1", ("text", "image"), data,
                     {"k_values": (1, 5, 10)})
            for way, data in ways.items()
        ]  # fmt: skip

    def score(self, embed: Embedder) -> TaskResult:
        """Hit rates and recalls both ways, and their mean over folds."""
        images, texts = unit_rows(embed(self.images)), unit_rows(embed(self.texts))
        if images.shape[1] != texts.shape[1]:
            raise DataError(
                f"images have {images.shape[1]} numbers and texts {texts.shape[1]}",
                where="the model",
                remedy="they must share one space",
            )
        size = len(images) // self.settings.folds
        parts, values, examples, depth = [], [], [], max(self.settings.cutoffs)
        for start in range(0, len(images), size):
            rows = (self.owner >= start) & (self.owner < start + size)
            search = _Search(images[start : start + size], texts[rows], self.owner[rows] - start, depth)
            metrics, value = self._fold(search)
            parts.append(metrics)
            values.append(value)
            if start == 0:
                examples = search.examples(self.images[:size], [self.texts[row] for row in np.flatnonzero(rows)])
        metrics = {name: 100 * float(np.mean([part[name] for part in parts])) for name in parts[0]}
        ways = [name for name in metrics if "hit_rate" in name]
        metrics["mean_hit_rate"] = float(np.mean([metrics[name] for name in ways]))
        metrics["rsum"] = float(np.sum([metrics[name] for name in ways]))
        counts = np.bincount(self.owner, minlength=len(images))
        details = {
            "images": len(images), "captions": len(texts), "folds": self.settings.folds,
            "fewest_captions": int(counts.min()), "most_captions": int(counts.max()),
        }  # fmt: skip
        samples = Samples("mean", {"value": np.concatenate(values)})
        return TaskResult(self.name, "mean_hit_rate", metrics["mean_hit_rate"], metrics, samples, details=details,
                          notes=list(self.notes), examples=examples)  # fmt: skip

    def _fold(self, search: _Search) -> tuple[dict[str, float], Array]:
        """Measures on 0..1, and for each image its part of the mean hit rate (their mean is that rate)."""
        if np.ptp(search.scores) == 0 or np.ptp(search.back_scores) == 0:
            raise NonFiniteError("every image has the same score for every text", where=f"task {self.name}")
        owner, right, owned, metrics = search.owner, search.right, search.owned, dict[str, float]()
        images, texts = right.shape[0], owned.shape[0]
        positives = np.bincount(owner, minlength=images)
        to_text, to_image = np.zeros(images), np.zeros(texts)
        for k in self.settings.cutoffs:
            hits = right[:, :k].any(axis=1)
            metrics[f"image_to_text_hit_rate@{k}"] = float(hits.mean())
            metrics[f"image_to_text_recall@{k}"] = float((right[:, :k].sum(axis=1) / positives).mean())
            metrics[f"text_to_image_hit_rate@{k}"] = float(owned[:, :k].any(axis=1).mean())
            to_text += hits / len(self.settings.cutoffs)
            to_image += owned[:, :k].any(axis=1) / len(self.settings.cutoffs)
        by_image = np.bincount(owner, weights=to_image, minlength=images) * images / texts
        return metrics, (to_text + by_image) / 2
