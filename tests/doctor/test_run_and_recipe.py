"""Runs, recipes and data: every made-up fault is found, and a healthy run has none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit import doctor
from embedkit.config.recipe_io import dump_recipe, load_recipe
from embedkit.data import RowBatch
from embedkit.data.builtin import sentences as builtin
from embedkit.doctor import examine, examine_recipe
from embedkit.doctor.data import score_findings
from embedkit.doctor.recipe import one_step, order_findings
from embedkit.training import setup
from embedkit.training.monitor import guards
from embedkit.training.state.checkpoint import CheckpointStore
from tests.training import runs

GOOD = {"loss": 0.5, "data_wait_share": 0.0, "gradient_norm": 1.0, "mean_cosine": 0.2, "negatives": 63.0, "scale": 30.0}

WATCHED = {
    "the vectors have collapsed": guards.COLLAPSE_REMEDY, "the gradient is exactly zero": guards.IDLE_REMEDY,
    "the loss stays at ln(batch)": guards.CHANCE_REMEDY, "the temperature is at its bound": guards.SCALE_REMEDY,
}  # fmt: skip


def whats(findings: Any) -> list[str]:
    return [finding.what for finding in findings]


def run_folder(
    path: Path, change: dict[str, Any], rows: int = 5, first: dict[str, Any] | None = None, recipe: Any = None
) -> str:
    known = [{"step": 20 * n, **GOOD, **(change if n > 1 or first is None else first)} for n in range(1, rows + 1)]
    (path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    (path / "recipe.yaml").write_text(dump_recipe(recipe or load_recipe("quickstart", ["objective=clip"])))
    return str(path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, None),
        ({"loss": math.log(32), "negatives": 31.0}, "batches hold fewer different positives"),
        ({"mean_cosine": 0.995}, "the vectors have collapsed"),
        ({"gradient_norm": 0.0}, "the gradient is exactly zero"),
        ({"scale": 100.0}, "the temperature is at its bound: the scale stays at the upper one"),
        ({"scale": 0.01}, "the temperature is at its bound: the scale stays at the lower one"),
        ({"loss_scale": 1.0, "skipped_steps": 3.0}, "gradients overflow in fp16"),
        ({"loss_scale": 512.0, "skipped_steps": 30.0}, "gradients overflow in fp16"),
        ({"loss_scale": 512.0, "skipped_steps": 7.0, "gradient_norm": math.inf}, None),
        ({"scores": {"sts/stsb": -61.0}}, "sts/stsb is negative"),
        ({"scores": {"sts/stsb": 61.0}}, None),
        ({"loss": math.nan}, "loss or gradient was not finite"),
    ],
)
def test_faults_in_a_log_are_found(tmp_path: Path, change: dict[str, Any], word: str | None) -> None:
    examined = examine(run_folder(tmp_path, change, first=GOOD))
    found = whats(examined.findings)
    for finding in examined.findings:  # a run that is watched says the same
        assert finding.remedy == WATCHED.get(finding.what.partition(":")[0], finding.remedy)
    if word is None:
        assert found == []
    else:
        assert any(word in what for what in found), found
        assert len(found) == (2 if "negatives" in change else 1)


@pytest.mark.parametrize(
    ("recipe", "left_out", "chance"),
    [
        ("simcse-unsup", [], True),
        ("simcse-unsup", ["negatives"], False),  # nothing was counted, so nothing is known of chance
        ("mlm-small", ["negatives"], False),  # its loss is near ln 64 when it guesses among 64 words
        ("siglip", [], False),  # a pair is not one of several candidates
    ],
)
def test_a_loss_is_held_against_chance_only_where_candidates_were_counted(
    tmp_path: Path, recipe: str, left_out: list[str], chance: bool
) -> None:
    given = load_recipe(recipe, ["train.batch_size=64", "train.log_every=20"])
    run_folder(tmp_path, {"loss": math.log(64)}, recipe=given)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key not in left_out} for row in rows]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    found = examine(str(tmp_path)).findings
    assert [finding.remedy for finding in found] == ([guards.CHANCE_REMEDY] if chance else [])


def test_a_scale_that_began_at_its_bound_and_a_short_run_are_no_findings(tmp_path: Path) -> None:
    assert examine(run_folder(tmp_path, {"scale": 100.0})).findings == []
    assert examine(run_folder(tmp_path, {"mean_cosine": 1.0, "loss": math.log(64)}, rows=2)).findings == []


def test_refused_steps_are_found_until_the_run_has_passed_them(tmp_path: Path) -> None:
    path = run_folder(tmp_path, {})
    (tmp_path / "nonfinite-step-101.json").write_text("{}")
    (found,) = examine(path).findings
    assert "not finite" in found.what and "nonfinite-step-101.json" in found.evidence
    run_folder(tmp_path, {}, rows=6)
    assert examine(path).findings == []


@pytest.mark.parametrize(
    ("idle", "moves", "word"),
    [
        (["image"], True, "no gradient has reached the image tower"),
        (["text", "image"], True, "no gradient has reached the model"),
        ([], False, "the weights of the text tower do not move"),
        ([], True, None),
    ],
)
def test_dead_towers_are_found_in_checkpoints(tmp_path: Path, idle: list[str], moves: bool, word: str | None) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    names = {tower: f"model.{tower}.layer.weight" for tower in ("text", "image")}
    for step in (20, 40):
        weights = {name: torch.full((3,), float(step if moves else 1)) for name in names.values()}
        squares = {f"{name}/exp_avg_sq": torch.full((3,), float(tower not in idle)) for tower, name in names.items()}
        store.save(step, {"weights": weights, "optimiser": squares}, {"state": {"data": "x"}}, {})
    found = whats(f for f in examine(run_folder(tmp_path, {})).findings if "data is another" not in f.what)
    assert any(word in what for what in found) if word else found == []


def without_waiting(run: Path) -> None:
    """Log that no step waited for data: how long it does is a matter of the machine."""
    log = [json.loads(line) | {"data_wait_share": 0.0} for line in (run / "log.jsonl").read_text().splitlines()]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


def test_a_healthy_run_has_no_findings_and_other_data_is_found(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row for row, _ in zip(builtin.rows("pairs-train"), range(64), strict=False)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs.run(tmp_path / "run", runs.recipe(data={"train": [{"path": str(path)}]}, train={"save_every": 2}))
    without_waiting(tmp_path / "run")
    found = examine(str(tmp_path / "run"))
    assert found.findings == [] and found.facts["data"] == "as it was"
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert whats(examine(str(tmp_path / "run")).findings) == ["the data is another than the run was trained on"]


# -- scores -----------------------------------------------------------------------------------------------------------


def graded(count: int = 200) -> list[tuple[str, str, float]]:
    rows = [row for row, _ in zip(builtin.rows("graded-train"), range(count), strict=False)]
    return [(row["sentence1"], row["sentence2"], row["score"]) for row in rows]


def test_scores_of_pairs_that_are_all_equally_alike_say_nothing() -> None:
    assert list(score_findings("score", [("a cat", "one dog", number % 7) for number in range(80)])) == []


@pytest.mark.parametrize(
    ("column", "change", "word"),
    [
        ("score", lambda s: s, None),
        ("score", lambda s: 5.0 - s, "falls as the two texts become more alike"),
        ("label", lambda s: int(s < 3), "falls as the two texts become more alike"),
        ("label", lambda s: int(s > 3), None),
        ("label", lambda s: 5 - int(s), None),  # classes
        ("score", lambda s: 2.0, "is the same everywhere"),
        ("score", lambda s: "high", None),
    ],
)
def test_swapped_and_constant_scores_are_found(column: str, change: Any, word: str | None) -> None:
    found = whats(score_findings(column, [(a, b, change(score)) for a, b, score in graded()]))
    assert found == [] if word is None else len(found) == 1 and word in found[0]


def test_swapped_scores_are_found_in_data_and_recipe(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    for sign, count in ((1, 0), (-1, 1)):
        rows = [{"anchor": a, "positive": b, "score": sign * score} for a, b, score in graded()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = runs.recipe(data={"train": [{"path": str(path)}]}, objective={"name": "cosent"})
        for found in (examine(str(path)).findings, examine_recipe(load_recipe(given))[1]):
            assert len([what for what in whats(found) if "falls as" in what]) == count, whats(found)


# -- recipes ----------------------------------------------------------------------------------------------------------


class _Rows:
    """Two batches of four rows; a source of `kind` "other" gives each process another order."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[RowBatch]:
        for step in range(2):
            ids = [4 * step + i for i in range(4)]
            if self.kind == "other" and world > 1:
                ids = ids[::-1]
            low, high = 4 * rank // world, 4 * (rank + 1) // world
            yield RowBatch([{"anchor": "a"}] * (high - low), ids[low:high], 4, low, step)


def test_an_order_that_depends_on_the_processes_is_found() -> None:
    assert list(order_findings(_Rows("same"))) == []  # type: ignore[arg-type]
    (found,) = order_findings(_Rows("other"))  # type: ignore[arg-type]
    assert "depends on the number of processes" in found.what and "step 1: rows [0, 1, 2, 3]" in found.evidence


def _step(recipe: Any) -> Any:
    method = setup.check(recipe)
    return one_step(recipe, method, setup.open_rows(recipe, method))


def test_parameters_that_a_step_does_not_use_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkit import factory

    recipe = load_recipe(runs.recipe())
    assert _step(recipe) == []
    real = factory.build

    def build(*given: Any) -> Any:
        model = real(*given)
        model.spare = torch.nn.Parameter(torch.zeros(3))
        return model

    monkeypatch.setattr(factory, "build", build)
    (found,) = _step(recipe)
    assert "does not use" in found.what and "first model.spare" in found.evidence


def test_a_model_that_is_not_here_is_said_and_is_no_finding() -> None:
    recipe = load_recipe({**runs.recipe(), "model": {"name": "/nowhere/at/all"}})
    assert str(_step(recipe)).startswith("not tried: /nowhere/at/all")


def test_a_recipe_that_uses_a_checkpoint_otherwise_is_found(tmp_path: Path) -> None:
    from embedkit.factory import build

    build(load_recipe(runs.recipe()).model, 0).save(tmp_path / "m")
    given = {**runs.recipe(), "model": {"name": str(tmp_path / "m"), "pooling": "cls"}}
    assert whats(examine_recipe(load_recipe(given))[1]) == ["the recipe has another pooling than the model"]
    given["model"] = {"name": str(tmp_path / "m")}
    assert examine_recipe(load_recipe(given))[1] == []


@pytest.mark.parametrize(
    ("file", "splits", "said"),
    [
        ("builtin:graded", "{dev: dev}", "no task of suite 'own' has a split 'test'"),
        ("absent", "{dev: dev, test: test}", "no file for task 'graded'"),
    ],
)
def test_an_evaluation_that_cannot_be_read_is_found(file: str, splits: str, said: str, tmp_path: Path) -> None:
    task = f"{{name: graded, kind: sts, file: '{file}', splits: {splits}}}"
    (tmp_path / "own.yaml").write_text(f"name: own\ndescription: x\naverage: plain\ntasks: [{task}]\n")
    config = {"suite": str(tmp_path / "own.yaml"), "split": "dev", "data": str(tmp_path)}
    given = runs.recipe() | {"evaluation": config}
    facts, found = examine_recipe(load_recipe(given))
    assert "were not looked for in the training data" in found[0].what and said in found[0].evidence
    assert facts["model"] == "one step of it was made"


def test_importing_the_doctor_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, embedkit.doctor; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert doctor.Finding("a", "b", "c").remedy == "c"


def test_notes_of_a_folder_and_of_the_data_are_findings(tmp_path: Path) -> None:
    """Keys of a folder that nobody reads; rows that come into no batch; texts that are cut."""
    from embedkit.factory import build

    build(load_recipe("quickstart").model, 0).save(tmp_path / "m")
    spec = json.loads((tmp_path / "m" / "config_sentence_transformers.json").read_text())
    (tmp_path / "m" / "config_sentence_transformers.json").write_text(json.dumps(spec | {"an_unknown_key": 3}))
    (tmp_path / "m" / "embedkit.json").unlink()  # now the folder of another library
    evidence = [finding.evidence for finding in examine(tmp_path / "m").findings]
    assert any("an_unknown_key" in one for one in evidence), evidence
    rows = "".join(f"{'a long question ' * 40} number {i},the answer {i}\n" for i in range(60))
    (tmp_path / "faq.csv").write_text("question,answer\n" + rows)
    words = [str(tmp_path / "faq.csv"), f"model={tmp_path / 'm'}", "train.batch_size=32", "train.holdout=0"]
    whats = {finding.what: finding for finding in examine_recipe(load_recipe("pairs", words))[1]}
    assert "of the texts" in whats["texts are cut at the model's length"].evidence
    notes = [f.evidence for f in examine_recipe(load_recipe("pairs", words))[1] if f.what == "the data is read so"]
    assert any("come into no batch" in note or "left over" in note or "question" in note for note in notes), notes


def test_a_run_of_stages_is_examined_stage_by_stage(tmp_path: Path) -> None:
    for name in ("1-warm", "2-all"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(dump_recipe(load_recipe("quickstart")))
        (tmp_path / name / "log.jsonl").write_text('{"step": 1, "loss": 2.5, "data_wait_share": 0.4}\n')
    (tmp_path / "3-last").mkdir()
    found = examine(tmp_path)
    assert found.kind == "run"
    assert found.facts["2-all: last loss"] == 2.5 and found.facts["3-last"] == "not begun"
    waits = [finding.what for finding in found.findings if "waits" in finding.what]
    assert waits == ["1-warm: training waits for data", "2-all: training waits for data"]
