"""What an examination gives: facts that were measured, and findings with their evidence and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or likely to be.

    Attributes
    ----------
    what : str
        The finding in a few words.
    evidence : str
        What was measured.
    remedy : str
        How to fix it.

    Examples
    --------
    >>> finding = Finding("column 'answer' has empty texts", "3 of 60", "drop these rows")
    >>> finding.evidence
    '3 of 60'
    """

    what: str
    evidence: str
    remedy: str


@dataclass(frozen=True)
class Examination:
    """What was looked at, the figures that were measured, and the findings.

    Examples
    --------
    >>> Examination("data", "faq.csv", {"rows looked at": 60}, []).facts
    {'rows looked at': 60}
    """

    kind: str
    subject: str
    facts: dict[str, Any]
    findings: list[Finding]


Examined = tuple[dict[str, Any], list[Finding]]
"""Facts and findings."""
