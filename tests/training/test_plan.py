"""What a plan prints is what a run does: negatives, parameters, steps, inputs, evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit import objectives
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import RecipeError, UserError
from embedkit.factory import build
from embedkit.objectives.base import ObjectiveBatch
from embedkit.training import plan, setup
from embedkit.training.loop.batches import StepBatch, prepare
from embedkit.training.planning import Plan
from tests.training import common, runs

BATCH = 6
# The names whose vectors an anchor is compared with: CLIP and SigLIP look from the anchor at the other side only,
# NT-Xent at both views of all rows.
SIDES = {
    "infonce": ("positive", "negatives"),
    "clip": ("positive",),
    "siglip": ("positive",),
    "ntxent": ("anchor", "positive"),
}


def write_rows(path: Path, hard: int, count: int = 24) -> None:
    """Rows with `hard` negatives each; every text of the file is another one."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            row: dict[str, Any] = {"anchor": f"the cat {i}", "positive": f"a dog {i}"}
            if hard:
                row["negatives"] = [f"red bird {i} {j}" for j in range(hard)]
            file.write(json.dumps(row) + "\n")


def made(path: Path, objective: Any = "infonce", **sections: Any) -> Any:
    """A checked recipe over a file."""
    train = {"batch_size": BATCH, **sections.pop("train", {})}
    given = runs.recipe(data={"train": [{"path": str(path)}]}, train=train, objective=objective, **sections)
    return load_recipe(given)


def first_batch(recipe: Any) -> StepBatch:
    """The first batch of a run, whole."""
    method = setup.check(recipe)
    rows = setup.open_rows(recipe, method)
    return prepare(next(iter(rows.batches(0))), method, build(recipe.model), seed=recipe.seed, epoch=0)


def touched(recipe: Any, anchor: int) -> tuple[list[int], list[int]]:
    """Rows that own the candidates which the loss of one anchor repels or attracts, in-batch ones and hard ones.

    Found without a look at the score table: a candidate takes part when the loss of this anchor has a gradient there.
    """
    batch = first_batch(recipe)
    generator = torch.Generator().manual_seed(0)
    leaves = {
        name: torch.randn(len(view.inputs), 8, generator=generator, dtype=torch.float64).requires_grad_()
        for name, view in batch.views.items()
    }
    config = setup.objective_config(recipe, setup.build_method(recipe))
    loss = objectives.build(config, dim=8).double()
    known = ObjectiveBatch(batch.size, slice(anchor, anchor + 1), batch.owner, batch.keys, batch.ids)
    loss(leaves, known).loss.backward()
    plain, hard = [], []
    for name in SIDES[config["name"]]:
        if name in leaves:
            gradient = leaves[name].grad
            assert gradient is not None
            rows = batch.owner[name][gradient.abs().sum(1) > 0].tolist()
            (hard if name == "negatives" else plain).extend(rows)
    return plain, hard


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(
    ("objective", "hard"),
    [("infonce", 0), ("infonce", 1), ("infonce", 2), ("ntxent", 0), ("clip", 0), ("siglip", 0)],
)
def test_printed_negatives_are_the_candidates_that_feel_the_loss(
    tmp_path: Path, objective: str, hard: int, processes: int
) -> None:
    write_rows(tmp_path / "rows.jsonl", hard)
    recipe = made(tmp_path / "rows.jsonl", objective)
    printed = plan(recipe, processes).negatives
    for anchor in (0, BATCH - 1):
        plain, hard_rows = touched(recipe, anchor)
        others = [row for row in plain if row != anchor]
        size = BATCH // processes
        mine = [row for row in others if row // size == anchor // size]
        assert len(plain) - len(others) == (2 if objective == "ntxent" else 1)  # the pair itself
        assert printed == {
            "in_batch": len(mine), "other_processes": len(others) - len(mine), "hard": len(hard_rows), "bank": 0,
            "total": len(others) + len(hard_rows),
        }  # fmt: skip
    assert printed["total"] >= BATCH - 1


@pytest.mark.parametrize("world", [1, 2])
def test_negatives_of_other_processes_take_part_in_a_real_step(processes: Any, world: int) -> None:
    count = 8
    results = [_reached(count)] if world == 1 else processes(world).run(_reached, count)
    for rank, (positives, negatives) in enumerate(results):
        anchor = rank * count // world
        assert positives == list(range(count))
        assert negatives == sum(len(row["negatives"]) for row in common.rows(count))
        assert anchor in positives


def _reached(count: int) -> tuple[list[int], int]:
    """Rows of the positives, and number of hard negatives, that one anchor of this process reaches in a step."""
    step = common.make_step("infonce")
    batch = common.step_batch(step, common.rows(count))
    real, seen = step.bundle.objective.forward, {}

    def forward(embeddings: dict[str, torch.Tensor], known: ObjectiveBatch) -> Any:
        seen.update(embeddings)
        known.rows = slice(known.rows.start, known.rows.start + 1)
        return real(embeddings, known)

    step.bundle.objective.forward = forward  # type: ignore[method-assign]
    step.gradients(batch)
    reached = {name: z.grad.abs().sum(1) > 0 for name, z in seen.items() if z.grad is not None}
    return reached["positive"].nonzero().flatten().tolist(), int(reached["negatives"].sum())


# -- parameters, steps, batch ---------------------------------------------------------------------------------------


def groups_of(found: Plan) -> dict[tuple[str, float, float], int]:
    return {(g["group"], g["learning_rate"], g["weight_decay"]): g["parameters"] for g in found.parameters}


def test_parameters_are_counted_by_group(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 0)
    rules = [{"pattern": "model.encoder.embeddings.*", "frozen": True}, {"pattern": "objective.*", "lr": 0.5}]
    recipe = made(tmp_path / "rows.jsonl", "clip", train={"groups": rules, "lr": 1e-3, "weight_decay": 0.1})
    known = dict(build(recipe.model).named_parameters())
    trained = {name: p for name, p in known.items() if not name.startswith("encoder.embeddings.")}
    matrices = sum(p.numel() for p in trained.values() if p.ndim > 1)
    vectors = sum(p.numel() for p in trained.values() if p.ndim < 2)
    assert groups_of(plan(recipe)) == {
        ("model", 1e-3, 0.1): matrices, ("model", 1e-3, 0.0): vectors, ("objective.*", 0.5, 0.0): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("train", "total", "epochs"),
    [
        ({"max_steps": None, "epochs": 1}, 4, 1.0),
        ({"max_steps": None, "epochs": 2.5}, 10, 2.5),
        ({"max_steps": None, "epochs": 0.01}, 1, 0.25),
        ({"max_steps": 7}, 7, 1.75),
        ({"max_steps": 3, "epochs": 2}, 3, 0.75),
        ({"max_steps": 30, "epochs": 2}, 8, 2.0),
    ],
)
def test_steps_are_those_of_the_run(tmp_path: Path, train: dict[str, Any], total: int, epochs: float) -> None:
    write_rows(tmp_path / "rows.jsonl", 0)
    recipe = made(tmp_path / "rows.jsonl", train=train)
    assert plan(recipe).steps == {"total": total, "per_epoch": 4, "epochs": epochs, "checkpoint_every": "epoch"}
    result = runs.run(tmp_path / "run", recipe)
    assert result.steps == total


def test_inputs_tokens_and_chunks(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 2)
    recipe = made(tmp_path / "rows.jsonl", train={"chunk_size": 5})
    found = plan(recipe, 2)
    batch = first_batch(recipe)
    inputs = BATCH * 4  # anchor, positive, two negatives
    assert found.batch["rows"] == BATCH
    assert found.batch["rows_per_process"] == BATCH // 2
    assert found.batch["processes"] == 2
    assert found.batch["inputs"] == inputs == sum(len(view.inputs) for view in batch.views.values())
    assert found.batch["chunks"] == -(-inputs // 5)
    tokenizer = build(recipe.model).prepare
    wanted = sum(int(tokenizer(view.inputs).costs.sum()) for view in batch.views.values())
    assert found.batch["tokens"] == pytest.approx(wanted, rel=0.1)  # the mean of several batches
    assert found.rows["rows"] == 24
    assert found.rows["hard_negatives"] == {"min": 2, "max": 2}
    parts = {"process", "weights", "gradients", "optimiser", "activations", "batches", "peak"}
    assert set(found.memory) == parts | {"per_token", "encoding", "encoding_per_text"}
    json.dumps(found.to_dict())


def test_a_plan_says_what_is_evaluated(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 0)
    recipe = made(tmp_path / "rows.jsonl", evaluation={"suite": "builtin-sts", "every": 5})
    assert plan(recipe).evaluation == {
        "suite": "builtin-sts", "split": "dev", "every": "5 steps", "chooses": "builtin-sts/avg",
        "metrics": ["builtin-sts/graded", "builtin-sts/avg"],
    }  # fmt: skip
    by_epoch = made(tmp_path / "rows.jsonl", evaluation={"suite": "sts", "metric": "sts/stsb"})
    assert plan(by_epoch).evaluation["every"] == "epoch"
    assert plan(by_epoch).steps["checkpoint_every"] == "epoch, and each evaluation"
    assert plan(by_epoch).evaluation["metrics"] == ["sts/stsb", "sts/sickr", "sts/avg"]  # those with a dev split


def test_a_plan_says_how_often_a_stream_is_saved_and_evaluated(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 0)
    data = {"train": [{"path": str(tmp_path / "rows.jsonl"), "stream": True}]}
    given = runs.recipe(data=data, train={"batch_size": BATCH, "max_steps": 60}, evaluation={"suite": "builtin-sts"})
    found = plan(load_recipe(given))
    assert found.steps["checkpoint_every"] == "3 steps, and each evaluation"
    assert found.evaluation["every"] == "3 steps"
    found = plan(load_recipe(given, ["train.max_steps=1000000000", "train.save_every=7"]))
    assert found.steps["checkpoint_every"] == "7 steps, and each new best"
    assert found.evaluation["every"] == "1000 steps"  # however long the run


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"evaluation": {"suite": "sts", "metric": "sts/stbs"}}, "unknown metric 'sts/stbs'; did you mean 'sts/stsb'"),
        ({"evaluation": {"suite": "sts", "metric": "sts/sts12"}}, "unknown metric 'sts/sts12'"),  # has no dev split
        ({"evaluation": {"suite": "st"}}, "no evaluation suite named 'st'"),
        ({"evaluation": {"suite": "sts", "tasks": ["stsb", "stx"]}}, "'stx'"),
        ({"evaluation": {"suite": "sts", "split": "half"}}, "split"),
        ({"method": "pair"}, "did you mean 'pairs'"),
        ({"method": {"name": "pairs", "promts": {}}}, "unknown setting 'promts'; did you mean 'prompts'?"),
        ({"objective": "infonc"}, "did you mean 'infonce'"),
        ({"objective": {"name": "infonce", "temprature": 1}}, "did you mean 'temperature'"),
        ({"objective": {"name": "infonce", "temperature": -1}}, "temperature"),
        ({"objective": "cosent", "method": "simcse-unsup"}, "objective 'cosent' needs score"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("start", [plan, runs.run], ids=["plan", "train"])
def test_wrong_names_are_refused_before_data_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], what: str, start: Any
) -> None:
    from embedkit import data, factory

    def not_yet(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("opened before the recipe was checked")

    monkeypatch.setattr(factory, "build", not_yet)
    monkeypatch.setattr(data, "open_training", not_yet)
    recipe = load_recipe(runs.recipe(**changes))
    with pytest.raises(UserError) as caught:
        plan(recipe) if start is plan else runs.run(tmp_path / "run", recipe)  # type: ignore[arg-type]
    assert what in caught.value.line()
    assert not (tmp_path / "run").exists()


def test_an_objective_without_its_rows_is_refused_before_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedkit import factory

    monkeypatch.setattr(factory, "build", None)
    write_rows(tmp_path / "rows.jsonl", 0)
    with pytest.raises(UserError, match="score"):
        plan(made(tmp_path / "rows.jsonl", "cosent"))


def test_more_processes_than_rows_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 0)
    with pytest.raises(RecipeError, match="a batch of 6 rows cannot be shared by 7 processes"):
        plan(made(tmp_path / "rows.jsonl"), 7)


def test_plan_of_a_method_with_parts_and_of_one_without_objective(tmp_path: Path) -> None:
    changes = {"method": "mlm", "auxiliary": []}
    found = plan(load_recipe({**runs.recipe(), **changes, "data": {"train": [{"path": "builtin:sentences"}]}}))
    assert (found.objective, found.negatives["total"]) == ("none", 0)
    words = found.parameters[0]["parameters"]
    prompt = runs.recipe(model={"pooling": "cls"}) | {"method": {"name": "promcse", "prompt_length": 4}}
    trained = sum(group["parameters"] for group in plan(load_recipe(prompt)).parameters)
    assert trained == 4 * 2 * 2 * 32 < words


def test_an_objective_of_several_terms_is_told_in_words() -> None:
    figures = plan(load_recipe("classify", smoke=True))
    assert figures.objective == "sum, terms supcon (temperature 0.3, base_temperature none, weight 0.9)"
