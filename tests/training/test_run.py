"""Whole runs: evaluation and the best weights, running means, signals, bad numbers, special settings."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from embedkit.config.recipe_io import dump_recipe, load_recipe
from embedkit.data.builtin import sentences as builtin
from embedkit.errors import NonFiniteError, RecipeError, UserError
from embedkit.evaluation import evaluate
from embedkit.formats import load
from embedkit.training.loop import build as building
from embedkit.training.loop import loop as looping
from embedkit.training.loop.build import Run
from embedkit.training.loop.step import TrainStep
from embedkit.training.loop.update import Update
from embedkit.training.optim import precision
from embedkit.training.optim.optimizer import Optimiser
from embedkit.training.state.checkpoint import CheckpointStore
from embedkit.training.state.state import RunState
from tests.training import common, runs


def model_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a saved model folder by the names they have in a checkpoint."""
    return {f"model.{name}": value for name, value in load(folder).state_dict().items()}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Whether all tensors of `wanted` are in `found`, bit for bit."""
    return all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.fixture
def suite(tmp_path: Path) -> dict[str, Any]:
    """A suite of sixty pairs in a folder of its own, as an evaluation section."""
    (tmp_path / "own").mkdir()
    with open(tmp_path / "own" / "tiny.tsv", "w", encoding="utf-8") as file:
        file.write("sentence1\tsentence2\tscore\tsplit\n")
        for row, _ in zip(builtin.rows("graded-dev"), range(60), strict=False):
            file.write(f"{row['sentence1']}\t{row['sentence2']}\t{row['score']}\tdev\n")
    task = "  - {name: tiny, kind: sts, file: tiny, splits: {dev: dev}}\n"
    (tmp_path / "own.yaml").write_text(f"name: own\ndescription: sixty pairs\ntasks:\n{task}")
    return {"suite": str(tmp_path / "own.yaml"), "data": str(tmp_path / "own"), "tasks": ["tiny"]}


# -- evaluation and the best weights --------------------------------------------------------------------------------


def test_scores_are_those_of_the_saved_model(tmp_path: Path, suite: dict[str, Any]) -> None:
    given = runs.recipe(evaluation={**suite, "every": 2, "load_best": False}, dropout=0.1)
    progress = runs.Recorder()
    result = runs.run(tmp_path / "run", given, progress=progress)
    report = evaluate(load(result.output), suite["suite"], data=suite["data"], split="dev", resamples=0)
    assert result.scores == {
        "own/tiny": pytest.approx(report.scores["tiny"], abs=1e-4),
        "own/avg": result.scores["own/avg"],
    }
    assert result.best["metric"] == "own/avg"
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log if "scores" in row] == [2, 4]
    assert [row["scores"] for row in log if "scores" in row][-1] == result.scores
    assert sum("own/avg" in line for line in progress.lines) >= 2


def test_evaluation_changes_nothing_of_the_training(tmp_path: Path, suite: dict[str, Any]) -> None:
    plain = runs.recipe(dropout=0.1)
    evaluated = {**plain, "evaluation": {**suite, "every": 1, "at_start": True, "load_best": False}}
    runs.run(tmp_path / "plain", plain)
    runs.run(tmp_path / "evaluated", evaluated)
    assert same(runs.checkpoint(tmp_path / "evaluated", 4), runs.checkpoint(tmp_path / "plain", 4))


@pytest.mark.parametrize("save_every", [None, 1, 4], ids=lambda every: f"save_every={every}")
@pytest.mark.parametrize("ema", [None, 0.5], ids=["plain", "ema"])
def test_the_best_weights_are_saved_when_the_last_are_worse(
    tmp_path: Path, suite: dict[str, Any], monkeypatch: pytest.MonkeyPatch, save_every: int | None, ema: float | None
) -> None:
    left = runs.scripted(monkeypatch, [50.0, 70.0, 60.0, 65.0])
    train = {"save_every": save_every, "keep_checkpoints": 1, "ema": ema}
    given = runs.recipe(evaluation={**suite, "every": 1}, train=train)
    result = runs.run(tmp_path / "run", given)
    assert left == []
    assert result.best == {"metric": "own/avg", "value": 70.0, "step": 2}
    assert result.scores["own/avg"] == 70.0
    assert runs.steps_kept(tmp_path / "run") == [2, 4]
    file = "weights" if ema is None else "ema"
    best, last = (runs.checkpoint(tmp_path / "run", step, file) for step in (2, 4))
    saved = model_weights(tmp_path / "run" / "model")
    assert same(saved, best)
    assert not same(saved, last)


def test_the_last_weights_are_saved_when_that_is_asked_for(
    tmp_path: Path, suite: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.scripted(monkeypatch, [50.0, 70.0, 60.0, 65.0])
    result = runs.run(tmp_path / "run", runs.recipe(evaluation={**suite, "every": 1, "load_best": False}))
    assert result.best["step"] == 2
    assert result.scores["own/avg"] == 65.0
    assert same(model_weights(result.output), runs.checkpoint(tmp_path / "run", 4))


def test_the_start_can_be_the_best(tmp_path: Path, suite: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkit.factory import build

    runs.scripted(monkeypatch, [90.0, 70.0, 60.0])
    given = runs.recipe(evaluation={**suite, "every": 2, "at_start": True})
    result = runs.run(tmp_path / "run", given)
    assert (result.best["step"], result.best["value"]) == (0, 90.0)
    start = build(load_recipe(given).model, given["seed"]).state_dict()
    assert same(model_weights(result.output), {f"model.{name}": value for name, value in start.items()})


def test_a_score_that_is_no_number_is_never_the_best(
    tmp_path: Path, suite: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.scripted(monkeypatch, [math.nan, 40.0, math.nan, 30.0])
    result = runs.run(tmp_path / "run", runs.recipe(evaluation={**suite, "every": 1}))
    assert (result.best["step"], result.best["value"]) == (2, 40.0)


def test_patience_ends_the_run_after_evaluations_without_a_new_best(
    tmp_path: Path, suite: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = runs.recipe(evaluation={**suite, "every": 1, "patience": 3}, train={"max_steps": 9, "save_every": 5})
    scores = [50.0, 49.0, 70.0, 60.0, math.nan, 70.0]  # 70 again is no new best
    left = runs.scripted(monkeypatch, scores + scores)
    progress = runs.Recorder()
    result = runs.run(tmp_path / "run", given, progress=progress)
    assert (result.steps, result.best["step"], len(left)) == (6, 3, 6)
    assert "step 6: the run ends, 3 evaluations without a new best" in progress.lines
    assert 6 in runs.steps_kept(tmp_path / "run")
    again = runs.run(tmp_path / "run", given, resume=True)
    assert (again.steps, again.losses, len(left)) == (6, [], 6)

    with monkeypatch.context() as patch:
        patch.setattr(looping, "_stop_if_asked", _raised_at(5))
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "broken", given)
    resumed = runs.run(tmp_path / "broken", given, resume=True)
    assert (resumed.steps, len(resumed.losses), left) == (6, 1, [])
    assert same(runs.checkpoint(tmp_path / "broken", 6), runs.checkpoint(tmp_path / "run", 6))


def test_evaluations_may_be_counted_from_the_start_of_each_epoch(tmp_path: Path, suite: dict[str, Any]) -> None:
    """Eight steps an epoch: after every third of each and at its end."""
    evaluation = {**suite, "every": 3, "by_epoch": True}
    runs.run(tmp_path / "run", runs.recipe(evaluation=evaluation, train={"max_steps": 12, "save_every": 20}))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log if "scores" in row] == [3, 6, 8, 11, 12]


def _raised_at(step: int) -> Any:
    def check(run: Run) -> None:
        if run.state.position.step == step:
            raise KeyboardInterrupt

    return check


def test_the_best_is_remembered_over_a_resume(
    tmp_path: Path, suite: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.scripted(monkeypatch, [50.0, 70.0, 60.0, 65.0, 65.0])  # the last one is evaluated twice
    given = runs.recipe(evaluation={**suite, "every": 1}, train={"keep_checkpoints": 1})
    real = CheckpointStore.save

    def save(self: CheckpointStore, step: int, *args: Any, **options: Any) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return real(self, step, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", save)
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "run", given)
    result = runs.run(tmp_path / "run", given, resume=True)
    assert result.best == {"metric": "own/avg", "value": 70.0, "step": 2}
    assert same(model_weights(result.output), runs.checkpoint(tmp_path / "run", 2))


def test_a_checkpoint_is_chosen_by_other_vectors_and_used_by_its_own(tmp_path: Path, suite: dict[str, Any]) -> None:
    """ConSERT's way: development scores of the mean of the last layer, tests of the last two."""
    evaluation = {**suite, "every": 2, "load_best": False, "vectors": {"pooling": "mean"}}
    given = runs.recipe(evaluation=evaluation, model={"pooling": "last-two"})
    result = runs.run(tmp_path / "run", given)
    saved = load(result.output)
    assert saved.pooling == "last-two"
    own, other = (
        evaluate(load(result.output, pooling=pooling), suite["suite"], suite["data"], split="dev", resamples=0).scores
        for pooling in ("last-two", "mean")
    )
    assert abs(own["tiny"] - other["tiny"]) > 0.01
    last = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scores = [row["scores"]["own/tiny"] for row in last if "scores" in row]
    assert scores[-1] == pytest.approx(other["tiny"], abs=1e-6)
    for vectors, said in [
        ({"pooling": "middle"}, "middle"),
        ({"heads": 1}, "training only"),
        ({"template_bias": True}, "no template bias"),
        ({"default_prompt": "q"}, "no prompt 'q'"),
    ]:
        with pytest.raises(UserError, match=said):
            runs.run(tmp_path / "refused", runs.recipe(evaluation={**suite, "vectors": vectors}))


def test_the_running_mean_is_evaluated_and_saved(tmp_path: Path, suite: dict[str, Any]) -> None:
    scores = {}
    for name, use in (("mean", True), ("plain", False)):
        evaluation = {**suite, "every": 4, "load_best": False}
        given = runs.recipe(evaluation=evaluation, train={"ema": 0.9, "evaluate_ema": use, "lr": 0.01})
        result = runs.run(tmp_path / name, given)
        wanted = runs.checkpoint(tmp_path / name, 4, "ema" if use else "weights")
        assert same(model_weights(result.output), wanted)
        report = evaluate(load(result.output), suite["suite"], data=suite["data"], split="dev", resamples=0)
        assert result.scores["own/tiny"] == pytest.approx(report.scores["tiny"], abs=1e-4)
        scores[name] = result.scores["own/tiny"]
    weights, mean = (runs.checkpoint(tmp_path / "mean", 4, file) for file in ("weights", "ema"))
    assert not same(weights, mean)
    assert scores["mean"] != scores["plain"]


# -- signals --------------------------------------------------------------------------------------------------------


def test_a_signal_ends_the_run_with_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    steps = 120
    given = runs.recipe(train={"max_steps": steps, "save_every": 1000, "log_every": 5}, dropout=0.1)
    (tmp_path / "r.yaml").write_text(dump_recipe(load_recipe(given)), encoding="utf-8")
    output = tmp_path / "run"
    command = [sys.executable, "-m", "embedkit", "train", str(tmp_path / "r.yaml"), "--output", str(output)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path)
    end = time.monotonic() + 240
    while not (output / "log.jsonl").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    [stopped] = runs.steps_kept(output)
    assert 1 <= stopped < steps
    last = errors.strip().splitlines()[-1]
    assert last == f"embedkit: {output}: stopped after step {stopped}, saved; resume it with --resume"
    assert "Traceback" not in errors
    assert not (output / "model").exists()

    subprocess.run([*command, "--resume"], check=True, capture_output=True, cwd=tmp_path, timeout=120)
    runs.run(tmp_path / "whole", given)
    assert same(runs.checkpoint(output, steps), runs.checkpoint(tmp_path / "whole", steps))
    assert same(model_weights(output / "model"), model_weights(tmp_path / "whole" / "model"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_signal_after_a_saved_step_does_not_write_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    saved: list[int] = []
    real = CheckpointStore.save

    def save(self: CheckpointStore, step: int, *args: Any, **options: Any) -> Any:
        saved.append(step)
        os.kill(os.getpid(), number)
        return real(self, step, *args, **options)

    monkeypatch.setattr(CheckpointStore, "save", save)
    before = signal.getsignal(number)
    with pytest.raises(UserError, match="stopped after step 2, saved") as caught:
        runs.run(tmp_path / "run", runs.recipe(train={"save_every": 2}))
    assert caught.value.exit_code == code
    assert saved == [2]
    assert signal.getsignal(number) is before


# -- numbers that are not finite ------------------------------------------------------------------------------------


def _watched(monkeypatch: pytest.MonkeyPatch) -> list[RunState]:
    """States of runs as they are built, so that a test can look at one that failed."""
    states: list[RunState] = []
    real = building.build_state

    def build(*args: Any) -> Any:
        state, starting = real(*args)
        states.append(state)
        return state, starting

    monkeypatch.setattr(building, "build_state", build)
    return states


@pytest.mark.parametrize("where", ["gradient", "loss", "embeddings"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_number_ends_the_run_before_it_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, value: float
) -> None:
    started = _watched(monkeypatch)
    real = TrainStep.gradients

    def poison(tensor: Tensor) -> Tensor:
        return tensor * torch.tensor(value)

    def gradients(self: TrainStep, batch: Any) -> Any:
        if started[0].position.step != 2:
            return real(self, batch)
        if where == "gradient":
            result = real(self, batch)
            for parameter in list(self.bundle.parameters())[:1]:
                assert parameter.grad is not None
                parameter.grad.view(-1)[0] = value
            return result
        target = self.bundle.objective if where == "loss" else self.bundle.model
        handle = target.register_forward_hook(
            lambda module, given, out: poison(out) if where == "embeddings" else _with_loss(out, poison(out.loss))
        )
        try:
            return real(self, batch)
        finally:
            handle.remove()

    monkeypatch.setattr(TrainStep, "gradients", gradients)
    with pytest.raises(NonFiniteError) as caught:
        runs.run(tmp_path / "run", runs.recipe(train={"save_every": 1, "ema": 0.9}))
    line = caught.value.line()
    assert "step 3" in line
    assert "row" in line
    assert runs.steps_kept(tmp_path / "run") == [1, 2]
    assert not (tmp_path / "run" / "model").exists()
    state = started[0]
    assert state.position.step == 2
    assert same(dict(state.bundle.state_dict()), runs.checkpoint(tmp_path / "run", 2))
    assert state.ema is not None
    assert same(state.ema.mean, runs.checkpoint(tmp_path / "run", 2, "ema"))
    assert same(state.optimiser.state_tensors(), runs.checkpoint(tmp_path / "run", 2, "optimiser"))


def _with_loss(output: Any, loss: Tensor) -> Any:
    output.loss = loss
    return output


def test_a_step_skipped_on_the_device_is_told_before_anything_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU, which is not waited for in every step, on the CPU."""
    started = _watched(monkeypatch)
    monkeypatch.setattr(Update, "refuses_later", True)
    real = TrainStep.gradients
    weights: list[dict[str, Tensor]] = []

    def gradients(self: TrainStep, batch: Any) -> Any:
        weights.append({name: p.detach().clone() for name, p in self.bundle.named_parameters()})
        result = real(self, batch)
        if started[-1].position.step == 2:
            next(p for p in self.bundle.parameters() if p.grad is not None).grad.view(-1)[0] = math.nan  # type: ignore[union-attr]
        return result

    monkeypatch.setattr(TrainStep, "gradients", gradients)
    with pytest.raises(
        NonFiniteError,
        match=r"not finite at step 3, rows \d.*; that update was left out, the last good checkpoint is step 2",
    ):
        runs.run(tmp_path / "run", runs.recipe(train={"save_every": 2, "log_every": 4, "max_steps": 8}))
    assert len(weights) == 4
    assert same(weights[3], weights[2])
    assert not same(weights[2], weights[1])
    assert runs.steps_kept(tmp_path / "run") == [2]


def test_rows_of_a_bad_batch_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    real = TrainStep.gradients

    def gradients(self: TrainStep, batch: Any) -> Any:
        seen.append(batch.ids.tolist())
        result = real(self, batch)
        for parameter in self.bundle.parameters():
            parameter.grad = None if parameter.grad is None else parameter.grad * math.nan
        return result

    monkeypatch.setattr(TrainStep, "gradients", gradients)
    with pytest.raises(NonFiniteError) as caught:
        runs.run(tmp_path / "run")
    assert ", ".join(str(row) for row in seen[0]) in caught.value.line()


# -- settings that change the arithmetic or must be refused ---------------------------------------------------------


def test_gradient_checkpointing_trains_to_the_same_weights(tmp_path: Path) -> None:
    plain = runs.recipe(dropout=0.1)
    runs.run(tmp_path / "plain", plain)
    runs.run(tmp_path / "saving", plain, "train.gradient_checkpointing=true")
    wanted, found = (runs.checkpoint(tmp_path / name, 4) for name in ("plain", "saving"))
    assert same(found, wanted)


def test_compiled_layers_train_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    real = torch.nn.Module.compile

    def compile_eagerly(self: torch.nn.Module, *args: Any, **options: Any) -> None:
        compiled.append(self)
        real(self, *args, **{**options, "backend": "aot_eager"})  # traced and differentiated; no compiler needed

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    runs.run(tmp_path / "plain")
    runs.run(tmp_path / "compiled", None, "train.compile=true")
    assert compiled
    wanted, found = (runs.checkpoint(tmp_path / name, 4) for name in ("plain", "compiled"))
    assert found.keys() == wanted.keys()  # no trace of the compiler in the names
    assert common.largest_error(found, wanted) < 1e-5


@pytest.mark.parametrize("wanted", ["bf16", "fp16"])
def test_arithmetic_that_the_machine_lacks_is_refused_before_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    from embedkit import factory

    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(factory, "build", None)
    with pytest.raises(RecipeError, match=r"train\.precision: .*use fp32 or auto"):
        runs.run(tmp_path / "run", None, f"train.precision={wanted}")
    assert precision.choose_precision("auto", torch.device("cpu")) == "fp32"


def test_training_within_a_block_of_autocast_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkit import factory

    monkeypatch.setattr(factory, "build", None)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(RecipeError, match=r"train\.precision: .*first forward pass; leave the block"),
    ):
        runs.run(tmp_path / "run", None, "train.precision=fp32")


def test_bf16_trains_near_fp32_where_the_machine_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)  # emulated here; four tiny steps do not mind
    wanted = runs.run(tmp_path / "fp32", runs.recipe()).losses
    found = runs.run(tmp_path / "bf16", None, "train.precision=bf16").losses
    assert found == pytest.approx(wanted, rel=0.05)
    assert found != wanted
    assert all(value.dtype == torch.float32 for value in runs.checkpoint(tmp_path / "bf16", 4).values())


def test_the_output_folder_comes_from_the_recipe_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkit.training import train

    monkeypatch.chdir(tmp_path)
    given = runs.recipe(train={"max_steps": 1, "output": "out/{name}-{x}"})
    assert train(given, progress=runs.Recorder()).output == Path("out/tiny-{x}/model")
    assert train(given, output="other", progress=runs.Recorder()).output == Path("other/model")


def test_gradients_are_clipped_to_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    real = Optimiser.step

    def step(self: Optimiser, *args: Any) -> None:
        norms.append(float(self.gradient_norm()))
        real(self, *args)

    monkeypatch.setattr(Optimiser, "step", step)
    progress = runs.Recorder()
    runs.run(tmp_path / "run", None, "train.max_grad_norm=0.01", progress=progress)
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)
    assert all(figures["gradient_norm"] > 0.02 for figures in progress.figures.values())  # the norm before clipping
    norms.clear()
    runs.run(tmp_path / "free", None, "train.max_grad_norm=null", progress=progress)
    assert norms == pytest.approx([progress.figures[step]["gradient_norm"] for step in (1, 2, 3, 4)], rel=1e-5)


def test_inputs_may_be_longer_outside_of_training_steps(tmp_path: Path, suite: dict[str, Any]) -> None:
    lengths: list[Any] = [None, 16, "limit"]
    found = [
        runs.run(tmp_path / str(n), runs.recipe(model={"max_length": 4, "use_max_length": n}, evaluation=suite))
        for n in lengths
    ]
    assert [load(run.output).max_length for run in found] == [4, 16, 64]
    assert found[0].losses == found[1].losses == found[2].losses  # steps see the same tokens
    for run in found:
        report = evaluate(load(run.output), suite["suite"], data=suite["data"], split="dev", resamples=0)
        assert run.scores["own/tiny"] == pytest.approx(report.scores["tiny"], abs=1e-4)
    assert found[0].scores["own/tiny"] != pytest.approx(found[1].scores["own/tiny"], abs=0.01)
