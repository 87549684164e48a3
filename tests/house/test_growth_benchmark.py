"""eval/benchmarks/growth.py in the size of seconds: every cell does its work, and exponents mean what they say."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory by Linux's /proc")


@pytest.fixture(scope="module")
def growth(root: Path) -> Iterator[ModuleType]:
    folder = str(root / "eval" / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("growth")
    sys.path.remove(folder)


def cells(seconds: list[float], mib: list[float]) -> list[dict[str, Any]]:
    return [{"seconds": a, "mib": b} for a, b in zip(seconds, mib, strict=True)]


def test_every_cell_does_its_work(growth: ModuleType) -> None:
    assert {line.what for line in growth.TINY.lines} == set(growth.WORKS)
    for line in growth.TINY.lines:
        found = growth.cell(growth.TINY, line, 2)
        assert found["seconds"] > 0, line
        assert found["mib"] >= 0, line


def test_both_sizes_have_the_same_lines_and_only_the_two_reasons(growth: ModuleType) -> None:
    full, tiny = growth.FULL.lines, growth.TINY.lines
    assert [replace(line, start=None) for line in full] == [replace(line, start=None) for line in tiny]
    for line in full:
        above = {line.time_above, line.memory_above} - {""}
        assert above <= {growth.ATTENTION, growth.MATRIX}
        assert (growth.ATTENTION in above) == ("length" in line.fields)
        assert line.memory_above != growth.MATRIX  # its memory has to grow like the batch


def test_texts_have_the_tokens_that_a_line_says(growth: ModuleType) -> None:
    from embedkit.data.builtin import tokenizer

    found = growth.texts(50, 7, salt=1)
    assert len(set(found)) == 50
    assert {len(ids) for ids in tokenizer()(found)["input_ids"]} == {7}
    assert not set(found) & set(growth.texts(50, 7, salt=2))


def test_exponents_and_what_grows_too_fast(growth: ModuleType) -> None:
    plain = growth.Line("encode", "texts", ("texts",), growth.Work(8, 4, 2))
    row = growth.row_of(plain, cells([2.0, 8.0, 128.0], [5.0, 10.0, 20.0]))
    assert row["seconds_last"] == pytest.approx(2.0)
    assert row["seconds_overall"] == pytest.approx(1.5)
    assert row["mib_last"] == row["mib_overall"] == pytest.approx(0.5)
    assert row["too_fast"] == ["seconds"]
    may = replace(plain, time_above=growth.ATTENTION)
    assert growth.row_of(may, cells([2.0, 8.0, 128.0], [1.0, 4.0, 64.0]))["too_fast"] == ["mib"]
    nothing = growth.row_of(plain, cells([2.0, 8.0, 32.0], [0.0, 0.0, 3.0]))
    assert (nothing["mib_last"], nothing["too_fast"]) == (None, [])
    assert "| 2, 8, 32 | 1.00 / 1.00 | 0.0, 0.0, 3.0 | - / - |" in growth.table([nothing])


def test_a_run_in_processes_of_their_own(
    growth: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "LINEAR", 1e9)  # milliseconds say nothing about growth
    assert growth.main(["--size", "tiny", "--only", "loss", "--json", str(tmp_path / "rows.json")]) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (row["work"], row["grows"], len(row["seconds"]), len(row["mib"])) == ("loss", "batch", 3, 3)
    assert min(row["seconds"]) > 0
    assert "| loss | batch |" in capsys.readouterr().out
    monkeypatch.setattr(growth, "LINEAR", -1e9)
    plain = growth.Size(16, 1, (replace(growth.TINY.lines[-1], time_above=""),), rounds=1, seconds=0.0)
    monkeypatch.setitem(growth.SIZES, "tiny", plain)
    assert growth.main(["--size", "tiny"]) == 1
    assert "above linear: loss, batch: seconds, exponent " in capsys.readouterr().out
