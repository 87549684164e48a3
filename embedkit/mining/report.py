"""What mining found, in words and figures: counts, histograms of scores, likely false negatives, examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from embedkit.evaluation.core.stats import Array

_BINS = 12
_WIDTH = 30


@dataclass
class MiningReport:
    """The account of a call of `embedkit.mine`.

    Attributes
    ----------
    pairs, repeats, anchors, candidates : int
        Different pairs and how many repeated one of them, different anchors, different candidate texts.
    rows, negatives : int
        Rows of the output, and negatives found, counted once an anchor.
    too_few, without, dropped : int
        Anchors with fewer negatives than asked for, those of them with none at all, and those whose rows were dropped.
    in_range : int
        Candidates of the ranks that were looked at, over all anchors.
    rejections : dict
        Margin or bound -> candidates of the range that it left out.
    false_negatives : float
        Share of the candidates which `top` would take without margins and bounds that score above the anchor's
        positive: likely right answers.
    histogram : dict
        ``edges`` (n + 1), and counts (n) of the scores of ``positives`` and ``negatives``.
    means : dict
        Mean score of ``positives`` and ``negatives``.
    examples : list of dict
        ``anchor``, ``positive``, ``positive_score``, ``negatives``, ``negative_scores``.
    notes : list of str
        How columns and ids were read.

    Examples
    --------
    >>> report = MiningReport(pairs=2, anchors=2, candidates=2, rows=2, negatives=2)
    >>> next(report.lines())
    '2 pairs, 2 anchors, 2 candidates: 2 negatives, 2 rows'
    """

    pairs: int = 0
    repeats: int = 0
    anchors: int = 0
    candidates: int = 0
    rows: int = 0
    negatives: int = 0
    too_few: int = 0
    without: int = 0
    dropped: int = 0
    in_range: int = 0
    rejections: dict[str, int] = field(default_factory=dict)
    false_negatives: float = 0.0
    histogram: dict[str, list[Any]] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""
        yield (
            f"{self.pairs:,} pairs, {self.anchors:,} anchors, {self.candidates:,} candidates: "
            f"{self.negatives:,} negatives, {self.rows:,} rows"
        )
        if self.repeats:
            yield f"{self.repeats:,} pairs repeated an earlier one and are written once"
        if self.too_few:
            fate = "their rows are dropped" if self.dropped else "what was found is kept"
            yield f"{self.too_few:,} anchors have too few negatives, {self.without:,} of them none; {fate}"
        for name, count in self.rejections.items():
            yield f"{name.replace('_', ' ')} left out {count:,} of {self.in_range:,} candidates of these ranks"
        yield (
            f"likely false negatives: {self.false_negatives:.1%} of the nearest candidates score above the positive"
            + ("" if self.rejections else "; a relative margin of 0.05 leaves them out" if self.false_negatives else "")
        )
        if self.histogram:
            yield from bars(self.histogram, self.means)
        for example in self.examples:
            yield f"anchor    {short(example['anchor'])}"
            yield f"  {example['positive_score']:6.3f}  positive  {short(example['positive'])}"
            for score, text in zip(example["negative_scores"], example["negatives"], strict=True):
                yield f"  {score:6.3f}  negative  {short(text)}"


def bars(histogram: Mapping[str, Sequence[Any]], means: Mapping[str, float]) -> Iterator[str]:
    """The histograms of `histogram`, side by side, each scaled to its largest bar, line by line.

    Examples
    --------
    >>> list(bars({"edges": [0.0, 0.5, 1.0], "pairs": [1, 2]}, {"pairs": 0.6}))[2]
    ' 0.500 -  1.000          2 ##############################'
    """
    edges, names = histogram["edges"], [name for name in histogram if name != "edges"]
    titles = "  ".join(f"{f'{name}, mean {means[name]:.3f}':{_WIDTH + 10}}" for name in names)
    yield f"{'score':15}  {titles}".rstrip()
    tallest = [max(1, *histogram[name]) for name in names]
    for row in range(len(edges) - 1):
        cells = []
        for name, most in zip(names, tallest, strict=True):
            count = histogram[name][row]
            cells.append(f"{f'{count:9,} ' + '#' * -(-count * _WIDTH // most):{_WIDTH + 10}}")
        yield f"{edges[row]:6.3f} - {edges[row + 1]:6.3f}  {'  '.join(cells)}".rstrip()


def short(text: Any, most: int = 100) -> str:
    """A cell on one line, its beginning when it is long.

    Examples
    --------
    >>> short("By   card. "), short("a  cat and a dog", 10)
    ('By card.', 'a cat a...')
    """
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def histogram(**sets: Array) -> dict[str, list[Any]]:
    """Counts of some sets of scores (n,), by name, in bins of equal width over all of them.

    Examples
    --------
    >>> histogram(positives=np.array([0.9, 1.0]), negatives=np.array([0.4]))["negatives"]
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    """
    both = np.concatenate(list(sets.values()))
    edges = np.linspace(float(both.min()), float(both.max()) or 0.0, _BINS + 1)
    if edges[0] == edges[-1]:
        edges = np.linspace(edges[0] - 0.01, edges[0] + 0.01, _BINS + 1)
    return {"edges": edges.tolist(), **{name: np.histogram(scores, edges)[0].tolist() for name, scores in sets.items()}}
