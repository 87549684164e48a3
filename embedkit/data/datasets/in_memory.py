"""Training rows held in memory: batches whose order depends on seed, epoch and step alone."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedkit.data.datasets.holdout import split
from embedkit.data.datasets.mixing import pools, shares
from embedkit.data.datasets.row_table import (
    TableBuilder,
    digest,
    facts_of,
    has_role,
    take_columns,
    take_rows,
    targets_of,
)
from embedkit.data.datasets.samplers import SAMPLERS, Request, fit
from embedkit.data.datasets.shuffling import NEIGHBOURS, WINDOW, block_permutation, permutation
from embedkit.data.schema.rows import Row, filled
from embedkit.data.schema.targets import TargetFacts
from embedkit.data.schema.warnings import of_counts, of_left_over, of_size
from embedkit.data.sources.data_source import Source
from embedkit.data.vectors.column import VectorColumn, blocks
from embedkit.data.vectors.columnar import column_tables
from embedkit.data.vectors.store import keys_at
from embedkit.errors import DataError
from embedkit.system.memory import available_bytes

if TYPE_CHECKING:
    from embedkit.config.recipe import DataConfig
from embedkit.data.datasets.base import RowBatch, TrainingRows, source_summary


@dataclass(frozen=True)
class _Epoch:
    """The batches of one epoch as row indices, and rows that are not in any of them."""

    number: int
    batches: list[np.ndarray]
    left_over: int = 0
    short: int = 0
    pool_steps: list[int] = field(default_factory=list)


class HeldRows(TrainingRows):
    """Training rows held in memory; made by `open_training`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data import open_training
    >>> from embedkit.data.schema.contract import Contract
    >>> _ = Path("sentences.txt").write_text("one\\ntwo\\nthree\\nfour\\n")
    >>> rows = open_training(DataConfig(train="sentences.txt"), Contract(), batch_size=2, seed=1)
    >>> [[row["anchor"] for row in batch.rows] for batch in rows.batches(epoch=0)]
    [['three', 'one'], ['four', 'two']]
    """

    num_rows: int
    steps_per_epoch: int

    def __init__(
        self, sources: Sequence[Source], config: DataConfig, roles: frozenset[str], batch_size: int, seed: int, *,
        holdout: float = 0.0, fit_batch: bool = False,
    ) -> None:  # fmt: skip
        self._sources, self._config, self.roles = sources, config, roles
        self.batch_size, self._seed = batch_size, seed
        self._recipe_batch = batch_size
        everything, self._vectors, sizes, places = _load(sources)
        self._targets = targets_of(everything)
        train, rest = _parted(everything, self._vectors, holdout, seed)
        self._table, self._held_out = _taken(everything, train), everything.take(rest)
        self._sizes, self._places = _sizes_of(train, sizes), places[train]
        self.num_rows = self._table.num_rows
        self.fingerprint = digest(self._table, self._vectors)
        self._duplicates = _duplicates(self._table, self._vectors)
        is_mixture = len(sources) > 1 and config.mixing != "concatenate"
        self._facts = facts_of(self._table, repeated_rows=is_mixture, vectors=self._vectors)
        self._shares = shares(
            self._sizes, config.mixing, [source.config.weight for source in sources], config.mixing_temperature
        )
        self._is_mixture = is_mixture
        self._bound = bound_rows(self._facts.labels, config.binding)
        self._pool_steps: list[int] | None = None
        if config.drop_last and self.num_rows < batch_size and not fit_batch:
            raise DataError(
                f"{self.num_rows} rows of {_names(sources)} do not fill one batch of {batch_size}",
                where="train.batch_size",
                remedy=f"lower it to {self.num_rows} or less, or set data.drop_last: false",
            )
        self._epoch = self._plan(0)
        for smaller in _smaller_batches(self.num_rows, batch_size, config) if fit_batch else ():
            if self._epoch.batches and self.num_rows >= self.batch_size:
                break
            self.batch_size = smaller
            self._epoch = self._plan(0)
        self._pool_steps = self._epoch.pool_steps
        self.steps_per_epoch = len(self._epoch.batches)
        if not self.steps_per_epoch:
            raise DataError(
                f"the sampler {config.sampler} cannot fill one batch of {batch_size} from {self.num_rows} rows"
                + (", whose texts repeat one another" if config.sampler == "no-duplicates" else ""),
                where="data.sampler",
                remedy="set data.sampler: shuffled, lower train.batch_size, or set data.drop_last: false",
            )
        self.smallest_batch = min(len(batch) for batch in self._epoch.batches)

    def batches(self, epoch: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[RowBatch]:
        """See `TrainingRows.batches`."""
        if self._epoch.number != epoch:
            self._epoch = self._plan(epoch)
        near = max(1, WINDOW * NEIGHBOURS // self.batch_size) if self._config.shuffle == "blocks" else 0
        for step, indices in enumerate(self._epoch.batches[start_step:], start_step):
            if near and (step - start_step) % near == 0:
                self._ahead(self._epoch.batches[step if step == start_step else step + near : step + 2 * near])
            low, high = rank * len(indices) // world, (rank + 1) * len(indices) // world
            mine = indices[low:high]
            yield RowBatch(self._rows(self._table, mine), mine.tolist(), len(indices), low, step)

    def _ahead(self, batches: Sequence[np.ndarray]) -> None:
        """Have the vectors of some batches read from the disk while those before them are used."""
        for role, vectors in self._vectors.items() if batches else ():
            column = self._table.column(role).take(pa.array(np.concatenate(batches))).combine_chunks()
            vectors.ahead((column.flatten() if role == "negatives" else column.drop_null()).to_numpy())

    def block(self, ids: Sequence[int]) -> RowBatch:
        """The rows with these ids as one batch."""
        return RowBatch(self._rows(self._table, np.asarray(ids, np.int64)), list(ids), len(ids), 0, 0)

    def _rows(self, table: pa.Table, indices: np.ndarray) -> Sequence[Row]:
        """Rows with all roles; by column where they hold vectors and numbers only."""
        by_column = take_columns(table, indices, self.roles, self._vectors) if self._vectors else None
        if by_column is not None:
            return by_column
        return [filled(row, self.roles) for row in take_rows(table, indices, self.roles, self._vectors)]

    def vectors(self, role: str) -> Iterator[np.ndarray]:
        """See `TrainingRows.vectors`."""
        column = self._table.column(role).combine_chunks()
        places = np.unique((column.flatten() if role == "negatives" else column.drop_null()).to_numpy())
        yield from blocks(self._vectors[role], places)

    def having(self, *roles: str) -> int:
        """See `TrainingRows.having`."""
        return int(np.logical_and.reduce([has_role(self._table, role) for role in roles]).sum())

    @property
    def widths(self) -> dict[str, int]:
        """See `TrainingRows.widths`."""
        return {role: column.width for role, column in self._vectors.items()}

    def summary(self) -> dict[str, Any]:
        """See `TrainingRows.summary`.

        Keys: ``rows``, ``held_out`` and ``without_negatives`` (numbers of rows); ``sources``, for each ``path``,
        ``rows``, ``read``, ``filtered``, ``dropped``, ``cut``, ``share``; ``dropped`` (reason -> rows of all
        sources); ``hard_negatives`` with ``min`` and ``max`` a row; ``duplicates`` with ``anchors`` and ``positives``
        (rows whose anchor or positive occurred before) and ``positive_is_anchor``; ``epoch`` with ``number``,
        ``steps``, ``left_over`` rows and ``short_batches`` of the latest epoch; ``notes``.
        """
        entries = [
            source_summary(source) | {"rows": size, "share": share}
            for source, size, share in zip(self._sources, self._sizes, self._shares, strict=True)
        ]
        drop_counts: Counter[str] = sum((source.account.dropped for source in self._sources), Counter())
        return {
            "rows": self.num_rows,
            "sources": entries,
            "dropped": dict(drop_counts),
            "held_out": self._held_out.num_rows,
            "hard_negatives": _negatives(self._table),
            "without_negatives": _without_negatives(self._table),
            "duplicates": self._duplicates,
            "epoch": {
                "number": self._epoch.number,
                "steps": self.steps_per_epoch,
                "left_over": self._epoch.left_over,
                "short_batches": self._epoch.short,
            },
            "notes": self.notes,
        }

    @property
    def notes(self) -> list[str]:
        """See `TrainingRows.notes`; repeated texts are counted over all rows, and rows that no batch takes."""
        config, rows = self._config, self.num_rows
        lines = super().notes
        if "score" not in self.roles:  # equal texts of a score are a pair like others, and no row is a negative
            lines += of_counts(rows, self._duplicates, config.sampler)
        remainder = rows % self.batch_size if config.drop_last else 0
        if config.shuffle == "rows":
            lines += of_size(sum(column.mapped_bytes for column in self._vectors.values()), available_bytes())
        lines += of_left_over(rows, self._epoch.left_over, remainder, config.sampler)
        if self.batch_size < self._recipe_batch:
            lines.append(
                f"{rows:,} rows do not fill the recipe's batches of {self._recipe_batch:,}: train.batch_size "
                f"is {self.batch_size} here; set it to choose another"
            )
        return lines

    def held_out(self) -> list[Row]:
        """See `TrainingRows.held_out`."""
        return list(self._rows(self._held_out, np.arange(self._held_out.num_rows)))

    def targets(self) -> dict[str, TargetFacts]:
        """See `TrainingRows.targets`; those of all rows, held out or not."""
        return self._targets

    def where(self, row_id: int) -> str:
        """See `TrainingRows.where`."""
        source = int(np.searchsorted(np.cumsum(self._sizes), row_id, side="right"))
        return self._sources[source].where((int(self._places[row_id, 0]), int(self._places[row_id, 1])))

    def _plan(self, epoch: int) -> _Epoch:
        config, size = self._config, self.batch_size - len(self._bound)
        if size < 1:
            raise DataError(
                f"{len(self._bound)} fixed rows leave no room in a batch of {self.batch_size}", where="data.binding",
                remedy="lower it, or raise train.batch_size",
            )  # fmt: skip
        one_source = config.batches_from == "one-source" and len(self._sources) > 1
        orders = pools(
            self._sizes,
            self._shares if self._is_mixture else None,
            one_source=one_source,
            batch_size=size,
            seed=self._seed,
            epoch=epoch,
            shuffle=block_permutation if config.shuffle == "blocks" else permutation,
        )
        groups, left = [], 0
        for index, order in enumerate(orders):
            order = order[~np.isin(order, self._bound)] if len(self._bound) else order
            request = Request(order, self._facts, size, config.per_label, (self._seed, epoch, index, 1))
            grouping = SAMPLERS[config.sampler](request)
            batches = grouping.batches
            if self._pool_steps is not None:
                full_first = sorted(batches, key=lambda batch: len(batch) < size) if config.drop_last else batches
                batches = fit(full_first, self._pool_steps[index])
            elif config.drop_last:
                batches = [batch for batch in batches if len(batch) == size]
            left += len(order) - sum(map(len, batches))
            groups.append(batches)
        flat = [batch for batches in groups for batch in batches]
        if len(groups) > 1:
            flat = [flat[place] for place in permutation(len(flat), self._seed, epoch, len(groups), 2)]
        short = sum(len(batch) < size for batch in flat)
        flat = [np.concatenate([self._bound, batch]) for batch in flat] if len(self._bound) else flat
        return _Epoch(epoch, flat, left, short, [len(batches) for batches in groups])


def _load(sources: Sequence[Source]) -> tuple[pa.Table, dict[str, VectorColumn], list[int], np.ndarray]:
    """All rows in one table, their vectors, the number of each source, and part and number of each row (rows, 2)."""
    builder = TableBuilder()
    sizes: list[int] = []
    places: list[np.ndarray] = []
    for source in sources:
        tables = column_tables(source)
        if tables is None:
            own = array("q")
            for place, row in source.rows():
                builder.add(row)
                own.extend(place)
            places.append(np.asarray(own, np.int64).reshape(-1, 2))
        else:
            for part, table in enumerate(tables):
                builder.add_columns(table)
                numbers = np.arange(1, table.count + 1)
                places.append(np.stack([np.full(table.count, part), numbers], axis=1))
            source.account.read = sum(table.count for table in tables)
        sizes.append(sum(map(len, places)) - sum(sizes))
    table = builder.finish()
    return table, builder.store.columns, sizes, np.concatenate(places)


def bound_rows(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first `count` rows of each label, which batch-binding puts into every batch.

    Binding examples (Kini et al., ICLR 2024, section 5) make the minimisers of supervised contrast the same for the
    batches as for all rows at once.

    Raises
    ------
    DataError
        The rows have no labels.

    Examples
    --------
    >>> bound_rows(np.array([1, 0, 1, 1, -1]), 2).tolist()
    [0, 1, 2]
    """
    if not count:
        return np.empty(0, np.int64)
    if not (labels >= 0).any():
        raise DataError("no row has a label", where="data.binding", remedy="map a column to label, or leave it out")
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    return np.sort(order[place < count])


def _parted(
    table: pa.Table, vectors: Mapping[str, VectorColumn], holdout: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Indices of the rows to train on and of those held out."""
    if not holdout:
        return np.arange(table.num_rows), np.arange(0)
    return split(facts_of(table, negatives=False, vectors=vectors), holdout, seed)


def _taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows of a table; as it is where they are all of them, in order."""
    return table if len(rows) == table.num_rows else table.take(rows).combine_chunks()


def _sizes_of(rows: np.ndarray, sizes: Sequence[int]) -> list[int]:
    """How many of these rows, ascending indices, each source has."""
    return np.diff(np.searchsorted(rows, np.cumsum([0, *sizes]))).tolist()


def _smaller_batches(rows: int, recipe_size: int, config: DataConfig) -> Iterator[int]:
    """Batch sizes to try where `rows` do not fill one: a quarter of them, for some steps an epoch, then fewer."""
    unit = config.per_label if config.sampler == "by-label" else 1
    size = min(recipe_size, max(8, 1 << max(0, (rows // 4).bit_length() - 1)))
    while size >= max(2, unit):
        if (fitting := min(size, rows) // unit * unit) >= 1:
            yield fitting
        size //= 2


def _names(sources: Sequence[Source]) -> str:
    return ", ".join(source.name for source in sources[:3]) + (", ..." if len(sources) > 3 else "")


def _negatives(table: pa.Table) -> dict[str, int]:
    counts = pc.fill_null(pc.list_value_length(table.column("negatives")), 0)
    bounds = pc.min_max(counts).as_py()
    return {"min": int(bounds["min"] or 0), "max": int(bounds["max"] or 0)}


def _without_negatives(table: pa.Table) -> int:
    """Rows without a hard negative in data of which others have some."""
    counts = pc.fill_null(pc.list_value_length(table.column("negatives")), 0)
    missing = int(pc.sum(pc.equal(counts, 0)).as_py() or 0)
    return 0 if missing == table.num_rows else missing


def _duplicates(table: pa.Table, vectors: Mapping[str, VectorColumn]) -> dict[str, int]:
    sides = {f"{role}s": table.column(role).drop_null() for role in ("anchor", "positive")}
    repeats = {name: len(texts) - pc.count_distinct(texts).as_py() for name, texts in sides.items()}
    return {**repeats, "positive_is_anchor": _equal_sides(table, vectors)}


def _equal_sides(table: pa.Table, vectors: Mapping[str, VectorColumn]) -> int:
    anchor, positive = (table.column(role).combine_chunks() for role in ("anchor", "positive"))
    if "anchor" in vectors and "positive" in vectors:  # these are places, each in a column of its own
        both = pc.and_(anchor.is_valid(), positive.is_valid())
        sides = ((vectors["anchor"], anchor), (vectors["positive"], positive))
        one, two = (keys_at(column, places.filter(both)) for column, places in sides)
        return int((one == two).sum())
    if "anchor" in vectors or "positive" in vectors:
        return 0
    return int(pc.sum(pc.equal(anchor, positive)).as_py() or 0)
