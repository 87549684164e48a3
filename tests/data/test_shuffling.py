"""The order of blocks: every row once, neighbours in one window, the same batches for any processes and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.data.datasets.shuffling import NEIGHBOURS, WINDOW, block_permutation, permutation
from embedkit.errors import RecipeError
from tests.data.helpers import opened

ROWS = WINDOW * NEIGHBOURS + 3 * NEIGHBOURS + 70


def test_every_row_comes_once_and_windows_hold_whole_blocks() -> None:
    order = block_permutation(ROWS, 7, 0)
    assert np.array_equal(np.sort(order), np.arange(ROWS))
    window = order[: WINDOW * NEIGHBOURS] // NEIGHBOURS
    assert len(np.unique(window)) <= WINDOW + 1  # the last block of the file is shorter
    assert (np.abs(np.diff(order)) == 1).mean() < 0.01  # neighbours of the file do not stay neighbours


def test_it_is_a_pure_function_and_changes_with_seed_and_epoch() -> None:
    orders = [block_permutation(ROWS, *key).tolist() for key in ((7, 0), (7, 0), (7, 1), (8, 0))]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


def test_rows_of_one_window_are_shuffled_as_any() -> None:
    assert block_permutation(WINDOW * NEIGHBOURS, 3).tolist() == permutation(WINDOW * NEIGHBOURS, 3).tolist()


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_batches_are_the_same_resumed_and_over_processes(kind: str, tmp_path: Path) -> None:
    numbers = np.arange(ROWS)
    np.save(tmp_path / "rows.npy", np.stack([numbers % 2048, numbers // 2048], axis=1).astype(kind))
    rows: Any = opened(
        [{"path": str(tmp_path / "rows.npy"), "columns": {"rows": "anchor"}}], batch_size=4096, shuffle="blocks"
    )
    whole = [(batch.ids, batch.rows.column("anchor").array) for batch in rows.batches(1)]
    ids = np.concatenate([own for own, _ in whole])
    assert len(np.unique(ids)) == len(ids) == ROWS // 4096 * 4096
    for own, vectors in whole:
        assert np.array_equal(vectors @ np.array([1, 2048]), own)  # each id with its own vector
    assert [batch.ids for batch in rows.batches(1, 9)] == [own for own, _ in whole[9:]]
    parts = [[batch.ids for batch in rows.batches(1, 0, rank, 3)] for rank in range(3)]
    assert [one + two + three for one, two, three in zip(*parts, strict=True)] == [own for own, _ in whole]


@pytest.mark.parametrize("settings", [{"mixing": "weighted"}, {"stream": True}])
def test_blocks_are_refused_where_rows_come_more_than_once_or_as_a_stream(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\nfour\n")
    source = {"path": str(tmp_path / "a.txt"), **({"weight": 1.0} if "mixing" in settings else settings)}
    with pytest.raises(RecipeError, match="data.shuffle"):
        opened([source], shuffle="blocks", **{k: v for k, v in settings.items() if k == "mixing"})
