"""Vectors from disk: rows a second of the data path, and of training steps beside a plain loop and another trainer.

    python eval/benchmarks/vector_rows.py --folder FOLDER [--rows 4000000] [--width 384] [--batch 4096] [--steps 10]

One file of float32 vectors is written once (6.1 GB for 4 million of 384 numbers, 15.4 GB for 10 million; blocks of
65,536 drawn rows, each with a number of its own). The data path is what a run reads for a batch: rows in random order
from the mapped file, with the hash of each, in one thread. The file lies in the page cache as far as memory allows:
random rows of a disk come no quicker than the disk gives them. Training steps have one MLP (384, 384, 64), AdamW and
InfoNCE over pairs of the batch in all three: embedkit's loop, a DataLoader over the same mapped array in the process,
and pytorch-metric-learning's NTXentLoss in that loop. One thread each.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.config.recipe_io import load_recipe
from embedkit.training import setup
from embedkit.training.loop.build import open_inputs, opened
from embedkit.training.monitor.log import Progress


def write(path: Path, rows: int, width: int) -> None:
    """The file, unless it is there."""
    if path.is_file() and np.load(path, mmap_mode="r").shape == (rows, width):
        return
    pool = np.random.default_rng(0).standard_normal((65_536, width), np.float32)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
    for start in range(0, rows, len(pool)):
        end = min(start + len(pool), rows)
        array[start:end] = pool[: end - start]
        array[start:end, 0] = start
    array.flush()


def rate(steps: Iterator[int], count: int) -> float:
    """Rows a second over `count` steps, after two."""
    for _ in range(2):
        next(steps)
    begin, rows = time.perf_counter(), 0
    for _ in range(count):
        rows += next(steps)
    return rows / (time.perf_counter() - begin)


class Pairs(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """A row and itself, from the mapped array."""

    def __init__(self, path: Path) -> None:
        self.array = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = torch.from_numpy(np.array(self.array[index]))
        return row, row


def plain(path: Path, batch: int, loss: Callable[[Tensor, Tensor], Tensor]) -> Iterator[int]:
    """The loop that one writes oneself."""
    model = nn.Sequential(nn.Linear(384, 384), nn.GELU(), nn.Linear(384, 64))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    for one, two in torch.utils.data.DataLoader(Pairs(path), batch, shuffle=True):
        optimiser.zero_grad()
        loss(model(one), model(two)).backward()
        optimiser.step()
        yield len(one)


def infonce(one: Tensor, two: Tensor) -> Tensor:
    """Cross-entropy of the cosines, temperature 0.05."""
    unit = nn.functional.normalize
    return nn.functional.cross_entropy(unit(one) @ unit(two).T / 0.05, torch.arange(len(one)))


def metric_learning() -> Callable[[Tensor, Tensor], Tensor] | None:
    """NTXentLoss with the rows of a pair as one class; None where it is not installed."""
    try:
        from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss
    except ImportError:
        return None
    loss: Callable[[Tensor, Tensor], Tensor] = SelfSupervisedLoss(NTXentLoss(0.05), symmetric=False)
    return loss


def recipe(path: Path, batch: int, rows: int) -> dict[str, Any]:
    """The same run of embedkit."""
    return {
        "name": "rows", "method": "pairs", "objective": {"name": "infonce", "temperature": 0.05},
        "model": {"kind": "feature", "feature": {"form": "mlp", "hidden": 384, "dim": 64}},
        "data": {"train": [{"path": str(path), "beside": [{"path": str(path), "names": {"rows": "twin"}}],
                            "columns": {"rows": "anchor", "twin": "positive"}, "limit": rows}]},
        "train": {"batch_size": batch, "epochs": 1, "lr": 1e-3, "holdout": 0.0, "threads": 1},
    }  # fmt: skip


def steps_of(run: Any) -> Iterator[int]:
    """Gradients and updates of a run, batch after batch."""
    run.state.bundle.train()
    while True:
        batch = next(run.stream)
        run.update.apply(batch, run.step.gradients(batch).loss, factor=1.0)
        yield batch.size


def main() -> None:
    """Print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / "rows.npy"
    write(path, given.rows, given.width)
    begin = time.perf_counter()
    alone = recipe(path, given.batch, given.rows)
    del alone["data"]["train"][0]["beside"]
    alone |= {"method": "compress", "objective": None}
    alone["data"]["train"][0]["columns"] = {"rows": "anchor"}
    rows = open_inputs(setup.check_all(load_recipe(alone))).rows
    found: dict[str, Any] = {"rows": given.rows, "seconds to open and check": time.perf_counter() - begin}
    reads = (len(batch.rows.column("anchor").array) for batch in rows.batches(0))  # type: ignore[attr-defined]
    found["rows a second of the data path"] = rate(reads, min(20 * given.steps, given.rows // given.batch - 3))
    few = min(given.rows, 200_000)
    with opened(open_inputs(setup.check_all(load_recipe(recipe(path, given.batch, few)))), given.folder / "run",
                Progress()) as run:  # fmt: skip
        found["pairs a second, embedkit"] = rate(steps_of(run), given.steps)
    found["pairs a second, plain loop"] = rate(plain(path, given.batch, infonce), given.steps)
    other = metric_learning()
    if other is not None:
        name = "pairs a second, pytorch-metric-learning"
        try:
            found[name] = rate(plain(path, given.batch, other), given.steps)
        except RuntimeError as error:  # its pairs of pairs do not fit
            found[name] = str(error).split("you tried")[-1][:60]
    found["MiB resident at most, mapped pages included"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({name: round(x, 1) if isinstance(x, float) else x for name, x in found.items()}, indent=1))


if __name__ == "__main__":
    main()
