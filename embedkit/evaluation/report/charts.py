"""Small charts as SVG text: bars with intervals, histograms, lines. No script, no font, no file from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's colours, told apart by people with any colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
# For parts of one model's samples, so that no part looks like another model.
PARTS = ("#8A8F98", "#009E73")


@dataclass(frozen=True)
class Bar:
    """A bar of a group: value, and the interval drawn on it.

    Examples
    --------
    >>> Bar(82.4, (80.9, 83.8)).interval
    (80.9, 83.8)
    """

    value: float
    interval: tuple[float, float] | None = None


def colour(place: int, colours: Sequence[str] = COLOURS) -> str:
    """The colour of a series by its place; after the last colour the first comes again.

    Examples
    --------
    >>> colour(0), colour(6)
    ('#0072B2', '#0072B2')
    """
    return colours[place % len(colours)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`.

    Examples
    --------
    >>> ticks(0, 82.4)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(step * n, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">'
    return f"{head}<title>{escape(title)}</title>{''.join(parts)}</svg>"


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def bars(
    title: str,
    groups: Sequence[tuple[str, Sequence[Bar | None]]],
    series: Sequence[str],
    first: int = 0,
    size: int = 700,
) -> str:
    """An SVG of horizontal bars, a group a task and a bar a series, with their intervals; the axis always holds 0.

    Parameters
    ----------
    groups : sequence of (name, bars)
        One bar for each of `series`; None leaves its place empty.
    first : int
        Which colour the first series has.
    size : int
        Width of the chart.

    Examples
    --------
    >>> chart = bars("Scores", [("stsb", [Bar(82.4, (80.9, 83.8))])], ["mine"])
    >>> chart.startswith("<svg"), "mine: 82.40" in chart
    (True, True)
    """
    present = [bar for _, row in groups for bar in row if bar is not None]
    ends = [end for bar in present for end in (bar.value, *(bar.interval or ()))]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    high = high if high > low else low + 1
    left, right, thick, gap = min(150, size // 4), size - 60, 16, 14
    scale = (right - left) / (high - low)
    parts, y = [], 8.0
    body = sum(thick * len(row) + gap for _, row in groups)
    for tick in ticks(low, high):
        x = left + (tick - low) * scale
        parts += [_line(x, 4, x, 8 + body), _text(x, 24 + body, _number(tick))]
    zero = left - low * scale
    for name, row in groups:
        middle = y + thick * len(row) / 2
        parts.append(_text(left - 8, middle + 4, name, "end"))
        for place, bar in enumerate(row):
            if bar is not None:
                end = left + (bar.value - low) * scale
                hint = f"{name}, {series[place]}: {bar.value:.2f}"
                parts.append(
                    f'<rect x="{min(zero, end):.1f}" y="{y:.1f}" width="{abs(end - zero):.1f}" height="{thick - 3}" '
                    f'fill="{colour(first + place)}"><title>{escape(hint)}</title></rect>'
                )
                if bar.interval is not None:
                    a, b = (left + (bound - low) * scale for bound in bar.interval)
                    centre = y + (thick - 3) / 2
                    parts.append(_line(a, centre, b, centre, "whisker"))
                    parts += [_line(x, centre - 4, x, centre + 4, "whisker") for x in (a, b)]
                reach = max([end, zero, *([a, b] if bar.interval is not None else [])])
                parts.append(_text(reach + 6, y + thick - 5, f"{bar.value:.2f}", "start"))
            y += thick
        y += gap
    return _svg(size, int(body + 34), title, parts)


def histogram(
    title: str, counts: Sequence[tuple[str, Sequence[float]]], low: float, high: float, axis: str, size: int = 340,
    top: float | None = None,
) -> str:  # fmt: skip
    """An SVG of shares by equal bins of low..high, one outline a series, in the colours `PARTS`.

    `top` is the share at the upper end, so that several charts can be compared; the highest one here when None.

    Examples
    --------
    >>> histogram("Cosines", [("positives", [1, 3, 2]), ("random pairs", [4, 1, 0])], -1, 1, "cosine").count("<polygon")
    2
    """
    left, right, upper, bottom = 12, size - 12, 10, 128
    shares = [(name, [value / max(sum(row), 1e-12) for value in row]) for name, row in counts]
    highest = top or max((max(row) for _, row in shares), default=1.0) or 1.0
    parts = []
    for tick in ticks(low, high):
        x = left + (tick - low) / (high - low) * (right - left)
        parts += [_line(x, upper, x, bottom), _text(x, bottom + 15, _number(tick))]
    for place, (name, row) in enumerate(shares):
        width = (right - left) / len(row)
        points = [f"{left:.1f},{bottom}"]
        for n, share in enumerate(row):
            y = bottom - share / highest * (bottom - upper)
            points += [f"{left + n * width:.1f},{y:.1f}", f"{left + (n + 1) * width:.1f},{y:.1f}"]
        points.append(f"{right:.1f},{bottom}")
        parts.append(
            f'<polygon points="{" ".join(points)}" fill="{colour(place, PARTS)}" fill-opacity="0.3" '
            f'stroke="{colour(place, PARTS)}"><title>{escape(name)}</title></polygon>'
        )
    parts += [_line(left, bottom, right, bottom, "axis"), _text((left + right) / 2, bottom + 32, axis)]
    return _svg(size, bottom + 40, title, parts)


def lines(title: str, series: Sequence[tuple[str, Sequence[tuple[float, float]]]], axis: str, size: int = 340) -> str:
    """An SVG of points (x, y) joined by lines, one colour a series; points that are not finite are left out.

    Examples
    --------
    >>> lines("Loss", [("loss", [(1, 2.5), (2, 1.5), (3, float("nan"))])], "step").count("<circle")
    2
    """
    curves = [(name, [p for p in row if all(map(math.isfinite, p))]) for name, row in series]
    points = [point for _, row in curves for point in row]
    left, right, top, bottom = 52, size - 12, 10, 150
    if not points:
        return _svg(size, bottom + 40, title, [_text(size / 2, bottom / 2, "no figures")])
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points), max(y for _, y in points)
    high_x, high_y = (high if high > low else low + 1 for low, high in ((low_x, high_x), (low_y, high_y)))

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - low_x) / (high_x - low_x) * (right - left), bottom - (y - low_y) / (high_y - low_y) * (
            bottom - top
        )

    parts = []
    for tick in ticks(low_y, high_y):
        y = at(low_x, tick)[1]
        parts += [_line(left, y, right, y), _text(left - 6, y + 4, _number(tick), "end")]
    for tick in ticks(low_x, high_x):
        parts.append(_text(at(tick, low_y)[0], bottom + 15, _number(tick)))
    for place, (name, row) in enumerate(curves):
        places = [at(*point) for point in row]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        hint = f"<title>{escape(name)}</title>"
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(place)}">{hint}</polyline>')
        if len(places) <= 60:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour(place)}"/>' for x, y in places]
    parts += [_line(left, bottom, right, bottom, "axis"), _text((left + right) / 2, bottom + 32, axis)]
    return _svg(size, bottom + 40, title, parts)
