"""Data: empty, repeated and equal texts, vectors that cannot be read or stand twice, scores that say nothing or the
opposite of what they should."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from embedkit.doctor.finding import Examined, Finding
from embedkit.errors import UserError

ROWS_READ = 100_000
"""Rows of a data file that are looked at."""

_SCORES = ("score", "similarity", "similarity_score", "label", "labels")
_FEWEST = 50


def examine_data(path: str) -> Examined:
    """Facts and findings of the first `ROWS_READ` rows: columns, empty and repeated texts, equal pairs, scores.

    Examples
    --------
    >>> with open("faq.csv", "w") as file:
    ...     _ = file.write("question,answer\\nHow do I pay?,By card or in cash at the desk.\\nWhere are you?,\\n")
    >>> facts, findings = examine_data("faq.csv")
    >>> facts["column question"], findings[0].evidence
    ('2 different texts, 3.5 words on average', '1 of 2')
    """
    from embedkit.data import read_rows
    from embedkit.data.vectors.sequences import axes_of

    rows = list(itertools.islice(read_rows(path), ROWS_READ))
    if not rows:
        raise UserError("there are no rows", where=path, remedy="check how it was written")
    texts = {
        column: [row[column] for row in rows if isinstance(row.get(column), str)]
        for column in rows[0]
        if isinstance(rows[0][column], str)
    }
    facts: dict[str, Any] = {"rows looked at": len(rows), "columns": list(rows[0])}
    findings: list[Finding] = []
    wordy = []
    for column, cells in texts.items():
        different = len(set(cells))
        words = sum(len(cell.split()) for cell in cells) / max(1, len(cells))
        facts[f"column {column}"] = f"{different:,} different texts, {words:.1f} words on average"
        if words > 2:  # names, labels and ids are no texts
            wordy.append(column)
            findings += _column_findings(column, cells, different)
    for column in [name for name in rows[0] if axes_of(rows[0][name]) == 1]:
        facts[f"column {column}"] = f"vectors of {len(rows[0][column]):,} numbers"
        findings += _vector_findings(column, [row.get(column) for row in rows])
    for one, two in itertools.combinations(texts, 2):
        equal = sum(row.get(one) == row.get(two) for row in rows)
        if equal > 0.01 * len(rows) and len(set(texts[one])) > 20:
            findings.append(
                Finding(
                    f"columns {one!r} and {two!r} hold equal texts",
                    f"{equal:,} of {len(rows):,} rows",
                    "a positive that equals its anchor teaches nothing: drop these rows",
                )
            )
    for column in [name for name in rows[0] if name in _SCORES and len(wordy) > 1]:
        scored = [(row[wordy[0]], row[wordy[1]], row[column]) for row in rows
                  if isinstance(row.get(wordy[0]), str) and isinstance(row.get(wordy[1]), str)]  # fmt: skip
        findings += score_findings(column, scored)
    return facts, findings


def _column_findings(column: str, cells: list[str], different: int) -> Iterator[Finding]:
    empty = sum(not cell.strip() for cell in cells)
    if empty:
        yield Finding(f"column {column!r} has empty texts", f"{empty:,} of {len(cells):,}", "drop these rows")
    if different > 20 and different < 0.8 * len(cells):
        most, count = Counter(cells).most_common(1)[0]
        yield Finding(
            f"column {column!r} repeats its texts",
            f"{different:,} different among {len(cells):,}; {most[:40]!r} {count:,} times",
            "equal texts in a batch are false negatives: set data.sampler=no-duplicates",
        )


def _vector_findings(column: str, cells: list[Any]) -> Iterator[Finding]:
    """What is wrong with a column of vectors: rows that cannot be read, those of zeros, and equal ones."""
    from embedkit.data.schema.rows import BadRow
    from embedkit.data.vectors.values import read_vector

    vectors, bad = [], []
    for row, cell in enumerate(cells, 1):
        try:
            vectors.append(read_vector(cell))
        except BadRow as fault:
            bad.append(f"row {row}: {fault.what}")
    if bad:
        yield Finding(f"column {column!r} has vectors that cannot be read", f"{len(bad):,} of {len(cells):,}; {bad[0]}",
                      "fix these rows, or train with data.on_bad_row=skip")  # fmt: skip
    widths = Counter(len(vector) for vector in vectors)
    if len(widths) > 1:
        evidence = ", ".join(f"{count:,} of {width:,} numbers" for width, count in widths.most_common(3))
        yield Finding(f"column {column!r} has vectors of unequal width", evidence, "give all rows the same length")
    zeros = sum(not vector.any() for vector in vectors)
    if zeros:
        yield Finding(f"column {column!r} has vectors of zeros", f"{zeros:,} of {len(cells):,}",
                      "they have no direction, and a cosine of 0 to everything: drop these rows")  # fmt: skip
    different = len({vector.tobytes() for vector in vectors})
    if different > 20 and different < 0.8 * len(vectors):
        yield Finding(f"column {column!r} repeats its vectors", f"{different:,} different among {len(vectors):,}",
                      "equal vectors in a batch are false negatives: drop the copies")  # fmt: skip


def score_findings(column: str, rows: Sequence[tuple[str, str, Any]]) -> Iterator[Finding]:
    """What is wrong with scores (or 0/1 labels) of pairs of texts: all equal, or falling as texts become more alike.

    Parameters
    ----------
    rows : sequence of (text, text, score)
        Classes, which are more than two whole numbers in a column of labels, are left alone.

    Examples
    --------
    >>> pairs = [("a red cat", " ".join(["a red cat", *"xyz"[:n % 4]]), n % 4) for n in range(80)]
    >>> [finding.what for finding in score_findings("score", pairs)]
    ["column 'score' falls as the two texts become more alike"]
    """
    import numpy as np

    from embedkit.evaluation.core.stats import spearman

    try:
        values = np.array([float(score) for _, _, score in rows])
    except (TypeError, ValueError):
        return
    kinds = set(values.tolist())
    if column.startswith("label") and len(kinds) > 2 and all(value == int(value) for value in kinds):
        return
    if len(values) < _FEWEST or not np.isfinite(values).all():
        return
    if len(kinds) == 1:
        yield Finding(
            f"column {column!r} is the same everywhere", f"{values[0]:g} in {len(values):,} rows",
            "an objective on scores learns nothing from it: check how it was written",
        )  # fmt: skip
        return
    alike = np.array([_overlap(a, b) for a, b, _ in rows])
    rho = spearman(alike, values)  # NaN, which is below nothing, where all pairs are as much alike
    if rho < -0.2 and rho * np.sqrt(len(values) - 1) < -4:
        yield Finding(
            f"column {column!r} falls as the two texts become more alike",
            f"rank correlation {rho:.2f} with the share of common words, {len(values):,} rows",
            "if high means alike, the labels are swapped: turn them round",
        )


def _overlap(a: str, b: str) -> float:
    """Share of common words."""
    one, two = set(plain(a).split()), set(plain(b).split())
    return len(one & two) / max(1, len(one | two))


def plain(text: str) -> str:
    """Text without case, punctuation and spacing.

    Examples
    --------
    >>> plain("  Hello, WORLD! ")
    'hello world'
    """
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())
