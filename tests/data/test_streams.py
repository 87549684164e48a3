"""Streams: bounded, deterministic, and refused or counted like rows in memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.data.datasets.streaming import Numbered, shuffle_buffer
from embedkit.errors import DataError
from tests.data.helpers import opened

Write = Callable[[str, "str | bytes"], str]


def _numbered(count: int) -> Iterator[Numbered]:
    return ((index, {"anchor": str(index)}) for index in range(count))


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 5))
def test_the_buffer_loses_nothing_and_looks_no_further_than_its_size(count: int, size: int, seed: int) -> None:
    out = [index for index, _ in shuffle_buffer(_numbered(count), size, seed)]
    assert sorted(out) == list(range(count))
    assert all(index <= place + size for place, index in enumerate(out))
    assert out == [index for index, _ in shuffle_buffer(_numbered(count), size, seed)]


def test_the_buffer_shuffles() -> None:
    out = [index for index, _ in shuffle_buffer(_numbered(1000), 100, 1)]
    assert sum(index == place for place, index in enumerate(out)) < 20
    assert sum(after == before + 1 for before, after in itertools.pairwise(out)) < 20
    assert out != [index for index, _ in shuffle_buffer(_numbered(1000), 100, 2)]


def test_only_the_buffer_is_read_ahead() -> None:
    taken = itertools.count()

    def items() -> Iterator[Numbered]:
        for item in _numbered(10_000):
            next(taken)
            yield item

    stream = shuffle_buffer(items(), 50, 0)
    for _ in range(10):
        next(stream)
    assert next(taken) == 60


def test_a_bad_row_stops_the_stream_where_it_comes(write: Write) -> None:
    path = write("t.txt", "text\n" * 500 + "\n" + "text\n" * 50)
    rows = opened([{"path": path, "stream": True}], batch_size=10, shuffle_buffer=20)
    with pytest.raises(DataError, match=r"t\.txt:501 column 'text': the text is empty"):
        list(rows.batches(0))
    skipping = opened([{"path": path, "stream": True}], batch_size=10, shuffle_buffer=20, on_bad_row="skip")
    assert sum(batch.size for batch in skipping.batches(0)) == 550
    assert skipping.summary()["dropped"] == {"blank text": 1}


def test_texts_repeated_too_often_are_counted_not_lost_silently(write: Write) -> None:
    path = write("t.txt", "".join(f"text {i}\nsame\n" for i in range(400)))
    rows = opened(
        [{"path": path, "stream": True}], batch_size=10, shuffle_buffer=40, sampler="no-duplicates", drop_last=False
    )
    batches = list(rows.batches(0))
    for batch in batches:
        assert len({row["anchor"] for row in batch.rows}) == batch.size
    left = sum(rows.summary()["left_over"].values())
    assert sum(batch.size for batch in batches) + left == 800
    assert left > 300


def test_by_label_in_a_stream(write: Write) -> None:
    lines = [json.dumps({"anchor": f"t{i}", "label": i % 9}) for i in range(300)]
    path = write("t.jsonl", "\n".join(lines) + "\n")
    rows = opened(
        [{"path": path, "stream": True}],
        "anchor label",
        batch_size=12,
        shuffle_buffer=60,
        sampler="by-label",
        per_label=3,
    )
    batches = list(rows.batches(0))
    assert len(batches) >= 22
    for batch in batches:
        labels = [row["label"] for row in batch.rows]
        assert all(len(set(labels[start : start + 3])) == 1 for start in range(0, 12, 3))


def test_one_streaming_source_streams_all(write: Write) -> None:
    first, second = write("a.txt", "x1\nx2\n"), write("b.txt", "y1\ny2\n")
    rows = opened([{"path": first}, {"path": second, "stream": True}], batch_size=4)
    assert rows.num_rows is None
    assert rows.steps_per_epoch is None
    batch = next(rows.batches(0))
    assert {row["anchor"] for row in batch.rows} == {"x1", "x2", "y1", "y2"}
    assert len(set(batch.ids)) == 4
