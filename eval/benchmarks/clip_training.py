"""Images a second of CLIP training beside open_clip's own training code, same model, batch and optimiser, on one CPU.

    python eval/benchmarks/clip_training.py [--rounds 5] [--steps 8] [--batch 64] [--image vit-tiny-64]
        [--text clip-text-tiny] [--data ../shared/data/image_text/flickr8k_1k.parquet] [--workers 2]
        [--precision fp32] [--json FILE]

Two measurements, each in alternating rounds with medians:

memory
    Pixels and token ids lie in memory. open_clip: its `train_one_epoch`, which pads every caption to 77 tokens, as its
    tokenizer gives them. embedkit: the trainer's step from prepared batches, with the normalisation of the pixels.
files
    From JPEG files and a table of captions to the last update. open_clip: its `CsvDataset`, training transforms and
    `train_one_epoch` with `--workers` loader processes. embedkit: `train` with the method "clip", `--workers` threads.
    Both draw a random crop of 90 to 100 % of the area.

With `--precision bf16` both multiply in bfloat16: open_clip by its option of that name, embedkit by `train.precision`.

Both start from the same weights; the loss of the first batch in memory is compared before anything is timed. The
images are those of the data file (bytes in a column "image", captions in "caption"); without it random ones.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View


class Ready(Method):
    """Pixels that need no decoding, and a caption."""

    contract = Contract(frozenset({"image", "positive"}))

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        """One view of each tower."""
        places = list(range(len(rows)))
        return {
            "anchor": View([row["image"] for row in rows], places, tower="image"),
            "positive": View([row["positive"] for row in rows], places),
        }


def pictures(path: Path, count: int) -> list[tuple[bytes, str]]:
    """JPEG bytes and a caption of `count` images, repeated when the file has fewer; random ones without a file."""
    from PIL import Image

    if not path.is_file():
        made = []
        for number in range(count):
            random = np.random.default_rng(number)
            small = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            handle = io.BytesIO()
            small.resize((500, 375), 3).save(handle, format="JPEG", quality=90)
            made.append((handle.getvalue(), f"a random picture, number {number}, with nothing to see in it"))
        return made
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    captions = table[next(name for name in table.column_names if name.startswith("caption"))].to_pylist()
    images = [value["bytes"] if isinstance(value, dict) else value for value in table["image"].to_pylist()]
    found = [
        (image, text[0] if isinstance(text, list) else str(text)) for image, text in zip(images, captions, strict=True)
    ]
    return [found[number % len(found)] for number in range(count)]


def recipe(options: argparse.Namespace, table: Path, count: int) -> dict[str, Any]:
    """embedkit's recipe of the run from files."""
    return {
        "name": "benchmark", "method": {"name": "clip"}, "model": model_section(options),
        "data": {
            "train": [{"path": str(table), "columns": {"image": "image", "caption": "text_1"}}],
            "workers": options.workers,
        },
        "train": {
            "max_steps": count, "batch_size": options.batch, "lr": 5e-4, "weight_decay": 0.2, "betas": [0.9, 0.98],
            "eps": 1e-6, "max_grad_norm": None, "save_every": 10**6, "schedule": "constant",
            "precision": options.precision, "log_every": 10**6, "threads": options.threads,
        },
    }  # fmt: skip


def model_section(options: argparse.Namespace) -> dict[str, Any]:
    """The model of both toolkits."""
    return {"kind": "dual", "towers": {"text": {"size": options.text}, "image": {"size": options.image}, "dim": 256}}


def their_model(model: Any, precision: str) -> Any:
    """open_clip's model with embedkit's weights, in open_clip's precision."""
    from open_clip.model import CLIP, convert_weights_to_lp, get_cast_dtype

    from embedkit.formats.open_clip.text_config import open_clip_text_cfg
    from embedkit.formats.open_clip.writer import text_parts, vision_parts

    text_cfg, quick = open_clip_text_cfg(model.text)
    vision_cfg, visual, _ = vision_parts(model)
    made = CLIP(
        model.dim, vision_cfg, text_cfg, quick_gelu=quick, cast_dtype=get_cast_dtype(precision), output_dict=True
    )
    state = {f"visual.{name}": tensor for name, tensor in visual.items()} | text_parts(model, model.text)
    made.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()}, strict=False)
    if precision == "bf16":
        convert_weights_to_lp(made, dtype=torch.bfloat16)  # as its factory does
    return made


class OpenClip:
    """open_clip_train's own epoch over a loader."""

    def __init__(self, model: Any, options: argparse.Namespace) -> None:
        from open_clip.loss import ClipLoss

        self.model, self.loss = their_model(model, options.precision), ClipLoss()
        named = list(self.model.named_parameters())
        plain = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
        rest = [p for _, p in named if not any(p is other for other in plain)]
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]
        self.adamw = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
        self.args = SimpleNamespace(
            device="cpu", precision=options.precision, distill=False, accum_freq=1, skip_scheduler=True,
            grad_clip_norm=None, horovod=False, rank=0, local_rank=0, world_size=1, log_every_n_steps=10**9,
            batch_size=options.batch, wandb=False, local_loss=False, gather_with_grad=False,
        )  # fmt: skip

    def epoch(self, loader: Any) -> float:
        """Seconds of one epoch."""
        from open_clip_train.train import train_one_epoch

        data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
        began = time.perf_counter()
        train_one_epoch(self.model, data, self.loss, 0, self.adamw, None, None, None, self.args)
        return time.perf_counter() - began


class Loader(list):
    """Batches in memory, in the form of open_clip's loaders."""

    def __init__(self, batches: list[Any], batch: int) -> None:
        super().__init__(batches)
        self.num_batches, self.num_samples = len(batches), len(batches) * batch


class Embedkit:
    """embedkit's training step over prepared batches."""

    def __init__(self, model: Any, precision: Any) -> None:
        from embedkit import objectives
        from embedkit.config.recipe import TrainConfig
        from embedkit.models.execution.products import QuickProducts
        from embedkit.training.loop.cache import Chunking
        from embedkit.training.loop.step import Bundle, TrainStep
        from embedkit.training.optim.optimizer import Optimiser, assign_groups
        from embedkit.training.optim.precision import autocast
        from embedkit.training.parallel.distributed import World

        objective = objectives.build("clip", dim=model.dim)
        self.bundle = Bundle(model, torch.nn.ModuleDict(), objective).train()
        world = World()
        quick = QuickProducts(self.bundle).context if precision == "fp32" else autocast(precision, world.device)
        self.step = TrainStep(self.bundle, Ready(), world, Chunking(), autocast=quick)
        config = TrainConfig(max_steps=1, lr=5e-4, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6, max_grad_norm=None)
        undecayed = frozenset(f"objective.{name}" for name in objective.no_weight_decay)
        self.optimiser = Optimiser(self.bundle, assign_groups(self.bundle, config, undecayed), config)

    def epoch(self, batches: list[Any]) -> float:
        """Seconds of one pass."""
        began = time.perf_counter()
        for batch in batches:
            self.bundle.train()
            self.step.gradients(batch)
            self.optimiser.step(1.0)
            self.step.after_update()
        return time.perf_counter() - began


def memory(options: argparse.Namespace, known: list[tuple[bytes, str]]) -> dict[str, list[float]]:
    """Images a second of every round, with everything in memory."""
    import open_clip
    from open_clip import get_input_dtype

    from embedkit.config.model import ModelConfig
    from embedkit.data import RowBatch
    from embedkit.factory import build
    from embedkit.training.loop.batches import prepare

    model: Any = build(ModelConfig(**model_section(options)), 0)
    theirs, tokenizer = OpenClip(model, options), open_clip.SimpleTokenizer()
    ours = Embedkit(model, options.precision)
    batches, loader = [], []
    for number in range(options.steps):
        part = known[number * options.batch : (number + 1) * options.batch]
        rows = [{"image": model.preprocess(image), "positive": text} for image, text in part]
        found = RowBatch(rows, list(range(len(rows))), len(rows), 0, number)
        batches.append(prepare(found, Ready(), model, seed=0, epoch=0))
        pixels = model.pixels(batches[-1].pools[0].inputs).detach()
        loader.append((pixels, tokenizer([text for _, text in part])))
    with torch.no_grad():
        images, captions = loader[0]
        output = theirs.model(images.to(get_input_dtype(options.precision)), captions)
        expected = float(theirs.loss(**output))
    loss = float(ours.step.gradients(batches[0]).loss)
    ours.optimiser.adamw.zero_grad()
    print(f"loss of the first batch: embedkit {loss:.6f}, open_clip {expected:.6f}")
    if not math.isclose(loss, expected, abs_tol=1e-4 if options.precision == "fp32" else 0.05):
        raise SystemExit("the two do not compute the same loss")
    count = options.steps * options.batch
    held = Loader(loader, options.batch)
    return alternating(
        options.rounds,
        {"embedkit": lambda: count / ours.epoch(batches), "open_clip": lambda: count / theirs.epoch(held)},
    )


def files(options: argparse.Namespace, known: list[tuple[bytes, str]]) -> dict[str, list[float]]:
    """Images a second of every round, from JPEG files to the last update."""
    import open_clip
    from open_clip_train.data import CsvDataset

    from embedkit.config.model import ModelConfig
    from embedkit.factory import build
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    class Clock(Progress):
        begun = ended = 0.0

        def start(self, total: int | None, done: int) -> None:
            self.begun = time.perf_counter()

        def step(self, done: int, figures: Any) -> None:
            self.ended = time.perf_counter()

    images = options.steps * options.batch
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        lines = ["image\tcaption"]
        for number, (image, text) in enumerate(known[:images]):
            (folder / f"{number}.jpg").write_bytes(image)
            lines.append(f"{folder / f'{number}.jpg'}\t{' '.join(text.replace(chr(34), '').split())}")
        table = folder / "captions.tsv"
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
        model: Any = build(ModelConfig(**model_section(options)), 0)
        theirs = OpenClip(model, options)
        transform = open_clip.image_transform(model.preprocess.size, is_train=True)
        data = CsvDataset(str(table), transform, "image", "caption", tokenizer=open_clip.SimpleTokenizer())

        def their_round() -> float:
            loader: Any = torch.utils.data.DataLoader(
                data, options.batch, shuffle=True, num_workers=options.workers, drop_last=True
            )
            loader.num_batches, loader.num_samples = len(loader), images
            return images / theirs.epoch(loader)

        rounds = iter(range(10**6))

        def our_round() -> float:
            clock = Clock()
            train(recipe(options, table, options.steps), output=folder / f"run{next(rounds)}", progress=clock)
            return images / (clock.ended - clock.begun)

        return alternating(options.rounds, {"embedkit": our_round, "open_clip": their_round})


def alternating(rounds: int, runs: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """What each run gives, in turns; the first turn warms up and is not counted."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        order = list(runs) if number % 2 else list(reversed(runs))
        for name in order:
            value = runs[name]()
            if number:
                found[name].append(value)
                print(f"  round {number} {name:10s} {value:8.1f} images/s", flush=True)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image", default="vit-tiny-64")
    parser.add_argument("--text", default="clip-text-tiny")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/image_text/flickr8k_1k.parquet"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--only", choices=["memory", "files"], default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = pictures(options.data, options.steps * options.batch)
    wanted = {"memory": (memory, 2.2), "files": (files, 3.0)}
    report: dict[str, Any] = {}
    for name, (measure, goal) in wanted.items():
        if options.only in (None, name):
            print(f"{name}:")
            found = measure(options, known)
            medians = {kind: statistics.median(values) for kind, values in found.items()}
            ratio = medians["embedkit"] / medians["open_clip"]
            print(f"  medians {medians['embedkit']:.1f} and {medians['open_clip']:.1f}: {ratio:.2f} x (goal {goal} x)")
            report[name] = {"rounds": found, "medians": medians, "ratio": ratio, "goal": goal}
    if options.json is not None:
        options.json.write_text(
            json.dumps({"settings": vars(options) | {"data": str(options.data), "json": None}, **report})
        )


if __name__ == "__main__":
    main()
