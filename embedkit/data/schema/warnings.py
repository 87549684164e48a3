"""What is allowed in training data and looks like a mistake: a line each, shown when a run starts.

Nothing here stops a run. Every rule reads facts only (the mapping, the first rows, counts over all rows) and names
them, so that readers can judge for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from embedkit.data.schema.rows import Row

SHARE = 0.2
"""Share of rows from which repeated texts are spoken of."""

FEWEST = 10
"""Rows below which repeated texts say nothing."""

EMPTY = frozenset({"nan", "none", "null", "n/a", "#n/a", "<na>"})
"""Texts that programs write for an empty cell."""

_SIDES = ("anchor", "positive")


def of_columns(columns: Mapping[str, str], role_by_name: Mapping[str, str | None], where: str) -> Iterator[str]:
    """A warning where two columns are mapped to each other's role.

    Parameters
    ----------
    columns : mapping
        Role -> column, as they are bound.
    role_by_name : mapping
        Column -> the role that its name stands for.
    where : str
        How messages call the source.

    Examples
    --------
    >>> print(*of_columns({"anchor": "answer", "positive": "question"},
    ...                   {"question": "anchor", "answer": "positive"}, "faq.csv"))
    faq.csv: column 'answer' is mapped to anchor and 'question' to positive, by their names it should be the other
    way round; are they swapped?
    """
    for role, column in columns.items():
        other = role_by_name.get(column)
        if other is not None and role < other and role_by_name.get(columns.get(other, "")) == role:
            yield (
                f"{where}: column {column!r} is mapped to {role} and {columns[other]!r} to {other}, by their names it "
                "should be the other way round; are they swapped?"
            )


def of_rows(rows: Sequence[Row], columns: Mapping[str, str], where: str) -> Iterator[str]:
    """Warnings about the first rows: ids in place of texts, equal texts, swapped columns, lost characters.

    Parameters
    ----------
    rows : sequence of Row
        The first rows of a source.
    columns : mapping
        Role -> column.
    where : str
        How messages call the source.

    Examples
    --------
    >>> rows = [{"anchor": "10017", "positive": "By card."}, {"anchor": "10018", "positive": "In June."}]
    >>> print(*of_rows(rows, {"anchor": "id", "positive": "answer"}, "faq.csv"))
    faq.csv: no letter in the first texts of 'id' (anchor); is it an id?
    """
    texts = {role: [row[role] for row in rows if isinstance(row.get(role), str)] for role in _SIDES}
    for role, first in texts.items():
        column = f"{columns.get(role)!r} ({role})"
        if first and not any(char.isalpha() for text in first for char in text):
            yield f"{where}: no letter in the first texts of {column}; is it an id?"
        elif len(first) > 1 and all(map(_like_an_id, first)):
            yield f"{where}: the first texts of {column} are single words with digits, {first[0][:40]!r}; is it an id?"
        empty = [text for text in first if text.strip().lower() in EMPTY]
        if empty:
            yield (
                f"{where}: {len(empty)} of the first {len(first)} texts of {column} are {empty[0]!r}, which once may "
                f"have been an empty cell; leave them out, or write nothing there and set data.on_bad_row: skip"
            )
        if first and first[0].lstrip().startswith("['"):
            yield f"{where}: texts of {column} look like lists that Python wrote; save the table as parquet or jsonl"
        gaps = sum("\ufffd" in text for text in first)
        if gaps:
            yield (
                f"{where}: {gaps} of the first {len(first)} texts of {column} hold U+FFFD, which stands for characters "
                "that were lost when the file was made"
            )
    anchors, positives = (texts[role] for role in _SIDES)
    if len(rows) > 1 and len(anchors) == len(positives) == len(rows):
        if anchors == positives:
            yield f"{where}: anchor and positive are the same text in all of the first rows"
        elif _questions(positives) >= 0.5 and _questions(anchors) <= 0.05:
            yield (
                f"{where}: {_questions(positives):.0%} of the first positives are questions and "
                f"{_questions(anchors):.0%} of the anchors; are {columns.get('anchor')!r} and "
                f"{columns.get('positive')!r} swapped?"
            )


def of_labels(rows: Sequence[Row], columns: Mapping[str, str], where: str) -> Iterator[str]:
    """A warning where a label beside pairs seems to tell good pairs from bad ones.

    Parameters
    ----------
    rows : sequence of Row
        The first rows of a source of a method that does not need labels.
    columns, where
        As in `of_rows`.

    Examples
    --------
    >>> rows = [{"anchor": "a", "positive": "b", "label": label} for label in (1, 0, 1)]
    >>> print(*of_labels(rows, {"label": "is_duplicate"}, "quora.csv"))
    quora.csv: column 'is_duplicate' is 0 in 1 of the first 3 pairs; ...
    """
    labels = [row["label"] for row in rows if row.get("label") is not None and "positive" in row]
    if labels and set(labels) <= {0, 1, 2} and 0 in labels and len(set(labels)) > 1:
        column, count = columns.get("label"), labels.count(0)
        yield (
            f"{where}: column {column!r} is 0 in {count} of the first {len(labels)} pairs; labels are classes of "
            f"anchors here, and these pairs are trained like all others: if it separates good pairs from bad ones, set "
            f"'where: {{{column}: 1}}', or columns: {{{column}: score}} with a method that reads scores"
        )


def of_counts(rows: int, duplicates: Mapping[str, int], sampler: str) -> Iterator[str]:
    """Warnings about positives that equal their anchors, and about duplicate texts.

    Parameters
    ----------
    rows : int
        All of them.
    duplicates : mapping
        ``positive_is_anchor``, ``anchors`` and ``positives``: rows of which that is true.
    sampler : str
        That of the recipe; one that keeps equal texts apart has nothing to fear from them.

    Examples
    --------
    >>> print(*of_counts(100, {"anchors": 40, "positives": 0, "positive_is_anchor": 0}, "shuffled"))
    40 of 100 anchors (40%) occurred in an earlier row; where other rows of a batch are negatives, equal texts are
    false ones: set data.sampler: no-duplicates
    """
    equal = duplicates["positive_is_anchor"]
    if rows < FEWEST:
        return
    if 0.1 * rows < equal < rows:  # where all of them are, the first rows have shown it
        yield f"{equal:,} of {rows:,} positives equal their anchors, which teaches nothing: drop these rows"
    for role in ("anchors", "positives"):
        count = duplicates[role]
        if count > SHARE * rows and sampler in ("shuffled", "length"):
            yield (
                f"{count:,} of {rows:,} {role} ({count / rows:.0%}) occurred in an earlier row; where other rows of a "
                "batch are negatives, equal texts are false ones: set data.sampler: no-duplicates"
            )


def of_left_over(rows: int, left: int, remainder: int, sampler: str) -> Iterator[str]:
    """A warning where more rows come into no batch than the last, unfilled batch explains.

    Parameters
    ----------
    rows, left : int
        All rows of an epoch, and those in no batch.
    remainder : int
        Rows that are too few for one batch whatever the sampler does.
    sampler : str
        That of the recipe.

    Examples
    --------
    >>> print(*of_left_over(1000, 200, 40, "no-duplicates"))
    200 of 1,000 rows (20%) are in no batch of an epoch: the sampler no-duplicates has too many rows that share a text \
or group; lower train.batch_size, or set data.drop_last: false to train on short batches too
    >>> list(of_left_over(1000, 40, 40, "shuffled"))
    []
    """
    if left > remainder:
        cause = "label" if sampler == "by-label" else "text or group"
        yield (
            f"{left:,} of {rows:,} rows ({left / rows:.0%}) are in no batch of an epoch: the sampler {sampler} has too "
            f"many rows that share a {cause}; lower train.batch_size, or set data.drop_last: false to train on short "
            f"batches too"
        )


def of_size(mapped: int, room: int | None) -> Iterator[str]:
    """A warning where files of vectors are larger than the memory that could hold them, and rows come in any order.

    Examples
    --------
    >>> print(*of_size(16 * 2**30, 8 * 2**30))
    the vectors have 16.0 GiB and 8.0 GiB of memory are free: every row is a read of the disk; data.shuffle: blocks \
reads neighbours together
    >>> list(of_size(2**30, 8 * 2**30))
    []
    """
    if room is not None and mapped > room:
        yield (
            f"the vectors have {mapped / 2**30:.1f} GiB and {room / 2**30:.1f} GiB of memory are free: every row is a "
            "read of the disk; data.shuffle: blocks reads neighbours together"
        )


def _like_an_id(text: str) -> bool:
    return text.isascii() and len(text.split()) == 1 and any(char.isdigit() for char in text)


def _questions(texts: Sequence[str]) -> float:
    return sum(text.rstrip().endswith(("?", "\uff1f", "\u061f")) for text in texts) / len(texts)
