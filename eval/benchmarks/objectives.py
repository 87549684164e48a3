"""Memory and time of the CLIP and InfoNCE losses by tiles, beside open_clip's ClipLoss and a plain cross-entropy.

    python eval/benchmarks/objectives.py [--rows 16384] [--rounds 3] [--large 65536] [--dim 512] [--json FILE]

Every measurement is a process of its own: unit fp32 embeddings of random numbers, the loss forward and backward once,
after a warm-up on few rows. Peak memory is the largest resident size during the loss less that before it, the inputs
being there already; it holds the gradients. embedkit's losses normalise their input, which the others do not.
Contestants take turns, medians are printed. The losses and gradients of a contestant are compared with its reference
at 512 rows before anything is timed. At `--large` rows only tiles run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
SCALE = 1 / 0.07


def open_clip_loss() -> Loss:
    """open_clip's loss as its trainer calls it in one process."""
    from open_clip.loss import ClipLoss

    loss, scale = ClipLoss(), torch.tensor(SCALE, requires_grad=True)
    return lambda image, text: loss(image, text, scale)


def plain_infonce() -> Loss:
    """One direction, cross-entropy over the whole table."""
    return lambda a, p: torch.nn.functional.cross_entropy(a @ p.T * SCALE, torch.arange(len(a)))


def ours(name: str, tile: int | str | None) -> Loss:
    """A preset of embedkit."""
    from embedkit.objectives import ObjectiveBatch, build

    objective = build({"name": name, "temperature": 1 / SCALE, "tile": tile})

    def loss(a: Tensor, p: Tensor) -> Tensor:
        views = {"anchor": a, "positive": p}
        return objective(views, ObjectiveBatch.of(views)).loss

    return loss


CONTESTANTS: dict[str, Callable[[], Loss]] = {
    "open_clip ClipLoss": open_clip_loss,
    "embedkit clip, tiles": lambda: ours("clip", "auto"),
    "embedkit clip, dense": lambda: ours("clip", None),
    "plain InfoNCE": plain_infonce,
    "embedkit infonce, tiles": lambda: ours("infonce", "auto"),
}
REFERENCE = {"embedkit clip, tiles": "open_clip ClipLoss", "embedkit clip, dense": "open_clip ClipLoss",
             "embedkit infonce, tiles": "plain InfoNCE"}  # fmt: skip


def embeddings(rows: int, dim: int) -> list[Tensor]:
    """Two views of random points, unit length."""
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(rows, dim, generator=draw)
    views = []
    for _ in range(2):
        view = torch.randn(rows, dim, generator=draw).add_(points)
        views.append(view.div_(view.norm(dim=1, keepdim=True)).requires_grad_())
    return views


def resident() -> float:
    """Resident size of this process now, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(name: str, rows: int, dim: int, threads: int) -> dict[str, float]:
    """One evaluation, forward and backward: wall and processor seconds, MiB above the inputs, and in all."""
    torch.set_num_threads(threads)
    loss = CONTESTANTS[name]()
    loss(*embeddings(256, dim)).backward()
    views = embeddings(rows, dim)
    # The largest size so far may be that of drawing the inputs; then the figure is an upper bound.
    before = resident()
    wall, processor = time.perf_counter(), time.process_time()
    value = loss(*views)
    value.backward()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall": wall, "cpu": processor, "peak": peak - before, "total": peak, "loss": float(value.detach())}


def check(name: str, dim: int) -> None:
    """The contestant gives the loss and gradients of its reference. Only embedkit's normalises, so both are given unit
    vectors of the same leaves."""
    results = []
    for contestant in (name, REFERENCE[name]):
        views = embeddings(512, dim)
        value = CONTESTANTS[contestant]()(*(torch.nn.functional.normalize(z, dim=1) for z in views))
        results.append([value.detach(), *torch.autograd.grad(value, views)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def in_a_process(name: str, rows: int, args: argparse.Namespace) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--one", name, "--rows", str(rows), "--dim", str(args.dim)]
    done = subprocess.run([*command, "--threads", str(args.threads)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report(rows: int, names: list[str], rounds: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Turns of all contestants, and a line with the medians of each."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(in_a_process(name, rows, args))
    lines = []
    for name in names:
        middle = {key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]}
        lines.append({"rows": rows, "dim": args.dim, "name": name, "rounds": rounds, **middle})
    for line in lines:
        base = next((b for b in lines if b["name"] == REFERENCE.get(line["name"])), None)
        ratios = f"{line['wall'] / base['wall']:5.2f} x {line['peak'] / base['peak']:6.3f} x" if base else f"{'':16}"
        print(f"{rows:>7} {line['name']:<24} {line['wall']:8.2f} {line['cpu']:8.2f} {line['peak']:9.0f} "
              f"{line['total']:9.0f}   {ratios}", flush=True)  # fmt: skip
    return lines


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--large", type=int, default=65_536, help="0 leaves it out")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.rows, args.dim, args.threads)))
        return
    for name in REFERENCE:
        check(name, args.dim)
    print(f"torch {torch.__version__}, {args.threads} threads, D = {args.dim}, fp32, forward and backward")
    print(f"{'rows':>7} {'loss':<24} {'wall s':>8} {'cpu s':>8} {'peak MiB':>9} {'total MiB':>9}      time   memory")
    lines = report(args.rows, list(CONTESTANTS), args.rounds, args)
    if args.large:
        lines += report(args.large, [name for name in CONTESTANTS if name.endswith("tiles")], 1, args)
    if args.json:
        args.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
