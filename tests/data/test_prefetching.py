"""The prefetcher: order kept, errors passed on, threads ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from embedkit.data import prefetch


def test_order_is_kept_and_the_end_is_the_end() -> None:
    items = prefetch(iter(range(100)), 3)
    assert list(items) == list(range(100))
    assert list(items) == []
    assert items.waited >= 0


def test_an_exception_comes_where_the_item_would_have_come() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("third")

    items = prefetch(broken(), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(items)
    with pytest.raises(StopIteration):
        next(items)


def test_no_more_than_depth_items_are_made_ahead() -> None:
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for index in range(100):
            made.append(index)
            if index == 3:
                third.set()
            yield index

    with prefetch(items(), 2) as ahead:
        assert next(ahead) == 0
        assert third.wait(10)  # one taken, two ready, one in hand
        assert made == [0, 1, 2, 3]
    assert len(made) <= 5


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    ahead = prefetch(iter(range(1000)), 1)
    assert next(ahead) == 0
    assert threading.active_count() == before + 1
    ahead.close()
    ahead.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(ahead)


def test_waiting_time_is_measured() -> None:
    release = threading.Event()

    def slow() -> Iterator[int]:
        release.wait(10)
        yield 1

    ahead = prefetch(slow(), 1)
    threading.Timer(0.05, release.set).start()
    assert next(ahead) == 1
    assert ahead.waited > 0.01
    ahead.close()


def test_depth_must_be_positive() -> None:
    with pytest.raises(ValueError, match="depth"):
        prefetch(iter([1]), 0)
