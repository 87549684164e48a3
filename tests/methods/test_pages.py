"""eval/reproduce.md names commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from embedkit.config.recipe_io import load_recipe
from embedkit.training import setup

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "eval" / "reproduce.md").read_text()
LONG = "model.max_length=64"
COMMANDS = sorted(set(re.findall(r"`(embedkit train [^`]+)`", PAGE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_exist(command: str) -> None:
    name, *overrides = shlex.split(command)[2:]
    recipe = load_recipe(name, overrides)
    setup.check(recipe)


def test_every_table_of_the_page_says_spread_and_re_runs() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
        assert rows[0][-2:] == ["published spread", "re-runs by others"]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(row[-2] for row in rows), "an empty spread; write 'not published'"


def test_the_papers_consert_large_is_run_with_its_64_tokens() -> None:
    rows = re.findall(r"^\| ConSERT [a-z-]*(?:unsup|joint), BERT-large \| `embedkit train ([^`]+)`", PAGE, re.MULTILINE)
    assert len(rows) == 3
    stages = [f"consert-joint-bert-large {LONG}", f"sbert-nli-bert-large {LONG}"]
    assert all(f"`embedkit train {stage}`" in PAGE for stage in stages)
    for command in (*rows, *stages):
        name, *overrides = shlex.split(command)
        assert load_recipe(name, overrides).model.max_length == 64
