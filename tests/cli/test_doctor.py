"""The doctor finds each fault that was put there, and nothing in healthy subjects."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.cli.app import main
from embedkit.config.recipe_io import dump_recipe, load_recipe
from embedkit.data.builtin import sentences as builtin
from embedkit.doctor import examine, examine_model, examine_recipe
from embedkit.factory import build


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("anchor\tpositive\n" + "".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    return str(path)


def pairs(count: int) -> list[tuple[str, str]]:
    return [(row["anchor"], row["positive"]) for row, _ in zip(builtin.rows("pairs-train"), range(count), strict=False)]


def whats(found: Any) -> str:
    return "; ".join(finding.what for finding in found.findings)


def test_healthy_data_has_no_findings(tmp_path: Path) -> None:
    found = examine(write_tsv(tmp_path / "good.tsv", pairs(200)))
    assert found.kind == "data" and found.findings == [] and found.facts["rows looked at"] == 200


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (lambda rows: [*rows, ("", rows[0][1])], "column 'anchor' has empty texts"),
        (lambda rows: [*rows, *[(rows[0][0], b) for _, b in rows]], "column 'anchor' repeats"),
        (lambda rows: [*rows, *[(a, a) for a, _ in rows[:10]]], "'anchor' and 'positive' hold equal texts"),
    ],
)
def test_faults_of_data_are_found(tmp_path: Path, fault: Any, word: str) -> None:
    assert word in whats(examine(write_tsv(tmp_path / "bad.tsv", fault(pairs(200)))))


def _changed(x: np.ndarray, rows: slice, value: Any) -> np.ndarray:
    x[rows] = value
    return x


@pytest.mark.parametrize(
    ("fault", "word", "evidence"),
    [
        (lambda x: x, None, ""),
        (
            lambda x: _changed(x, slice(6, 8), np.nan),
            "'x' has vectors that cannot be read",
            "2 of 80; row 7: number 0 ",
        ),
        (lambda x: _changed(x, slice(3, 4), 0.0), "'x' has vectors of zeros", "1 of 80"),
        (lambda x: _changed(x, slice(40, 80), x[0]), "'x' repeats its vectors", "40 different among 80"),
    ],
)
def test_faults_of_vectors_are_found(tmp_path: Path, fault: Any, word: str | None, evidence: str) -> None:
    np.save(tmp_path / "x.npy", fault(np.random.default_rng(0).standard_normal((80, 4)).astype(np.float32)))
    found = examine(str(tmp_path / "x.npy"))
    assert found.facts["column x"] == "vectors of 4 numbers" and len(found.findings) == (word is not None)
    assert all(word in one.what and one.evidence.startswith(evidence) for one in found.findings)  # type: ignore[operator]


def test_vectors_of_unequal_width_are_found(tmp_path: Path) -> None:
    rows = [{"vec": [0.5] * (5 if row == 7 else 4), "text": f"a text, number {row}"} for row in range(9)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (finding,) = examine(str(tmp_path / "x.jsonl")).findings
    assert "unequal width" in finding.what and finding.evidence == "8 of 4 numbers, 1 of 5 numbers"


def test_overlap_of_training_and_evaluation_is_found(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", ["data.train=[{path: 'builtin:pairs-train', limit: 500}]"])
    assert examine_recipe(recipe)[1] == []
    leaked = [(row["sentence1"].upper() + "!", row["sentence2"]) for row in list(builtin.rows("graded-dev"))[:80]]
    path = write_tsv(tmp_path / "leaked.tsv", pairs(200) + leaked)
    (finding,) = examine_recipe(load_recipe("quickstart", [f"data.train=[{{path: '{path}'}}]"]))[1]
    assert "split 'dev'" in finding.what and finding.evidence.startswith("160 of ")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, ""),
        ({"loss": math.log(64), "negatives": 63.0}, "stays at ln(batch)"),
        ({"data_wait_share": 0.5}, "waits for data"),
        ({"gradient_norm": math.inf}, "not finite"),
    ],
)
def test_faults_of_a_run_are_found(tmp_path: Path, change: dict[str, float], word: str) -> None:
    good = {"loss": 0.5, "data_wait_share": 0.0, "padding_share": 0.0, "gradient_norm": 1.0}
    rows = [{"step": 20 * n, **good, **change} for n in range(1, 6)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(load_recipe("quickstart")))
    found = examine(str(tmp_path))
    assert found.kind == "run" and found.facts["steps"] == 100
    assert word in whats(found) if word else found.findings == []


def test_faults_of_a_model_are_found() -> None:
    model = build(load_recipe("quickstart").model, 0)
    names = dict(model.named_parameters())
    table = next(value for name, value in names.items() if "word_embeddings" in name)
    with torch.no_grad():
        table[7, 3] = math.nan
    assert [f.what for f in examine_model(model)[1]] == ["weights are not finite"]
    with torch.no_grad():
        table[:] = table[5:6].nan_to_num() + 1e-6 * torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
    assert "nearly the same vector" in examine_model(model)[1][0].what


def test_the_command_prints_evidence_and_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tsv(tmp_path / "bad.tsv", [*pairs(100), ("", "a text")])
    assert main(["doctor", path, "--json", str(tmp_path / "d.json")]) == 0
    shown = capsys.readouterr().out
    assert "! column 'anchor' has empty texts (1 of 101)" in shown and "drop these rows" in shown
    assert json.loads((tmp_path / "d.json").read_text())["findings"][0]["evidence"] == "1 of 101"


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_text("{oops\n")
    assert main(["doctor", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
