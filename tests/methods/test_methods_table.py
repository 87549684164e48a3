"""eval/methods.py, its search and its backbone on toy data: what is run, chosen, kept, tested and printed."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from embedkit.config.recipe_io import load_recipe
from embedkit.data.builtin.sentences import rows
from embedkit.methods import methods
from embedkit.training import setup
from tests.helpers import tiny

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    """A script of eval/ as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "eval"))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("methods")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny backbone, sentences, and forty scored pairs as STS-B."""
    root = tmp_path_factory.mktemp("methods")
    tiny.model_folder(root / "backbone" / "model")
    texts = sorted({tiny.SENTENCES[i % 3] + " " + word for i, word in enumerate(tiny.WORDS)})
    (root / "backbone" / "short.txt").write_text("\n".join(texts) + "\n")
    lines = ["subset\tscore\tsentence1\tsentence2\tsplit"]
    for i in range(80):
        first = " ".join(tiny.WORDS[(i * 7 + k) % len(tiny.WORDS)] for k in range(6))
        second = " ".join(tiny.WORDS[(i * 7 + k + i % 6) % len(tiny.WORDS)] for k in range(6))
        lines.append(f"toy\t{5 - i % 6}\t{first}\t{second}\t{('dev', 'test')[i % 2]}")
    folder = root / "shared" / "data" / "sts"
    folder.mkdir(parents=True)
    with gzip.open(folder / "stsb.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return root


def options(script: ModuleType, made: Path | None = None, *given: str) -> Any:
    if made is None:
        return script.arguments().parse_args(given)
    fixed = ["--out", str(made / "out"), "--backbone", str(made / "backbone" / "model"), "--shared",
             str(made / "shared"), "--steps", "4", "--batch", "8", "--tasks", "stsb", "--suites", "sts",
             "--seeds", "0,1", "--rates", "1e-3,1e-2"]  # fmt: skip
    (made / "out").mkdir(exist_ok=True)
    return script.arguments().parse_args([*fixed, *given])


def test_every_text_method_stands_in_the_table(script: ModuleType) -> None:
    used = {load_recipe(case.recipe).method.name for case in load("methods_cases").CASES.values()}
    images = {name for name, cls in methods.items() if "image" in cls.contract.requires | cls.contract.accepts}
    own_pairs = {"pairs", "nli-static", "regularized-cl"}  # read a user's pairs, not the table's sentences
    documents = {name for name, cls in methods.items() if {"sentences", "document_id"} & cls.contract.requires}
    # a new model beside an old one; vectors of words; terms beside another method; labels, codes, topics, clusters;
    # vectors in place of texts
    others = {"csd", "parallel-lines", "csr", "simctg-term", "vat", "graph-supcon", "topic-moco", "heads", "lm-supcon",
              "sccl", "dec", "compress", "modalities", "segments"}  # fmt: skip
    assert set(methods) - images - own_pairs - documents - others <= used


def test_cases_are_whole_recipes(script: ModuleType, tmp_path: Path, made: Path, shared: Path) -> None:
    given = options(script, made, "--out", str(tmp_path), "--shared", str(shared), "--steps", "7")
    for name, case in script.cases(tmp_path).items():
        recipe = load_recipe(case.recipe, script.overrides_of(case, 1e-4, 3, given, tmp_path))
        setup.check(recipe)
        assert (recipe.seed, recipe.train.max_steps, recipe.train.epochs, recipe.train.lr) == (3, 7, None, 1e-4), name
        assert recipe.evaluation is not None and recipe.evaluation.vectors is None
        assert all(Path(source.path).is_file() for source in recipe.data.train), name


def test_two_methods_from_backbone_to_table(script: ModuleType, made: Path) -> None:
    given = options(script, made)
    results = made / "out" / "results.jsonl"
    for method in ("untrained-mean", "simcse-unsup", "dclr"):  # dclr reads the simcse-unsup of its seed
        script.run_method(method, given)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    rows = script.finished(made / "out", given)
    for method in ("simcse-unsup", "dclr"):
        own = {(row["rate"], row["seed"]): row for row in rows if row["method"] == method}
        tried = {rate: row["dev"] for (rate, seed), row in own.items() if seed == 0}
        best = max(tried, key=tried.__getitem__)
        assert set(tried) == {1e-3, 1e-2}
        assert set(own) == {(1e-3, 0), (1e-2, 0), (best, 1)}  # the other seed at the best rate alone
        assert {key for key, row in own.items() if "sts" in row} == {(best, 0), (best, 1)}
    recipe = (script.run_folder(made / "out", "dclr", best, 1) / "recipe.yaml").read_text()
    base = script.best_rate(rows, "simcse-unsup")
    assert str(script.run_folder(made / "out", "simcse-unsup", base, 1)) in recipe

    for method in ("untrained-mean", "simcse-unsup", "dclr"):
        script.run_method(method, given)
    assert [json.loads(line) for line in results.read_text().splitlines()] == lines  # nothing is run again

    text = script.write(made / "out", given, differences=True)
    first, second, third = json.loads((made / "out" / "methods.json").read_text())["rows"]
    assert [entry["method"] for entry in (first, second, third)] == ["untrained-mean", "simcse-unsup", "dclr"]
    assert "versus" not in second
    for entry in (first, third):
        assert entry["versus"]["difference"] == pytest.approx(entry["avg"] - second["avg"], abs=0.011)
        low, high = entry["versus"]["interval"]
        assert low < high
    assert text.count("\n| ") == 5


def test_a_run_that_was_stopped_gives_no_line(script: ModuleType, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkit import training

    given = options(script, made, "--steps", "6", "--out", str(made / "stopped"))
    (made / "stopped").mkdir()
    whole = training.train

    def stopped(*arguments: Any, **named: Any) -> Any:
        result = whole(*arguments, **named)
        result.steps -= 1
        return result

    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(SystemExit, match="stopped at step 5"):
        script.train_one("simcse-unsup", 1e-3, 0, given)
    assert script.row_of("simcse-unsup", 1e-3, 0, given) == {}


def test_paired_bootstrap_draws_rows_and_seeds_together() -> None:
    from embedkit.evaluation.core.stats import Samples
    from embedkit.evaluation.core.task import TaskResult
    from embedkit.evaluation.report.report import Report

    def report(*hits: int) -> Report:
        score = 100 * float(np.mean(hits))
        result = TaskResult("t", "accuracy", score, {}, Samples("mean", {"value": np.array(hits)}))
        return Report("sts", {"t": result}, {"t": score, "avg": score}, "t", {}, {})

    paired = load("methods_table").paired
    rows = (0, 0, 1, 1) * 9
    same = paired([report(*rows)] * 2, [report(*rows)] * 2)
    assert (same["difference"], same["interval"], same["p"]) == (0.0, (0.0, 0.0), 1.0)
    better = (1, 1, 1, 1) * 9
    found = paired([report(*rows)], [report(*better)])
    weights = np.random.default_rng(1).multinomial(36, [1 / 36] * 36, size=4000)
    gains = 100 * weights @ (np.array(better) - np.array(rows)) / 36
    assert found["difference"] == 50.0
    assert found["interval"] == pytest.approx(tuple(np.quantile(gains, [0.025, 0.975])), abs=4)
    of_seeds = paired([report(*rows)] * 2, [report(*rows), report(*better)])
    assert of_seeds["difference"] == 25.0
    assert of_seeds["interval"][0] == 0.0  # both drawn seeds may be the first


def line(method: str, rate: float, seed: int, dev: float) -> dict[str, Any]:
    return {"method": method, "rate": rate, "seed": seed, "dev": dev, "seconds": 9.0}


def test_rates_are_compared_at_a_seed_that_all_have() -> None:
    best_rate = load("methods_table").best_rate
    rows = [line("macl", 1e-4, 0, 60.0), line("macl", 3e-4, 0, 62.0), line("macl", 3e-4, 1, 50.0),
            line("macl", 1e-4, 1, 99.0) | {"method": "views"}]  # fmt: skip
    assert best_rate(rows, "macl") == 3e-4
    assert best_rate(rows, "micse") is None
    assert best_rate([*rows, {"method": "macl", "rate": 1e-3, "seed": 0, "dev": None}], "macl") == 3e-4


def test_lines_of_other_settings_and_cut_lines_are_left_out(script: ModuleType, tmp_path: Path) -> None:
    given = options(script, None, "--out", str(tmp_path))
    known = script.settings(given)
    rows = [
        line("macl", 1e-4, 0, 60.0) | {"settings": known},
        line("macl", 1e-4, 1, 1.0) | {"settings": {**known, "steps": 3}},
        {"method": "macl", "rate": 1e-4, "seed": 0, "settings": known, "sts": {"avg": 50.0}},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"method": "ma')
    (found,) = script.finished(tmp_path, given)
    assert (found["dev"], found["sts"]["avg"]) == (60.0, 50.0)
    small = options(script, None, "--out", str(tmp_path), "--suites", "sts,transfer", "--transfer", "limit=9,folds=2")
    assert script.missing(found, small) == ["transfer limit=9 folds=2"]


def test_the_search_keeps_what_is_better_and_runs_no_trial_twice(
    script: ModuleType, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("methods_search")
    given = options(script, made, "--out", str(made / "search"))
    (made / "search").mkdir()
    found: dict[str, float] = {}

    def dev_of(setting: Any, options: Any) -> float:
        key = json.dumps(setting)
        assert key not in found, "run twice"
        found[key] = (
            {"mean": 3.0, "cls": 1.0}[setting["model.pooling"]]
            + (setting["rate"] > 5e-4)
            - 5 * bool(setting["auxiliary"])
        )
        return found[key]

    monkeypatch.setattr(module, "dev_of", dev_of)
    kept = module.search(given)
    assert (kept["model.pooling"], kept["rate"], kept["auxiliary"]) == ("mean", 1e-3, [])
    assert len(found) == module.TRIALS == len(module.COORDINATES) + 1
    rates = options(script).rates.split(",")
    assert len(rates) == module.TRIALS / module.SHARE  # the budget of each of the others
    assert module.search(given) == kept
    case = script.cases(made / "search")["searched"]
    assert script.rates_of("searched", given) == [1e-3]
    recipe = load_recipe(case.recipe, script.overrides_of(case, 1e-3, 0, given))
    assert (recipe.model.pooling, recipe.model.head or None) == ("mean", None)
    for _, change in module.COORDINATES:  # each is a whole recipe
        changes = module.overrides(module.START | change)
        setup.check(load_recipe("views", script.overrides_of(type(case)("views", overrides=changes), 1e-3, 0, given)))


def test_a_trial_of_the_search_trains(script: ModuleType, made: Path) -> None:
    module = load("methods_search")
    assert math.isfinite(module.dev_of(module.START, options(script, made, "--steps", "8")))


def test_information_counts_neighbours_as_loops_do() -> None:
    texts, size, window = [[0, 1, 2, 1], [3, 1], [2, 2, 0]], 4, 2
    row = np.array([i for text in texts for i in [*text, *[size] * window]])
    pairs = Counter(
        (a, b) for text in texts for i, a in enumerate(text) for j, b in enumerate(text) if 0 < abs(i - j) <= window
    )
    total = [sum(pairs[a, b] for b in range(size)) for a in range(size)]
    smooth = [count**0.75 for count in total]
    found = load("raw_backbone").information(row, size, window)
    for a in range(size):
        for b in range(size):
            expected = pairs[a, b] and max(0.0, math.log(pairs[a, b] * sum(smooth) / (total[a] * smooth[b])))
            assert found[a, b] == pytest.approx(expected, abs=1e-5)


def test_the_backbone_is_made_and_has_dropout(made: Path, tmp_path: Path) -> None:
    module = load("raw_backbone")
    texts = [row["anchor"] for row in itertools.islice(rows("sentences"), 60)]
    for name in ("sentences.txt", "short.txt"):
        (tmp_path / name).write_text("\n".join(texts) + "\n")
    given = module.arguments().parse_args(["--out", str(tmp_path), "--shared", str(made / "shared"), "--width", "64",
        "--layers", "1", "--vocabulary", "200", "--steps", "3", "--batch", "8"])  # fmt: skip
    folder = module.train_backbone(given)
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["hidden_dropout_prob"]) == (64, 1, 0.1)
    assert set(module.dev_scores(folder, made / "shared")) == {"cls", "mean"}


def test_the_clock_leaves_pauses_out(script: ModuleType) -> None:
    clock = script.Clock()
    for _ in range(3):
        clock.tick()
    clock.pause()
    clock.tick()
    clock.tick()
    assert len(clock.times) == 3
