"""What mining found among texts, in words and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from embedkit.evaluation.core.stats import Array
from embedkit.mining.report import bars, histogram, short

_EXAMPLES = 5


@dataclass
class NeighbourReport:
    """The account of a call that pairs texts.

    Attributes
    ----------
    texts, others : int
        Different texts, and different ones of the corpus or the other language, 0 where there is none.
    pairs, rows : int
        Pairs found, and rows of the output.
    counts : dict
        What was left out, in words -> how often.
    histogram : dict
        ``edges`` (n + 1) and counts (n) of the scores of ``pairs``.
    means : dict
        Mean score of the ``pairs``.
    examples : list of dict
        ``texts`` and ``score`` of some pairs, from the highest score to the lowest.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> next(NeighbourReport(texts=3, pairs=1, rows=1).lines())
    '3 texts: 1 pairs, 1 rows'
    """

    texts: int = 0
    others: int = 0
    pairs: int = 0
    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    histogram: dict[str, list[Any]] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""
        others = f" and {self.others:,} others" if self.others else ""
        yield f"{self.texts:,} texts{others}: {self.pairs:,} pairs, {self.rows:,} rows"
        for what, count in self.counts.items():
            if count:
                yield f"{what}: {count:,}"
        if self.histogram:
            yield from bars(self.histogram, self.means)
        for example in self.examples:
            first, second = example["texts"]
            yield f"  {example['score']:6.3f}  {short(first)}"
            yield f"          {short(second)}"

    def describe(self, pairs: Sequence[tuple[str, str]], scores: Array) -> None:
        """Take in the pairs and their scores (n,): histogram, mean, and examples evenly spaced in the scores."""
        self.pairs = len(pairs)
        self.histogram = histogram(pairs=scores)
        self.means = {"pairs": float(scores.mean())}
        order = np.argsort(-scores, kind="stable")
        count = min(_EXAMPLES, len(order))
        for number in range(count):
            place = int(order[number * (len(order) - 1) // max(1, count - 1)])
            self.examples.append({"texts": list(pairs[place]), "score": float(scores[place])})
