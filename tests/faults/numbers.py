"""Numbers that are not finite, vectors that collapse, rates that explode: stopped before the update, and named."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.faults.frame import Ended, Outcome, World, case, command

STEPS = 120
"""Enough for a warning: something must last 100 steps."""


def recipe(**sections: Any) -> dict[str, Any]:
    """A tiny recipe; see `tests.training.runs`."""
    from tests.training import runs

    return runs.recipe(**sections)


def train(folder: Path, given: dict[str, Any], *words: str) -> Ended:
    """``embedkit train`` in this process, into ``folder/run``."""
    from embedkit.config.recipe_io import dump_recipe, load_recipe

    file = folder / "recipe.yaml"
    file.write_text(dump_recipe(load_recipe(given)), encoding="utf-8")
    return command("train", file, "-o", folder / "run", *words)


def log(folder: Path) -> list[dict[str, Any]]:
    """The rows of the log."""
    lines = (folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def weights(folder: Path, step: int, file: str = "weights") -> dict[str, Tensor]:
    """The tensors of a checkpoint."""
    return load_file(folder / "run" / "checkpoints" / f"step-{step:08d}" / f"{file}.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether all tensors are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def checkpoints(folder: Path) -> list[int]:
    """Steps whose checkpoints are complete."""
    from embedkit.training.state.checkpoint import CheckpointStore, verify

    store = CheckpointStore(folder / "run" / "checkpoints")
    return [step for step in store.steps() if verify(store.folder / f"step-{step:08d}") is None]


def finite_on_disk(folder: Path) -> None:
    """No weight of any checkpoint or model below `folder` is NaN or infinite."""
    files = list(folder.rglob("*.safetensors"))
    bad = [f for f in files for t in load_file(f).values() if t.is_floating_point() and not torch.isfinite(t).all()]
    assert not bad, f"not finite: {bad[0]}"


@contextlib.contextmanager
def at_step(number: int, fault: Callable[[Any, Callable[[], Any]], Any]) -> Iterator[None]:
    """Run ``fault(step, real)`` instead of the gradients of step `number`; of every one for 0."""
    from embedkit.training.loop.step import TrainStep

    real = TrainStep.gradients

    def gradients(self: Any, batch: Any) -> Any:
        if number and batch.number + 1 != number:
            return real(self, batch)
        return fault(self, lambda: real(self, batch))

    with mock.patch.object(TrainStep, "gradients", gradients):
        yield


def hooked(module: Any, change: Callable[[Any], Any], real: Callable[[], Any]) -> Any:
    """`real` while the output of a module goes through `change`."""
    handle = module.register_forward_hook(lambda _module, _given, out: change(out))
    try:
        return real()
    finally:
        handle.remove()


def bad_vector(step: Any, real: Callable[[], Any]) -> Any:
    """The third vector that the encoder makes is NaN."""

    def change(z: Tensor) -> Tensor:
        spoilt = torch.zeros_like(z)
        spoilt[2] = math.nan
        return z + spoilt

    return hooked(step.bundle.model, change, real)


def bad_gradient(step: Any, real: Callable[[], Any]) -> Any:
    """One number of one gradient is infinite."""
    result = real()
    next(p for p in step.bundle.parameters() if p.grad is not None).grad.view(-1)[3] = math.inf
    return result


def bad_loss(step: Any, real: Callable[[], Any]) -> Any:
    """The loss is NaN, its gradient would not be."""

    def change(output: Any) -> Any:
        output.loss = output.loss + math.nan
        return output

    return hooked(step.bundle.objective, change, real)


FAULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "a vector": (bad_vector, "the embedding is NaN or infinite at step 4"),
    "the gradient": (bad_gradient, "the gradient is not finite at step 4"),
    "the loss": (bad_loss, "the loss is not finite at step 4"),
}


def stopped(world: World, kind: str) -> Outcome:
    """A run that a bad number ends at step 4, what it leaves, and the same run without the fault resumed from there."""
    fault, words = FAULTS[kind]
    given = recipe(train={"max_steps": 6, "save_every": 1, "ema": 0.9, "keep_checkpoints": 9})
    with at_step(4, fault):
        ended = train(world.folder, given)
    line = ended.line(words, "rows ", "weights are unchanged, the last good checkpoint is step 3")
    assert checkpoints(world.folder) == [1, 2, 3] and not (world.folder / "run" / "model").exists()
    last = log(world.folder)[-1]
    assert last["step"] == 4 and math.isnan(last["gradient_norm"]), last  # shown as it was, not filtered
    told = json.loads((world.folder / "run" / "nonfinite-step-4.json").read_text(encoding="utf-8"))
    assert len(told["ids"]) == 8 and all(f" {i}" in line for i in told["ids"])
    assert told["rows"] == [f"builtin:triplets-train:{i + 1}" for i in told["ids"]], told["rows"]
    if kind == "a vector":
        assert told["bad"]["anchor"] == [told["ids"][2]] and f"its own are rows {told['ids'][2]}" in line
    finite_on_disk(world.folder)
    again = train(world.folder, given, "--resume")
    assert again.code == 0, again.err
    unbroken = world.folder / "unbroken"
    unbroken.mkdir()
    train(unbroken, given)
    assert all(same(weights(world.folder, 6, file), weights(unbroken, 6, file)) for file in ("weights", "optimiser"))
    return Outcome(line)


@case("numbers", "NaN in a vector of a batch: stopped, row named, resumed bit for bit")
def nan_in_a_batch(world: World) -> Outcome:
    return stopped(world, "a vector")


@case("numbers", "infinity in a gradient: stopped, rows named, resumed bit for bit")
def nan_in_a_gradient(world: World) -> Outcome:
    return stopped(world, "the gradient")


@case("numbers", "NaN in the loss only: stopped, rows named, resumed bit for bit")
def nan_in_the_loss(world: World) -> Outcome:
    return stopped(world, "the loss")


def _one_bad(folder: str, kind: str) -> tuple[str, str]:
    """In one process of a group: a run in which the second process alone meets the fault; weights, and the line."""
    import os

    from embedkit.errors import UserError
    from tests.training import runs

    fault = FAULTS[kind][0]
    given = recipe(train={"max_steps": 6, "save_every": 1, "keep_checkpoints": 9})
    caught: list[Any] = []

    def only_here(step: Any, real: Callable[[], Any]) -> Any:
        caught.append(step.bundle)
        return fault(step, real) if os.environ["RANK"] == "1" else real()

    if kind == "the gradient":  # before processes add theirs up

        def only_here(step: Any, real: Callable[[], Any]) -> Any:  # fmt: skip
            caught.append(step.bundle)
            weight = step.bundle.model.encoder.embeddings.word_embeddings.weight
            handle = weight.register_hook(lambda g: g * (math.nan if os.environ["RANK"] == "1" else 1.0))
            try:
                return real()
            finally:
                handle.remove()

    with at_step(4, only_here):
        try:
            runs.run(Path(folder) / "run", given)
        except UserError as error:
            return error.line(), str(same(dict(caught[0].state_dict()), weights(Path(folder), 3)))
    return "trained", ""


@case("numbers", "one of two processes has the bad number: both stop, whole batch named")
def one_bad_process(world: World) -> Outcome:
    from tests.helpers.gloo import Processes

    lines = []
    with Processes(2, timeout=120.0) as group:
        for kind, (_, words) in FAULTS.items():
            folder = world.folder / kind.split()[-1]
            folder.mkdir()
            told = group.run(_one_bad, str(folder), kind)
            assert all(words in line and unchanged == "True" for line, unchanged in told), told
            assert checkpoints(folder) == [1, 2, 3]
            ids = json.loads((folder / "run" / "nonfinite-step-4.json").read_text(encoding="utf-8"))["ids"]
            assert len(set(ids)) == 8, ids
            assert told[0][0].partition("/nonfinite")[0] == told[1][0].partition("/nonfinite")[0]
            lines.append(told[0][0])
    return Outcome(lines[0], trials=len(lines))


@case("numbers", "NaN in the weights of the model: named, nothing saved")
def nan_in_weights(world: World) -> Outcome:
    from embedkit.config.model import ModelConfig
    from embedkit.factory import build

    model = build(ModelConfig(**recipe()["model"]), 0)
    with torch.no_grad():
        dict(model.named_parameters())["encoder.encoder.layer.1.output.dense.weight"][0, 0] = math.nan
    model.save(world.folder / "sick")
    given = recipe()
    given["model"] = {"name": str(world.folder / "sick")}
    line = train(world.folder, given).line(
        "embedding is NaN or infinite at step 1", "encoder.encoder.layer.1.output.dense.weight", "no checkpoint yet"
    )
    assert checkpoints(world.folder) == [] and not (world.folder / "run" / "model").exists()
    (world.folder / "texts.txt").write_text("a cat\na dog\n", encoding="utf-8")
    out = world.folder / "vectors.npy"
    command("encode", world.folder / "sick", "-i", world.folder / "texts.txt", "-o", out).line("NaN or infin")
    assert not out.exists()
    found = command("doctor", world.folder / "sick")
    assert "weights are not finite" in found.out, found.out
    return Outcome(line, trials=3)


@case("numbers", "an update makes a weight infinite: not saved")
def infinite_update(world: World) -> Outcome:
    from embedkit.training.optim.optimizer import Optimiser

    real = Optimiser.step
    done: list[int] = []

    def step(self: Any, *given: Any) -> None:
        real(self, *given)
        done.append(1)
        if len(done) == 3:
            with torch.no_grad():
                self._parameters[0].view(-1)[0] = math.inf

    with mock.patch.object(Optimiser, "step", step):
        ended = train(world.folder, recipe(train={"save_every": 1}))
    line = ended.line("step 3 left weights that are not finite (", "not saved, the last good checkpoint is step 2")
    assert checkpoints(world.folder) == [1, 2] and not (world.folder / "run" / "model").exists()
    finite_on_disk(world.folder)
    return Outcome(line)


@contextlib.contextmanager
def as_fp16(overflows_above: float) -> Iterator[None]:
    """Runs that believe to be fp16 on this CPU, with gradients that overflow while the loss scale is above a number."""
    from embedkit.training.loop import build as run

    def fault(step: Any, real: Callable[[], Any]) -> Any:
        return bad_gradient(step, real) if step.loss_scale() > overflows_above else real()

    plain = mock.patch.multiple(
        run, choose_precision=lambda *given: "fp16", autocast=lambda *given: contextlib.nullcontext
    )
    with plain, at_step(0, fault):
        yield


@case("numbers", "fp16 overflow: the scale falls, skipped steps are logged; no scale helps: stopped")
def fp16_overflow(world: World) -> Outcome:
    for name in ("some", "all"):
        (world.folder / name).mkdir()
    with as_fp16(4096.0):
        ended = train(world.folder / "some", recipe(train={"max_steps": 6}))
        assert ended.code == 0, ended.err
    rows = log(world.folder / "some")
    assert [row["loss_scale"] for row in rows] == [32768, 16384, 8192, 4096, 4096, 4096]
    assert rows[-1]["skipped_steps"] == 4 and math.isinf(rows[0]["gradient_norm"])
    with as_fp16(0.0):
        line = train(world.folder / "all", recipe(train={"max_steps": 40})).line("gradient is not finite at step 17")
    assert [row["step"] for row in log(world.folder / "all")] == list(range(1, 18))
    assert same(weights(world.folder / "all", 8), weights(world.folder / "all", 16))  # no update was ever applied
    return Outcome(line, trials=2)


@case("numbers", "learning rate 1e3: told, and nothing that is not finite reaches the disk")
def learning_rate(world: World) -> Outcome:
    ended = train(world.folder, recipe(train={"max_steps": STEPS, "lr": 1e3, "log_every": 10, "save_every": 10}))
    finite_on_disk(world.folder)
    said = [line for line in ended.err.splitlines() if "warning" in line or "not finite" in line]
    assert said, ended.err[-2000:]
    return Outcome(said[0])


@case("numbers", "batch of 1: refused before the first step")
def batch_of_one(world: World) -> Outcome:
    given = recipe(data={"train": [{"path": "builtin:pairs-train", "limit": 64}]}, train={"batch_size": 1})
    line = train(world.folder, given).line("train.batch_size: a batch of 1 has no negatives")
    assert not (world.folder / "run" / "model").exists() and checkpoints(world.folder) == []
    return Outcome(line)


@case("numbers", "a last batch of 1: counted, trained through")
def last_batch_of_one(world: World) -> Outcome:
    data = {"train": [{"path": "builtin:pairs-train", "limit": 17}], "drop_last": False}
    ended = train(world.folder, recipe(data=data, train={"max_steps": 6}))
    assert ended.code == 0, ended.err
    rows = [row for row in log(world.folder) if "loss" in row]
    assert [row["short_batches"] for row in rows] == [0, 0, 1, 0, 0, 1] and rows[2]["negatives"] == 0
    line = next(line for line in ended.err.splitlines() if "fewer different negatives" in line)
    finite_on_disk(world.folder)
    return Outcome(line)


@case("numbers", "all-zero vectors: told as collapse, weights stay finite")
def zero_vectors(world: World) -> Outcome:
    given = recipe(train={"max_steps": STEPS, "log_every": 10})
    with at_step(0, lambda step, real: hooked(step.bundle.model, lambda z: z * 0.0, real)):
        ended = train(world.folder, given)
    said = [line for line in ended.err.splitlines() if "warning" in line]
    words = ("have collapsed", "loss is that of equal scores", "gradient is exactly zero")
    assert len(said) == 3 and all(word in line for word, line in zip(words, said, strict=True)), said
    finite_on_disk(world.folder)
    with at_step(0, lambda step, real: hooked(step.bundle.model, lambda z: z * 0.0, real)):
        (world.folder / "second").mkdir()
        given["train"]["guards"] = "stop"
        line = train(world.folder / "second", given).line("train.guards: the vectors of a view have collapsed")
    assert not (world.folder / "second" / "run" / "model").exists()
    return Outcome(line, trials=2)


@case("numbers", "label noise (shuffled positives): told as a loss of equal scores")
def label_noise(world: World) -> Outcome:
    import itertools
    import random

    from embedkit.data.builtin import sentences as builtin

    rows = list(itertools.islice(builtin.rows("pairs-train"), 2000))
    positives = [row["positive"] for row in rows]
    random.Random(0).shuffle(positives)
    path = world.folder / "noise.jsonl"
    lines = (json.dumps({"anchor": r["anchor"], "positive": p}) for r, p in zip(rows, positives, strict=True))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    settings = {"max_steps": 300, "log_every": 10, "batch_size": 16}
    ended = train(world.folder, recipe(data={"train": [{"path": str(path)}]}, train=settings))
    assert ended.code == 0, ended.err
    said = [line for line in ended.err.splitlines() if "warning" in line and "equal scores" in line]
    assert len(said) == 1, [round(row["loss"], 2) for row in log(world.folder)]
    clean = recipe(data={"train": [{"path": "builtin:pairs-train", "limit": 2000}]}, train=settings)
    (world.folder / "clean").mkdir()
    ended = train(world.folder / "clean", clean)
    assert "warning" not in ended.err, ended.err
    return Outcome(said[0], trials=1)


@case("numbers", "identical rows in a batch: counted, no NaN")
def identical_batch(world: World) -> Outcome:
    path = world.folder / "same.jsonl"
    path.write_text("".join(
        json.dumps({"anchor": "a red cat", "positive": "the cat is red"}) + "\n" for _ in range(63)))  # fmt: skip
    ended = train(world.folder, recipe(data={"train": [{"path": str(path)}]}, train={"max_steps": 4}))
    assert ended.code == 0, ended.err
    line = next(line for line in ended.err.splitlines() if "4 of 4 batches had fewer different negatives" in line)
    assert all(math.isclose(row["loss"], math.log(8), rel_tol=1e-4) for row in log(world.folder) if "loss" in row)
    finite_on_disk(world.folder)
    given = recipe(data={"train": [{"path": str(path)}], "sampler": "no-duplicates"})
    (world.folder / "second").mkdir()
    told = train(world.folder / "second", given)
    assert told.code == 2 and "Traceback" not in told.err, told.err
    return Outcome(line, trials=2)


@case("numbers", "constant scores: told")
def constant_scores(world: World) -> Outcome:
    path = world.folder / "scored.jsonl"
    texts = [f"the number {i} is here" for i in range(64)]
    path.write_text(
        "".join(json.dumps({"anchor": t, "positive": t + " too", "score": 0.5}) + "\n" for t in texts), encoding="utf-8"
    )
    settings = {"max_steps": STEPS, "log_every": 10}
    given = recipe(data={"train": [{"path": str(path)}]}, objective={"name": "cosent"}, train=settings)
    ended = train(world.folder, given)
    assert ended.code == 0, ended.err
    said = [line for line in ended.err.splitlines() if "warning" in line and "the gradient is exactly zero" in line]
    assert len(said) == 1, ended.err
    return Outcome(said[0])


@case("numbers", "scale at its bound: told once, with the bound and the steps")
def scale_at_bound(world: World) -> Outcome:
    objective = {"name": "clip", "temperature": 0.1, "max_scale": 11.0}
    rates = [{"pattern": "objective.*", "lr": 0.1}]
    settings = {"max_steps": STEPS + 20, "log_every": 10, "groups": rates}
    ended = train(world.folder, recipe(objective=objective, train=settings))
    assert ended.code == 0, ended.err
    said = [line for line in ended.err.splitlines() if "warning" in line and "bound" in line]
    assert len(said) == 1 and "upper bound of 11" in said[0], ended.err
    return Outcome(said[0])
