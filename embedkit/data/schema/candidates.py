"""Rows with several positives, and the scores of their candidates."""

from __future__ import annotations

from embedkit.data.schema.rows import BadRow, Row

_FIX = "fix the row, or set data.on_bad_row: skip"


def several_positives(row: Row, group: str) -> list[Row]:
    """A row for each of ``positives``, all of one group, so that none is a negative of another; else the row itself.

    Examples
    --------
    >>> several_positives({"anchor": "a", "positives": ["b", "c"]}, "1")
    [{'anchor': 'a', 'group': '1', 'positive': 'b'}, {'anchor': 'a', 'group': '1', 'positive': 'c'}]
    """
    if "positives" not in row:
        return [row]
    row = dict(row)
    positives = row.pop("positives")
    if len(positives) > 1:
        row.setdefault("group", group)
    scores = row.pop("scores_of_positives", None)
    if scores is None and "scores" in row and len(positives) > 1:  # one list for all positives, then the negatives
        scores, row["scores_of_negatives"] = row["scores"][: len(positives)], row.pop("scores")[len(positives) :]
    if scores is not None and len(scores) != len(positives):
        raise BadRow("bad scores", f"{len(scores)} scores for {len(positives)} positives", remedy=_FIX)
    rows = [{**row, "positive": positive} for positive in positives]
    if scores is None:
        return rows
    return [{**one, "scores_of_positives": [score]} for one, score in zip(rows, scores, strict=True)]


def with_scores(row: Row) -> Row:
    """The row with its ``scores`` checked: one for each candidate, the positive first, then the negatives.

    Examples
    --------
    >>> row = {"positive": "b", "negatives": ["c"], "scores_of_positives": [0.9], "scores_of_negatives": [0.1]}
    >>> with_scores(row)["scores"]
    [0.9, 0.1]
    """
    if "scores_of_positives" in row or "scores_of_negatives" in row:
        row["scores"] = row.pop("scores_of_positives", []) + row.pop("scores_of_negatives", [])
    candidates = 1 + len(row.get("negatives") or [])
    if "scores" in row and len(row["scores"]) != candidates:
        what = f"{len(row['scores'])} scores for {candidates} candidates (the positive, then its negatives)"
        raise BadRow("bad scores", what, remedy=_FIX)
    return row
