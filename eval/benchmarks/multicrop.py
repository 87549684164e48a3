"""What a training step on crops of two sizes costs beside the sum of its parts, and how long it waits for its images.

    python eval/benchmarks/multicrop.py [--rounds 7] [--batch 64] [--threads 2] [--workers 2]
        [--data ../shared/data/image_text/flickr8k_1k.parquet] [--steps 12]

Two views of 64 and six of 32 pixels by the recipe `swav` with 512 prototypes, a ViT-Tiny for 64 pixels. Parts, each
alone on the same prepared pixels, forward and backward with a constant gradient of the vectors: the bare tower on the
large views; on the small ones by a tower that was made for 32 pixels; projector and objective on vectors; the update of
the weights. All are medians of alternating rounds. Then a run from JPEG files to the last update: its share of time in
which a step waited for its images.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LARGE, SMALL = {"name": "simclr", "crop": [0.14, 1.0], "count": 2}, {"name": "simclr", "crop": [0.05, 0.14]}


def recipe(options: argparse.Namespace, steps: int) -> Any:
    """The recipe of the run."""
    from embedkit.config.recipe_io import load_recipe

    source = {"path": str(options.data), "columns": {"image": "image"}}
    return load_recipe("swav", [
        f"data.train=[{source}]", f"train.batch_size={options.batch}", f"train.max_steps={steps}", "train.epochs=null",
        f"method.views=[{LARGE}, {SMALL | {'size': 32, 'count': 6}}]", "train.chunk_size=null", "train.log_every=1",
        f"train.threads={options.threads}", f"data.workers={options.workers}", "train.save_every=1000000",
        "objective.prototypes=512", "objective.queue=512",
    ])  # fmt: skip


def seconds(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def passes(model: Any, inputs: Any) -> Callable[[], None]:
    """Forward and backward of a model on prepared images."""
    with torch.no_grad():
        slope = torch.randn_like(model(inputs))

    def call() -> None:
        model.zero_grad()
        model(inputs).backward(slope)

    return call


def parts_of(step: Any, batch: Any, optimiser: Any) -> dict[str, Callable[[], Any]]:
    """The parts of a step, each as a call."""
    from embedkit.models.modules.image_towers import resized
    from embedkit.objectives.compose.mixed_pairs import evaluated

    model, bundle = step.bundle.model, step.bundle
    pools = {pool.inputs.size[0]: pool.inputs for pool in batch.pools}
    for_small = torch.nn.ModuleDict({"image": resized(model.image, (32, 32)), "projection": model.projection("image")})

    def small(inputs: Any) -> Any:
        return for_small["projection"](for_small["image"](model.pixels(inputs)))

    small.zero_grad = for_small.zero_grad  # type: ignore[attr-defined]
    step.gradients(batch)
    latest = step.latest

    def objective() -> None:
        bundle.zero_grad()
        leaves = {name: z.clone().requires_grad_() for name, z in latest.outputs.items()}
        vectors = step.method.project(leaves, latest.batch, bundle.parts)
        evaluated(bundle.objective, vectors, latest.batch).loss.backward()

    def update() -> None:
        optimiser.step()
        bundle.objective.after_step(latest.embeddings, latest.batch)

    return {"large": passes(model, pools[64]), "small": passes(small, pools[32]), "objective": objective,
            "update": update}  # fmt: skip


def prepared(options: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    """A step and a batch with pixels."""
    from embedkit.training import setup
    from embedkit.training.loop import build
    from embedkit.training.parallel.engine import Engine

    checked = recipe(options, 4)
    inputs = build.open_inputs(setup.check_all(checked))
    state, _ = build.build_state(inputs, Engine(checked, folder), "fp32")
    world = build.World()
    step = build.TrainStep(state.bundle, inputs.method, world, build.Chunking(), autocast=contextlib.nullcontext)
    state.bundle.train()
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(contextlib.closing(build.batches_of(inputs, state, None, world, stack)))
        return step, next(stream)


def waiting(options: argparse.Namespace) -> tuple[float, float]:
    """Of a run from files: the share of its time that steps waited for images, the first left out; images a second."""
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    shares: list[float] = []
    ends: list[float] = []

    class Watch(Progress):
        def step(self, done: int, figures: Any) -> None:
            ends.append(time.perf_counter())
            if figures:
                shares.append(figures["data_wait_share"])

    with tempfile.TemporaryDirectory() as folder:
        train(recipe(options, options.steps), output=folder, progress=Watch())
    return statistics.fmean(shares[1:]), options.batch * (len(ends) - 1) / (ends[-1] - ends[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 7), ("batch", 64), ("threads", 2), ("workers", 2), ("steps", 12)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/image_text/flickr8k_1k.parquet"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        step, batch = prepared(options, Path(folder))
        wanted = [p for p in step.bundle.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(wanted, lr=1e-4, fused=True)

        def whole() -> None:
            step.bundle.zero_grad()
            step.gradients(batch)
            optimiser.step()
            step.after_update()

        calls = {"whole step": whole, **parts_of(step, batch, optimiser)}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(options.rounds + 1):
            for name, call in calls.items():
                taken = seconds(call)
                if number:
                    times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        spread = f"{1000 * min(times[name]):.1f} to {1000 * max(times[name]):.1f}"
        print(f"{name}: {1000 * value:.1f} ms ({spread})", flush=True)
    whole_step = medians.pop("whole step")
    print(f"whole step {whole_step / sum(medians.values()):.3f} x the sum of its parts", flush=True)
    share, rate = waiting(options)
    print(f"run from files: {rate:.1f} images/s, waiting for images {share:.1%} of the time")


if __name__ == "__main__":
    main()
