"""Mixtures: realised shares, each row once, and one source a batch."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.data.datasets.mixing import endless, interleave, pools, quotas, shares
from embedkit.errors import DataError
from tests.data.helpers import opened

Write = Callable[[str, "str | bytes"], str]


def _sources(write: Write, sizes: dict[str, int], **settings: Any) -> list[dict[str, Any]]:
    made = []
    for name, size in sizes.items():
        path = write(f"{name}.txt", "".join(f"{name}{index}\n" for index in range(size)))
        made.append({"path": path, **settings})
    return made


def _names(batch: Any) -> list[str]:
    return [row["anchor"][0] for row in batch.rows]


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6), st.integers(0, 5000))
def test_quotas_sum_up_and_are_next_to_exact(parts: list[float], total: int) -> None:
    counts = quotas(parts, total)
    assert sum(counts) == total
    assert all(abs(count - total * part / sum(parts)) < 1 for count, part in zip(counts, parts, strict=True))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 500))
def test_quotas_give_what_is_left_to_the_largest_remainders(parts: list[int], total: int) -> None:
    exact = [Fraction(total * part, sum(parts)) for part in parts]
    counts = quotas([float(part) for part in parts], total)
    more = [share % 1 for share, count in zip(exact, counts, strict=True) if count > share // 1]
    less = [share % 1 for share, count in zip(exact, counts, strict=True) if count == share // 1]
    assert not more or not less or min(more) >= max(less)


def test_shares() -> None:
    assert shares([1, 3], "concatenate", [None, None], 1.0) == [0.25, 0.75]
    assert shares([1, 3], "weighted", [3.0, 1.0], 1.0) == [0.75, 0.25]
    assert shares([1, 3, 5], "weighted", [3.0, None, 1.0], 1.0) == [0.75, 0.0, 0.25]
    assert shares([1, 3], "temperature", [None, None], 1.0) == pytest.approx([0.25, 0.75])
    assert shares([1, 16], "temperature", [None, None], 4.0) == pytest.approx([1 / 3, 2 / 3])
    assert shares([1, 1000], "temperature", [None, None], 1e6) == pytest.approx([0.5, 0.5], abs=1e-4)


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_the_endless_order_uses_all_rows_before_any_again(size: int, start: int, count: int) -> None:
    whole = endless(size, 0, start + count, 1, 2)
    assert endless(size, start, count, 1, 2).tolist() == whole[start:].tolist()
    for cycle in range(0, len(whole) - size + 1, size):
        assert sorted(whole[cycle : cycle + size].tolist()) == list(range(size))


def test_the_endless_order_is_a_new_one_each_time() -> None:
    whole = endless(40, 0, 120, 3).reshape(3, 40).tolist()
    assert whole[0] != whole[1] != whole[2] != whole[0]


def _pools(parts: list[float] | None, one_source: bool, epoch: int = 0, **more: Any) -> list[list[int]]:
    known = {"batch_size": 4, "seed": 3, **more}
    return [pool.tolist() for pool in pools([30, 30, 7], parts, one_source=one_source, epoch=epoch, **known)]


@pytest.mark.parametrize("parts", [None, [0.5, 0.3, 0.2]])
@pytest.mark.parametrize("one_source", [False, True])
def test_orders_change_with_seed_and_epoch(parts: list[float] | None, one_source: bool) -> None:
    first = _pools(parts, one_source)
    assert first == _pools(parts, one_source)
    for other in (_pools(parts, one_source, epoch=1), _pools(parts, one_source, seed=4)):
        assert all(one != two for one, two in zip(first, other, strict=True))


def test_without_shares_each_row_comes_once_and_a_source_keeps_to_its_rows() -> None:
    assert [sorted(pool) for pool in _pools(None, False)] == [list(range(67))]
    apart = _pools(None, True)
    assert [sorted(pool) for pool in apart] == [list(range(30)), list(range(30, 60)), list(range(60, 67))]
    assert [row - 30 for row in apart[1]] != apart[0]


def test_with_shares_rows_of_a_source_are_used_equally_often_over_epochs() -> None:
    for one_source, sizes in ((False, [34, 20, 13]), (True, [32, 20, 12])):
        used: Counter[int] = Counter()
        for epoch in range(7):
            drawn = [row for pool in _pools([0.5, 0.3, 0.2], one_source, epoch) for row in pool]
            used.update(drawn)
            parts = np.searchsorted([30, 60], drawn, side="right")
            assert np.bincount(parts).tolist() == sizes
        for start, stop, size in ((0, 30, sizes[0]), (30, 60, sizes[1]), (60, 67, sizes[2])):
            counts = [used[row] for row in range(start, stop)]
            assert sum(counts) == 7 * size
            assert max(counts) - min(counts) <= 1
    assert sum(map(len, _pools([1.0, 1.0, 1.0], True, batch_size=100))) == 100


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("batches_from", ["mixed", "one-source"])
def test_concatenated_sources_give_each_row_once(write: Write, stream: bool, batches_from: str) -> None:
    sources = _sources(write, {"a": 100, "b": 37, "c": 5}, stream=stream)
    rows = opened(sources, batch_size=8, batches_from=batches_from, drop_last=False, shuffle_buffer=20)
    batches = list(rows.batches(0))
    texts = Counter(row["anchor"] for batch in batches for row in batch.rows)
    assert set(texts.values()) == {1}
    assert Counter(text[0] for text in texts) == {"a": 100, "b": 37, "c": 5}
    pure = [len(set(_names(batch))) == 1 for batch in batches]
    assert all(pure) if batches_from == "one-source" else not all(pure)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("batches_from", ["mixed", "one-source"])
def test_realised_shares_are_within_one_percent(write: Write, stream: bool, batches_from: str) -> None:
    sources = _sources(write, {"a": 4000, "b": 2000, "c": 50}, stream=stream)
    for source, weight in zip(sources, [5.0, 3.0, 2.0], strict=True):
        source["weight"] = weight
    rows = opened(sources, batch_size=10, batches_from=batches_from, mixing="weighted", shuffle_buffer=100)
    batches = list(itertools.islice(rows.batches(0), 600))
    assert len(batches) == 600
    counts = Counter(name for batch in batches for name in _names(batch))
    for name, share in {"a": 0.5, "b": 0.3, "c": 0.2}.items():
        assert counts[name] / 6000 == pytest.approx(share, abs=0.01)
    if batches_from == "one-source":
        assert all(len(set(_names(batch))) == 1 for batch in batches)


def test_temperature_evens_sources_out(write: Write) -> None:
    sources = _sources(write, {"a": 900, "b": 100})
    rows = opened(sources, batch_size=10, mixing="temperature", mixing_temperature=2.0)
    counts = Counter(name for batch in rows.batches(0) for name in _names(batch))
    assert counts == {"a": 750, "b": 250}
    assert [source["share"] for source in rows.summary()["sources"]] == pytest.approx([0.75, 0.25])


def test_a_weighted_source_goes_on_where_the_epoch_before_left_it(write: Write) -> None:
    sources = _sources(write, {"a": 30, "b": 30})
    sources[0]["weight"], sources[1]["weight"] = 1.0, 5.0
    rows = opened(sources, batch_size=6, mixing="weighted")
    seen = Counter(row["anchor"] for epoch in range(3) for batch in rows.batches(epoch) for row in batch.rows)
    assert {count for text, count in seen.items() if text[0] == "a"} == {1}  # 10 of 30 in each epoch
    assert {count for text, count in seen.items() if text[0] == "b"} == {5}  # 50 of 30 in each epoch


def test_no_duplicates_holds_where_rows_are_drawn_again(write: Write) -> None:
    sources = _sources(write, {"a": 90, "b": 10})
    sources[0]["weight"], sources[1]["weight"] = 1.0, 1.0
    for stream in (False, True):
        settings = [{**source, "stream": stream} for source in sources]
        rows = opened(settings, batch_size=8, mixing="weighted", sampler="no-duplicates")
        batches = list(rows.batches(0))
        assert len(batches) > 5
        assert all(len({row["anchor"] for row in batch.rows}) == batch.size == 8 for batch in batches)


def test_interleave_ends_when_each_weighted_iterator_has_ended_once() -> None:
    starts = [lambda cycle: iter(range(100 * cycle, 100 * cycle + 3)), lambda cycle: iter(range(1000, 1050))]
    items = list(interleave(starts, [1.0, 1.0], 4))
    second = [item for index, item in items if index == 1]
    assert second[:50] == list(range(1000, 1050))
    assert len(second) <= 51
    first = [item for index, item in items if index == 0]
    assert first[:6] == [0, 1, 2, 100, 101, 102]


def test_interleave_meets_the_weights_in_every_block_and_mixes_within() -> None:
    starts = [lambda cycle: itertools.count(), lambda cycle: itertools.count(), lambda cycle: itertools.count()]
    chosen = [index for index, _ in itertools.islice(interleave(starts, [5.0, 3.0, 2.0], 4), 3000)]
    blocks = [chosen[:1000], chosen[1000:2000], chosen[2000:]]
    assert [[block.count(index) for index in range(3)] for block in blocks] == [[500, 300, 200]] * 3
    assert blocks[0] != blocks[1] != blocks[2] != blocks[0]
    runs = [len(list(group)) for _, group in itertools.groupby(blocks[0])]
    assert len(runs) == pytest.approx(1000 * (1 - 0.25 - 0.09 - 0.04), rel=0.1)  # as of independent draws
    uneven = Counter(index for index, _ in itertools.islice(interleave(starts, [1.0, 1.0, 1.0], 4), 3000))
    assert max(uneven.values()) - min(uneven.values()) <= 1


def test_interleave_without_weights_gives_each_item_once_and_picks_at_random() -> None:
    sizes = [300, 300, 5]
    starts = [lambda cycle, size=size: iter(range(size)) for size in sizes]
    items = list(interleave(starts, None, 4))
    for index, size in enumerate(sizes):
        assert [item for source, item in items if source == index] == list(range(size))
    early = Counter(index for index, _ in items[:200])
    assert min(early[0], early[1]) > 60
    assert items != list(interleave(starts, None, 5))


@pytest.mark.parametrize("weights", [None, [5.0, 1.0]])
def test_a_stream_that_fills_no_batch_of_its_own_is_refused(write: Write, weights: list[float] | None) -> None:
    sources = _sources(write, {"a": 50, "b": 7}, stream=True)
    settings: dict[str, Any] = {"batch_size": 8, "batches_from": "one-source"}
    if weights is not None:
        settings["mixing"] = "weighted"
        sources = [{**source, "weight": weight} for source, weight in zip(sources, weights, strict=True)]
    with pytest.raises(DataError, match=r"data\.train\[1\]: this source does not fill one batch, .*; lower"):
        list(itertools.islice(opened(sources, **settings).batches(0), 40))
    kept = opened(sources, **settings, drop_last=False)
    assert {"a", "b"} == {_names(batch)[0] for batch in itertools.islice(kept.batches(0), 40)}


def test_interleave_goes_on_with_an_iterator_that_is_empty_only_once() -> None:
    starts = [lambda cycle: iter([] if cycle == 1 else [cycle] * 3), lambda cycle: iter(range(20))]
    items = list(interleave(starts, [1.0, 1.0], 4))
    assert [item for index, item in items if index == 0][:6] == [0, 0, 0, 2, 2, 2]


def test_sources_may_have_different_roles(write: Write) -> None:
    pairs = write("p.jsonl", "".join(json.dumps({"anchor": f"a{i}", "positive": f"b{i}"}) + "\n" for i in range(4)))
    triplets = write(
        "t.jsonl",
        "".join(json.dumps({"anchor": f"c{i}", "positive": f"d{i}", "negative": f"e{i}"}) + "\n" for i in range(4)),
    )
    rows = opened([{"path": pairs}, {"path": triplets}], "anchor positive", "negatives", batch_size=8)
    batch = next(rows.batches(0))
    for row in batch.rows:
        assert bool(row["negatives"]) == (row["anchor"][0] == "c")
    assert np.array_equal(np.sort(batch.ids), np.arange(8))
