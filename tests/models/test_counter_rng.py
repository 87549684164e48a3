"""Counter-based random numbers: their distribution, their independence, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedkit.errors import UserError
from embedkit.models.augment.counter_rng import GOLDEN, mixed, name_hash, ranks, seeds_of, uniforms
from embedkit.models.inputs.inputs import Inputs


def seeded(lengths: list[int], seeds: list[int] | None = None) -> Inputs:
    values = np.arange(len(lengths), dtype=np.uint64) if seeds is None else np.array(seeds, dtype=np.uint64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Inputs(torch.zeros(int(offsets[-1]), dtype=torch.int64), offsets, data={"seeds": values})


def splitmix(state: int, count: int) -> list[int]:
    """SplitMix64 as its authors print it, in whole numbers of Python."""
    mask, out = (1 << 64) - 1, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


@pytest.mark.parametrize("state", [0, 1, 1234567, 2**64 - 1])
def test_the_finaliser_is_that_of_splitmix64(state: int) -> None:
    with np.errstate(over="ignore"):
        counters = np.uint64(state) + np.arange(1, 6, dtype=np.uint64) * GOLDEN
    assert mixed(counters).tolist() == splitmix(state, 5)


def test_known_values_of_splitmix64() -> None:
    """The first number for the seed 1234567, as published test vectors give it."""
    with np.errstate(over="ignore"):
        first = mixed(np.array([np.uint64(1234567) + GOLDEN]))
    assert int(first[0]) == 6457827717110365317


def test_mixed_is_one_to_one_and_leaves_its_argument() -> None:
    values = np.arange(100_000, dtype=np.uint64)
    before = values.copy()
    assert len(np.unique(mixed(values))) == len(values)
    np.testing.assert_array_equal(values, before)


def test_one_bit_changes_half_of_the_bits() -> None:
    values = np.arange(2_000, dtype=np.uint64)
    for bit in (0, 17, 63):
        changed = mixed(values) ^ mixed(values ^ (np.uint64(1) << np.uint64(bit)))
        flipped = np.unpackbits(changed.view(np.uint8)).mean()
        assert flipped == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("width", [None, 7])
def test_numbers_are_uniform(width: int | None) -> None:
    drawn = uniforms(seeded([11] * 5_000), "test", width).ravel()
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    counts, _ = np.histogram(drawn, bins=20, range=(0, 1))
    expected = drawn.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-squared, 19 degrees, one in a thousand
    assert drawn.mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * drawn.size))


def test_neighbours_streams_and_seeds_are_uncorrelated() -> None:
    inputs = seeded([50] * 400)
    first, second = uniforms(inputs, "a"), uniforms(inputs, "b")
    bound = 4 / np.sqrt(first.size)
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < bound
    rows = first.reshape(400, 50)
    assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < bound


def test_numbers_depend_on_the_seed_the_stream_and_the_place_alone() -> None:
    whole = seeded([3, 5, 2], [7, 8, 9])
    drawn = uniforms(whole, "cut")
    part = whole.select([1])
    np.testing.assert_array_equal(uniforms(part, "cut"), drawn[3:8])
    np.testing.assert_array_equal(uniforms(whole.select([2, 0]), "cut"), np.concatenate([drawn[8:], drawn[:3]]))
    longer = seeded([9], [8])
    np.testing.assert_array_equal(uniforms(longer, "cut")[:5], drawn[3:8])
    assert not np.array_equal(uniforms(whole, "other"), drawn)
    np.testing.assert_array_equal(uniforms(whole, "cut", 4)[1], uniforms(part, "cut", 4)[0])


def test_without_seeds_there_are_no_numbers() -> None:
    with pytest.raises(UserError, match="random changes need a seed for each input"):
        uniforms(Inputs.of([[1, 2]]), "cut")


def test_ranks_are_those_of_a_plain_sort() -> None:
    inputs = seeded([4, 1, 6, 3])
    values = np.random.default_rng(0).normal(size=inputs.tokens)
    found = ranks(inputs, values)
    for start, stop in zip(inputs.offsets[:-1], inputs.offsets[1:], strict=True):
        wanted = np.argsort(np.argsort(values[start:stop]))
        np.testing.assert_array_equal(found[start:stop], wanted)


def test_every_order_is_equally_likely() -> None:
    inputs = seeded([3] * 12_000)
    found = ranks(inputs, uniforms(inputs, "shuffle")).reshape(-1, 3)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 2_000) ** 2 / 2_000).sum() < 20.5  # chi-squared, 5 degrees, one in a thousand


def test_seeds_of_rows_copies_names_and_keys_differ() -> None:
    rows, copies = np.repeat(np.arange(50), 4), np.tile(np.arange(4), 50)
    keys, names = ((1, 2, 3), (1, 2, 4), (2, 1, 3)), ("anchor", "positive")
    sets = [seeds_of(key, name, rows, copies) for key in keys for name in names]
    together = np.concatenate(sets)
    assert len(np.unique(together)) == len(together)
    np.testing.assert_array_equal(seeds_of((1, 2, 3), "anchor", rows, copies), sets[0])
    np.testing.assert_array_equal(seeds_of((1, 2, 3), "anchor", rows[7:9], copies[7:9]), sets[0][7:9])


def test_a_name_is_hashed_the_same_in_every_process() -> None:
    assert int(name_hash("mlm")) == int(name_hash("mlm"))
    assert len({int(name_hash(name)) for name in ("mlm", "shuffle", "noise", "cut", "")}) == 5
