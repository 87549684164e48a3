"""eval/methods.py makes its table from lines of results; eval/reproduce.md names commands that exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from embedkit.config.recipe_io import load_recipe
from embedkit.methods import methods
from embedkit.training import setup

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "eval" / "reproduce.md").read_text()
LONG = "model.max_length=64"
COMMANDS = sorted(set(re.findall(r"`(embedkit train [^`]+)`", PAGE)))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """eval/methods.py as a module."""
    spec = importlib.util.spec_from_file_location("eval_methods", ROOT / "eval" / "methods.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["eval_methods"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def options(script: ModuleType, *given: str) -> Any:
    return script.arguments().parse_args(given)


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


def test_every_text_method_stands_in_the_table(script: ModuleType) -> None:
    used = {load_recipe(case.recipe).method.name for case in script.CASES.values()}
    images = {name for name, cls in methods.items() if "image" in cls.contract.requires | cls.contract.accepts}
    own_pairs = {"pairs", "nli-static", "regularized-cl"}  # read a user's pairs, not the table's sentences
    # terms beside another method, and methods that need labels, a sparse code or topics of their own
    others = {"csr", "simctg-term", "vat", "graph-supcon", "topic-moco"}
    assert set(methods) - images - own_pairs - others <= used


def test_cases_are_whole_recipes(script: ModuleType, tmp_path: Path, shared: Path) -> None:
    given = options(script, "--out", str(tmp_path), "--shared", str(shared), "--steps", "7")
    for name, case in script.CASES.items():
        recipe = load_recipe(case.recipe, script.overrides_of(case, 3, given))
        setup.check(recipe)
        assert (recipe.seed, recipe.train.max_steps, recipe.train.epochs) == (3, 7, None), name
        assert recipe.evaluation is not None and recipe.evaluation.vectors is None
        assert all(Path(source.path).is_file() for source in recipe.data.train), name


def line(method: str, seed: int, average: float, settings: Any) -> dict[str, Any]:
    sts = dict.fromkeys(("sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr", "avg"), average)
    return {
        "method": method, "seed": seed, "settings": settings, "sts": sts, "transfer": {"avg": 80.0},
        "geometry": {"alignment": 0.2, "uniformity": -2.0}, "rows_per_s": 10.0 * (seed + 1), "memory_gib": 1.0,
        "padding_share": 0.0, "dev": 70.0,
    }  # fmt: skip


def test_the_table_is_the_mean_over_seeds(script: ModuleType, tmp_path: Path) -> None:
    given = options(script, "--out", str(tmp_path))
    known = script.settings(given)
    rows = [line("simcse-unsup", 0, 60.0, known), line("simcse-unsup", 1, 62.0, known), line("macl", 0, 64.0, known),
            line("macl", 1, 99.0, {**known, "steps": 3})]  # fmt: skip
    del rows[2]["transfer"]
    later = {"method": "macl", "seed": 0, "settings": {**known, "suites": "transfer"}, "transfer": {"avg": 77.0}}
    rows.append(later)
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"method": "ma')
    assert [(row["method"], row["seed"]) for row in script.finished(tmp_path, given)] == [
        ("simcse-unsup", 0), ("simcse-unsup", 1), ("macl", 0),
    ]  # fmt: skip
    assert all(script.missing(row, given) == [] for row in script.finished(tmp_path, given))
    more = options(script, "--out", str(tmp_path), "--suites", "sts,other")
    assert script.missing(script.row_of("macl", 0, more), more) == ["other"]
    small = options(script, "--out", str(tmp_path), "--transfer", "limit=9,folds=2")
    assert script.missing(script.row_of("macl", 0, small), small) == ["transfer limit=9 folds=2"]
    longer = options(script, "--out", str(tmp_path), "--steps", "3")
    assert script.row_of("macl", 0, longer) == {}  # another run, to be trained
    text = script.write(tmp_path, given)
    first, second = json.loads((tmp_path / "methods.json").read_text())["rows"]
    assert (first["method"], first["avg"], first["seeds"]) == ("simcse-unsup", 61.0, [0, 1])
    assert first["avg_deviation"] == pytest.approx(2**0.5)
    assert first["rows_per_s"] == 15.0
    assert (second["avg"], second["avg_deviation"]) == (64.0, None)
    assert (second["transfer"], second["rows_per_s"]) == (77.0, 10.0)
    assert "61.00 ± 1.41" in text
    assert "+3.00" in text
    assert text.count("\n|") == 4


def test_the_clock_leaves_pauses_out(script: ModuleType) -> None:
    clock = script.Clock()
    for _ in range(3):
        clock.tick()
    clock.pause()
    clock.tick()
    clock.tick()
    assert len(clock.times) == 3
