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

from embedkit.cli.app import app, main
from embedkit.recipe_io import load_recipe
from eval.benchmarks.kill import ON_CPU, free_port

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


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_commands_of_the_readme_are_accepted(words: list[str]) -> None:
    command, *rest = words[words.index("embedkit") + 1 :]
    names = [info.name for info in app.registered_commands]
    assert command in names
    assert main([command, "--help"]) == 0
    if command in ("train", "plan") and not rest[0].endswith(".yaml"):
        overrides = [word for word in rest[1:] if "=" in word and not word.startswith("-")]
        load_recipe(rest[0], overrides)


@pytest.mark.slow
def test_the_command_for_two_processes_runs_two(tmp_path: Path) -> None:
    (words,) = [words for words in COMMANDS if words[0] == "torchrun"]
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--master-port={free_port()}"]
    command = [*launcher, *words[1:-1], str(tmp_path / "run"), "--smoke"]
    done = subprocess.run(command, env={**os.environ, **ON_CPU}, cwd=README.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
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
