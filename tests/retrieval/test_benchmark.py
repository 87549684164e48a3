"""The benchmark of indexes by the path that it takes at full size, with a few vectors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "eval" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "search_index", raising=False)
    import search_index

    return search_index


def test_every_way_finds_the_nearest(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, 32))
    vectors = (centres[rng.integers(20, size=420)] + 0.5 * rng.standard_normal((420, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(tmp_path / "documents-400.npy", vectors[:400])
    np.save(tmp_path / "queries-400-20.npy", vectors[400:])
    benchmark.prepare(tmp_path, tmp_path, 400, 20)
    assert "index of 400 vectors made" in capsys.readouterr().out
    rows = {name: benchmark.one(name, tmp_path / "index-400", vectors[400:], 1) for name in benchmark.WAYS}
    truth = np.argsort(-(vectors[400:].astype(float) @ vectors[:400].astype(float).T), axis=1)[:, :10]
    assert np.array_equal(np.load(tmp_path / "index-400.truth-20.npy"), truth)
    assert {
        name: row["recall"] for name, row in rows.items() if name in ("exact", "fp32", "faiss flat")
    } == dict.fromkeys(("exact", "fp32", "faiss flat"), 1.0)
    assert min(row["recall"] for row in rows.values()) > 0.8
    benchmark.report(rows, (400, 32))
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(benchmark.WAYS) and table[2].startswith("| exact | ")
