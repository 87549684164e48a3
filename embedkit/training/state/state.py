"""What a checkpoint of a run holds, and how it goes back: the only place that knows both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedkit import __version__
from embedkit.config.recipe import Recipe
from embedkit.config.recipe_io import check_recipe, dump_recipe, parse_yaml
from embedkit.errors import CheckpointError, RecipeError
from embedkit.training.batching import Position
from embedkit.training.loop.batches import StepBatch
from embedkit.training.loop.cache import RandomState
from embedkit.training.loop.step import Bundle
from embedkit.training.optim.optimizer import Optimiser, RunningMean, like, whole
from embedkit.training.optim.precision import LossScale
from embedkit.training.parallel.distributed import World
from embedkit.training.state.checkpoint import Checkpoint, CheckpointStore
from embedkit.training.state.sample_accounting import Samples

# Settings that change where a run writes and what it prints, not what comes out.
_FREE = {"train.output", "train.log_every", "train.save_every", "train.keep_checkpoints", "train.trackers", "smoke",
         "description", "train.threads", "data.workers", "train.guards"}  # fmt: skip


@dataclass
class Best:
    """The best evaluation so far.

    Examples
    --------
    >>> best = Best("sts/stsb", value=80.1, step=500)
    >>> best.better(80.4), best.better(float("nan"))
    (True, False)
    """

    metric: str | None = None
    value: float | None = None
    step: int | None = None

    def better(self, value: float) -> bool:
        """Whether `value` beats it (higher is better); a score that is not a number beats nothing."""
        return not math.isnan(value) and (self.value is None or value > self.value)


@dataclass
class RunState:
    """Everything of a run that changes during it.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training import Progress, setup
    >>> from embedkit.training.loop.build import open_inputs, opened
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> with opened(inputs, Path("run"), Progress()) as run:
    ...     run.state.advance(next(run.stream), run.rows.steps_per_epoch)
    >>> run.state.position, run.state.samples.trained_rows
    (Position(step=1, epoch=0, epoch_step=1), 16)
    """

    bundle: Bundle
    optimiser: Optimiser
    scale: LossScale
    ema: RunningMean | None
    position: Position = field(default_factory=Position)
    best: Best = field(default_factory=Best)
    history: list[dict[str, Any]] = field(default_factory=list)
    idle: int = 0  # evaluations since the best one
    samples: Samples = field(default_factory=Samples)
    chunk_tokens: int | None = None  # what ``train.chunk_tokens: auto`` chose

    def advance(self, batch: StepBatch, steps_per_epoch: int | None) -> None:
        """Count a finished step: the position moves to the next batch, in the next epoch after the last of one."""
        position = self.position
        position.step += 1
        position.epoch, position.epoch_step = batch.epoch, batch.step + 1
        if steps_per_epoch is not None and position.epoch_step >= steps_per_epoch:
            position.epoch, position.epoch_step = batch.epoch + 1, 0
        self.samples.add(batch)

    def save(self, store: CheckpointStore, recipe: Recipe, fingerprint: str, world: World) -> Checkpoint | None:
        """The checkpoint, written by the main process; None on the others, which must call this too."""
        random = _gather_random(world)
        tensors = {"weights": _state_tensors(self.bundle), "optimiser": self.optimiser.state_tensors()}
        if self.ema is not None:
            tensors["ema"] = self.ema.state_tensors()
        tensors["random"] = random
        samples = self.samples.gathered(world)
        if not world.is_main:
            world.barrier()
            return None
        document = {
            "position": vars(self.position),
            "best": vars(self.best),
            "history": self.history,
            "scale": self.scale.state(),
            "samples": samples,
            "moments": len(tensors["optimiser"]),
            **({} if self.chunk_tokens is None else {"chunk_tokens": self.chunk_tokens}),
            **self._origin(fingerprint, world),
        }
        checkpoint = store.save(
            self.position.step, tensors, {"state": document}, {"recipe.yaml": dump_recipe(recipe)}, self.best.step
        )
        world.barrier()
        return checkpoint

    @property
    def nbytes(self) -> int:
        """Bytes of a checkpoint, nearly: weights, two moments of what is trained, and the running mean."""
        weights = sum(tensor.numel() * tensor.element_size() for tensor in self.bundle.state_dict().values())
        moving = sum(p.numel() * p.element_size() for p in self.bundle.parameters() if p.requires_grad)
        return weights + (3 if self.ema is not None else 2) * moving

    def restore(self, checkpoint: Checkpoint, recipe: Recipe, fingerprint: str, world: World) -> list[str]:
        """Go back to a checkpoint, or refuse it and list what differs; lines on what the run should know of it."""
        document = checkpoint.json("state")
        differences, notes = recipe_differences(checkpoint.text("recipe.yaml"), recipe, checkpoint.path), []
        with checkpoint.reading("state.json"):
            before = document["embedkit"] in _RESUMED
            for name, now in self._origin(fingerprint, world).items():
                if name == "reading" and before and name not in document:
                    continue  # the first ones did not say
                if name == "embedkit" and before and document[name] != now:
                    notes.append(f"{checkpoint.path}: was written by embedkit {document[name]}; losses can differ in "
                                 "the last digits from those that it would have had there")  # fmt: skip
                elif document[name] != now:
                    differences.append(f"{_WORDS[name]} was {document[name]}, is {now}")
        if differences:
            remedy = f"finish the run with embedkit {document['embedkit']}" if notes else "give the same settings"
            raise CheckpointError(
                "belongs to another run: " + "; ".join(differences), where=str(checkpoint.path),
                remedy=f"{remedy}, or start anew in another train.output",
            )  # fmt: skip
        load_weights(self.bundle, checkpoint)
        with checkpoint.reading("optimiser.safetensors"):
            moments = checkpoint.tensors("optimiser")
            if len(moments) != document["moments"]:
                raise ValueError(f"{len(moments)} tensors instead of {document['moments']}")
            self.optimiser.load_state_tensors(moments)
        if self.ema is not None:
            with checkpoint.reading("ema.safetensors"):
                self.ema.load_state_tensors(checkpoint.tensors("ema"))
        with checkpoint.reading("state.json"):
            self.position = Position(**document["position"])
            self.best = Best(**document["best"])
            self.history = [{"step": int(row["step"]), "scores": dict(row["scores"])} for row in document["history"]]
            self.idle = sum(row["step"] > (-1 if self.best.step is None else self.best.step) for row in self.history)
            self.scale.load(document["scale"])
            tokens = document.get("chunk_tokens")
            self.chunk_tokens = None if tokens is None else int(tokens)
            self.samples = Samples.of(document["samples"][world.rank])
            if self.position.step != checkpoint.step:
                raise ValueError(f"step {self.position.step} in the folder of step {checkpoint.step}")
        with checkpoint.reading("random.safetensors"):
            _restore_random(checkpoint, world)
        return notes

    def _origin(self, fingerprint: str, world: World) -> dict[str, Any]:
        """What a run must share with the one that wrote its checkpoint, besides the recipe, to resume bit for bit."""
        return {
            "world": world.size, "data": fingerprint, "embedkit": __version__, "torch": str(torch.__version__),
            "device": world.device.type, "reading": self.bundle.model.reading_hash(),
        }  # fmt: skip


_RESUMED = ("0.1.0",)
"""Earlier versions whose checkpoints are resumed (docs/upgrading.md)."""
_WORDS = {
    "world": "the number of processes", "data": "the data", "embedkit": "the version of embedkit",
    "torch": "the version of torch", "device": "the kind of device",
    "reading": "the tokenizer or another file of the model that no weight shows",
}  # fmt: skip


def load_weights(bundle: Bundle, checkpoint: Checkpoint, file: str = "weights") -> None:
    """Put the weights of a checkpoint into the bundle; ``ema`` holds the trained parameters only.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build as build_model
    >>> from embedkit.objectives import build
    >>> model = build_model(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> bundle = Bundle(model, torch.nn.ModuleDict(), build("infonce"))
    >>> checkpoint = CheckpointStore(Path("checkpoints")).save(1, {"weights": bundle.state_dict()}, {}, {})
    >>> _ = model.embedding.weight.data.zero_()
    >>> load_weights(bundle, checkpoint)
    >>> bool(model.embedding.weight.any())
    True
    """
    tensors = checkpoint.tensors(file)
    own = bundle.state_dict()
    wrong = [n for n, value in tensors.items() if n not in own or _whole_shape(own[n]) != tuple(value.shape)]
    missing = [] if file == "ema" else [name for name in own if name not in tensors]
    if wrong or missing:
        raise CheckpointError(
            f"does not fit the model: {(wrong + missing)[0]!r} differs", where=str(checkpoint.path),
            remedy="resume with the recipe it was written with",
        )  # fmt: skip
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(like(value.to(own[name].device), own[name]))


def _whole_shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _state_tensors(bundle: Bundle) -> dict[str, Tensor]:
    """All weights and buffers, whole, on the CPU; on a CPU they are those of the run, not copies."""
    return {name: whole(value) for name, value in bundle.state_dict().items()}


def _gather_random(world: World) -> dict[str, Tensor]:
    """Generator states of all processes: ``cpu`` (W, n) and ``cuda`` (W, m), uint8."""
    now = RandomState(world.device)
    states = {"cpu": now.cpu} if now.cuda is None else {"cpu": now.cpu, "cuda": now.cuda}
    return {name: _gathered_bytes(state, world).cpu() for name, state in states.items()}


def _gathered_bytes(state: Tensor, world: World) -> Tensor:
    return world.gather(state.to(world.device)[None], [1] * world.size)


def _restore_random(checkpoint: Checkpoint, world: World) -> None:
    states = checkpoint.tensors("random")
    if "cpu" not in states or len(states["cpu"]) != world.size:
        raise CheckpointError(
            f"has no random state for process {world.rank}", where=str(checkpoint.path), remedy="use another checkpoint"
        )
    torch.set_rng_state(states["cpu"][world.rank].clone())
    if "cuda" in states and world.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"][world.rank].clone(), world.device)


def recipe_differences(text: str, recipe: Recipe, folder: Path) -> list[str]:
    """What differs between the ``recipe.yaml`` of a folder and a recipe, in words; not where it writes and prints.

    Raises
    ------
    CheckpointError
        The text is no recipe.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("pairs")
    >>> other = load_recipe("pairs", ["train.lr=1e-3", "train.output=runs/b"])
    >>> recipe_differences(dump_recipe(recipe), other, Path("runs/a"))
    ['train.lr was 2e-05, is 0.001']
    """
    try:
        before = _flat(check_recipe(parse_yaml(text, str(folder / "recipe.yaml"))).model_dump(mode="json"))
    except RecipeError as error:
        raise CheckpointError(
            f"recipe.yaml cannot be read ({error.line()})", where=str(folder),
            remedy="resume with the embedkit that wrote it",
        ) from error  # fmt: skip
    now = _flat(recipe.model_dump(mode="json"))
    keys = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
    free = [k for k in keys if any(k == f or k.startswith(f"{f}.") for f in _FREE)]
    return [f"{k} was {before.get(k)}, is {now.get(k)}" for k in keys if k not in free]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and value:
        items = ((str(i), item) for i, item in enumerate(value))  # type: ignore[assignment]
    else:
        return {prefix: value}
    return {k: v for key, item in items for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}
