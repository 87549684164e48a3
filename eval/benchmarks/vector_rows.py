"""Vectors from disk: rows a second of the data path, and of training steps beside a plain loop and another trainer.

    python eval/benchmarks/vector_rows.py --folder FOLDER [--rows 4000000] [--width 384] [--batch 4096] [--steps 10]
        [--type float16] [--no-training]

One file of vectors is written once (of float32 6.1 GB for 4 million of 384 numbers, 15.4 GB for 10 million; blocks of
65,536 drawn rows, each with a number of its own). The data path is what a run reads for a batch: rows of the mapped
file with the hash of each, in one thread, in the order of data.shuffle. Opening reads the whole file, so that it lies
in the page cache afterwards as far as memory allows; "from the disk" is behind a call that drops it from there.
Training steps have one MLP (384, 384, 64), AdamW and InfoNCE over pairs of the batch in all three: embedkit's loop, a
DataLoader over the same mapped array in the process, and pytorch-metric-learning's NTXentLoss in that loop; the
products of matrices of a step alone are beside them. One thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.config.recipe_io import load_recipe
from embedkit.data.datasets.shuffling import NEIGHBOURS, WINDOW, block_permutation
from embedkit.data.vectors.arrays import npy_array
from embedkit.data.vectors.column import Piece
from embedkit.training import setup
from embedkit.training.loop.build import open_inputs, opened
from embedkit.training.monitor.log import Progress


def write(path: Path, rows: int, width: int, kind: str = "float32") -> None:
    """The file, unless it is there."""
    if path.is_file() and np.load(path, mmap_mode="r").shape == (rows, width):
        return
    pool = np.random.default_rng(0).standard_normal((65_536, width), np.float32).astype(kind)
    array = np.lib.format.open_memmap(path, "w+", np.dtype(kind), (rows, width))
    for start in range(0, rows, len(pool)):
        end = min(start + len(pool), rows)
        array[start:end] = pool[: end - start]
        array[start:end, 0] = start // len(pool)
    array.flush()


def from_disk(path: Path) -> None:
    """Drop the file from the page cache."""
    with path.open("rb") as handle:
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def own_memory() -> int:
    """MiB of this process that are no mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024


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
        row = torch.from_numpy(np.array(self.array[index], np.float32))
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


def products(batch: int, rows: int) -> Iterator[int]:
    """The products of matrices of one step alone, forward and backward: the layers on both sides, all similarities."""
    x, one, two = torch.randn(2 * batch, 384), torch.randn(384, 384), torch.randn(384, 64)
    y, z = torch.randn(2 * batch, 64), torch.randn(batch, 64)
    wide = torch.randn(batch, batch)
    while True:
        hidden = x @ one
        hidden @ two, y @ two.T, hidden.T @ y, x.T @ hidden
        z @ z.T, wide @ z, wide.T @ z
        yield rows


def steps_of(run: Any) -> Iterator[int]:
    """Gradients and updates of a run, batch after batch."""
    run.state.bundle.train()
    while True:
        batch = next(run.stream)
        run.update.apply(batch, run.step.gradients(batch).loss, factor=1.0)
        yield batch.size


def opened_rows(path: Path, given: argparse.Namespace, shuffle: str) -> Any:
    """The rows of a run that reads the vectors alone."""
    alone = recipe(path, given.batch, given.rows)
    del alone["data"]["train"][0]["beside"]
    alone |= {"method": "compress", "objective": None}
    alone["data"]["shuffle"] = shuffle
    alone["data"]["train"][0]["columns"] = {"rows": "anchor"}
    return open_inputs(setup.check_all(load_recipe(alone))).rows


def reads_of(rows: Any, epoch: int) -> Iterator[int]:
    """The data path of a run."""
    return (len(batch.rows.column("anchor").array) for batch in rows.batches(epoch))


def reads_from_disk(path: Path, given: argparse.Namespace) -> Iterator[int]:
    """The reads of that path alone, of a file that is not in the page cache, in the order of blocks."""
    with path.open("rb") as handle:
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    piece, window = Piece(npy_array(path)), WINDOW * NEIGHBOURS
    order = block_permutation(len(piece), 0, 0)
    piece.ahead(order[:window])
    for start in range(0, len(order), given.batch):
        if start % window < given.batch:
            piece.ahead(order[start + window : start + 2 * window])
        yield len(piece.take(order[start : start + given.batch]))


def main() -> None:
    """Print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--type", choices=("float32", "float16"), default="float32")
    parser.add_argument("--no-training", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / "rows.npy"
    write(path, given.rows, given.width, given.type)
    count = min(20 * given.steps, given.rows // given.batch - 3)
    found: dict[str, Any] = {"rows": given.rows, "type": given.type}
    found["rows a second of reads, blocks, from the disk"] = rate(reads_from_disk(path, given), count)
    for shuffle in ("blocks", "rows"):
        before, begin = own_memory(), time.perf_counter()
        rows = opened_rows(path, given, shuffle)
        found[f"seconds to open and check, {shuffle}"] = time.perf_counter() - begin
        found[f"rows a second of the data path, {shuffle}"] = rate(reads_of(rows, 0), count)
        found[f"MiB of own memory taken, {shuffle}"] = own_memory() - before
        del rows
    found |= {} if given.no_training else training(path, given)
    print(json.dumps({name: round(x, 1) if isinstance(x, float) else x for name, x in found.items()}, indent=1))


def training(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Pairs a second of the loops."""
    found: dict[str, Any] = {}
    few = min(given.rows, 200_000)
    with opened(open_inputs(setup.check_all(load_recipe(recipe(path, given.batch, few)))), given.folder / "run",
                Progress()) as run:  # fmt: skip
        found["pairs a second, embedkit"] = rate(steps_of(run), given.steps)
    found["pairs a second, plain loop"] = rate(plain(path, given.batch, infonce), given.steps)
    found["pairs a second, products of matrices alone"] = rate(products(given.batch, given.batch), given.steps)
    other = metric_learning()
    if other is not None:
        name = "pairs a second, pytorch-metric-learning"
        try:
            found[name] = rate(plain(path, given.batch, other), given.steps)
        except RuntimeError as error:  # its pairs of pairs do not fit
            found[name] = str(error).split("you tried")[-1][:60]
    return found


if __name__ == "__main__":
    main()
