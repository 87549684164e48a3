"""Criteria that take a subset as a whole: diversity, and expected augmentation similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from embedkit.config.settings import Count, Whole
from embedkit.errors import UserError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.labels.kmeans import kmeans
from embedkit.mining.selection.base import Amount, Context, Outcome, Rule, count_of, criteria
from embedkit.mining.selection.subsets import augmentation_similarity, facility_location, k_centre
from embedkit.mining.vectors import Vectors
from embedkit.views.base import Chain

Floor = Annotated[float, Field(ge=-1, lt=1)]


@criteria.add("diversity")
def diversity(number: Amount, method: Literal["k-centre", "facility-location"] = "k-centre") -> Rule:
    """Rows that cover all others.

    Parameters
    ----------
    number : int or share
        How many stay.
    method : str
        ``k-centre``: no row is far from one that stays; outliers are taken first. ``facility-location``: rows are on
        average near one that stays; dense regions get more of them.

    Examples
    --------
    >>> import embedkit
    >>> vectors = np.array([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0]])
    >>> embedkit.select(["a cat", "the cat", "a dog"], "diversity=2", vectors=vectors).rows
    [{'text': 'a cat'}, {'text': 'a dog'}]
    """

    def rule(context: Context, places: Array) -> Outcome:
        count = count_of(number, len(places), "diversity")
        vectors = context.rows.of(places)
        if method == "k-centre":
            rows, farthest = k_centre(vectors, count)
            return Outcome(places[np.sort(rows)], details={"largest_distance": farthest})
        rows, mean = facility_location(vectors, count)
        return Outcome(places[np.sort(rows)], details={"mean_similarity": mean})

    return rule


@criteria.add("augmentation-similarity")
def expected_similarity(
    number: Amount, classes: str | int | None = None, view: str | dict[str, Any] | list[Any] | None = None,
    draws: Count = 4, floor: Floor = 0.0, seed: Whole = 0,
) -> Rule:  # fmt: skip
    """Rows from which contrastive learning without labels learns most: SAS (Joshi and Mirzasoleiman 2023).

    In each class, in proportion to its size, the rows whose augmentations are most similar to those of the other rows.

    Parameters
    ----------
    number : int or share
        How many stay, over all classes.
    classes : str or int, optional
        A column with the class of each row, such as that of `embedkit label`, or a number of clusters that are made
        here; one class when None.
    view : str, mapping or list, optional
        The augmentation of texts, as ``method.positive`` of the method views: ``word-deletion``. Without it, the
        vectors as they are.
    draws : int
        Augmentations of a text whose vectors are averaged.
    floor : float
        Smaller cosines count as 0.
    seed : int
        Of the augmentations and clusters.

    Examples
    --------
    >>> import embedkit
    >>> vectors = np.array([[0.0, 1.0], [1.0, 0.0], [0.9, 0.1]])
    >>> rows = ["odd one", "a cat", "the cat"]
    >>> embedkit.select(rows, "augmentation-similarity=1", vectors=vectors).rows
    [{'text': 'the cat'}]
    """
    chain = None if view is None else Chain.of(view, "augmentation-similarity.view")
    if chain is not None and (chain.forward or chain.splits):
        raise UserError("it changes the encoder or cuts the text, and texts are edited here", where="view",
                        remedy="give word-deletion, for example")  # fmt: skip

    def rule(context: Context, places: Array) -> Outcome:
        count = count_of(number, len(places), "augmentation-similarity")
        vectors = context.rows.of(places) if chain is None else _means(context, places, chain, draws, seed)
        members = _classes(context, places, vectors, classes, seed)
        quotas = _quotas([len(rows) for rows in members], count)
        stay = [
            rows[augmentation_similarity(vectors.select(rows.tolist()), quota, floor)]
            for rows, quota in zip(members, quotas, strict=True)
            if quota
        ]
        details = {"classes": len(members), "smallest_quota": min(quotas), "largest_quota": max(quotas)}
        return Outcome(places[np.sort(np.concatenate(stay))], details=details)

    return rule


def _means(context: Context, places: Array, chain: Chain, draws: int, seed: int) -> Vectors:
    """The mean vector of some augmentations of each row."""
    if context.vectors is not None:
        raise UserError("vectors are given, and augmented texts need a model", where="augmentation-similarity.view",
                        remedy="give a model in place of vectors, or leave view out")  # fmt: skip
    texts = context.texts(places)
    total: Array | None = None
    for draw in range(draws):
        edits = [
            chain.texts(text, np.random.Generator(np.random.PCG64((seed, draw, int(place)))))[0]
            for place, text in zip(places, texts, strict=True)
        ]
        prompt = chain.prompt
        edits = [prompt.replace("{}", text) for text in edits] if prompt is not None else edits
        vectors = context.encoder(edits, "augmentation-similarity")
        rows = vectors.rows(slice(0, len(edits)))
        total = rows.astype(np.float64) if total is None else total + rows
    assert total is not None  # at least one draw
    return Vectors(total / draws, "the mean vectors of augmentations", unit=False)


def _classes(context: Context, places: Array, vectors: Vectors, classes: str | int | None, seed: int) -> list[Array]:
    """The rows of each class, by their numbers among `places`."""
    if classes is None:
        return [np.arange(len(places))]
    if isinstance(classes, int):
        labels: Sequence[Any] = kmeans(vectors, classes, seed=seed).labels.tolist()
    else:
        if classes not in context.table.columns:
            raise UserError(f"no column {classes!r}", where="augmentation-similarity.classes",
                            remedy="name a column, or give a number of clusters")  # fmt: skip
        labels = [str(context.table.rows[place].get(classes)) for place in places]
    groups: dict[Any, list[int]] = {}
    for number, label in enumerate(labels):
        groups.setdefault(label, []).append(number)
    return [np.array(rows) for rows in groups.values()]


def _quotas(sizes: Sequence[int], count: int) -> list[int]:
    """`count` rows in proportion to the sizes of classes, by the largest remainders."""
    total = sum(sizes)
    quotas = [size * count // total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda number: (-(sizes[number] * count % total), number))
    for number in order[: count - sum(quotas)]:
        quotas[number] += 1
    return quotas
