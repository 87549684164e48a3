"""README says what is true: its commands parse, its recipes and settings are accepted, its Python runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.factory import build
from eval.benchmarks.kill import ON_CPU, free_port
from tests.helpers.pages import accepted, desk

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if re.match(r"(embedkit|torchrun .* -m embedkit) ", line)
]


def test_readme_opens_with_the_two_commands() -> None:
    assert [len(block.strip().splitlines()) for _, block in BLOCKS[:2]] == [1, 1]
    assert len(COMMANDS) > 8


ELSEWHERE = ("../shared", "mteb:", "/all-nli", "all-mpnet", "my-recipe", "a.jsonl", "before.json", "torchrun")
"""What marks a command of README that needs data or models that are not made here; it is parsed, and not run."""


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_commands_of_the_readme_are_accepted(
    words: list[str], first_hour: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(first_hour)
    accepted(words[words.index("embedkit") + 1 :])


@pytest.fixture(scope="module")
def first_hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 rows of one's own, 60 photos with captions, some sentences, and small models to start from."""
    folder = tmp_path_factory.mktemp("hour")
    desk(folder)
    build(load_recipe("quickstart").model, 0).save(folder / "small")
    build(load_recipe("clip-small").model, 0).save(folder / "clip")
    return folder


@pytest.mark.slow
def test_the_first_hour_works_as_it_stands(first_hour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of README that needs nothing from elsewhere is run, in its order, on small files of one's own.

    Only the model to start from is another, and the run is shorter where it is from random weights.
    """
    monkeypatch.chdir(first_hour)
    count = 0
    for words in COMMANDS:
        line = " ".join(words)
        if any(mark in line for mark in ELSEWHERE) or words[1] in ("export", "doctor"):
            continue
        extra = []
        if words[1] in ("train", "plan"):
            start = {"clip-finetune": "clip", "pairs": "small", "simcse-unsup": "small"}.get(words[2])
            extra = ["max_steps=2", "train.holdout=0"] if start is None else [f"model={start}"]
        count += 1
        assert main([*words[1:], *extra]) == 0, line
    assert count > 14


@pytest.mark.slow
def test_the_command_for_two_processes_runs_two(tmp_path: Path) -> None:
    (words,) = [words for words in COMMANDS if words[0] == "torchrun"]
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--master-port={free_port()}"]
    command = [*launcher, *words[1:-1], str(tmp_path / "run"), "--smoke"]
    plain = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    environment = {**plain, **(ON_CPU if torch.accelerator.is_available() else {})}  # as it stands, on a CPU
    done = subprocess.run(command, env=environment, cwd=README.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("; model in ") == 1
    (state,) = (tmp_path / "run" / "checkpoints").glob("*/state.json")
    assert json.loads(state.read_text())["world"] == 2


@pytest.mark.slow
def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model trained in seconds where README has a fine-tuned one."""
    (block,) = [block for language, block in BLOCKS if language == "python"]
    monkeypatch.chdir(tmp_path)
    assert main(["train", "quickstart", "--smoke", "--output", "runs/faq"]) == 0
    smaller = block.replace('output="runs/mine"', 'output="runs/mine", smoke=True')
    assert smaller != block
    exec(compile(smaller, "README.md", "exec"), found := {})
    assert found["vectors"].shape[0] == 2 and found["report"].scores["graded"] > 0
