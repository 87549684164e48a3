"""Errors that may be raised: those meant for people, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from embedkit.errors import UserError


@contextmanager
def own_line() -> Iterator[list[str]]:
    """Let an error of embedkit's own pass; its line stands in the list."""
    found: list[str] = []
    try:
        yield found
    except UserError as error:
        found.append(error.line())
        assert error.line().isprintable(), ascii(error.line())  # noqa: PT017 - whatever was raised, or nothing
