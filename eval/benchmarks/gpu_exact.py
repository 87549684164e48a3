"""Section (d) of gpu.py: chunks and tiles change no gradient, and a resumed run ends where the unbroken one ends.

Gradients are those of a batch of triplets and of a batch of images with captions, dropout off, in fp32 and fp64:
chunks of the gradient cache, tiles of the loss, and both, against the whole batch at once. Differences are relative to
the length of the whole gradient. The run is SimCSE with dropout, in the precision of the device, with torch's
deterministic settings; it ends by an exception between two checkpoints and is resumed from the last one.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_clip import Item, Ready, captions, dual_encoder, images
from gpu_common import Section, Size, Watched, first_line, fp32_products
from torch import Tensor

from embedkit.training.state.checkpoint import CheckpointStore

CHANGES = {"chunks": (True, False), "tiles": (False, True), "chunks and tiles": (True, True)}


def text_batch(size: Size) -> tuple[Any, Any, Any, dict[str, Any]]:
    """A model, its method, a prepared batch of triplets, and the objective."""
    from embedkit.config.model import ModelConfig
    from embedkit.data import RowBatch
    from embedkit.data.builtin import sentences
    from embedkit.factory import build
    from embedkit.methods.pairs import Pairs
    from embedkit.training.loop.batches import prepare

    config = {"model_type": "bert", **size.exact_bert}
    model = build(ModelConfig(config=config, tokenizer="builtin", pooling="mean", dropout=0.0), 0)
    rows = list(itertools.islice(sentences.rows("triplets-train"), size.exact_batch))
    batch = RowBatch(rows, list(range(len(rows))), len(rows), 0, 0)
    return model, Pairs(), prepare(batch, Pairs(), model, seed=0, epoch=0), {"name": "infonce", "temperature": 0.05}


def clip_batch(size: Size, device: torch.device) -> tuple[Any, Any, Any, dict[str, Any]]:
    """A dual encoder, its method, a prepared batch of random images and captions, and the objective."""
    from embedkit.data import RowBatch
    from embedkit.training.loop.batches import prepare

    shape, count = size.exact_clip, size.exact_batch
    model = dual_encoder(shape)
    method = Ready(images(model, shape, count, device), captions(shape, count))
    rows = [{"image": Item(n, "image"), "positive": Item(n, "text")} for n in range(count)]
    batch = prepare(RowBatch(rows, list(range(count)), count, 0, 0), method, model, seed=0, epoch=0)
    return model, method, batch, {"name": "clip"}


def gradients(
    parts: tuple[Any, Any, Any, dict[str, Any]], device: torch.device, kind: torch.dtype, chunk: int | None,
    tile: int | None,
) -> tuple[float, dict[str, Tensor]]:  # fmt: skip
    """The loss of a batch, and the gradient of every parameter."""
    from embedkit import objectives
    from embedkit.training.loop.cache import Chunking
    from embedkit.training.loop.step import Bundle, TrainStep
    from embedkit.training.parallel.distributed import World

    model, method, batch, settings = parts
    objective = objectives.build({**settings, "tile": tile}, dim=model.dim)
    bundle = Bundle(model, method.parts(model), objective).to(device, kind).train()
    bundle.zero_grad(set_to_none=True)
    step = TrainStep(bundle, method, World(device), Chunking(chunk), autocast=contextlib.nullcontext)
    loss = float(step.gradients(batch).loss)
    return loss, {n: p.grad.detach().clone() for n, p in bundle.named_parameters() if p.grad is not None}


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[float, float]:
    """Length of the difference of two gradients over the length of the second, and the same of the worst parameter
    (those left out whose gradient is nothing but rounding)."""
    if found.keys() != wanted.keys():
        raise ValueError("gradients of different parameters")
    apart = {name: float((found[name].double() - wanted[name].double()).norm()) for name in wanted}
    lengths = {name: float(wanted[name].double().norm()) for name in wanted}
    whole = sum(value**2 for value in lengths.values()) ** 0.5
    worst = max(apart[name] / lengths[name] for name in wanted if lengths[name] > 1e-4 * whole)
    return sum(value**2 for value in apart.values()) ** 0.5 / whole, worst


def compare(size: Size, device: torch.device, section: Section) -> None:
    """Rows "gradients": each change against the whole batch at once, and for comparison what rounding to fp32 makes."""
    for batch in ("text", "image-text"):
        wholes: dict[str, tuple[float, dict[str, Tensor]]] = {}
        for kind in (torch.float64, torch.float32):
            parts = text_batch(size) if batch == "text" else clip_batch(size, device)
            name = str(kind).removeprefix("torch.")
            wholes[name] = gradients(parts, device, kind, None, None)
            for change, (chunks, tiles) in CHANGES.items():
                with section.attempt(f"gradients of {change}, {batch}, {name}"):
                    chunk, tile = size.exact_chunk if chunks else None, size.exact_tile if tiles else None
                    found = gradients(parts, device, kind, chunk, tile)
                    put_difference(section, size, batch, change, name, found, wholes[name])
                section.budget.check()
        put_difference(section, size, batch, "fp32 in place of fp64", "float32", wholes["float32"], wholes["float64"])


def put_difference(
    section: Section, size: Size, batch: str, change: str, name: str, found: tuple[float, dict[str, Tensor]],
    wanted: tuple[float, dict[str, Tensor]],
) -> None:  # fmt: skip
    """The row of a change."""
    whole, worst = difference(found[1], wanted[1])
    section.put(
        batch, change, name, what="gradients", batch=batch, change=change, precision=name, rows=size.exact_batch,
        relative_difference=whole, worst_parameter=worst, loss_difference=abs(found[0] - wanted[0]),
    )  # fmt: skip


@contextlib.contextmanager
def deterministic(warn_only: bool) -> Iterator[None]:
    """A context with torch's deterministic settings."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class Broken(Exception):
    """Stands for a kill."""


class Breaks(Watched):
    """Ends a run behind a step."""

    def __init__(self, section: Section, last: int) -> None:
        super().__init__(section.budget)
        self.last = last

    def step(self, done: int, figures: Any) -> None:
        """See `Progress`."""
        super().step(done, figures)
        if done == self.last:
            raise Broken


def final_tensors(folder: Path) -> dict[str, Tensor]:
    """Weights and optimiser of the last checkpoint of a run."""
    checkpoint, _ = CheckpointStore(folder / "checkpoints").newest()
    assert checkpoint is not None
    return {f"{file}/{n}": t for file in ("weights", "optimiser") for n, t in checkpoint.tensors(file).items()}


def resume(size: Size, section: Section, warn_only: bool) -> dict[str, Any]:
    """An unbroken run and a resumed one: tensors of weights and optimiser that differ, and by how much."""
    from embedkit.training import train

    steps = size.exact_steps
    every, broken = max(1, steps // 3), steps // 2 + 1
    recipe = {
        "name": "exact", "method": "simcse-unsup", "seed": 3,
        "model": {"config": {"model_type": "bert", **size.exact_bert}, "tokenizer": "builtin", "pooling": "cls",
                  "head": {"kind": "tanh", "train_only": True}},
        "data": {"train": [{"path": "builtin:sentences", "limit": 4 * size.exact_batch}]},
        "train": {"max_steps": steps, "batch_size": size.exact_batch, "lr": 1e-3, "save_every": every,
                  "log_every": every, "chunk_size": size.exact_chunk, "keep_checkpoints": 1},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as root, deterministic(warn_only):
        one, two = Path(root, "unbroken"), Path(root, "broken")
        first = train(recipe, output=one, progress=Watched(section.budget))
        with contextlib.suppress(Broken):
            train(recipe, output=two, progress=Breaks(section, broken))
        kept, _ = CheckpointStore(two / "checkpoints").newest()
        assert kept is not None
        second = train(recipe, output=two, progress=Watched(section.budget), resume=True)
        wanted, found = final_tensors(one), final_tensors(two)
    if wanted.keys() != found.keys():
        raise ValueError("checkpoints with different tensors")
    apart = {n: float((found[n].double() - wanted[n].double()).abs().max()) for n in wanted if wanted[n].numel()}
    return {
        "steps": steps, "broken_after": broken, "resumed_from": kept.step, "tensors": len(apart),
        "tensors_that_differ": sum(not torch.equal(found[n], wanted[n]) for n in wanted),
        "largest_difference": max(apart.values()), "loss_difference": abs(first.loss - second.loss),
    }  # fmt: skip


def exact(size: Size, device: torch.device, section: Section) -> None:
    """Section (d)."""
    with fp32_products("highest"):
        compare(size, device, section)
    for warn_only in (False, True):
        settings = "deterministic, warnings only" if warn_only else "deterministic"
        try:
            found = resume(size, section, warn_only)
        except RuntimeError as error:
            if warn_only or "determinis" not in str(error):
                raise
            section.skip("resume with operations without a deterministic form refused", first_line(error))
            continue
        section.put("resume", what="resume", settings=settings, **found)
        return
