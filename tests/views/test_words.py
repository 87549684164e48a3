"""Edits of words: what they keep, how often they strike, and that nothing but the generator decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from embedkit.views import spans, words

Edit = Callable[..., list[Any]]

EDITS: dict[str, tuple[Edit, dict[str, Any]]] = {
    "delete": (words.delete, {"rate": 0.4}),
    "delete_spans": (words.delete_spans, {"spans": 3, "share": 0.1}),
    "swap_spans": (words.swap_spans, {"pairs": 2, "share": 0.1}),
    "shuffle": (words.shuffle, {}),
    "repeat": (words.repeat, {}),
}


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", EDITS)
def test_edits_are_pure(name: str) -> None:
    edit, settings = EDITS[name]
    items = list(range(20))
    found = [edit(items, draws(seed), **settings) for seed in (1, 1, 2, 3, 4)]
    assert items == list(range(20))
    assert found[0] == found[1]
    assert any(other != found[0] for other in found[2:])
    assert all(edit(["only"], draws(seed), **settings)[0] == "only" for seed in range(20))
    assert edit([], draws(0), **settings) == []


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_deletion_strikes_at_its_rate(rate: float) -> None:
    kept = [words.delete(range(50), draws(seed), rate=rate) for seed in range(400)]
    share = 1 - sum(map(len, kept)) / (400 * 50)
    assert share == pytest.approx(min(rate, 0.98), abs=0.015)  # one of fifty survives
    assert all(list(k) == sorted(set(k)) and k for k in kept)


def test_every_place_is_deleted_equally_often() -> None:
    seen = Counter(i for seed in range(2000) for i in words.delete(range(10), draws(seed), rate=0.3))
    assert all(abs(seen[i] / 2000 - 0.7) < 0.05 for i in range(10))


def test_a_marker_stands_for_each_run() -> None:
    for seed in range(50):
        found = words.delete("abcdefgh", draws(seed), rate=0.5, marker="_")
        assert "__" not in "".join(found)
        dropped = set("abcdefgh") - set(found)
        runs = sum(letter in dropped and (i == 0 or "abcdefgh"[i - 1] not in dropped)
                   for i, letter in enumerate("abcdefgh"))  # fmt: skip
        assert found.count("_") == runs


def test_span_deletion_takes_disjoint_spans_of_equal_size() -> None:
    for seed in range(100):
        found = words.delete_spans(range(100), draws(seed), spans=5, share=0.05)
        assert len(found) == 75
        marked = words.delete_spans(range(100), draws(seed), spans=5, share=0.05, marker=-1)
        assert 1 <= marked.count(-1) <= 5
        assert [x for x in marked if x >= 0] == found


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 40])
def test_disjoint_spans(length: int) -> None:
    starts: Counter[int] = Counter()
    for seed in range(600):
        found = spans_of(length, seed)
        assert all(a < b for a, b in found)
        assert all(before[1] <= after[0] for before, after in pairwise(found))
        assert sum(b - a for a, b in found) <= max(0, length - 1)
        assert all(a >= 0 and b <= length for a, b in found)
        starts.update(a for a, _ in found)
    if length == 40:  # spans of 4: three of them, every place from 0 to 36 is used
        assert set(starts) == set(range(37))


def spans_of(length: int, seed: int) -> list[tuple[int, int]]:
    return words.disjoint_spans(length, draws(seed), 3, 0.1)


def test_swaps_keep_every_item_and_move_spans_whole() -> None:
    for seed in range(100):
        found = words.swap_spans(range(40), draws(seed), pairs=2, share=0.1)
        assert sorted(found) == list(range(40))
        moved = [i for i, item in enumerate(found) if item != i]
        assert len(moved) == 16  # two pairs of spans of four
        shifts = Counter(abs(found[i] - i) for i in moved)
        assert all(count % 8 == 0 for count in shifts.values())


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_window_bounds_how_far_words_move(window: int) -> None:
    most = 0
    for seed in range(300):
        found = words.shuffle(range(30), draws(seed), window=window)
        assert sorted(found) == list(range(30))
        most = max(most, *(abs(i - item) for i, item in enumerate(found)))
    assert most == window


def test_a_whole_shuffle_is_uniform() -> None:
    seen = Counter(tuple(words.shuffle("abc", draws(seed))) for seed in range(3000))
    assert len(seen) == 6
    assert all(abs(n / 3000 - 1 / 6) < 0.03 for n in seen.values())


@pytest.mark.parametrize(("length", "most"), [(3, 2), (10, 3), (50, 16), (1, 1)])
def test_repetition_is_uniform_from_none_to_the_most(length: int, most: int) -> None:
    extra = Counter()
    for seed in range(1500):
        found = words.repeat(range(length), draws(seed), rate=0.32)
        assert sorted(set(found)) == list(range(length))
        assert found == sorted(found)
        assert max(Counter(found).values()) <= 2
        extra[len(found) - length] += 1
    assert set(extra) == set(range(most + 1))
    assert all(abs(n / 1500 - 1 / (most + 1)) < 0.04 for n in extra.values())


def test_substitution_asks_for_all_places_at_once() -> None:
    asked: list[list[int]] = []

    def candidates(items: Sequence[str], places: Sequence[int]) -> list[list[str]]:
        asked.append(list(places))
        return [[f"{items[p]}!", f"{items[p]}?"] if p % 2 == 0 else [] for p in places]

    seen: Counter[str] = Counter()
    for seed in range(400):
        asked.clear()
        found = words.substitute(["a", "b", "c", "d", "e", "f"], draws(seed), rate=0.5, candidates=candidates)
        assert len(asked) <= 1
        changed = [i for i, w in enumerate(found) if len(w) == 2]
        assert changed == [p for p in (asked[0] if asked else []) if p % 2 == 0]
        seen.update(found)
    assert abs(seen["a"] / 400 - 0.5) < 0.08
    assert abs(seen["a!"] / 400 - 0.25) < 0.08
    assert seen["b"] == 400


def test_random_spans_have_the_lengths_of_their_law() -> None:
    sizes = []
    for seed in range(800):
        start, stop = spans.random_span(1000, draws(seed), least=20, most=120, shape=(4, 2))
        assert 0 <= start < stop <= 1000
        sizes.append(stop - start)
    assert min(sizes) >= 20
    assert max(sizes) < 120
    assert np.mean(sizes) == pytest.approx(20 + 100 * 4 / 6, abs=3)
    assert spans.random_span(7, draws(0), least=20, most=120) == (0, 7)


@pytest.mark.parametrize("slots", [4, 5, 9])
def test_anchors_keep_a_slot_between_them(slots: int) -> None:
    for seed in range(200):
        found = sorted(spans.anchor_spans(slots * 64 + 3, draws(seed), anchors=2, least=8, most=64))
        (a, a_end), (b, b_end) = found
        assert a // 64 == (a_end - 1) // 64  # inside one slot
        assert b // 64 - a // 64 >= 2
        assert 8 <= a_end - a <= 64
        assert 8 <= b_end - b <= 64
    with pytest.raises(ValueError, match="need 256 items"):
        spans.anchor_spans(255, draws(0), anchors=2, least=8, most=64)


def test_positives_touch_their_anchor() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(600):
        anchor = (100, 160)
        start, stop = spans.positive_span(400, anchor, draws(seed), least=8, most=64)
        assert stop >= anchor[0]
        assert start <= anchor[1]
        inside = anchor[0] <= start and stop <= anchor[1]
        kinds["inside" if inside else "beside" if stop == anchor[0] or start == anchor[1] else "overlap"] += 1
    assert kinds["inside"] > 50
    assert kinds["overlap"] > 50


def test_phrases_cover_the_text() -> None:
    places: Counter[int] = Counter()
    for seed in range(900):
        found = spans.cut(4, draws(seed), parts=2)
        assert found[0][0] == 0
        assert found[-1][1] == 4
        assert found[0][1] == found[1][0]
        places[found[0][1]] += 1
    assert all(abs(places[i] / 900 - 1 / 3) < 0.06 for i in (1, 2, 3))
    assert spans.cut(10, draws(0), parts=2, even=True) == [(0, 5), (5, 10)]
    assert spans.cut(1, draws(0), parts=3) == [(0, 1)]
    assert [b - a for a, b in spans.cut(3, draws(0), parts=9)] == [1, 1, 1]
