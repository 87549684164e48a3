"""One named file of a data set: a local folder with the hub's layout; the hub itself is not reached in tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedkit.config.recipe import DataConfig
from embedkit.data import open_training
from embedkit.data.schema.contract import Contract
from embedkit.errors import DataError


def _open(folder: Path, path: str, file: str) -> list[str]:
    config = DataConfig(train=[{"path": path, "file": file}], drop_last=False)  # type: ignore[list-item]
    rows = open_training(config, Contract(frozenset({"anchor"})), batch_size=2, seed=1, base_dir=folder)
    return sorted(row["anchor"] for batch in rows.batches(0) for row in batch.rows)


def test_one_file_of_a_folder_with_several(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "wiki.txt").write_text("a first line\na second line\n")
    (tmp_path / "datasets" / "nli.csv").write_text("sent0,sent1\nx,y\n")
    assert _open(tmp_path, "datasets", "wiki.txt") == ["a first line", "a second line"]


@pytest.mark.parametrize("file", ["../secret.txt", "/etc/passwd", "missing.txt"])
def test_a_file_outside_or_missing_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "secret.txt").write_text("a line\n")
    with pytest.raises(DataError, match=r"inside the data set|no such file"):
        _open(tmp_path, "datasets", file)


def test_the_hub_is_named_when_it_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"someone/nothing-here: wiki\.txt: cannot be downloaded"):
        _open(tmp_path, "someone/nothing-here", "wiki.txt")
