"""`embedkit plot`: what the log says is what is drawn and told."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from embedkit.cli.app import main
from embedkit.errors import DataError
from embedkit.training.monitor.curves import plot_runs, read_run
from tests.training import runs

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two short runs with evaluations."""
    place = tmp_path_factory.mktemp("runs")
    for name, rate in {"slow": 1e-4, "quick": 1e-2}.items():
        runs.run(place / name, runs.recipe(train={"holdout": 0.25, "save_every": 2, "lr": rate}))
    return [place / "slow", place / "quick"]


def test_curves_and_scores_of_two_runs(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, facts = tmp_path / "curves.svg", tmp_path / "curves.json"
    words = ["plot", *map(str, folders), "--output", str(target), "--json", str(facts)]
    assert main(words) == 0
    out, found = capsys.readouterr().out, json.loads(facts.read_text())
    text = target.read_text()
    for word in ("loss", "lr", "slow", "quick", "step", *(f"eval/{row['score']}" for row in found["scores"])):
        assert re.search(rf">{re.escape(word)}<", text), word
    assert {row["run"] for row in found["scores"]} == {"slow", "quick"}
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        curve = found["runs"][folder.name]["loss"]
        assert list(zip(curve["steps"], curve["values"], strict=True)) == losses
        name = next(row["score"] for row in found["scores"])
        scores = [row["scores"][name] for row in rows if "scores" in row]
        row = next(row for row in found["scores"] if row["run"] == folder.name and row["score"] == name)
        assert (row["first"], row["best"], row["last"]) == (scores[0], max(scores), scores[-1])
        assert f"{folder.name}: {losses[-1][0]} steps, loss {losses[-1][1]:.4f}" in out
    assert main(words) == 0
    assert target.read_text() == text, "the same runs give the same file"


def test_pictures_and_chosen_figures(folders: list[Path], tmp_path: Path) -> None:
    for suffix, start in {"png": b"\x89PNG", "pdf": b"%PDF"}.items():
        target = tmp_path / f"curves.{suffix}"
        assert main(["plot", str(folders[0]), "-o", str(target), "-f", "loss", "--smooth", "0.5"]) == 0
        assert target.read_bytes().startswith(start)
    plot_runs([folders[0] / "model"], tmp_path / "one.svg", figures=["lr"])
    text = (tmp_path / "one.svg").read_text()
    assert ">lr<" in text and ">loss<" not in text


def test_a_running_mean(tmp_path: Path) -> None:
    from embedkit.training.monitor.curves import _smoothed

    values = [4.0, 2.0, 6.0]
    expected = [4.0, (0.5 * 4 + 2) / 1.5, (0.25 * 4 + 0.5 * 2 + 6) / 1.75]
    assert _smoothed(values, 0.5) == pytest.approx(expected)
    assert _smoothed(values, 0.0) == values


def test_stages_go_on_one_after_the_other(tmp_path: Path) -> None:
    for stage, name in enumerate(("top", "all"), 1):
        folder = tmp_path / "own" / f"{stage}-{name}"
        folder.mkdir(parents=True)
        rows: list[dict[str, Any]] = [{"step": step, "loss": stage + step / 10} for step in (1, 2)]
        rows.append({"step": 1, "scores": {"holdout/recall@1": 50.0}})  # of the best model, which is an earlier one
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(tmp_path / "own").figures["loss"] == ([1, 2, 3, 4], [1.1, 1.2, 2.1, 2.2])


def test_bad_input_is_a_line(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*words: str) -> str:
        assert main(["plot", *words]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    run, target = str(folders[0]), str(tmp_path / "c.svg")
    assert "there is no log.jsonl; give the output folder of a run" in line(str(tmp_path), "-o", target)
    assert "no run has a figure 'los'; did you mean 'loss'?" in line(run, "-o", target, "-f", "los")
    assert "drawn are .svg, .png, .pdf" in line(run, "-o", str(tmp_path / "c.jpg"))
    assert "give a number from 0 to below 1" in line(run, "-o", target, "--smooth", "1")
    for text, says in {"": "the log is empty", '{"step": 1, "lo': "log.jsonl:1: is no row of a log"}.items():
        (tmp_path / "log.jsonl").write_text(text)
        with pytest.raises(DataError, match=says):
            read_run(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'embedkit[plot]'" in line(run, "-o", target)
