"""Streams of tar shards: read in lanes, shared by processes, resumed at the exact sample.

The shards are dealt to a fixed number of lanes (``data.lanes``), and every batch takes the same number of samples from
each lane. A lane reads its shards in a drawn order, again and again, and shuffles within windows of consecutive
samples. A window is ``data.shuffle_buffer`` over the number of lanes, or all samples of the lane where these are fewer:
then each window is one reading of the lane. So the samples of step n are a pure function of (seed, n): a process reads
only the lanes that its rows come from, and a resumed run finds the window of its step by counting headers, without
reading the samples before it. The number of processes decides who reads, never what is read.

A sample that cannot be used keeps its place in the order and is dropped from its batch, like one whose image cannot be
decoded (`embedkit.data.images.decoding`); every sample drawn is trained on or listed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedkit.data.datasets.base import RowBatch, TrainingRows, stream_fingerprint
from embedkit.data.datasets.shuffling import permutation
from embedkit.data.images.decoding import checked, without_bad
from embedkit.data.schema.rows import BadRow, Part, Row, filled
from embedkit.data.sources.data_source import Source
from embedkit.data.sources.formats.webdataset import count_samples, read_shard
from embedkit.data.sources.registry import readers
from embedkit.errors import RecipeError

if TYPE_CHECKING:
    from embedkit.config.recipe import DataConfig

_SHIFT = 32  # ids: number of the shard above, number of the sample within it below
_DEALING, _SHARDS, _WINDOWS = 11, 12, 13  # streams of random numbers


@dataclass(frozen=True)
class _Shard:
    """One shard: its number among all, and where it comes from."""

    number: int
    source: Source
    place: int

    @property
    def part(self) -> Part:
        """The file."""
        return self.source.parts[self.place]


_Sample = tuple[int, dict[str, Any] | BadRow, _Shard]
"""Id, cells and shard of a sample."""


def only_shards(sources: Sequence[Source]) -> bool:
    """Whether all sources are streams of tar shards.

    Examples
    --------
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data.datasets.open import open_sources
    >>> from embedkit.data.schema.contract import Contract
    >>> only_shards(open_sources(DataConfig(train="builtin:pairs-train"), Contract()))
    False
    """
    return all(
        source.config.stream and all(part.format is not None and readers[part.format].lanes for part in source.parts)
        for source in sources
    )


class LaneRows(TrainingRows):
    """Training rows of webdataset shards; made by `open_training` when all sources are shards with ``stream: true``.

    There is one endless epoch: each lane goes through its shards again and again.

    Raises
    ------
    RecipeError
        For settings that need rows to be counted before they are read.

    Examples
    --------
    >>> import io, tarfile
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data import open_training
    >>> from embedkit.data.schema.contract import Contract
    >>> with tarfile.open("000.tar", "w") as tar:
    ...     for number in range(4):
    ...         member = tarfile.TarInfo(f"{number}.txt")
    ...         member.size = 5
    ...         tar.addfile(member, io.BytesIO(b"cat %d" % number))
    >>> data = DataConfig.model_validate({"train": {"path": "000.tar", "stream": True}})
    >>> rows = open_training(data, Contract(), batch_size=4, seed=1)
    >>> sorted(row["anchor"] for row in next(rows.batches(epoch=0)).rows)
    ['cat 0', 'cat 1', 'cat 2', 'cat 3']
    """

    num_rows = None
    steps_per_epoch = None

    def __init__(
        self, sources: Sequence[Source], config: DataConfig, roles: frozenset[str], batch_size: int, seed: int
    ) -> None:
        _check(sources, config)
        self._sources, self._config, self.roles = sources, config, roles
        self.batch_size = self._batch_size = batch_size
        self._seed = seed
        every = [(source, place) for source in sources for place in range(len(source.parts))]
        self._shards = [_Shard(number, source, place) for number, (source, place) in enumerate(every)]
        self._count = min(config.lanes, len(self._shards), batch_size)
        shard_order = permutation(len(self._shards), seed, _DEALING)
        self._lanes = [[self._shards[i] for i in shard_order[lane :: self._count]] for lane in range(self._count)]
        self._window = max(1, config.shuffle_buffer // self._count)
        self._sizes: dict[int, int] = {}
        self.fingerprint = stream_fingerprint(sources)

    def batches(self, epoch: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[RowBatch]:
        """See `TrainingRows.batches`; endless, and the same for every epoch."""
        size = self._batch_size
        low, high = rank * size // world, (rank + 1) * size // world
        bounds = [lane * size // self._count for lane in range(self._count + 1)]
        spans = [(bounds[lane], bounds[lane + 1]) for lane in range(self._count)]
        mine = [lane for lane, (start, stop) in enumerate(spans) if start < high and stop > low]
        running = {lane: self._lane(lane, start_step * (spans[lane][1] - spans[lane][0])) for lane in mine}
        for step in itertools.count(start_step):
            rows: list[Row | BadRow] = []
            ids: list[int] = []
            for lane in mine:
                start, stop = spans[lane]
                for place, (row_id, row) in enumerate(itertools.islice(running[lane], stop - start), start):
                    if low <= place < high:
                        ids.append(row_id)
                        rows.append(row if isinstance(row, BadRow) else filled(row, self.roles))
            batch = RowBatch([], ids, size, low, step, list(range(low, high)))
            yield checked(without_bad(batch, rows, self._config.on_bad_row != "error", self.where))

    def summary(self) -> dict[str, Any]:
        """See `TrainingRows.summary`; nothing is counted ahead."""
        sources = [{"path": source.name, "shards": len(source.parts)} for source in self._sources]
        return {
            "rows": None, "sources": sources, "lanes": self._count, "window": self._window, "dropped": {},
            "notes": self.notes,
        }  # fmt: skip

    def where(self, row_id: int) -> str:
        """See `TrainingRows.where`."""
        return f"{self._shards[row_id >> _SHIFT].part.name}:{row_id & ((1 << _SHIFT) - 1)}"

    def _lane(self, lane: int, position: int) -> Iterator[tuple[int, Row | BadRow]]:
        """Id and row of the samples of a lane in their shuffled order, from `position` on."""
        window, raw = self._resumed(lane, position) if position else self._started(lane)
        first = position // window
        for number in itertools.count(first):
            samples = list(itertools.islice(raw, window))
            order = permutation(len(samples), self._seed, lane, number, _WINDOWS)
            skip = position - first * window if number == first else 0
            for place in order[skip:]:
                row_id, values, shard = samples[place]
                yield row_id, self._made(values, shard, row_id)

    def _started(self, lane: int) -> tuple[int, Iterator[_Sample]]:
        """Size of the windows of a lane, and its samples; filling the first window shows it, so nothing is counted."""
        cycle = self._cycle(lane, 0)
        samples = list(itertools.islice(cycle, self._window))
        return len(samples), itertools.chain(samples, cycle, self._cycles(lane, 1))

    def _resumed(self, lane: int, position: int) -> tuple[int, Iterator[_Sample]]:
        """Size of the windows of a lane, and its samples from the beginning of the window on that holds `position`."""
        total = sum(self._size(shard) for shard in self._lanes[lane])
        window = min(self._window, total)
        number, skip = divmod(position // window * window, total)
        return window, itertools.chain(self._cycle(lane, number, skip), self._cycles(lane, number + 1))

    def _made(self, values: dict[str, Any] | BadRow, shard: _Shard, row_id: int) -> Row | BadRow:
        try:
            if isinstance(values, BadRow):
                return values
            return shard.source.make(values, (shard.place, row_id & ((1 << _SHIFT) - 1)))[0]
        except BadRow as bad:
            return bad

    def _cycles(self, lane: int, first: int) -> Iterator[_Sample]:
        """Samples of a lane, cycle after cycle without end."""
        return itertools.chain.from_iterable(self._cycle(lane, number) for number in itertools.count(first))

    def _cycle(self, lane: int, number: int, skip: int = 0) -> Iterator[_Sample]:
        """Samples of one reading of a lane in the order of its shards, without the first `skip`."""
        for index in permutation(len(self._lanes[lane]), self._seed, lane, number, _SHARDS):
            shard = self._lanes[lane][index]
            if skip and skip >= self._size(shard):
                skip -= self._size(shard)
                continue
            assert shard.part.file is not None
            for place, values in read_shard(shard.part.file, skip):
                yield (shard.number << _SHIFT) | place, values, shard
            skip = 0

    def _size(self, shard: _Shard) -> int:
        assert shard.part.file is not None
        size = self._sizes.get(shard.number)
        if size is None:
            size = self._sizes[shard.number] = count_samples(shard.part.file)
        return size


def _check(sources: Sequence[Source], config: DataConfig) -> None:
    for source in sources:
        where = f"data.train[{source.index}]"
        for key in ("where", "limit", "explode"):
            if getattr(source.config, key):
                raise RecipeError(
                    f"{key!r} does not go with a stream of shards", where=f"{where}.{key}",
                    remedy="write the shards so, or set stream: false to hold the rows in memory",
                )  # fmt: skip
    if config.sampler != "shuffled" or config.mixing != "concatenate" or config.batches_from != "mixed":
        raise RecipeError(
            "a stream of shards has the sampler 'shuffled' and mixing 'concatenate' only", where="data",
            remedy="leave them out, or set stream: false to hold the rows in memory",
        )  # fmt: skip
