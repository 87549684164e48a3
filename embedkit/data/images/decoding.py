"""Decoding the images of batches in worker threads, and what becomes of a row whose image cannot be decoded.

A row is judged alone, by the process that it belongs to, and a bad one is dropped from its batch; nothing is put in its
place. Whether a row is bad depends on its bytes only, so the rows of a step are the same in a resumed run and on any
number of processes, and every row that was drawn is either trained on or listed. A batch with bad rows is smaller: the
trainer counts the rows that are left over all processes and takes the mean over them.

Threads are enough, since Pillow decodes without the interpreter's lock. Results come in the order of the batches; the
number of workers changes nothing but the time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embedkit.data.images.pictures import MAX_PIXELS, load_picture
from embedkit.data.schema.roles import IMAGE_ROLES
from embedkit.data.schema.rows import BadRow, Row
from embedkit.errors import DataError

if TYPE_CHECKING:
    from embedkit.data.datasets.base import RowBatch

GROUP = 8  # rows that one task decodes
AHEAD = 1  # batches that are decoded before they are asked for; a decoded batch is much larger than its files


@dataclass(frozen=True)
class Skipped:
    """A row that was drawn and dropped from its batch because it is bad.

    Attributes
    ----------
    id, place : int
        Its stable id, and its place in the whole batch.
    where, reason, what : str
        Where it stands, the short name of the fault, the fault in words.

    Examples
    --------
    >>> bad = Skipped(id=7, place=3, where="captions.csv:8", reason="missing image", what="there is no image file")
    >>> f"{bad.where}: {bad.what}"
    'captions.csv:8: there is no image file'
    """

    id: int
    place: int
    where: str
    reason: str
    what: str


@dataclass(frozen=True)
class Decoding:
    """Settings of image decoding.

    Attributes
    ----------
    need : int or None
        Pixels that the shorter side of an image must keep (see `embedkit.data.images.pictures.load_picture`).
    workers : int or None
        Threads; see `usual_threads` when None.
    max_pixels : int
        Larger images are bad.
    skip : bool
        Drop bad rows; else the first one is raised.

    Examples
    --------
    >>> Decoding(need=64, workers=4).threads
    4
    """

    need: int | None = None
    workers: int | None = None
    max_pixels: int = MAX_PIXELS
    skip: bool = False

    @property
    def threads(self) -> int:
        """Number of decoding threads."""
        return self.workers or usual_threads()


def decode_batches(
    batches: Iterator[tuple[int, RowBatch]], settings: Decoding, where: Callable[[int], str], *, empty: bool = False
) -> Iterator[tuple[int, RowBatch]]:
    """The same batches with a `Picture` in place of each image, and without the rows that have a bad one.

    Parameters
    ----------
    batches : iterator of (epoch, RowBatch)
        Rows with bytes or paths as images; batches whose rows have no images pass through.
    settings : Decoding
        How.
    where : callable
        ``file:row`` of a row by its id, for messages.
    empty : bool
        Let batches pass of which no row is left.

    Raises
    ------
    BadRow
        The first bad image, unless bad rows are skipped.
    DataError
        No row of this process's part of a batch is left, unless `empty` is set.

    Examples
    --------
    >>> from embedkit.data.builtin.shapes import draw
    >>> from embedkit.data.datasets.base import RowBatch
    >>> batch = RowBatch([{"image": draw((0, 0, 1, 0, 0))}, {"image": b"no image"}], [0, 1], 2, 0, 0)
    >>> [(_, decoded)] = decode_batches(iter([(0, batch)]), Decoding(skip=True), "row {}".format)
    >>> decoded.rows[0]["image"].image.size, [(bad.where, bad.reason) for bad in decoded.bad_rows]
    ((32, 32), [('row 1', 'not an image')])
    """
    check = (lambda batch: batch) if empty else checked
    with ThreadPoolExecutor(settings.threads, "embedkit-decode") as pool:
        coming: deque[tuple[int, RowBatch, list[Future[list[Any]]]]] = deque()
        try:
            for epoch, batch in batches:
                coming.append((epoch, batch, _submit(pool, batch.rows, settings)))
                if len(coming) > AHEAD:
                    epoch, batch, parts = coming.popleft()
                    yield epoch, check(_finished(batch, parts, settings, where))
            while coming:
                epoch, batch, parts = coming.popleft()
                yield epoch, check(_finished(batch, parts, settings, where))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def usual_threads() -> int:
    """The usual number of decoding threads: one for each core that the process may use, at most 8.

    Examples
    --------
    >>> 1 <= usual_threads() <= 8
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def _submit(pool: ThreadPoolExecutor, rows: Sequence[Row], settings: Decoding) -> list[Future[list[Any]]]:
    if not any(isinstance(row.get(role), bytes | str) for row in rows for role in IMAGE_ROLES):
        return []
    return [pool.submit(_decode, rows[start : start + GROUP], settings) for start in range(0, len(rows), GROUP)]


def _decode(rows: Sequence[Row], settings: Decoding) -> list[Row | BadRow]:
    outcomes: list[Row | BadRow] = []
    for row in rows:
        try:
            pictures = {
                role: load_picture(row[role], settings.need, settings.max_pixels)
                for role in IMAGE_ROLES
                if isinstance(row.get(role), bytes | str)
            }
        except BadRow as bad:
            outcomes.append(bad)
        else:
            outcomes.append({**row, **pictures})
    return outcomes


def _finished(
    batch: RowBatch, parts: list[Future[list[Any]]], settings: Decoding, where: Callable[[int], str]
) -> RowBatch:
    rows = [row for part in parts for row in part.result()]
    return without_bad(batch, rows, settings.skip, where) if parts else batch


def without_bad(batch: RowBatch, rows: Sequence[Row | BadRow], skip: bool, where: Callable[[int], str]) -> RowBatch:
    """The batch with these rows, those that are a `BadRow` moved to `bad_rows`; raises the first one unless `skip`.

    Examples
    --------
    >>> from embedkit.data.datasets.base import RowBatch
    >>> bad = BadRow("missing image", "there is no image file", where="captions.csv:2")
    >>> batch = without_bad(RowBatch([], [0, 1], 2, 0, 0, [0, 1]), [{"image": "a.jpg"}, bad], True, "row {}".format)
    >>> batch.rows, batch.ids, batch.bad_rows[0].where
    ([{'image': 'a.jpg'}], [0], 'captions.csv:2')
    """
    bad_rows = list(batch.bad_rows)
    sound: list[int] = []
    good: list[Row] = []
    for number, row in enumerate(rows):
        if not isinstance(row, BadRow):
            sound.append(number)
            good.append(row)
            continue
        place = row.where or where(batch.ids[number])
        if not skip:
            raise row.at(place) from row
        bad_rows.append(Skipped(batch.ids[number], batch.places[number], place, row.reason, row.what))
    if len(sound) == len(rows):
        return replace(batch, rows=good)
    return replace(
        batch,
        rows=good,
        ids=[batch.ids[number] for number in sound],
        places=[batch.places[number] for number in sound],
        bad_rows=bad_rows,
    )


def checked(batch: RowBatch) -> RowBatch:
    """The batch itself, where a row is left in it: a process without rows could not take part in the step.

    Raises
    ------
    DataError
        No row is left.

    Examples
    --------
    >>> from embedkit.data.datasets.base import RowBatch
    >>> bad = Skipped(0, 0, "captions.csv:1", "missing image", "there is no image file")
    >>> checked(RowBatch([], [], 1, 0, 0, bad_rows=[bad]))
    Traceback (most recent call last):
    embedkit.errors.DataError: captions.csv:1: all 1 rows of this process's part of batch 0 are bad; ...
    """
    if batch.rows or not batch.bad_rows:
        return batch
    first = batch.bad_rows[0]
    raise DataError(
        f"all {len(batch.bad_rows)} rows of this process's part of batch {batch.step} are bad; the first: {first.what}",
        where=first.where,
        remedy="run `embedkit validate RECIPE --full`, fix the data, or raise train.batch_size",
    )
