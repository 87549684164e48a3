"""The contract of a method with its data: which roles rows must and may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Limit = tuple[float, float] | frozenset[str]
"""Lowest and highest value of a number, or the names that a class can have."""


@dataclass(frozen=True)
class Contract:
    """The roles that a method reads; checked on the schema and the first rows before a model is loaded.

    Attributes
    ----------
    requires, accepts : frozenset of str
        Roles that every row must have, and roles that are read where they are there.
    limits : mapping
        Role -> lowest and highest value that makes sense for it, e.g. a label below the number of classes; for a
        target with named classes, the names.

    Examples
    --------
    >>> contract = Contract(frozenset({"anchor", "positive"}), frozenset({"negatives"}))
    >>> sorted(contract.roles)
    ['anchor', 'negatives', 'positive']
    """

    requires: frozenset[str] = frozenset({"anchor"})
    accepts: frozenset[str] = frozenset()
    limits: Mapping[str, Limit] = field(default_factory=dict)

    @property
    def roles(self) -> frozenset[str]:
        """All roles that the method knows."""
        return self.requires | self.accepts
