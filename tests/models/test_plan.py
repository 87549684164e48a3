"""Plans: how sequences of different lengths lie in one row of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.models.execution.plan import Group, Plan

lengths_of = st.lists(st.integers(1, 9), min_size=1, max_size=30).map(np.array)


def test_a_group_counts_its_tokens() -> None:
    assert Group(start=4, count=3, length=5).tokens == 15


@given(lengths_of)
def test_every_sequence_lies_at_one_place(lengths: np.ndarray) -> None:
    plan = Plan.of(lengths)
    assert sorted(plan.order.tolist()) == list(range(len(lengths)))
    np.testing.assert_array_equal(lengths[plan.order], plan.lengths)
    np.testing.assert_array_equal(plan.lengths, np.sort(lengths))
    np.testing.assert_array_equal(plan.order[plan.inverse()], np.arange(len(lengths)))


@given(lengths_of)
def test_equal_lengths_keep_their_order(lengths: np.ndarray) -> None:
    plan = Plan.of(lengths)
    for group in plan.groups:
        first = int(np.searchsorted(plan.starts, group.start))
        members = plan.order[first : first + group.count]
        assert (np.diff(members) > 0).all()


@given(lengths_of)
def test_groups_tile_the_row(lengths: np.ndarray) -> None:
    plan = Plan.of(lengths)
    at = 0
    for group in plan.groups:
        assert group.start == at
        at += group.tokens
    assert at == plan.tokens == int(lengths.sum())
    assert len({group.length for group in plan.groups}) == len(plan.groups)
    assert plan.longest == int(lengths.max())


@given(lengths_of)
def test_places_count_from_0_in_every_sequence(lengths: np.ndarray) -> None:
    plan = Plan.of(lengths)
    wanted = np.concatenate([np.arange(length) for length in plan.lengths])
    np.testing.assert_array_equal(plan.places(), wanted)
    np.testing.assert_array_equal(plan.places()[plan.starts], 0)


@pytest.mark.parametrize("count", [1, 7])
def test_one_length_is_one_group(count: int) -> None:
    plan = Plan.of(np.full(count, 4))
    assert plan.groups == (Group(0, count, 4),)
    np.testing.assert_array_equal(plan.order, np.arange(count))


def test_a_plan_is_its_own_key() -> None:
    """Caches hold results by plan: two plans of equal lengths are two keys, one plan is one."""
    first, second = Plan.of(np.array([1, 2])), Plan.of(np.array([1, 2]))
    assert first != second
    assert {first: 1}[first] == 1
