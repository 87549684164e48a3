"""Rows that are read while training: a bounded shuffle buffer instead of a table in memory.

An epoch reads each source from its start. Every row passes a buffer of ``data.shuffle_buffer`` rows, from which one is
picked at random for each row that comes in; the picks are a pure function of (seed, epoch, source). Batches of a
sampler other than ``shuffled`` are made within windows of as many rows; what does not fill a batch is carried over to
the next window. With the sampler ``contiguous`` rows pass no buffer: their order within a window is that of the source.
A resumed epoch is read from its start and the batches before the resumed step are skipped, so it costs reading time and
gives the same batches; every process reads everything and keeps its slice.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.data.datasets.base import RowBatch, TrainingRows, source_summary, stream_fingerprint
from embedkit.data.datasets.mixing import interleave
from embedkit.data.datasets.row_table import TableBuilder, facts_of
from embedkit.data.datasets.samplers import SAMPLERS, Request
from embedkit.data.datasets.shuffling import raw_numbers
from embedkit.data.schema.rows import Row, filled
from embedkit.data.sources.data_source import Source
from embedkit.errors import DataError

if TYPE_CHECKING:
    from embedkit.config.recipe import DataConfig

_SOURCE_SHIFT = 44  # ids: source number above, row number within the source below
Numbered = tuple[int, Row]
"""Id and row."""


class StreamedRows(TrainingRows):
    """Training rows of streams; made by `open_training` when a source has ``stream: true`` (then all are streamed).

    With ``mixing: weighted`` a source that ends is read again, and the epoch ends when each has ended once.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data import open_training
    >>> from embedkit.data.schema.contract import Contract
    >>> _ = Path("sentences.txt").write_text("one\\ntwo\\nthree\\nfour\\n")
    >>> data = DataConfig.model_validate({"train": {"path": "sentences.txt", "stream": True}})
    >>> rows = open_training(data, Contract(), batch_size=2, seed=1)
    >>> [[row["anchor"] for row in batch.rows] for batch in rows.batches(epoch=0)]
    [['four', 'one'], ['two', 'three']]
    """

    num_rows = None
    steps_per_epoch = None

    def __init__(
        self, sources: Sequence[Source], config: DataConfig, roles: frozenset[str], batch_size: int, seed: int
    ) -> None:
        self._sources, self._config, self.roles = sources, config, roles
        self.batch_size = self._batch_size = batch_size
        self._seed = seed
        self._left: Counter[str] = Counter()
        self._windows = _Windows(config, batch_size, self._left)
        self.fingerprint = stream_fingerprint(sources)

    def batches(self, epoch: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[RowBatch]:
        """See `TrainingRows.batches`."""
        step = -1
        for step, batch in enumerate(self._whole_batches(epoch)):
            if step < start_step:
                continue
            size = len(batch)
            low, high = rank * size // world, (rank + 1) * size // world
            rows = [filled(row, self.roles) for _, row in batch[low:high]]
            yield RowBatch(rows, [row_id for row_id, _ in batch[low:high]], size, low, step)
        if step < 0:
            raise DataError(
                f"the stream does not fill one batch of {self._batch_size}",
                where="train.batch_size",
                remedy="lower it, or set data.drop_last: false",
            )

    def summary(self) -> dict[str, Any]:
        """See `TrainingRows.summary`; counts are those of the longest pass so far, ``cut`` and ``left_over`` of all."""
        drop_counts: Counter[str] = sum((source.account.dropped for source in self._sources), Counter())
        return {
            "rows": None,
            "sources": [source_summary(source) for source in self._sources],
            "dropped": dict(drop_counts),
            "left_over": dict(self._left),
            "notes": self.notes,
        }

    def where(self, row_id: int) -> str:
        """See `TrainingRows.where`."""
        source, number = row_id >> _SOURCE_SHIFT, row_id & ((1 << _SOURCE_SHIFT) - 1)
        return f"{self._sources[source].name}: row {number + 1} of those kept"

    def _whole_batches(self, epoch: int) -> Iterator[list[Numbered]]:
        config = self._config
        weights = None
        if config.mixing == "weighted":
            weights = [source.config.weight or 0.0 for source in self._sources]
        readers = [self._reader(source, epoch) for source in self._sources]
        if config.batches_from == "one-source":
            makers = [self._batcher(reader, epoch, index) for index, reader in enumerate(readers)]
            return (batch for _, batch in interleave(makers, weights, self._seed, epoch, 3))
        rows = (row for _, row in interleave(readers, weights, self._seed, epoch, 3))
        return self._windows.batches(rows, self._seed, epoch, 0, 0)

    def _reader(self, source: Source, epoch: int) -> Callable[[int], Iterator[Numbered]]:
        def start(cycle: int) -> Iterator[Numbered]:
            first = source.index << _SOURCE_SHIFT
            rows = ((first + place, row) for place, (_, row) in enumerate(source.rows()))
            if self._config.sampler == "contiguous":  # the windows are shuffled, document by document
                return rows
            return shuffle_buffer(rows, self._config.shuffle_buffer, self._seed, epoch, source.index, cycle)

        return start

    def _batcher(
        self, reader: Callable[[int], Iterator[Numbered]], epoch: int, index: int
    ) -> Callable[[int], Iterator[list[Numbered]]]:
        def start(cycle: int) -> Iterator[list[Numbered]]:
            return self._windows.batches(reader(cycle), self._seed, epoch, index, cycle)

        return start


def shuffle_buffer(items: Iterator[Numbered], size: int, *key: int) -> Iterator[Numbered]:
    """The items, shuffled within a buffer of `size`; the order is a pure function of their number, `size` and `key`.

    Examples
    --------
    >>> items = [(number, {}) for number in range(6)]
    >>> [number for number, _ in shuffle_buffer(iter(items), 3, 42)]
    [2, 3, 4, 0, 1, 5]
    """
    numbers = raw_numbers(*key)
    buffer = list(itertools.islice(items, size))
    for item in items:
        place = next(numbers) % size
        buffer[place], item = item, buffer[place]
        yield item
    while buffer:
        place = next(numbers) % len(buffer)
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        yield buffer.pop()


class _Windows:
    """Batches of a stream of rows, made by a sampler within windows.

    Parameters
    ----------
    config : DataConfig
        Sampler and settings; a window has ``shuffle_buffer`` rows, at least four batches.
    batch_size : int
        Rows of a full batch.
    left : Counter
        Reason -> rows that came into no batch; added to.
    """

    def __init__(self, config: DataConfig, batch_size: int, left: Counter[str]) -> None:
        self._config, self._batch_size, self._left = config, batch_size, left
        self._size = max(config.shuffle_buffer, 4 * batch_size)

    def batches(self, rows: Iterator[Numbered], *key: int) -> Iterator[list[Numbered]]:
        """Batches of `rows`, which must be shuffled already; full ones, and short ones at the end if they are kept."""
        plain = self._config.sampler == "shuffled"
        size = self._batch_size if plain else self._size
        rest: list[Numbered] = []
        for number in itertools.count():
            fresh = list(itertools.islice(rows, size - len(rest)))
            last = len(rest) + len(fresh) < size
            if plain and not last:
                yield fresh
                continue
            batches, rest = self._window(rest + fresh, last, *key, number)
            yield from batches
            if last:
                return

    def _window(self, rows: list[Numbered], last: bool, *key: int) -> tuple[list[list[Numbered]], list[Numbered]]:
        """The batches of one window, and the rows that the next window starts with."""
        if not rows:
            return [], []
        builder = TableBuilder()
        for _, row in rows:
            builder.add(row)
        facts = facts_of(builder.finish(), vectors=builder.store.columns)
        request = Request(np.arange(len(rows)), facts, self._batch_size, self._config.per_label, (*key, 1))
        grouping = SAMPLERS[self._config.sampler](request)
        full = [batch for batch in grouping.batches if len(batch) == self._batch_size]
        short = [batch for batch in grouping.batches if len(batch) < self._batch_size]
        if last and not self._config.drop_last:
            full, short = full + short, []
        rest = sorted(np.concatenate([*short, grouping.left]).astype(np.int64).tolist())
        onward = [] if last else rest[: self._size // 2]  # what cannot be placed must not fill the window
        reason = "end of the stream" if last else "too many duplicates or too few rows of a label"
        self._left[reason] += len(rest) - len(onward)
        return [[rows[index] for index in batch] for batch in full], [rows[index] for index in onward]
