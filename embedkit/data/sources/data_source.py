"""Records to rows of one source: filter, roles, checks of every cell, and an account of what was left out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.data.images.paths import image_path
from embedkit.data.images.pictures import load_picture
from embedkit.data.schema import kinds
from embedkit.data.schema import warnings as suspicions
from embedkit.data.schema.candidates import several_positives, with_scores
from embedkit.data.schema.first_rows import list_columns, remedy_of, values_of
from embedkit.data.schema.guesses import Guess
from embedkit.data.schema.parsers import (
    TextReader,
    read_features,
    read_group,
    read_image,
    read_label,
    read_score,
    read_scores,
)
from embedkit.data.schema.roles import IMAGE_ROLES, bind, named_role
from embedkit.data.schema.rows import BadRow, Part, Row
from embedkit.data.schema.sentences import (
    Positions,
    check_count,
    documents_guess,
    gathered,
    sentence_rows,
    split_sentences,
)
from embedkit.data.schema.targets import is_target
from embedkit.data.sources.conditions import condition
from embedkit.data.sources.formats.webdataset import APART
from embedkit.data.sources.sources import find_parts
from embedkit.data.sources.target_cells import TargetCells
from embedkit.data.vectors.arrays import even_part
from embedkit.data.vectors.beside import Beside, merged, with_cells
from embedkit.data.vectors.cells import VectorCells
from embedkit.errors import DataError, nearest

if TYPE_CHECKING:
    from embedkit.config.recipe import DataConfig, SourceConfig
    from embedkit.data.schema.contract import Limit
    from embedkit.data.vectors.column import Piece

HEAD = 100
"""Rows of each source that are checked before anything is read in full."""

OPTIONS = ("separator", "header")
"""Settings of a source that are its format's."""

_READERS = {
    "score": read_score, "scores": read_scores, "scores_of_positives": read_scores, "scores_of_negatives": read_scores,
    "group": read_group, "features": read_features, "document_id": read_group, "position": read_label,
}  # fmt: skip

LOOKED_AT = 8
"""Rows of each source whose images are decoded then."""

Place = tuple[int, int]
"""Part of the source, number of the row in the part."""

_Entry = tuple[Place, dict[str, Any] | BadRow]


@dataclass
class Account:
    """Counts of the records of a source: read, filtered, dropped.

    Attributes
    ----------
    read, filtered : int
        Records read, and those that ``where`` left out.
    dropped : Counter
        Reason -> bad rows left out.
    bad : list of (str, str, str)
        Place, reason and fault of each of them.

    Examples
    --------
    >>> account = Account(read=100, filtered=20)
    >>> account.dropped["blank text"] += 1
    >>> account.read - account.filtered - account.dropped.total()
    79
    """

    read: int = 0
    filtered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str, str]] = field(default_factory=list)


class Source:
    """One entry of ``data.train``, opened: its parts are found, its columns bound, its first rows checked.

    Parameters
    ----------
    config : SourceConfig
        The entry.
    data : DataConfig
        Settings for all sources (bad rows, lengths).
    index : int
        Position in ``data.train``.
    requires, reads : frozenset of str
        Roles that the method needs, and all that method and sampler read.
    limits : mapping
        Role -> lowest and highest value that method and objective can take, or names of classes.
    base_dir : Path
        Where relative paths start.

    Raises
    ------
    DataError
        The source cannot be read, lacks a role, or has a bad row among its first rows.

    Examples
    --------
    >>> from embedkit.config.recipe import DataConfig
    >>> _ = Path("faq.csv").write_text("question,answer\\nHow do I pay?,By card.\\n")
    >>> data, roles = DataConfig(train="faq.csv"), frozenset({"anchor", "positive"})
    >>> source = Source(data.train[0], data, 0, requires=roles, reads=roles, base_dir=Path())
    >>> list(source.rows())
    [((0, 2), {'anchor': 'How do I pay?', 'positive': 'By card.'})]
    """

    def __init__(
        self,
        config: SourceConfig,
        data: DataConfig,
        index: int,
        *,
        requires: frozenset[str],
        reads: frozenset[str],
        base_dir: Path,
        limits: Mapping[str, Limit] | None = None,
    ) -> None:
        self.config, self.index, self.name = config, index, config.path
        self._skip = data.on_bad_row != "error"
        self._data, self._where = data, f"data.train[{index}] ({config.path})"
        self._images = None if config.image_folder is None else Path(base_dir, config.image_folder).absolute()
        self._guesses_of_parts: list[Guess] = []
        self._all_parts = self.parts = find_parts(
            config.path, config.format, name=config.name, split=config.split, revision=config.revision,
            base_dir=base_dir, file=config.file, prefer="train", tell=self._guesses_of_parts.append,
            options={name: value for name in OPTIONS if (value := getattr(config, name)) is not None},
        )  # fmt: skip
        self._beside = [Beside(one, base_dir) for one in config.beside]
        self._head: list[_Entry] | None = list(itertools.islice(self._records(), HEAD))
        self._names = self._columns_of(self._head)
        self._first_values = {
            column: values_of(column, [values for _, values in self._head]) for column in config.where
        }
        self.guesses: tuple[Guess, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.roles: frozenset[str] = frozenset()
        self._requires, self._reads, self._limits = requires, reads, limits or {}
        self._columns: dict[str, str] = {}
        self._positions = Positions()
        self._targets = TargetCells({})
        self.kinds: dict[str, str] = {}
        self._vectors = VectorCells()
        self.documents: str | None = None
        self._slots_of_lists: dict[str, list[str]] = {}
        self._modalities: list[str] = []
        self.texts, self.account = TextReader(data.max_chars, data.cut_long), Account()
        self.bind(requires, reads, self._limits)

    def _columns_of(self, head: list[_Entry]) -> list[str]:
        """The names of the columns of the first rows; refuses a source without any, or without one that is named."""
        names = list(dict.fromkeys(key for _, values in head if isinstance(values, dict) for key in values))
        if not names:
            raise next((values for _, values in head if isinstance(values, BadRow)), None) or DataError(
                "it has no rows", where=self._where, remedy="check the file"
            )
        apart = next((values for _, values in head if isinstance(values, BadRow) and values.reason == APART), None)
        if apart is not None:  # else columns would seem to be missing
            raise apart
        for column in self.config.where:
            if column not in names:
                raise DataError(f"'where' names no column {column!r}", where=self._where, remedy=nearest(column, names))
        return names

    def bind(self, requires: frozenset[str], reads: frozenset[str], limits: Mapping[str, Limit]) -> None:
        """Bind the columns to the roles that are read, and check the first rows as these roles.

        Opening a source does this; once the objective is known, which may need other roles than the method alone, it is
        done again without opening anything. Errors as in opening.
        """
        self.parts = self._all_parts
        head = list(itertools.islice(self._records(), HEAD)) if self._head is None else self._head
        names, where = self._names, self._where
        rows_of_head = [values for _, values in head if isinstance(values, dict)]
        axes, mapping = kinds.axes_of_columns(names, rows_of_head), self.config.columns
        vectors = kinds.vector_columns(names, rows_of_head) | axes.keys()
        single = mapping is None and "anchor" in requires and len(names) == 1 and names[0] in vectors
        lists = list_columns(names, rows_of_head, vectors, mapping or {})
        binding = bind(
            names, {names[0]: "anchor"} if single else mapping, requires=requires, reads=reads, where=where,
            explode=self.config.explode, lists=lists, split=self.config.split_sentences, filters={*self.config.where},
            extras=frozenset({"label"} if self.parts[0].name.startswith("builtin:") else ()),
        )  # fmt: skip
        guesses = [*self._guesses_of_parts, *(Guess(where, what, "columns") for what in binding.guesses)]
        guesses += documents_guess(binding, self.config.split_sentences, where)
        self.kinds, notes_of_kinds = kinds.kinds_of(binding.columns, self.config.kinds, vectors, where, axes)
        guesses += [Guess(where, f"{names[0]} is the anchor", "columns")] if single else []
        guesses += [Guess(where, what, "kinds") for what in notes_of_kinds]
        self.guesses = tuple(dict.fromkeys(guesses))
        self.roles, self._requires, self._reads, self._limits = binding.roles, requires, reads, limits
        left_out = self._leave_out({*binding.columns.values(), *self.config.where})
        head = list(itertools.islice(self._records(), HEAD)) if left_out else head
        self.notes = (*map(str, self.guesses), *binding.notes, *left_out)
        self._columns, self.documents = binding.columns, binding.documents
        self._slots_of_lists = {
            role: sorted((slot for slot in binding.columns if slot.startswith(prefix)), key=_number_of)
            for role, prefix in (("negatives", "negative_"), ("texts", "text_"))
        }
        self._modalities = kinds.modalities_of(binding.columns)
        self.texts = TextReader(self._data.max_chars, self._data.cut_long)
        self.account, self._targets, self._vectors = Account(), TargetCells(limits), VectorCells()
        first = list(self.rows(head))  # a wrong mapping is reported at once
        self._look_at_images(first[:LOOKED_AT])
        role_by_name = {column: named_role(column) for column in names}
        self.notes += tuple(suspicions.of_columns(binding.columns, role_by_name, where))
        self.notes += tuple(suspicions.of_rows([row for _, row in first], binding.columns, where))
        if "label" not in requires:
            self.notes += tuple(suspicions.of_labels([row for _, row in first], binding.columns, where))
        self.texts.cut_texts = 0

    def _leave_out(self, names: set[str]) -> list[str]:
        """Drop the arrays that are as long as no column in use; a note of each."""
        names |= {one.config.on for one in self._beside if one.config.on is not None}
        parts = [even_part(part, names) for part in self._all_parts]
        self.parts = [part for part, _ in parts]
        return list(itertools.chain(*(notes for _, notes in parts), *(one.use(names) for one in self._beside)))

    @property
    def widths(self) -> dict[str, int]:
        """Role -> size of the vectors of a target, of those that the rows read so far have."""
        return self._targets.widths

    @property
    def vector_widths(self) -> dict[str, int]:
        """Role -> numbers of its vectors, of the roles that hold vectors in the rows read so far."""
        return self._vectors.widths

    @property
    def is_plain(self) -> bool:
        """Whether a record is a row as it stands: nothing is filtered, skipped, looked up or made of several."""
        looked_up = any(one.config.on is not None for one in self._beside)
        return not (self.config.where or self.config.explode or self.documents or self._skip or looked_up)

    def slots(self) -> list[tuple[str, str]]:
        """What each column is read as, and its name; columns of ``negatives`` in the order of their numbers."""
        return sorted(self._columns.items(), key=lambda item: _number_of(item[0]) if item[0][-1].isdecimal() else 0)

    def columns_of(self, part: Part) -> dict[str, Piece]:
        """The columns of a part, which can be read by column, with those of the files beside it."""
        return merged({} if part.columns is None else part.columns(), self._beside, part.name)

    def limit_of(self, role: str) -> Limit | None:
        """Lowest and highest value of a role that is taken, or the names of its classes; None where all are."""
        return self._limits.get(role)

    def column_of(self, role: str) -> str | None:
        """The column that is read as `role`."""
        return self._columns.get(role)

    def release_head(self) -> None:
        """Free the first rows, which may hold images, once the roles are final."""
        self._head = None

    def rows(self, records: Iterable[_Entry] | None = None) -> Iterator[tuple[Place, Row]]:
        """All rows from the start, or those of `records`, with their places.

        `account` is that of the longest pass so far.

        Raises
        ------
        BadRow
            A row is bad and bad rows are not skipped.
        DataError
            A file cannot be read on, or no row is left.
        """
        account = Account()
        any_row = False
        for place, outcome in self.outcomes(account, records):
            self._keep(account)
            if isinstance(outcome, BadRow):
                if not self._skip:
                    raise outcome
                account.dropped[outcome.reason] += 1
                account.bad.append((outcome.where or self.where(place), outcome.reason, outcome.what))
                continue
            any_row = True
            for row in outcome:
                yield place, row
        self._keep(account)
        if not any_row and records is None:
            raise self._nothing_left()

    def _keep(self, account: Account) -> None:
        """Make it the account of the source, unless an earlier pass went further: a stream that starts anew."""
        if account.read >= self.account.read:
            self.account = account

    def outcomes(
        self, account: Any, records: Iterable[_Entry] | None = None
    ) -> Iterator[tuple[Place, list[Row] | BadRow]]:
        """The rows made of each record that ``where`` and ``limit`` let in, or its fault; all of it from the start.

        `account` counts records read (``read``) and left out by ``where`` (``filtered``).
        """
        self._positions = Positions()
        outcomes = self._outcomes(account, records)
        if self.documents != "rows":
            yield from outcomes
            return
        for place, outcome in gathered(outcomes, self.where):
            fault = None if records is not None else check_count(outcome, self._limits, self.where(place))
            yield place, fault or outcome

    def _outcomes(self, account: Any, records: Iterable[_Entry] | None) -> Iterator[tuple[Place, list[Row] | BadRow]]:
        is_kept = condition(self.config.where)
        count = 0
        for place, values in self._records() if records is None else records:
            account.read += 1
            if isinstance(values, BadRow):
                yield place, values
                continue
            if not is_kept(values):
                account.filtered += 1
                continue
            try:
                rows = self.make(values, place)
            except BadRow as bad:
                yield place, bad
                continue
            yield place, rows
            count += 1
            if count == self.config.limit:
                return

    def where(self, place: Place) -> str:
        """``file:row`` of a row."""
        return f"{self.parts[place[0]].name}:{place[1]}"

    def _records(self) -> Iterator[_Entry]:
        if not self._beside:
            yield from self._own_records()
            return
        number = 0
        for place, values in self._own_records():
            if isinstance(values, dict):
                yield place, with_cells(values, number, self._beside, self.where(place))
            else:
                yield place, values
            number += 1
        for one in self._beside:
            one.check_count(number, self._where)

    def _own_records(self) -> Iterator[_Entry]:
        for index, part in enumerate(self.parts):
            empty = len(self.parts) > 1
            for number, values in part.records():
                empty = False
                yield (index, number), values
            if empty:
                remedy = "remove it, or set data.on_bad_row: skip"
                yield (index, 0), BadRow("empty file", "the file has no rows", where=part.name, remedy=remedy)

    def make(self, values: Mapping[str, Any], place: Place) -> list[Row]:
        """The rows of one record (one, or several with ``explode``); raises `BadRow` with the place."""
        row: Row = {}
        for slot, column in self._columns.items():
            try:
                if column not in values and not slot.startswith(("negative", "text_")) and not kinds.is_named(slot):
                    raise BadRow("missing column", "this row lacks the column", remedy="add it, or skip bad rows")
                self._read(row, slot, values.get(column), self.parts[place[0]])
            except BadRow as bad:
                raise bad.at(f"{self._sample(values, place)} column {column!r}") from bad.__cause__
        kinds.check_any(row, self._modalities, self._columns, self.where(place))
        for role, slots in self._slots_of_lists.items():
            if slots:
                extra = [row.pop(slot) for slot in slots]
                row[role] = row.get(role, []) + [text for text in extra if text is not None]
        if "document_id" in row:
            row["document_id"] = f"{self.index}:{row['document_id']}"
            row.setdefault("position", self._positions.next(row["document_id"]))
        if fault := check_count([row], self._limits, self.where(place)):
            raise fault
        if "prompt" in row:
            row["anchor"] = f"{row.pop('prompt') or ''}{row['anchor']}"
        if "negatives" in self._requires and not row["negatives"]:
            raise BadRow(
                "no negatives", "the row has no negative", where=self.where(place), remedy="add one, or skip bad rows"
            )
        if self._slots_of_lists["texts"] and not row["texts"]:
            raise self._no_captions(values, place)
        try:
            if self.documents == "lists":
                return sentence_rows(row, self._group(place))
            rows = self._explode(row, place) if self.config.explode else several_positives(row, self._group(place))
            return [with_scores(one) for one in rows]
        except BadRow as bad:
            raise bad.at(self._sample(values, place)) from bad.__cause__

    def _group(self, place: Place) -> str:
        """The group of the rows of one record."""
        return f"{self.index}:{place[0]}:{place[1]}"

    def _sample(self, values: Mapping[str, Any], place: Place) -> str:
        """The place of a record, with the name of the sample where it stands in a shard."""
        return f"{self.where(place)} ({values['__key__']})" if "__key__" in values else self.where(place)

    def _no_captions(self, values: Mapping[str, Any], place: Place) -> BadRow:
        columns = [self._columns[slot] for slot in self._slots_of_lists["texts"]]
        where = f"{self._sample(values, place)} column {' and '.join(map(repr, columns))}"
        if not any(column in values for column in columns):
            return BadRow("missing column", "this row lacks the caption", where=where, remedy="skip bad rows")
        return BadRow("blank text", "all captions are empty", where=where, remedy="skip bad rows")

    def _read(self, row: Row, slot: str, cell: Any, part: Part) -> None:
        texts = self.texts
        kind = self.kinds.get(kinds.role_of_slot(slot), "text")
        if kind != "text":
            row[slot] = self._vectors.read(slot, cell, kind)
            return
        cell = kinds.plain_cell(cell)
        if slot in ("anchor", "positive"):
            row[slot] = texts.text(cell)
        elif slot == "prompt":
            row[slot] = None if cell is None else str(cell)
        elif slot == "positives":
            row[slot] = texts.some_texts(cell)
        elif slot.startswith(("negative_", "text_", "modality:")):
            row[slot] = texts.optional_text(cell)
        elif slot == "negatives":
            row[slot] = [] if cell is None else texts.texts(cell)
        elif slot == "sentences" and self.config.split_sentences and isinstance(cell, str):
            row[slot] = texts.some_texts(split_sentences(cell))
        elif slot in ("texts", "sentences"):
            row[slot] = texts.some_texts(cell)
        elif slot in IMAGE_ROLES and cell is None and self._modalities:
            row[slot] = None
        elif slot in IMAGE_ROLES:
            image = read_image(cell)
            row[slot] = image if isinstance(image, bytes) else image_path(image, part.folder, self._images)
        elif is_target(slot):
            row[slot] = self._targets.read(slot, cell, self._columns[slot], part)
        else:
            row[slot] = self._targets.label(cell, part, self._columns) if slot == "label" else _READERS[slot](cell)
            self._check_limits(slot, row[slot])

    def _check_limits(self, role: str, value: Any) -> None:
        limit = self._limits.get(role)
        if isinstance(limit, tuple) and value is not None and not limit[0] <= value <= limit[1]:
            raise BadRow(
                f"bad {role}", f"the {role} {value:g} is not between {limit[0]:g} and {limit[1]:g}",
                remedy="scale or number it anew, or choose another objective or method",
            )  # fmt: skip

    def _explode(self, row: Row, place: Place) -> list[Row]:
        """Pairs (first, second), (second, third), ... of the texts, kept together by a group of their own."""
        texts = row.pop("texts")
        if len(texts) < 2:
            raise BadRow(
                "single text", "explode needs two texts or more", where=self.where(place), remedy="skip bad rows"
            )
        row.setdefault("group", self._group(place))
        return [{**row, "anchor": first, "positive": second} for first, second in itertools.pairwise(texts)]

    def _look_at_images(self, rows: list[tuple[Place, Row]]) -> None:
        """Decode some images at once, as small as can be; a damaged one is reported before a model is made."""
        for place, row in rows if not self._skip else ():
            for role in IMAGE_ROLES:
                if isinstance(row.get(role), bytes | str):
                    try:
                        load_picture(row[role], 1, self._data.max_pixels)
                    except BadRow as bad:
                        raise bad.at(f"{self.where(place)} column {self._columns[role]!r}") from bad.__cause__

    def _nothing_left(self) -> DataError:
        account = self.account
        reasons = [f"{account.read} read", f"{account.filtered} left out by 'where'"]
        reasons += [f"{count} skipped: {reason}" for reason, count in account.dropped.items()]
        hints = [f"{column!r} has the values {', '.join(values)}" for column, values in self._first_values.items()]
        remedy = f"first rows: {'; '.join(hints)}" if hints and account.filtered else remedy_of(account.bad)
        return DataError(f"no rows are left ({', '.join(reasons)})", where=self._where, remedy=remedy)


def _number_of(slot: str) -> int:
    return int(slot.rpartition("_")[2])
