"""Training rows: from ``data`` in a recipe to batches whose order depends on seed, epoch and step alone."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedkit.data.schema.rows import Row
from embedkit.data.schema.targets import TargetFacts
from embedkit.data.sources.data_source import Source
from embedkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from embedkit.data.images.decoding import Skipped


@dataclass(frozen=True)
class RowBatch:
    """The part of a batch that one process trains on.

    Attributes
    ----------
    rows : sequence of Row
        Rows [rank * size // world, (rank + 1) * size // world) of the batch.
    ids : list of int
        Stable id of each of them (0 .. num_rows - 1 when the rows are held in memory).
    size : int
        Rows of the whole batch, over all processes.
    offset : int
        Place of the first of `rows` in the whole batch.
    step : int
        Place of the batch in the epoch.
    places : list of int
        Place of each of `rows` in the whole batch, from `offset` on; with gaps where bad rows were dropped.
    bad_rows : list of Skipped
        Rows that were drawn and dropped because they are bad.

    Examples
    --------
    >>> batch = RowBatch([{"anchor": "a cat"}, {"anchor": "a dog"}], ids=[7, 4], size=4, offset=2, step=0)
    >>> batch.places
    [2, 3]
    """

    rows: Sequence[Row]
    ids: list[int]
    size: int
    offset: int
    step: int
    places: list[int] = field(default_factory=list)
    bad_rows: list[Skipped] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.places:
            object.__setattr__(self, "places", list(range(self.offset, self.offset + len(self.rows))))


class TrainingRows(ABC):
    """Rows to train on, in batches; made by `open_training`.

    Attributes
    ----------
    num_rows : int or None
        Rows of all sources; None for a stream.
    steps_per_epoch : int or None
        Batches of every epoch; None for a stream.
    smallest_batch : int or None
        Rows of the smallest batch of the first epoch; None for a stream.
    fingerprint : str
        Changes when the rows change. For rows in memory a hash of all their content, the same from whatever kind of
        file; for a stream a hash of the first MiB and the size of each file, of the mapping and the filter.
    roles : frozenset of str
        Roles that every row has, whatever its source.
    batch_size : int
        Rows of a whole batch: those asked for, or fewer where that was allowed and the rows do not fill one.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data import open_training
    >>> from embedkit.data.schema.contract import Contract
    >>> _ = Path("sentences.txt").write_text("one\\ntwo\\nthree\\nfour\\nfive\\n")
    >>> rows = open_training(DataConfig(train="sentences.txt"), Contract(), batch_size=2, seed=1)
    >>> rows.num_rows, rows.steps_per_epoch, rows.where(4)
    (5, 2, 'sentences.txt:5')
    """

    num_rows: int | None
    batch_size: int
    steps_per_epoch: int | None
    smallest_batch: int | None = None
    fingerprint: str
    roles: frozenset[str]
    _sources: Sequence[Source]
    _added: tuple[str, ...] = ()

    @abstractmethod
    def batches(self, epoch: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[RowBatch]:
        """The batches of an epoch from `start_step` on, of each the part of this process.

        The whole batch is a pure function of (seed, epoch, step); `rank` and `world` only choose the slice.
        """

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Counts of what was read and what was left out, ready for JSON."""

    @property
    def notes(self) -> list[str]:
        """Warnings about what is allowed and looks like a mistake, a line each; see `embedkit.data.schema.warnings`."""
        return [*(note for source in self._sources for note in source.notes), *self._added]

    def add_note(self, line: str) -> None:
        """Add a line to `notes`: what only a run knows to be a mistake."""
        self._added = (*self._added, line)

    @property
    def guesses(self) -> list[str]:
        """Those of `notes` that only say how the data is read, of columns, splits and formats."""
        return [str(guess) for source in self._sources for guess in source.guesses]

    def held_out(self) -> list[Row]:
        """The rows that are held out of training, in the order of the sources."""
        return []

    def targets(self) -> dict[str, TargetFacts]:
        """Role -> what is known of each target before the first step; a stream knows no classes, only sizes."""
        facts: dict[str, TargetFacts] = {}
        for source in self._sources:
            facts |= {role: TargetFacts(width=width) for role, width in source.widths.items() if width}
        return facts

    def having(self, *roles: str) -> int | None:
        """How many rows have all of these roles; None where it is not known before they are read."""
        return None

    @property
    def widths(self) -> dict[str, int]:
        """Role -> numbers of its vectors, of the roles that hold vectors."""
        return {role: width for source in self._sources for role, width in source.vector_widths.items()}

    @property
    def kinds(self) -> dict[str, str]:
        """Role -> "text", "vector" or "sequence", of the roles that can be either."""
        return {role: kind for source in self._sources for role, kind in source.kinds.items()}

    def vectors(self, role: str) -> Iterator[np.ndarray]:
        """The different vectors of a role that are trained on, in blocks, float32 (n, W); a stream has none.

        Raises
        ------
        DataError
            The rows are a stream.
        """
        raise DataError("a stream has no vectors to learn from before the first step", where="data.train",
                        remedy="leave 'stream' out")  # fmt: skip

    @abstractmethod
    def where(self, row_id: int) -> str:
        """``file:row`` of the row with this id."""

    def left_out(self) -> list[tuple[str, str, str]]:
        """Place, reason and fault of every bad row that was left out when the data was read; with streams so far."""
        return [bad for source in self._sources for bad in source.account.bad]


def source_summary(source: Source) -> dict[str, Any]:
    """Counts of the records of one source: an entry of ``summary()["sources"]``.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data.datasets.open import open_sources
    >>> from embedkit.data.schema.contract import Contract
    >>> _ = Path("faq.csv").write_text("question,lang\\nHow do I pay?,en\\nWie zahle ich?,de\\n")
    >>> data = DataConfig.model_validate({"train": {"path": "faq.csv", "where": {"lang": "en"}}})
    >>> [source] = open_sources(data, Contract())
    >>> _ = list(source.rows())
    >>> source_summary(source)
    {'path': 'faq.csv', 'read': 2, 'filtered': 1, 'dropped': {}, 'cut': 0}
    """
    account = source.account
    return {
        "path": source.name,
        "read": account.read,
        "filtered": account.filtered,
        "dropped": dict(account.dropped),
        "cut": source.texts.cut_texts,
    }


_READING = {
    "format",
    "name",
    "split",
    "revision",
    "columns",
    "where",
    "limit",
    "explode",
    "split_sentences",
    "separator",
    "header",
}


def stream_fingerprint(sources: Sequence[Source]) -> str:
    """A hash of the settings of each source and of the first MiB and the size of each of its files.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data.datasets.open import open_sources
    >>> from embedkit.data.schema.contract import Contract
    >>> _ = Path("a.txt").write_text("a cat\\n"), Path("b.txt").write_text("a dog\\n")
    >>> marks = [stream_fingerprint(open_sources(DataConfig(train=name), Contract())) for name in ("a.txt", "b.txt")]
    >>> marks[0] == marks[1]
    False
    """
    state = hashlib.blake2b(digest_size=16)
    for source in sources:
        settings = source.config.model_dump_json(include=_READING)
        state.update(settings.encode())
        for part in source.parts:
            if part.file is None:
                state.update((part.token or part.name).encode())
            else:
                with part.file.open("rb") as handle:
                    state.update(handle.read(1 << 20))
                state.update(str(part.file.stat().st_size).encode())
    return state.hexdigest()
