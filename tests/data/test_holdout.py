"""Rows held out of training: a share, deterministic, and nothing in common with what is trained."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.config.recipe import DataConfig
from embedkit.data import open_training
from embedkit.data.datasets.holdout import FEWEST, split
from embedkit.data.datasets.in_memory import HeldRows
from embedkit.data.datasets.row_table import facts_of, table_of
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.rows import Row

TEXTS = st.integers(0, 150).map(lambda number: f"text {number}")
ROWS: st.SearchStrategy[list[Row]] = st.lists(
    st.fixed_dictionaries(
        {"anchor": TEXTS, "positive": TEXTS}, optional={"group": st.integers(0, 60), "negatives": st.lists(TEXTS)}
    ),
    min_size=1,
    max_size=120,
)


def _split(rows: list[Row], share: float, seed: int) -> tuple[list[int], list[int]]:
    train, held_out = split(facts_of(table_of(rows), negatives=False), share, seed)
    return train.tolist(), held_out.tolist()


def _ties(rows: list[Row], places: list[int]) -> set[object]:
    """Anchors, positives and groups of some rows."""
    found: set[object] = set()
    for place in places:
        found |= {rows[place]["anchor"], rows[place]["positive"]}
        found |= {("group", rows[place]["group"])} if "group" in rows[place] else set()
    return found


@given(ROWS, st.sampled_from([0.05, 0.1, 0.3]), st.integers(0, 5))
def test_what_is_held_out_shares_nothing_with_what_is_trained(rows: list[Row], share: float, seed: int) -> None:
    train, held_out = _split(rows, share, seed)
    assert sorted(train + held_out) == list(range(len(rows)))
    assert not _ties(rows, train) & _ties(rows, held_out)
    assert len(held_out) <= 2 * max(1, round(share * len(rows)))
    assert not held_out or len(held_out) >= FEWEST
    assert (train, held_out) == _split(rows, share, seed)


def test_a_tenth_of_rows_that_share_nothing() -> None:
    rows: list[Row] = [{"anchor": f"a{number}", "positive": f"b{number}"} for number in range(200)]
    splits = [_split(rows, 0.1, seed)[1] for seed in range(3)]
    assert [len(held_out) for held_out in splits] == [20, 20, 20]
    assert len({tuple(held_out) for held_out in splits}) == 3


def test_rows_that_are_all_tied_together_are_all_trained() -> None:
    rows: list[Row] = [{"anchor": f"t{number}", "positive": f"t{number + 1}"} for number in range(100)]
    assert _split(rows, 0.1, 0) == (list(range(100)), [])


def test_hard_negatives_mined_from_other_rows_do_not_tie(tmp_path: Path) -> None:
    lines = [[f"a{n}", f"b{n}", f"b{(n + 1) % 100}", f"b{(n + 7) % 100}"] for n in range(100)]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["anchor", "positive", "negative_1", "negative_2"], *lines])
    contract = Contract(frozenset({"anchor", "positive"}), frozenset({"negatives"}))
    config = DataConfig.model_validate({"train": [{"path": str(tmp_path / "t.csv")}], "sampler": "no-duplicates"})
    rows = open_training(config, contract, batch_size=10, seed=1, holdout=0.1)
    assert isinstance(rows, HeldRows)
    assert (rows.num_rows, len(rows.held_out()), rows.summary()["held_out"]) == (90, 10, 10)
    trained = {row["anchor"] for batch in rows.batches(0) for row in batch.rows}
    assert len(trained) == 90 and not trained & {row["anchor"] for row in rows.held_out()}


@pytest.mark.parametrize(("rows", "count"), [(1, 0), (5, 0), (34, 0), (39, 4)])
def test_few_rows_are_all_trained(rows: int, count: int) -> None:
    table: list[Row] = [{"anchor": f"a{number}", "positive": f"b{number}"} for number in range(rows)]
    assert len(_split(table, 0.1, 0)[1]) == count
