"""What a run is made of is made once: the check of the recipe, the method, the objective, the sources."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedkit import objectives
from embedkit.cli.app import main
from embedkit.data.sources import data_source
from embedkit.data.sources.data_source import Source
from embedkit.methods.pairs import Pairs
from embedkit.training import setup
from tests.training import runs


class Calls(Counter[str]):
    """Counts calls by a label."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._monkeypatch = monkeypatch

    def count(self, owner: Any, name: str, label: str) -> None:
        """Count the calls of ``owner.name``; those with a given `dim` apart."""
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            self[label + (" of known size" if "dim" in options and options["dim"] is not None else "")] += 1
            return real(*args, **options)

        self._monkeypatch.setattr(owner, name, call)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    counts = Calls(monkeypatch)
    counts.count(setup, "check_all", "check")
    counts.count(setup, "build_method", "method")
    counts.count(Pairs, "__init__", "Pairs()")
    counts.count(objectives, "build", "objective")
    counts.count(Source, "__init__", "source opened")
    counts.count(data_source, "find_parts", "parts found")
    return counts


ONCE = {
    "check": 1, "method": 1, "Pairs()": 1, "source opened": 1, "parts found": 1,
    # the objective is made once without sizes, for what it needs of the data, and once for the model
    "objective": 1, "objective of known size": 1,
}  # fmt: skip


def test_a_run_checks_builds_and_opens_once(tmp_path: Path, calls: Calls) -> None:
    runs.run(tmp_path / "run")
    assert calls == ONCE


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Path]:
    """A recipe file, and the csv file that it reads."""
    data, file = tmp_path / "faq.csv", tmp_path / "recipe.yaml"
    lines = [f"question {number},answer {number},{number % 2}" for number in range(200)]
    data.write_text("\n".join(["anchor,positive,score", *lines]) + "\n", encoding="utf-8")
    document = runs.recipe(data={"train": [{"path": str(data)}]}, train={"max_steps": 1})
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file, data


def test_the_command_line_opens_once_too(tmp_path: Path, written: tuple[Path, Path], calls: Calls) -> None:
    recipe, _ = written
    assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 0
    assert calls == ONCE


@pytest.mark.parametrize("objective", ["infonce", "cosent"], ids=["roles of the method", "a role of the objective"])
def test_the_command_line_reads_a_file_as_often_as_python(
    objective: str, tmp_path: Path, written: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, data = written
    opens: Counter[str] = Counter()
    real = Path.open

    def counted(self: Path, *args: Any, **options: Any) -> Any:
        opens[self.name] += 1
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    runs.run(tmp_path / "python", str(recipe), f"objective={objective}")
    expected = opens.pop(data.name)
    assert expected > 0
    assert main(["train", str(recipe), f"objective={objective}", "--output", str(tmp_path / "run")]) == 0
    assert opens[data.name] == expected


def test_roles_of_the_objective_are_checked_in_the_open_sources(
    tmp_path: Path, written: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, data = written
    data.write_text(data.read_text(encoding="utf-8").replace("question 3,answer 3,1", "question 3,answer 3,high"))
    assert main(["train", str(recipe), "objective=cosent", "--output", str(tmp_path / "run")]) == 2
    assert "faq.csv:5 column 'score'" in capsys.readouterr().err
