"""Process groups shared by the trainer's tests, so that heavy imports happen once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.helpers.gloo import Processes


@pytest.fixture(scope="session")
def processes() -> Iterator[Callable[[int], Processes]]:
    """``processes(2).run(function, *args)`` in a kept group of that many gloo processes."""
    groups: dict[int, Processes] = {}

    def group(world: int) -> Processes:
        if world not in groups:
            groups[world] = Processes(world, timeout=300.0)
        return groups[world]

    yield group
    for kept in groups.values():
        kept.close()
