"""Reading all data once before a run: every row made, every image decoded, every fault listed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from embedkit.data.images.decoding import Decoding
from embedkit.data.images.pictures import load_picture
from embedkit.data.schema.roles import IMAGE_ROLES
from embedkit.data.schema.rows import BadRow, Row
from embedkit.data.sources.data_source import Source
from embedkit.errors import DataError

_CHUNK = 512  # rows that are in memory at a time


@dataclass
class SourceReport:
    """Counts and faults of one source.

    Attributes
    ----------
    path : str
        The source.
    read, filtered, good : int
        Records read; those that ``where`` leaves out; those that can be trained on.
    bad : Counter
        Reason -> records that cannot be used.
    faults : list of dict
        ``where``, ``reason`` and ``what`` of each of them.

    Examples
    --------
    >>> report = SourceReport("faq.csv", read=3, good=2)
    >>> report.bad["blank text"] += 1
    >>> report.to_json()["bad"]
    {'blank text': 1}
    """

    path: str
    read: int = 0
    filtered: int = 0
    good: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {**vars(self), "bad": dict(sorted(self.bad.items()))}


def inspect_sources(
    sources: Sequence[Source], decoding: Decoding, progress: Callable[[int], None] = lambda rows: None
) -> list[SourceReport]:
    """A report for each source: every record read, every image decoded, what is bad listed and nothing raised for it.

    Parameters
    ----------
    sources : sequence of Source
        From `embedkit.data.datasets.base.open_sources`.
    decoding : Decoding
        Threads and limits; images are decoded in full whatever `need` says.
    progress : callable
        Called with the number of records that have been read.

    Raises
    ------
    DataError
        A file cannot be opened or read on.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data.datasets.open import open_sources
    >>> from embedkit.data.schema.contract import Contract
    >>> _ = Path("faq.csv").write_text("anchor,id\\na cat,1\\n,2\\n")
    >>> [report] = inspect_sources(open_sources(DataConfig(train="faq.csv", on_bad_row="skip"), Contract()), Decoding())
    >>> report.good, report.faults
    (1, [{'where': "faq.csv:3 column 'anchor'", 'reason': 'blank text', 'what': 'the text is empty'}])
    """
    reports = []
    count = 0
    with ThreadPoolExecutor(decoding.threads, "embedkit-preflight") as pool:
        for source in sources:
            report = SourceReport(source.name)
            entries = source.outcomes(report)
            while chunk := list(itertools.islice(entries, _CHUNK)):
                for place, fault in zip(
                    chunk, pool.map(lambda entry: _fault(entry[1], decoding), chunk), strict=True
                ):  # fmt: skip
                    if fault is None:
                        report.good += 1
                    else:
                        _list(report, fault, source.where(place[0]))
                count += len(chunk)
                progress(count)
            reports.append(report)
    return reports


def _fault(outcome: list[Row] | BadRow, decoding: Decoding) -> BadRow | None:
    if isinstance(outcome, BadRow):
        return outcome
    try:
        for role in IMAGE_ROLES:
            if isinstance(outcome[0].get(role), bytes | str):
                load_picture(outcome[0][role], None, decoding.max_pixels)
    except BadRow as bad:
        return bad
    return None


def _list(report: SourceReport, bad: BadRow, where: str) -> None:
    report.bad[bad.reason] += 1
    report.faults.append({"where": bad.where or where, "reason": bad.reason, "what": bad.what})


def check_nothing_bad(reports: Sequence[SourceReport]) -> None:
    """Raise a DataError that names the first fault, when there is any.

    Examples
    --------
    >>> fault = {"where": "faq.csv:3", "reason": "blank text", "what": "the text is empty"}
    >>> check_nothing_bad([SourceReport("faq.csv", read=2, good=1, bad=Counter({"blank text": 1}), faults=[fault])])
    Traceback (most recent call last):
    embedkit.errors.DataError: faq.csv:3: 1 bad rows; the first: the text is empty; fix them, or set ...
    """
    faults: Iterator[dict[str, str]] = (fault for report in reports for fault in report.faults)
    first = next(faults, None)
    if first is not None:
        count = sum(report.bad.total() for report in reports)
        raise DataError(
            f"{count} bad rows; the first: {first['what']}", where=first["where"],
            remedy="fix them, or set data.on_bad_row: skip or quarantine",
        )  # fmt: skip
