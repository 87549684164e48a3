"""eval/benchmarks/gpu.py in the size of seconds, on a CPU: what it writes, where it stops, what it says is missing."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

CPU = torch.device("cpu")
COLUMNS = {
    "text": {"library", "attention", "tokens_per_s", "share_of_matrix_rate", "memory_mib"},
    "clip": {"model", "library", "batch", "images_per_s", "mfu", "memory_mib"},
    "loss": {"way", "rows", "seconds", "loss", "memory_mib", "share_of_matrix_rate"},
    "exact": {"batch", "change", "precision", "relative_difference", "worst_parameter"},
    "search": {"queries", "documents", "seconds", "found_by_plain_products", "memory_mib"},
    "simcse": {"what", "builtin-sts"},
}
PEERS = {"sentence_transformers": "sentence-transformers", "open_clip": "open_clip"}


@pytest.fixture(scope="module")
def gpu(root: Path) -> Iterator[ModuleType]:
    folder = str(root / "eval" / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("gpu")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def common(gpu: ModuleType) -> ModuleType:
    return importlib.import_module("gpu_common")


@pytest.fixture(scope="module")
def written(gpu: ModuleType, common: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The document of all sections as it lies on the disk, and its tables."""
    return run(gpu, common.TINY, tmp_path_factory.mktemp("gpu"))


def run(gpu: ModuleType, size: Any, folder: Path, **settings: Any) -> tuple[Any, str]:
    gpu.measure(gpu.Document(folder / "found"), size, CPU, **settings)
    return json.loads((folder / "found.json").read_text()), (folder / "found.md").read_text()


def figures(found: Any) -> Iterator[tuple[str, float]]:
    """Every number of a document with its name."""
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for name, value in items:
        if isinstance(value, float | int) and not isinstance(value, bool):
            yield str(name), float(value)
        yield from figures(value)


class Ticks:
    """A clock on which a second passes whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def with_seconds(size: Any, **seconds: float) -> Any:
    return replace(size, total=1e9, seconds={**size.seconds, **seconds})


def test_every_section_is_complete_and_has_its_columns(written: tuple[Any, str]) -> None:
    sections, tables = written[0]["sections"], written[1]
    assert {name: section["status"] for name, section in sections.items()} == dict.fromkeys(COLUMNS, "complete")
    for name, columns in COLUMNS.items():
        assert any(columns <= set(row) for row in sections[name]["rows"]), name
        assert f"## {sections[name]['title']}" in tables
    assert len(sections["exact"]["rows"]) == 15
    assert all(row["rounds"] == 1 for row in sections["text"]["rows"] if "rounds" in row)


def test_every_figure_is_finite_and_rates_are_positive(written: tuple[Any, str]) -> None:
    found = list(figures(written[0]))
    assert len(found) > 200
    assert [(name, value) for name, value in found if not math.isfinite(value)] == []
    positive = ("seconds", "per_s", "share", "mfu", "memory", "ms_per_step")
    assert [(name, value) for name, value in found if name.startswith(positive) and not value > 0] == []


def test_chunks_tiles_and_resuming_change_nothing(written: tuple[Any, str]) -> None:
    rows = written[0]["sections"]["exact"]["rows"]
    gradients = [row for row in rows if row["what"] == "gradients"]
    rounding = {row["batch"]: row["relative_difference"] for row in gradients if row["change"].startswith("fp32")}
    changes = [row for row in gradients if not row["change"].startswith("fp32")]
    assert (sorted(rounding), len(changes)) == (["image-text", "text"], 12)
    assert max(rounding.values()) < 5e-6
    for row in changes:  # in fp32 less than fp32 itself makes
        limit = rounding[row["batch"]] if row["precision"] == "float32" else 1e-13
        assert row["relative_difference"] < limit, row
    assert sum(row["relative_difference"] > 0 for row in changes) == 12  # the ways do differ in their last bits
    (resumed,) = [row for row in rows if row["what"] == "resume"]
    assert resumed["resumed_from"] < resumed["broken_after"] < resumed["steps"]
    assert resumed["tensors"] > 50
    assert (resumed["tensors_that_differ"], resumed["largest_difference"], resumed["loss_difference"]) == (0, 0, 0)


def test_ways_agree(written: tuple[Any, str], common: ModuleType) -> None:
    sections = written[0]["sections"]
    for rows in common.TINY.loss_rows:
        values = [row["loss"] for row in sections["loss"]["rows"] if row["rows"] == rows]
        assert len(values) >= 2
        assert max(values) - min(values) < 1e-4
    (search,) = sections["search"]["rows"]
    assert (search["documents"], search["found_by_plain_products"]) == (common.TINY.documents, 1.0)
    assert search["largest_score_difference"] < 1e-6


def test_libraries_beside_it(written: tuple[Any, str]) -> None:
    sections = written[0]["sections"]
    for section, module in (("text", "sentence_transformers"), ("clip", "open_clip")):
        there = importlib.util.find_spec(module) is not None
        libraries = {row["library"] for row in sections[section]["rows"] if "library" in row}
        assert libraries == {"embedkit"} | ({PEERS[module]} if there else set())
        assert not any(entry["reason"].startswith("failed") for entry in sections[section]["skipped"])
    for row in sections["text"]["rows"] + sections["clip"]["rows"]:
        assert row.get("cosine", 1.0) > 0.9999
        assert row.get("difference", 0.0) < 1e-4


def test_without_the_other_libraries(
    gpu: ModuleType, common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in PEERS:
        monkeypatch.setitem(sys.modules, module, None)
    found, tables = run(gpu, common.TINY, tmp_path, names=["text", "clip", "loss"])
    for name, module in (("text", "sentence_transformers"), ("clip", "open_clip"), ("loss", "open_clip")):
        section = found["sections"][name]
        assert section["status"] == "complete"
        assert {row.get("library", "embedkit") for row in section["rows"]} == {"embedkit"}
        reason = f"{PEERS[module]} is not installed"
        assert reason in [entry["reason"] for entry in section["skipped"]]
        assert any(line.endswith(f"| {reason} |") for line in tables.splitlines())


def test_a_budget_stops_a_section_and_the_next_one_runs(gpu: ModuleType, common: ModuleType, tmp_path: Path) -> None:
    size = with_seconds(common.TINY, loss=6.0, search=1e6)
    found, tables = run(gpu, size, tmp_path, names=["loss", "search"], clock=Ticks())
    loss, search = found["sections"]["loss"], found["sections"]["search"]
    assert (loss["status"], loss["reason"]) == ("stopped", "the budget of 6 s is spent")
    assert 0 < len(loss["rows"]) < 4
    assert "stopped (the budget of 6 s is spent)" in tables
    assert search["status"] == "complete"


def test_a_budget_ends_training_and_the_whole_time_all_sections(
    gpu: ModuleType, common: ModuleType, tmp_path: Path
) -> None:
    found, _ = run(gpu, with_seconds(common.TINY, simcse=18.0), tmp_path, names=["simcse"], clock=Ticks())
    simcse = found["sections"]["simcse"]
    assert (simcse["status"], simcse["reason"]) == ("stopped", "the budget of 18 s is spent")
    assert len(simcse["rows"]) < 4
    found, _ = run(gpu, replace(common.TINY, total=0.0), tmp_path)
    assert {(s["status"], len(s["rows"])) for s in found["sections"].values()} == {("stopped", 0)}
    assert list(found["sections"]) == list(COLUMNS)


def test_what_would_take_too_long_is_not_begun(gpu: ModuleType, common: ModuleType) -> None:
    budget = common.Budget(10.0, clock=lambda: 0.0)
    assert budget.too_long(9.0) is None
    assert budget.too_long(11.0) == "would take about 11 s, 10 s of the budget are left"
    section = common.Section("clip", "clip", budget)
    contest = importlib.import_module("gpu_clip").Contest(common.TINY, CPU, section, common.TINY.clip[0], 5.0)
    contest.per_image["embedkit"] = 1.0
    contest.run(8, "embedkit")
    assert section.rows == {}
    reason = "a step would take about 8 s: not enough of the budget is left"
    assert {"what": "tiny, batch 8, embedkit", "reason": reason} in section.skipped


def test_files_are_written_after_each_section_and_a_fault_ends_only_its_own(
    gpu: ModuleType, common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Any] = {}

    def fault(size: Any, device: Any, section: Any) -> None:
        known.update(json.loads((tmp_path / "found.json").read_text()))
        raise RuntimeError("no kernel image is available\nfor this device")

    monkeypatch.setattr(importlib.import_module("gpu_loss"), "loss", fault)
    found, _ = run(gpu, common.TINY, tmp_path, names=["clip", "loss", "search"])
    assert known["sections"]["clip"]["status"] == "complete"
    assert [s["status"] for s in found["sections"].values()] == ["complete", "failed", "complete"]
    assert found["sections"]["loss"]["reason"] == "RuntimeError: no kernel image is available"


def test_too_little_memory_and_figures_that_are_not_finite_are_reasons(common: ModuleType) -> None:
    section = common.Section("loss", "loss", common.Budget(10.0))
    with section.attempt("the whole at 65,536 rows"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 16 GiB")
    with section.attempt("a run of the trainer, which says it in its own words"):
        raise ValueError("the device has too little memory") from torch.OutOfMemoryError("CUDA out of memory")
    with section.attempt("a peer", peer=True):
        raise TypeError("unknown argument")
    with pytest.raises(TypeError), section.attempt("our own"):
        raise TypeError("unknown argument")
    section.put("tiles", 8, loss=math.nan)
    assert [entry["reason"] for entry in section.skipped] == [
        "out of memory: CUDA out of memory. Tried to allocate 16 GiB", "out of memory: CUDA out of memory",
        "failed: TypeError: unknown argument", "loss is nan",
    ]  # fmt: skip
    assert section.rows == {}


def test_the_timer_ends_what_hangs(
    gpu: ModuleType, common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    document = gpu.Document(tmp_path / "found")
    document.sections["loss"] = section = common.Section("loss", "loss", common.Budget(10.0))
    section.put("tiles", rows=8)
    gpu.give_up(document)
    found = json.loads((tmp_path / "found.json").read_text())["sections"]["loss"]
    assert (codes, found["status"], found["rows"]) == ([3], "stopped", [{"rows": 8}])
    assert "hung" in found["reason"]


def test_budgets_fit_into_eight_minutes(gpu: ModuleType, common: ModuleType) -> None:
    full = common.FULL
    assert full.total + gpu.SPARE < 8 * 60
    assert sum(full.seconds.values()) <= full.total
    assert list(full.seconds) == list(COLUMNS) == list(gpu.TITLES)
    assert full.mlm_seconds == 180
    assert (full.loss_rows[0], full.loss_rows[-1], full.loss_dim) == (65_536, 1_048_576, 512)
    assert (full.clip_batches[0], full.clip_batches[-1]) == (4096, 32_768)
