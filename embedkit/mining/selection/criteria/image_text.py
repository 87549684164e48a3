"""How well an image and its caption belong together, by a dual encoder such as CLIP."""

from __future__ import annotations

import numpy as np

from embedkit.errors import DataError, UserError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.rows.vectors import RowVectors
from embedkit.mining.selection.base import Amount, Context, Outcome, Rule, criteria
from embedkit.mining.selection.criteria.numbers import by_numbers, check_bounds
from embedkit.mining.selection.neighbours import cosines


@criteria.add("image-text")
def image_text(
    least: float | None = None, most: float | None = None, top: Amount | None = None, column: str | None = None
) -> Rule:
    """Rows whose image and caption are similar to a dual encoder (CLIP score).

    Parameters
    ----------
    least, most : float, optional
        Bounds of the cosine, both included; CLIP's cosines of pairs that belong together lie about 0.3.
    top : int or share, optional
        How many of the rest stay, those with the highest cosines.
    column : str, optional
        The column of the captions.

    Examples
    --------
    >>> import embedkit
    >>> rows = [{"image": "a.jpg", "caption": "a cat"}, {"image": "b.jpg", "caption": "buy now"}]
    >>> texts, images = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.9, 0.2], [0.9, 0.1]])
    >>> embedkit.select(rows, "image-text=0.5", vectors=texts, image_vectors=images).rows
    [{'image': 'a.jpg', 'caption': 'a cat'}]
    """
    check_bounds(least, most, top, "image-text")

    def rule(context: Context, places: Array) -> Outcome:
        table = context.table
        images = table.image_column(context.image_column)
        if images is None and context.image_vectors is None:
            raise DataError("there is no column of images", where=table.name, remedy="name it: --image-column NAME")
        if (context.vectors is None) != (context.image_vectors is None):
            name = "vectors" if context.vectors is None else "image_vectors"
            raise UserError("vectors of the texts and of the images are needed, or a model", where=name,
                            remedy="give both, or a model")  # fmt: skip
        context.read.update(("vectors", "image_vectors"))
        first = RowVectors(table, lambda rows: context.texts(np.array(list(rows)), column), context.encoder,
                           context.vectors).of(places)  # fmt: skip
        second = RowVectors(table, lambda rows: table.images(str(images), rows), context.encoder,
                            context.image_vectors, name="image_vectors").of(places)  # fmt: skip
        if first.dim != second.dim:
            raise DataError(f"{second.dim} numbers a vector, and {first.dim} in {first.name}", where=second.name,
                            remedy="encode both with one model")  # fmt: skip
        scores = np.concatenate([
            cosines(first.rows(part), second.rows(part))
            for part in (slice(start, start + 16_384) for start in range(0, len(places), 16_384))
        ])  # fmt: skip
        return by_numbers(scores, places, least, most, top, "image-text")

    return rule
