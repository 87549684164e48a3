"""Runs on several processes: the same weights as on one, sharded or not, and everybody stops and resumes together."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from embedkit.errors import CheckpointError, ModelError, RecipeError, UserError
from embedkit.formats import load
from embedkit.training.loop.loop import Interrupted
from embedkit.training.loop.step import TrainStep
from embedkit.training.parallel.engine import Engine
from tests.helpers.gloo import Processes
from tests.training import runs

STEPS = 20
# What `accelerate launch --use_fsdp --fsdp_version 2` hands to the processes it starts.
FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}  # fmt: skip


def trained(output: str, given: dict[str, Any], overrides: list[str], settings: dict[str, Any]) -> list[float]:
    """Run a recipe in this process of a group; the losses."""
    return runs.run(Path(output), given, *overrides, **settings).losses


def sharded(output: str, given: dict[str, Any], overrides: list[str], settings: dict[str, Any]) -> list[float]:
    """Like `trained`, launched with FSDP2."""
    from accelerate.state import AcceleratorState

    kind = given["model"]["config"]["model_type"]
    layer = {"bert": "BertLayer", "mpnet": "MPNetLayer"}[kind]
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ.update(FSDP, FSDP_TRANSFORMER_CLS_TO_WRAP=layer, **settings.pop("environment", {}))
    return trained(output, given, overrides, settings)


@pytest.fixture(scope="module")
def fsdp() -> Iterator[Processes]:
    """Two processes that were launched with FSDP2."""
    with Processes(2, timeout=300.0) as group:
        yield group


def largest_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Norm of the difference of a tensor over the norm of the tensor, the largest of all tensors.

    Weights start with a deviation of 0.02 and biases at zero: what is smaller than the former counts as that.

    The bias of the attention's keys is left out: softmax does not feel it, its gradient is rounding alone, and Adam
    makes steps of full size from that.
    """
    assert found.keys() == wanted.keys()
    names = [name for name in wanted if not name.endswith(("key.bias", ".k.bias"))]
    sizes = {n: max(float(wanted[n].norm()), 0.02 * wanted[n].numel() ** 0.5) for n in names}
    return max(float((found[n] - wanted[n]).norm()) / sizes[n] for n in names)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights after twenty steps on one process, without chunks."""
    output = tmp_path_factory.mktemp("single")
    runs.run(output, runs.recipe(train={"max_steps": STEPS}))
    return runs.checkpoint(output, STEPS)


CHUNKS = {"whole": [], "chunks": ["train.chunk_size=3"], "tokens": ["train.chunk_tokens=60", "train.keep_chunks=0"]}


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("world", [1, 2])
def test_processes_and_chunks_train_to_the_same_weights(
    tmp_path: Path, processes: Any, single: dict[str, Tensor], world: int, chunks: str
) -> None:
    given = runs.recipe(train={"max_steps": STEPS})
    [losses, *others] = processes(world).run(trained, str(tmp_path / "run"), given, CHUNKS[chunks], {})
    assert all(other == losses for other in others)
    assert losses[-1] < losses[0]
    assert largest_difference(runs.checkpoint(tmp_path / "run", STEPS), single) < 1e-5


def test_a_wrong_gradient_would_be_seen(tmp_path: Path, single: dict[str, Tensor]) -> None:
    """The bound above is tight: another learning rate in the sixth digit, or another batch order, is outside of it."""
    runs.run(tmp_path / "rate", runs.recipe(train={"max_steps": STEPS, "lr": 1.002e-3}))
    assert largest_difference(runs.checkpoint(tmp_path / "rate", STEPS), single) > 1e-5
    runs.run(
        tmp_path / "seed", runs.recipe(train={"max_steps": STEPS}), "objective={name: infonce, temperature: 0.051}"
    )
    assert largest_difference(runs.checkpoint(tmp_path / "seed", STEPS), single) > 1e-4


def test_sources_with_and_without_negatives_train_alike_on_any_number_of_processes(
    tmp_path: Path, processes: Any
) -> None:
    """Process 0 gets rows of pairs only, process 1 of triplets only, in some batches."""
    with open(tmp_path / "pairs.jsonl", "w", encoding="utf-8") as file:
        for i in range(16):
            file.write(json.dumps({"anchor": f"a cat {i}", "positive": f"the dog {i}"}) + "\n")
    sources = [{"path": str(tmp_path / "pairs.jsonl")}, {"path": "builtin:triplets-train", "limit": 16}]
    data = {"train": sources, "batches_from": "mixed"}
    given = runs.recipe(data=data, train={"max_steps": 8, "batch_size": 2, "lr": 1e-4})
    runs.run(tmp_path / "one", given)
    processes(2).run(trained, str(tmp_path / "two"), given, [], {})
    found, wanted = (runs.checkpoint(tmp_path / name, 8) for name in ("two", "one"))
    assert largest_difference(found, wanted) < 1e-5


def test_patience_ends_the_run_on_all_processes(tmp_path: Path, processes: Any) -> None:
    evaluation = {"suite": "builtin-sts", "every": 2, "patience": 2}
    given = runs.recipe(evaluation=evaluation, train={"max_steps": 20})
    assert processes(2).run(_patient, str(tmp_path / "run"), given) == [(8, 4), (8, 4)]


def _patient(output: str, given: dict[str, Any]) -> tuple[int, int]:
    """A run whose second evaluation is the best; its steps and the best one."""
    with pytest.MonkeyPatch.context() as patch:
        runs.scripted(patch, [50.0, 70.0, 60.0, 65.0, 99.0])
        result = runs.run(Path(output), given)
    return result.steps, result.best["step"]


# -- FSDP2 ----------------------------------------------------------------------------------------------------------

MPNET = {
    "model_type": "mpnet", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "objective": "clip",
        "model": {"head": {"kind": "tanh"}},
        "train": {"chunk_tokens": 40, "keep_chunks": 1, "ema": 0.9, "gradient_checkpointing": True},
        "evaluation": {"suite": "builtin-sts", "load_best": False},
    },
    "buckets": {"model": {"config": MPNET}},
    "lora": {"model": {"lora": {"rank": 2}}},
    "guide": {"objective": {"name": "infonce", "temperature": 0.05, "guide_margin": 0.0}, "guide": {"ema": 0.9}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_sharded_and_replicated_runs_train_to_the_same_weights(
    tmp_path: Path, processes: Any, fsdp: Processes, variant: str
) -> None:
    if variant == "lora":
        pytest.importorskip("peft", reason="needs peft, which is in the dev extra")
    steps = 5
    changes = VARIANTS[variant]
    given = runs.recipe(**{**changes, "train": {"max_steps": steps, **changes.get("train", {})}})
    wanted_losses = processes(2).run(trained, str(tmp_path / "replicated"), given, [], {})
    losses = fsdp.run(sharded, str(tmp_path / "sharded"), given, [], {})
    assert losses[0] == pytest.approx(wanted_losses[0], rel=1e-5)
    assert losses[0] == losses[1]
    files = ["weights", "ema"] if "ema" in changes.get("train", {}) else ["weights"]
    for file in files:
        found, wanted = (runs.checkpoint(tmp_path / name, steps, file) for name in ("sharded", "replicated"))
        assert largest_difference(found, wanted) < 1e-5
    vectors = [
        load(tmp_path / name / "model").encode(["a bird sings", "the red house"]) for name in ("sharded", "replicated")
    ]
    assert abs(vectors[0] - vectors[1]).max() < 1e-5


def test_the_encoder_is_really_sharded(tmp_path: Path, fsdp: Processes) -> None:
    assert fsdp.run(_shares, str(tmp_path / "run"), runs.recipe()) == [(0.5, 1), (0.5, 1)]


def _shares(output: str, given: dict[str, Any]) -> tuple[float, int]:
    """Share of the encoder's weights that this process holds; communications of gradients a step and layer."""
    found: list[tuple[float, int]] = []
    real = TrainStep.gradients
    import torch.distributed as dist

    def gradients(self: TrainStep, batch: Any) -> Any:
        calls: list[int] = []
        name = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
        reduce = getattr(dist, name)
        setattr(dist, name, lambda *args, **options: (calls.append(1), reduce(*args, **options))[1])
        result = real(self, batch)
        setattr(dist, name, reduce)
        parameters = list(self.bundle.model.encoder.parameters())
        groups = {id(m) for m in self.bundle.model.encoder.modules() if hasattr(m, "set_requires_gradient_sync")}
        here = sum(p.to_local().numel() for p in parameters)
        found.append((round(here / sum(p.numel() for p in parameters), 2), round(len(calls) / len(groups))))
        return result

    TrainStep.gradients = gradients  # type: ignore[method-assign]
    try:
        sharded(output, given, ["train.chunk_size=3"], {})
    finally:
        TrainStep.gradients = real  # type: ignore[method-assign]
    return found[-1]


def test_only_the_main_process_has_a_whole_copy_and_only_while_it_is_used(tmp_path: Path, fsdp: Processes) -> None:
    main, other = fsdp.run(_copies, str(tmp_path / "run"), runs.recipe(evaluation={"suite": "builtin-sts"}))
    assert main == ["device", "cpu"] * 2  # for the evaluation and for the saved model
    assert other == ["no copy"] * 2


def _copies(output: str, given: dict[str, Any]) -> list[str]:
    """Where the whole copy of the model goes, for each use of it."""
    seen: list[str] = []
    real = Engine.whole_model

    def whole_model(self: Engine, model: Any) -> Any:
        if self._plain is None:
            seen.append("no copy")
        else:
            self._plain.to = lambda place: (  # type: ignore[method-assign, assignment]
                seen.append("device" if place == self.world.device and not isinstance(place, str) else str(place)),
                self._plain,
            )[1]
        return real(self, model)

    Engine.whole_model = whole_model  # type: ignore[method-assign, assignment]
    try:
        sharded(output, given, [], {})
    finally:
        Engine.whole_model = real  # type: ignore[method-assign]
    return seen


def test_a_sharded_run_resumes_bit_for_bit(tmp_path: Path, fsdp: Processes) -> None:
    train = {"max_steps": 5, "save_every": 2, "ema": 0.9, "chunk_size": 3}
    given = runs.recipe(dropout=0.1, train=train, evaluation={"suite": "builtin-sts", "every": 2})
    fsdp.run(sharded, str(tmp_path / "whole"), given, [], {})
    assert all(fsdp.run(_killed, str(tmp_path / "run"), given))
    assert runs.steps_kept(tmp_path / "run") == [2]
    fsdp.run(sharded, str(tmp_path / "run"), given, [], {"resume": True})
    for file in ("weights", "optimiser", "ema", "random"):
        found, wanted = (runs.checkpoint(tmp_path / name, 5, file) for name in ("run", "whole"))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], value) for name, value in wanted.items()), file


def _killed(output: str, given: dict[str, Any]) -> bool:
    """A sharded run that breaks off in the fourth step."""
    real = TrainStep.gradients

    def gradients(self: TrainStep, batch: Any) -> Any:
        if batch.epoch * 8 + batch.step == 3:
            raise ZeroDivisionError
        return real(self, batch)

    TrainStep.gradients = gradients  # type: ignore[method-assign]
    try:
        sharded(output, given, [], {})
    except ZeroDivisionError:
        return True
    finally:
        TrainStep.gradients = real  # type: ignore[method-assign]
    return False


def test_what_cannot_be_sharded_is_refused(tmp_path: Path, fsdp: Processes) -> None:
    old = fsdp.run(_refusal, str(tmp_path / "run"), runs.recipe(), {"environment": {"FSDP_VERSION": "1"}})
    assert all("FSDP version 1 is not supported; set fsdp_version to 2" in line for line in old)
    static = runs.recipe(train={"lr": 0.1})
    static["model"] = {"kind": "static", "tokenizer": "builtin", "dim": 8, "config": None}
    found = fsdp.run(_refusal, str(tmp_path / "other"), static, {})
    assert all("nothing to shard" in line for line in found)


def _refusal(output: str, given: dict[str, Any], settings: dict[str, Any]) -> str:
    known = {**given, "model": {**given["model"], "config": given["model"].get("config") or {"model_type": "bert"}}}
    try:
        sharded(output, known, ["model.config=null"] if given["model"].get("kind") == "static" else [], dict(settings))
    except (RecipeError, ModelError) as error:
        return error.line()
    return "trained"


# -- stopping and resuming together ---------------------------------------------------------------------------------


def test_a_signal_to_one_process_stops_all_with_one_checkpoint(tmp_path: Path, processes: Any) -> None:
    given = runs.recipe(dropout=0.1, train={"max_steps": 9, "save_every": 100, "log_every": 3})
    told = processes(2).run(_signalled, str(tmp_path / "run"), given)
    assert told == ["stopped after step 5, saved 143"] * 2
    assert runs.steps_kept(tmp_path / "run") == [5]
    processes(2).run(trained, str(tmp_path / "run"), given, [], {"resume": True})
    processes(2).run(trained, str(tmp_path / "whole"), given, [], {})
    found, wanted = (runs.checkpoint(tmp_path / name, 9) for name in ("run", "whole"))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def _signalled(output: str, given: dict[str, Any]) -> str:
    """A run whose second process gets SIGTERM in step 5; what it says."""
    real = TrainStep.gradients
    seen: list[int] = []

    def gradients(self: TrainStep, batch: Any) -> Any:
        seen.append(batch.step)
        if len(seen) == 5 and self.world.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch)

    TrainStep.gradients = gradients  # type: ignore[method-assign]
    try:
        trained(output, given, [], {})
    except Interrupted as error:
        return f"{error.what} {error.exit_code}"
    finally:
        TrainStep.gradients = real  # type: ignore[method-assign]
    return "finished"


def test_another_number_of_processes_is_refused_on_resume(tmp_path: Path, processes: Any) -> None:
    given = runs.recipe(train={"max_steps": 2})
    processes(2).run(trained, str(tmp_path / "run"), given, [], {})
    with pytest.raises(CheckpointError, match="the number of processes was 2, is 1"):
        runs.run(tmp_path / "run", given, resume=True)


def test_processes_that_see_different_folders_are_told(tmp_path: Path, processes: Any) -> None:
    given = runs.recipe(train={"max_steps": 2})
    processes(2).run(trained, str(tmp_path / "run"), given, [], {})
    told = processes(2).run(_own_folder, str(tmp_path), given)
    assert all("processes see different checkpoints (steps [2, -1])" in line for line in told)


def _own_folder(folder: str, given: dict[str, Any]) -> str:
    name = "run" if os.environ["RANK"] == "0" else "other"
    try:
        trained(str(Path(folder) / name), given, [], {"resume": True})
    except UserError as error:
        return error.line()
    return "trained"


def test_processes_that_read_different_data_or_recipes_are_told(tmp_path: Path, processes: Any) -> None:
    for rank in range(2):
        rows = [{"anchor": f"text {i}", "positive": f"the text {i * (1 + rank)}"} for i in range(16)]
        (tmp_path / f"rows{rank}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / f"same{rank}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1] * 16))
    told = processes(2).run(_own_files, str(tmp_path), "rows", 7, 7)
    assert all("processes read different data: process 1 has others than process 0" in line for line in told)
    told = processes(2).run(_own_files, str(tmp_path), "same", 7, 8)
    assert all("processes read different recipes" in line for line in told)
    assert processes(2).run(_own_files, str(tmp_path), "same", 7, 7) == ["trained", "trained"]
    assert len(list(tmp_path.glob("*/model"))) == 1


def _own_files(folder: str, name: str, *seeds: int) -> str:
    rank = int(os.environ["RANK"])
    given = runs.recipe(data={"train": [{"path": f"{folder}/{name}{rank}.jsonl"}]}, train={"max_steps": 1})
    try:
        trained(f"{folder}/{name}-{sum(seeds)}", {**given, "seed": seeds[rank]}, [], {})
    except UserError as error:
        return error.line()
    return "trained"


def test_a_bad_number_on_one_process_stops_all(tmp_path: Path, processes: Any) -> None:
    told = processes(2).run(_bad_number, str(tmp_path / "run"), runs.recipe(train={"save_every": 1}))
    assert all("gradient is not finite at step 2" in line for line in told)
    assert runs.steps_kept(tmp_path / "run") == [1]


def _bad_number(output: str, given: dict[str, Any]) -> str:
    real = TrainStep.gradients
    seen: list[int] = []

    def gradients(self: TrainStep, batch: Any) -> Any:
        seen.append(batch.step)
        handle = None
        if len(seen) == 2 and self.world.rank == 1:
            weight = self.bundle.model.encoder.embeddings.word_embeddings.weight
            handle = weight.register_hook(lambda gradient: gradient * float("nan"))
        result = real(self, batch)
        if handle is not None:
            handle.remove()
        return result

    TrainStep.gradients = gradients  # type: ignore[method-assign]
    try:
        trained(output, given, [], {})
    except UserError as error:
        return error.line()
    finally:
        TrainStep.gradients = real  # type: ignore[method-assign]
    return "trained"
