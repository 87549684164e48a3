"""eval/few_shot.py: nested draws, mean and spread, and runs that are not run twice."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from embedkit.data.builtin.sentences import rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def few() -> ModuleType:
    """eval/few_shot.py as a module."""
    spec = importlib.util.spec_from_file_location("eval_few_shot", ROOT / "eval" / "few_shot.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["eval_few_shot"] = module
    spec.loader.exec_module(module)
    return module


def test_sizes_are_numbers_or_shares(few: ModuleType) -> None:
    assert few.sizes_of("100,10%,100%", 400) == [100, 40, 400]
    with pytest.raises(SystemExit, match="give 2 to 400"):
        few.sizes_of("500", 400)


def test_draws_differ_and_are_the_same_again(few: ModuleType) -> None:
    first, again, other = (few.order_of(50, draw).tolist() for draw in (0, 0, 1))
    assert first == again != other and sorted(first) == list(range(50))


def test_table_has_mean_and_spread(few: ModuleType) -> None:
    results = [{"rows": 8, "scores": {"m": value}} for value in (1.0, 2.0, 6.0)] + [{"rows": 4, "scores": {"m": 5.0}}]
    assert few.table(results, "m").splitlines()[2:] == ["| 4 | 5.00 | - | 1 |", "| 8 | 3.00 | 2.65 | 3 |"]


def test_a_table_of_runs(few: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = rows("sentences")
    (tmp_path / "texts.txt").write_text("\n".join(next(source)["anchor"] for _ in range(40)))
    words = ["simcse-unsup", str(tmp_path / "texts.txt"), "--rows", "8,50%", "--draws", "2", "--steps", "2", "--smoke",
             "--suite", "builtin-sts", "--out", str(tmp_path / "runs")]  # fmt: skip
    assert few.main(words) == 0
    printed = capsys.readouterr().out
    assert "| rows | builtin-sts/avg | spread | draws |" in printed and "| 20 | " in printed and " | 2 |" in printed
    log = (tmp_path / "runs" / "results.jsonl").read_text().splitlines()
    assert [(one["rows"], one["draw"]) for one in map(json.loads, log)] == [(8, 0), (8, 1), (20, 0), (20, 1)]
    assert few.main(words) == 0
    assert (tmp_path / "runs" / "results.jsonl").read_text().splitlines() == log
