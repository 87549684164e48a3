"""Samplers: from an order of rows to batches. Pure functions; nothing here knows of processes or files.

A sampler groups a sequence of row indices into batches of at most ``batch_size``. Full batches come first or anywhere;
short ones are settled by the caller (dropped, kept, or carried over to the next window of a stream). Rows that a
sampler cannot place are returned apart, so that they are counted and not lost silently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embedkit.data.datasets.packing import Packing
from embedkit.data.datasets.row_table import Facts
from embedkit.data.datasets.shuffling import permutation
from embedkit.errors import DataError

_WINDOW = 50
"""Batches whose rows the length sampler sorts together: enough to even lengths out, few enough to stay random."""


@dataclass(frozen=True)
class Grouping:
    """Batches of row indices, and the rows that fit into none.

    Examples
    --------
    >>> grouping = Grouping([np.array([2, 0]), np.array([3, 1])], left=np.array([4]))
    >>> [batch.tolist() for batch in grouping.batches]
    [[2, 0], [3, 1]]
    """

    batches: list[np.ndarray]
    left: np.ndarray


@dataclass(frozen=True)
class Request:
    """The input of a sampler.

    Attributes
    ----------
    order : int64 array
        Row indices in the order of the epoch.
    facts : Facts
        Facts of all rows that `order` points to.
    batch_size : int
        Rows of a full batch.
    per_label : int
        Rows of one label in a batch (by-label).
    key : tuple of int
        Makes random choices a pure function of seed, epoch and source.

    Examples
    --------
    >>> from embedkit.data.datasets.row_table import facts_of, table_of
    >>> facts = facts_of(table_of([{"anchor": "a cat"}, {"anchor": "a dog"}]))
    >>> request = Request(np.arange(2), facts, batch_size=2, per_label=1, key=(1, 0))
    >>> SAMPLERS["shuffled"](request).batches
    [array([0, 1])]
    """

    order: np.ndarray
    facts: Facts
    batch_size: int
    per_label: int
    key: tuple[int, ...]


_NONE = np.empty(0, np.int64)


def shuffled(request: Request) -> Grouping:
    """Batches cut from the shuffled order as it is.

    Examples
    --------
    >>> nothing = np.zeros(5, np.int64)
    >>> request = Request(np.array([3, 1, 4, 0, 2]), Facts(nothing, nothing, nothing, nothing), 2, 1, (1,))
    >>> [batch.tolist() for batch in shuffled(request).batches]
    [[3, 1], [4, 0], [2]]
    """
    return Grouping(_cut(request.order, request.batch_size), _NONE)


def no_duplicates(request: Request) -> Grouping:
    """Batches in which no text, image or group occurs in two rows.

    As many rows come into full batches as a greedy pass brings there, or more, in time linear in the number of texts;
    see `embedkit.data.datasets.packing`. Rows of texts that are repeated more often than there are batches end up in
    short batches.

    Examples
    --------
    >>> from embedkit.data.datasets.row_table import facts_of, table_of
    >>> facts = facts_of(table_of([{"anchor": text} for text in ("a", "a", "b", "b")]))
    >>> [batch.tolist() for batch in no_duplicates(Request(np.arange(4), facts, 2, 1, (1,))).batches]
    [[0, 2], [1, 3]]
    """
    facts = request.facts
    packing = Packing(facts.keys, facts.offsets, request.batch_size)
    return Grouping(packing.pack(request.order.tolist()), _NONE)


def by_label(request: Request) -> Grouping:
    """Batches of ``batch_size / per_label`` labels with ``per_label`` rows each.

    Labels of a batch differ as long as there are enough labels left; then they repeat. Of each label up to
    ``per_label - 1`` rows are left over.

    Examples
    --------
    >>> from embedkit.data.datasets.row_table import facts_of, table_of
    >>> facts = facts_of(table_of([{"anchor": str(row), "label": row // 2} for row in range(4)]))
    >>> [sorted(batch.tolist()) for batch in by_label(Request(np.arange(4), facts, 4, 2, (1,))).batches]
    [[0, 1, 2, 3]]
    """
    size, order = request.per_label, request.order
    labels = request.facts.labels[order]
    rows = order[np.argsort(labels, kind="stable")]
    _, counts = np.unique(labels, return_counts=True)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)  # place among the rows of its label
    whole = place < np.repeat(counts // size * size, counts)
    groups = rows[whole].reshape(-1, size)  # (groups, per_label)
    groups = groups[permutation(len(groups), *request.key)]
    labels_a_batch = request.batch_size // size
    keys = request.facts.labels[groups[:, 0]]
    batches = Packing(keys, np.arange(len(groups) + 1), labels_a_batch).pack(range(len(groups)))
    full = [batch for batch in batches if len(batch) == labels_a_batch]
    rest = [batch for batch in batches if len(batch) < labels_a_batch]
    if rest:
        full += _cut(np.concatenate(rest), labels_a_batch)
    return Grouping([groups[batch].reshape(-1) for batch in full], rows[~whole])


def by_length(request: Request) -> Grouping:
    """Batches of rows of similar length (characters of all texts): sorted in windows of 50 batches, then shuffled.

    Examples
    --------
    >>> from embedkit.data.datasets.row_table import facts_of, table_of
    >>> facts = facts_of(table_of([{"anchor": "a" * length} for length in (9, 1, 8, 2)]))
    >>> sorted(batch.tolist() for batch in by_length(Request(np.arange(4), facts, 2, 1, (1,))).batches)
    [[1, 3], [2, 0]]
    """
    size = request.batch_size
    whole = len(request.order) // size * size
    batches: list[np.ndarray] = []
    for start in range(0, whole, _WINDOW * size):
        window = request.order[start : min(whole, start + _WINDOW * size)]
        window = window[np.argsort(request.facts.lengths[window], kind="stable")]
        batches += _cut(window, size)
    batches = [batches[index] for index in permutation(len(batches), *request.key)]
    return Grouping(batches + _cut(request.order[whole:], size), _NONE)


def contiguous(request: Request) -> Grouping:
    """Batches of consecutive sentences: documents in random order, each in its own, cut into batches in random order.

    A batch may hold the end of one document and the start of another; ``document_id`` and ``position`` of its rows tell
    which sentences are neighbours.

    Examples
    --------
    >>> from embedkit.data.datasets.row_table import facts_of, table_of
    >>> rows = [{"anchor": f"{name}{i}", "document_id": name, "position": i} for name in "ab" for i in range(3)]
    >>> order = np.array([5, 0, 3, 1, 4, 2])
    >>> [batch.tolist() for batch in contiguous(Request(order, facts_of(table_of(rows)), 4, 1, (1,))).batches]
    [[0, 1, 2, 3], [4, 5]]
    """
    facts, order = request.facts, request.order
    documents = facts.documents[order]
    _, number = np.unique(documents, return_inverse=True)
    place = permutation(int(number.max(initial=-1)) + 1, *request.key)[number]  # of each row's document
    in_order = order[np.lexsort((order, facts.positions[order], place))]
    size = request.batch_size
    whole = len(order) // size * size
    batches = _cut(in_order[:whole], size)
    batches = [batches[index] for index in permutation(len(batches), *request.key, 1)]
    return Grouping(batches + _cut(in_order[whole:], size), _NONE)


SAMPLERS: dict[str, Callable[[Request], Grouping]] = {
    "shuffled": shuffled,
    "no-duplicates": no_duplicates,
    "by-label": by_label,
    "length": by_length,
    "contiguous": contiguous,
}
"""Samplers by the name that ``data.sampler`` gives them."""


def check_sampler(sampler: str, batch_size: int, per_label: int, roles: frozenset[str], where: str) -> None:
    """Raise `DataError` where a sampler has no labels or documents to read, or its numbers do not fit.

    Examples
    --------
    >>> check_sampler("by-label", 64, 2, frozenset({"anchor", "label"}), "faq.csv")
    >>> check_sampler("by-label", 64, 3, frozenset({"anchor", "label"}), "faq.csv")
    Traceback (most recent call last):
    embedkit.errors.DataError: train.batch_size: batches of 64 rows cannot hold 3 rows of each label; ...
    """
    if sampler == "contiguous" and "document_id" not in roles:
        raise DataError(
            "the sampler contiguous needs sentences of documents",
            where=where,
            remedy="give lists of sentences (role sentences) or rows with document_id and position to a method that "
            "reads sentences, or choose another data.sampler",
        )
    if sampler != "by-label":
        return
    if "label" not in roles:
        raise DataError(
            "the sampler by-label needs a column with role label",
            where=where,
            remedy="map one with columns: {COLUMN: label}, or choose another data.sampler",
        )
    if batch_size % per_label:
        raise DataError(
            f"batches of {batch_size} rows cannot hold {per_label} rows of each label",
            where="train.batch_size",
            remedy=f"make it a multiple of data.per_label = {per_label}",
        )


def fit(batches: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """Exactly `steps` batches, so that every epoch has the same length: surplus ones are dropped, large ones halved.

    Any part of a batch without duplicates has none either, so halving keeps what the sampler promised.

    Raises
    ------
    DataError
        There are fewer rows than steps.

    Examples
    --------
    >>> [batch.tolist() for batch in fit([np.array([3, 1, 4, 0]), np.array([2])], 3)]
    [[3, 1], [4, 0], [2]]
    """
    if sum(map(len, batches)) < steps:
        raise DataError(
            f"the sampler finds too few rows for {steps} batches in this epoch",
            where="data.sampler",
            remedy="lower train.batch_size or choose another sampler",
        )
    batches = list(batches[:steps])
    while len(batches) < steps:
        widest = max(range(len(batches)), key=lambda index: len(batches[index]))
        batch = batches[widest]
        batches[widest : widest + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return batches


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]
