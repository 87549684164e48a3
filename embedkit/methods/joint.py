"""One text tower for sentences and for captions of images, trained on both in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.errors import DataError
from embedkit.methods.base import Row, View, methods
from embedkit.methods.clip import ImageText, chosen_texts
from embedkit.views.image import image_inputs


@methods.add("clip-joint")
class ClipJoint(ImageText):
    """Text pairs and image-text pairs in one run (MCSE, Zhang et al. 2022, section 3, with a trained image tower).

    Rows have a sentence (``anchor``, perhaps with a ``positive``), or an image with captions, or both. Views:
    ``anchor``, the sentence or a caption; ``positive``, its pair, or the same text again, changed by the encoder's
    dropout alone (SimCSE); ``image``, the images of the rows that have one. Objective: InfoNCE between the text views,
    plus CLIP's between images and the texts of their rows, with the texts of other rows as further negatives.

    Parameters
    ----------
    transform
        As in `ImageText`.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["clip-joint"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    ([], 'sum')
    """

    paper: ClassVar[str] = "Zhang et al. 2022, NAACL, section 3"
    contract: ClassVar[Contract] = Contract(
        requires=frozenset(), accepts=frozenset({"anchor", "positive", "image", "texts", "group"})
    )
    objective: ClassVar[dict[str, Any] | None] = {
        "name": "sum",
        "terms": [
            {"name": "infonce", "temperature": 0.05, "label": "text"},
            {
                "name": "clip", "temperature": 0.07, "target": "shared-input", "average": "positive",
                "label": "image-text", "inputs": {"anchor": "image", "positive": "anchor"},
            },
        ],
    }  # fmt: skip

    def __init__(self, transform: str | Mapping[str, Any] | None = "clip") -> None:
        super().__init__(transform)

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive", "image"})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        generators = [random(i) for i in range(len(rows))]
        texts = [_text(row, g) for row, g in zip(rows, generators, strict=True)]
        pairs = [row.get("positive") or text for row, text in zip(rows, texts, strict=True)]
        pictured = [i for i, row in enumerate(rows) if row.get("image") is not None]
        images = image_inputs([rows[i]["image"] for i in pictured], self.transform, [generators[i] for i in pictured])
        owner = list(range(len(rows)))
        return {
            "anchor": View(texts, owner),
            "positive": View(pairs, owner),
            "image": View(images, pictured, tower="image"),
        }


def _text(row: Row, random: np.random.Generator) -> str:
    if row.get("anchor") is not None:
        return str(row["anchor"])
    if row.get("texts"):
        return chosen_texts(row["texts"], 1, random)[0]
    raise DataError(
        "a row has neither a sentence nor captions", where="data.train",
        remedy="map a column to the role anchor, or to texts beside image",
    )  # fmt: skip
