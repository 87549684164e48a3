"""What a run watches: figures against naive counts; each thing is said once, if it lasts; a healthy run is silent."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit import objectives
from embedkit.config.recipe import TrainConfig
from embedkit.errors import NonFiniteError
from embedkit.objectives.base import ObjectiveBatch
from embedkit.training.loop import build as run_module
from embedkit.training.loop.step import Latest, TrainStep
from embedkit.training.monitor.guards import GuardError, Guards, Negatives, mean_cosines, scales_at_bound
from embedkit.training.monitor.nonfinite import bad_weights
from embedkit.training.optim.precision import LossScale
from embedkit.training.parallel.distributed import World
from tests.training import runs


def batch(size: int, keys: dict[str, list[int]]) -> ObjectiveBatch:
    """A batch of which only the keys of the inputs are known."""
    known = {name: torch.tensor(values) for name, values in keys.items()}
    return ObjectiveBatch(size, slice(0, size), dict(known), known, torch.arange(size))


def naive_mean_cosine(z: np.ndarray, keys: list[int]) -> float:
    first = {key: keys.index(key) for key in keys}
    axis = np.eye(z.shape[1])[0]
    unit = [z[i] / np.linalg.norm(z[i]) if z[i].any() else axis for i in first.values()]
    return float(np.mean([a @ b for a, b in itertools.permutations(unit, 2)]))


@pytest.mark.parametrize("zero", [0, 3, 12])
@pytest.mark.parametrize("repeated", [0, 3])
def test_mean_cosine_is_that_of_all_pairs_of_different_inputs(zero: int, repeated: int) -> None:
    z = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)) + 0.5
    z[:zero] = 0.0
    keys = [100 + (i if i >= repeated else 0) for i in range(12)]
    z[: max(1, repeated)] = z[0].clone()
    known = batch(12, {"anchor": keys, "negatives": keys, "other": keys[:3]})
    found = mean_cosines(Latest({}, {"anchor": z, "negatives": z, "other": z}, known))
    assert list(found) == ["anchor"]
    assert float(found["anchor"]) == pytest.approx(naive_mean_cosine(z.numpy(), keys), abs=1e-5)


def test_few_different_inputs_say_nothing_of_collapse() -> None:
    z = torch.ones(12, 4)
    assert mean_cosines(Latest({}, {"anchor": z}, batch(12, {"anchor": [1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7]}))) == {}
    assert float(mean_cosines(Latest({}, {"anchor": z}, batch(12, {"anchor": list(range(12))})))["anchor"]) == 1.0


CASES = [
    ({"positive": [1, 2, 3, 4], "negatives": [5, 6, 7, 8]}, False),
    ({"positive": [1, 2, 2, 4], "negatives": [5, 6, 7, 8]}, True),  # an input twice
    ({"positive": [1, 2, 3, 4], "negatives": [5, 6]}, True),  # ragged
    ({"positive": [1, 2, 3], "negatives": [5, 6, 7]}, True),  # a short batch
    ({"positive": [1, 2, 3, 4]}, True),  # a source without hard negatives
]


def test_negatives_are_counted_against_the_plan() -> None:
    counted = Negatives(4, 1, torch.device("cpu"))
    for keys, _ in CASES:
        counted.add(batch(len(keys["positive"]), {"anchor": [9] * len(keys["positive"]), **keys}))
    wanted = [len({*keys["positive"], *keys.get("negatives", [])}) - 1 for keys, _ in CASES]
    assert counted.planned == 7
    assert counted.figures() == {"negatives": pytest.approx(np.mean(wanted)), "short_batches": 4.0}
    assert counted.figures() == {}
    counted.add(batch(4, CASES[0][0]))
    assert counted.figures() == {"negatives": 7.0, "short_batches": 0.0}
    line = counted.line()
    assert line is not None and line.startswith("4 of 6 batches had fewer different negatives than the 7 planned")


def test_a_plan_that_is_kept_is_not_talked_about() -> None:
    counted = Negatives(4, 1, torch.device("cpu"))
    counted.add(batch(4, CASES[0][0]))
    assert counted.figures()["short_batches"] == 0.0 and counted.line() is None


def guards(objective: Any, **settings: Any) -> tuple[Guards, list[str]]:
    said: list[str] = []
    config = TrainConfig(max_steps=1000, batch_size=64, **settings)
    return Guards(config, objectives.build(objective), World(), 1000, 0, said.append), said


HEALTHY = {"gradient_norm": 1.0, "loss": 1.0, "mean_cosine": 0.3, "negatives": 63.0}
SICK = {
    "collapsed: mean cosine 0.9950": {"mean_cosine": 0.995},
    "the gradient is exactly zero": {"gradient_norm": 0.0},
    "that of equal scores (4.1600, ln of the candidates is 4.1589)": {"loss": 4.16},
}


@pytest.mark.parametrize("word", SICK)
def test_what_lasts_is_said_once_with_its_figures(word: str) -> None:
    watch, said = guards("infonce")
    for step in range(10, 400, 10):
        watch.check(step, {**HEALTHY, **(SICK[word] if step >= 30 else {})})
        assert len(said) == (step >= 130), step
    assert word in said[0] and "from step 30 to step 130" in said[0]


@pytest.mark.parametrize("word", SICK)
def test_what_does_not_last_is_not_said(word: str) -> None:
    watch, said = guards("infonce")
    for step in range(10, 1000, 10):
        watch.check(step, {**HEALTHY, **(SICK[word] if step % 90 else {})})
    assert said == []


def test_a_long_warm_up_is_waited_for() -> None:
    watch, said = guards("infonce", warmup=0.5)
    for step in range(10, 1000, 10):
        watch.check(step, {**HEALTHY, "loss": 4.16})
        assert len(said) == (step >= 510), step


@pytest.mark.parametrize("word", SICK)
def test_guards_stop_the_run_or_are_off(word: str) -> None:
    watch, said = guards("infonce", guards="stop")
    for step in range(10, 110, 10):
        watch.check(step, {**HEALTHY, **SICK[word]})
    with pytest.raises(GuardError, match="at every log line from step 10 to step 110"):
        watch.check(110, {**HEALTHY, **SICK[word]})
    watch, said = guards("infonce", guards="off")
    for step in range(10, 400, 10):
        watch.check(step, {**HEALTHY, **SICK[word]})
    assert said == []


@pytest.mark.parametrize(("bound", "word"), [(100.0, "upper bound of 100"), (0.01, "lower bound of 0.01")])
def test_a_scale_that_came_to_its_bound_is_said_and_one_that_started_there_is_not(bound: float, word: str) -> None:
    watch, said = guards("clip")
    scale: Any = next(part for part in watch._objective.modules() if hasattr(part, "log_scale"))
    for step in range(10, 400, 10):
        if step == 50:
            with torch.no_grad():
                scale.log_scale.fill_(math.log(bound))
        watch.check(step, HEALTHY)
    assert len(said) == 1 and word in said[0] and "from step 50 to step 150" in said[0]
    watch, said = guards({"name": "clip", "temperature": 1 / bound})
    assert scales_at_bound(watch._objective)
    for step in range(10, 400, 10):
        watch.check(step, HEALTHY)
    assert said == []


def test_the_log_holds_what_is_watched_and_a_healthy_run_says_nothing(tmp_path: Path) -> None:
    progress = runs.Recorder()
    runs.run(tmp_path / "run", progress=progress)
    figures = progress.figures[4]
    assert figures["negatives"] == 15.0 and figures["short_batches"] == 0.0 and -1 < figures["mean_cosine"] < 1
    assert not [line for line in progress.lines if "warning" in line or "negatives" in line]
    progress = runs.Recorder()
    runs.run(tmp_path / "off", runs.recipe(train={"guards": "off"}), progress=progress)
    assert not {"negatives", "mean_cosine"} & set(progress.figures[4])


def test_weights_that_are_not_finite_are_named() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    assert bad_weights(module) == []
    with torch.no_grad():
        module[1].bias[2] = -math.inf
    assert bad_weights(module) == ["1.bias"]


# -- fp16, on a CPU: the logic of the loss scale on arithmetic that is fp32 ------------------------------------------


def _as_fp16(monkeypatch: pytest.MonkeyPatch, overflows_above: float) -> None:
    """Runs that believe to be fp16, whose gradients overflow while the loss scale is above a number."""
    monkeypatch.setattr(run_module, "choose_precision", lambda *given: "fp16")
    monkeypatch.setattr(run_module, "autocast", lambda *given: contextlib.nullcontext)
    real = TrainStep.gradients

    def gradients(self: TrainStep, given: Any) -> Any:
        result = real(self, given)
        if self.loss_scale() > overflows_above:
            next(p for p in self.bundle.parameters() if p.grad is not None).grad.view(-1)[0] = math.inf  # type: ignore[union-attr]
        return result

    monkeypatch.setattr(TrainStep, "gradients", gradients)


def test_the_loss_scale_falls_until_gradients_fit_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _as_fp16(monkeypatch, 4096.0)
    progress = runs.Recorder()
    runs.run(tmp_path / "run", runs.recipe(train={"max_steps": 6}), progress=progress)
    assert [progress.figures[step]["loss_scale"] for step in range(1, 7)] == [32768, 16384, 8192, 4096, 4096, 4096]
    assert progress.figures[6]["skipped_steps"] == 4.0
    assert math.isinf(progress.figures[1]["gradient_norm"])


def test_an_overflow_that_no_scale_mends_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _as_fp16(monkeypatch, 0.0)
    with pytest.raises(NonFiniteError, match=r"gradient is not finite at step 17, rows .*checkpoint is step 16"):
        runs.run(tmp_path / "run", runs.recipe(train={"max_steps": 40}))
    assert not LossScale("fp16").figures()["skipped_steps"] and LossScale("fp32").figures() == {}
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 18)) and math.isnan(rows[-1]["gradient_norm"])
