"""The state of a run goes into a checkpoint and back whole, or is refused with what differs."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from embedkit.config.recipe import Recipe, TrainConfig
from embedkit.config.recipe_io import dump_recipe, load_recipe
from embedkit.errors import CheckpointError
from embedkit.training.batching import Position
from embedkit.training.loop.step import Bundle
from embedkit.training.optim.optimizer import Optimiser, RunningMean, assign_groups
from embedkit.training.optim.precision import LossScale
from embedkit.training.parallel.distributed import World
from embedkit.training.state import checkpoint as module
from embedkit.training.state import state as state_module
from embedkit.training.state.checkpoint import Checkpoint, CheckpointStore, seal, verify
from embedkit.training.state.sample_accounting import Samples
from embedkit.training.state.state import Best, RunState, load_weights
from tests.training import runs


class Shared(nn.ModuleDict):
    """One layer that two parts share, as a model whose tokenizer is `vocabulary`."""

    vocabulary = "a b"

    def __init__(self, width: int) -> None:
        layer = nn.Linear(width, 3)
        super().__init__({"first": layer, "again": layer})

    def reading_hash(self) -> str:
        return self.vocabulary


def made(seed: int, ema: bool = True, width: int = 4) -> RunState:
    """The state of a run over a model of one layer."""
    torch.manual_seed(seed)
    model: Any = Shared(width)
    parts = nn.ModuleDict({"part": nn.Linear(3, 2)})
    objective: Any = nn.Module()
    objective.register_buffer("seen", torch.full((2,), float(seed)))
    bundle = Bundle(model, parts, objective)
    config = TrainConfig(max_steps=9)
    optimiser = Optimiser(bundle, assign_groups(bundle, config), config)
    return RunState(bundle, optimiser, LossScale("fp16"), RunningMean(bundle, 0.9) if ema else None)


def advance(state: RunState, steps: int) -> None:
    """Some updates from random inputs."""
    bundle: Any = state.bundle
    for _ in range(steps):
        inputs = torch.randn(5, bundle.model["first"].in_features)
        bundle.parts["part"](bundle.model["again"](inputs)).square().sum().backward()
        state.optimiser.step(1.0)
        state.bundle.zero_grad()
        if state.ema is not None:
            state.ema.update(state.bundle)
        state.position.step += 1


def tensors(state: RunState) -> dict[str, torch.Tensor]:
    """All tensors of a state by name."""
    found = {**state.bundle.state_dict(), **{f"o.{n}": v for n, v in state.optimiser.state_tensors().items()}}
    return {**found, **({f"e.{n}": v for n, v in state.ema.mean.items()} if state.ema is not None else {})}


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(runs.recipe())


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run" / "checkpoints")  # no folder of them is there yet


def saved(state: RunState, store: CheckpointStore, recipe: Recipe) -> Checkpoint:
    found = state.save(store, recipe, "data v1", World())
    assert found is not None
    return found


@pytest.mark.parametrize("ema", [True, False])
def test_a_restored_run_goes_on_as_the_saved_one(store: CheckpointStore, recipe: Recipe, ema: bool) -> None:
    first = made(1, ema)
    advance(first, 3)
    first.position = Position(3, 1, 2)
    first.best = Best("own/avg", 70.5, 2)
    first.history = [{"step": 0, "scores": {"own/avg": math.nan}}, {"step": 2, "scores": {"own/avg": 70.5}}]
    first.samples = Samples(17, Counter({"torn": 2}))
    first.scale.factor, first.scale.good_steps = 512.0, 11
    checkpoint = saved(first, store, recipe)
    assert (checkpoint.step, checkpoint.text("recipe.yaml")) == (3, dump_recipe(recipe))
    advance(first, 2)

    second = made(2, ema)
    second.restore(checkpoint, recipe, "data v1", World())
    assert (second.position, second.best, second.samples) == (
        Position(3, 1, 2),
        Best("own/avg", 70.5, 2),
        first.samples,
    )
    assert [row["step"] for row in second.history] == [0, 2]
    assert math.isnan(second.history[0]["scores"]["own/avg"])
    assert second.history[1]["scores"] == {"own/avg": 70.5}
    assert (second.scale.factor, second.scale.good_steps) == (512.0, 11)
    advance(second, 2)  # draws from the restored random state
    wanted, found = tensors(first), tensors(second)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_the_checkpoint_of_the_best_step_stays(store: CheckpointStore, recipe: Recipe) -> None:
    state = made(1)
    state.best.step = 1
    for _ in range(4):
        advance(state, 1)
        saved(state, store, recipe)
    assert store.steps() == [1, 3, 4]


@pytest.mark.parametrize(
    ("value", "known", "beats"),
    [(1.0, None, True), (1.0, 0.5, True), (1.0, 1.0, False), (1.0, 2.0, False), (-3.0, None, True),
     (math.nan, None, False), (math.nan, 0.5, False), (-1.0, -2.0, True), (math.inf, 5.0, True)],
)  # fmt: skip
def test_what_beats_the_best(value: float, known: float | None, beats: bool) -> None:
    assert Best(value=known).better(value) is beats


FREE = ["train.log_every=3", "train.save_every=7", "train.keep_checkpoints=5", "train.threads=1", "description=other",
        "data.workers=1", "train.output=elsewhere"]  # fmt: skip


@pytest.mark.parametrize("change", [*FREE, "seed=8", "train.lr=0.5", "data.train.0.limit=32", "model.max_length=9"])
def test_settings_that_decide_the_outcome_must_be_the_same(store: CheckpointStore, recipe: Recipe, change: str) -> None:
    state = made(1)
    checkpoint = saved(state, store, recipe)
    other = load_recipe(runs.recipe(), [change])
    assert other != recipe
    if change in FREE:
        state.restore(checkpoint, other, "data v1", World())
        return
    name, value = change.split("=")
    with pytest.raises(CheckpointError, match=rf"another run: {name} was [^;]*, is {value}; give") as caught:
        state.restore(checkpoint, other, "data v1", World())
    assert str(checkpoint.path) in caught.value.line()


def test_all_that_differs_is_listed(store: CheckpointStore, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    state = made(1)
    checkpoint = saved(state, store, recipe)
    before = tensors(state)["model.first.weight"].clone()
    world, other = World("meta"), load_recipe(runs.recipe(), ["seed=8"])
    world.size = 2
    monkeypatch.setattr(state_module, "__version__", "0.0.0")
    monkeypatch.setattr(Shared, "vocabulary", "b a")
    with pytest.raises(CheckpointError) as caught:
        made(2).restore(checkpoint, other, "data v2", world)
    said = caught.value.line()
    for what in ("seed was 7, is 8; ", "the number of processes was 1, is 2; ", "the data was data v1, is data v2; ",
                 "the version of embedkit was ", "the kind of device was cpu, is meta",
                 "the tokenizer or another file of the model that no weight shows was a b, is b a"):  # fmt: skip
        assert what in said
    assert "the version of torch" not in said
    assert torch.equal(tensors(state)["model.first.weight"], before)


def changed(checkpoint: Checkpoint, file: str, value: Any) -> Checkpoint:
    """The checkpoint with another file under a fitting manifest."""
    from safetensors.torch import save_file

    if file.endswith(".json"):
        (checkpoint.path / file).write_text(json.dumps(value))
    else:
        save_file(value, checkpoint.path / file)
    seal(checkpoint.path)
    assert verify(checkpoint.path) is None
    return checkpoint


def test_weights_that_do_not_fit_are_refused_by_name(store: CheckpointStore, recipe: Recipe) -> None:
    state = made(1)
    checkpoint = saved(state, store, recipe)
    whole, mean = checkpoint.tensors("weights"), checkpoint.tensors("ema")
    for name, tensors_now in (
        ("model.first.weight", {**whole, "model.first.weight": torch.zeros(3, 5)}),
        ("model.third", {**whole, "model.third": torch.zeros(3)}),
        ("parts.part.bias", {n: v for n, v in whole.items() if n != "parts.part.bias"}),
    ):
        with pytest.raises(CheckpointError, match=f"does not fit the model: '{name}' differs"):
            made(2).restore(changed(checkpoint, "weights.safetensors", tensors_now), recipe, "data v1", World())
    assert "objective.seen" not in mean
    load_weights(state.bundle, checkpoint, "ema")  # holds the trained parameters only
    with pytest.raises(CheckpointError, match="'model.third' differs"):
        load_weights(state.bundle, changed(checkpoint, "ema.safetensors", {"model.third": torch.zeros(3)}), "ema")


def test_a_random_state_is_needed_for_every_process(store: CheckpointStore, recipe: Recipe) -> None:
    state = made(1)
    checkpoint = saved(state, store, recipe)
    one = checkpoint.tensors("random")["cpu"]
    assert one.shape == (1, len(torch.get_rng_state()))
    for wrong in ({"cpu": torch.cat([one, one])}, {"other": one}):
        with pytest.raises(CheckpointError, match="has no random state for process 0"):
            state.restore(changed(checkpoint, "random.safetensors", wrong), recipe, "data v1", World())


def test_the_random_state_of_a_gpu_is_left_alone_on_a_cpu(store: CheckpointStore, recipe: Recipe) -> None:
    state = made(1)
    checkpoint = saved(state, store, recipe)
    random = checkpoint.tensors("random")
    with_gpu = changed(checkpoint, "random.safetensors", {**random, "cuda": random["cpu"].clone()})
    state.restore(with_gpu, recipe, "data v1", World())


@pytest.mark.parametrize("change", [-1, 1])
def test_another_number_of_moments_is_refused(store: CheckpointStore, recipe: Recipe, change: int) -> None:
    state = made(1)
    advance(state, 1)
    checkpoint = saved(state, store, recipe)
    moments = checkpoint.tensors("optimiser")
    name = next(iter(moments))
    fewer, more = {n: t for n, t in moments.items() if n != name}, {**moments, "more": moments[name].clone()}
    other = more if change > 0 else fewer
    said = f"{len(moments) + change} tensors instead of {len(moments)}"
    with pytest.raises(CheckpointError, match=rf"optimiser\.safetensors does not hold .*{said}"):
        state.restore(changed(checkpoint, "optimiser.safetensors", other), recipe, "data v1", World())


def test_a_document_of_another_step_is_refused(store: CheckpointStore, recipe: Recipe) -> None:
    state = made(1)
    checkpoint = saved(state, store, recipe)
    document = checkpoint.json("state")
    document["position"]["step"] = 5
    with pytest.raises(
        CheckpointError, match=r"state\.json does not hold what embedkit writes \(ValueError: step 5 in"
    ):
        state.restore(changed(checkpoint, "state.json", document), recipe, "data v1", World())


@pytest.mark.parametrize("ema", [True, False])
def test_the_size_of_a_checkpoint_is_known_before_it_is_written(
    store: CheckpointStore, recipe: Recipe, ema: bool
) -> None:
    state = made(1, ema, width=4000)
    known = state.nbytes
    advance(state, 1)
    checkpoint = saved(state, store, recipe)
    written = sum((checkpoint.path / f"{name}.safetensors").stat().st_size for name in ("weights", "optimiser"))
    written += (checkpoint.path / "ema.safetensors").stat().st_size if ema else 0
    assert abs(written - known) < 4000  # names and shapes


def test_a_disk_that_will_be_full_is_told(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(amount: int) -> None:
        monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=amount))

    free(4 << 20)
    assert store.keep == 2
    assert store.space_note(1 << 20) is None
    said = store.space_note((1 << 20) + 1)
    assert said is not None
    assert said.startswith(f"{store.folder}: 4 MiB are free on this disk, checkpoints may need 4: ")
    for step in (1, 2, 3):  # three are there already, one is written at a time
        store.save(step, {}, {}, {}, best_step=1)
    free(1 << 20)
    assert store.space_note(1 << 20) is None
    assert store.space_note((1 << 20) + 1) is not None


# -- files of a checkpoint ------------------------------------------------------------------------------------------


def test_what_does_not_fit_in_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, 1)
    (tmp_path / "state.json").write_text("{\n]")
    with pytest.raises(CheckpointError, match=r"state\.json does not hold .*\(JSONDecodeError: Expecting .*\)"):
        checkpoint.json("state")
    for error, said in ((ValueError("first\nsecond"), "ValueError: first"), (KeyError(), "KeyError: ")):
        with (
            pytest.raises(CheckpointError, match=rf"a does not hold what embedkit writes \({said}\)"),
            checkpoint.reading("a"),
        ):
            raise error


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 5])
def test_both_digests_are_sha256(tmp_path: Path, size: int) -> None:
    data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    wanted = hashlib.sha256(data[:size]).hexdigest()
    assert module._digest(tmp_path / "file") == wanted
    with open(tmp_path / "file", "rb") as file:  # Python 3.10 takes this one
        assert module._slow_digest(file) == wanted


def test_sealing_again_leaves_the_manifest_out_of_itself(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for _ in range(2):
        seal(tmp_path)
        assert verify(tmp_path) is None
    assert list(json.loads((tmp_path / module.MANIFEST).read_text())["files"]) == ["a.txt"]
    (tmp_path / "a.txt").write_text("b")
    assert verify(tmp_path) == "a.txt has changed since it was written"
    (tmp_path / "a.txt").write_text("bb")
    assert verify(tmp_path) == "a.txt has 2 bytes, not 1"
