"""CIFAR-10 with class names as captions: zero-shot accuracy of a dual encoder from random weights.

    python eval/benchmarks/cifar_clip.py [--shared ../shared] [--minutes 18] [--seed 0] [--batch 256]
        [--output cifar_clip.jsonl] [--keep FOLDER] [--smoke]

49,000 training images with the captions "a photo of a X" and "X"; rows of one class are positives of each other (their
label is the group). The test is the suite zero-shot: 10,000 images, six templates. The number of steps is what fits
into `--minutes` on this machine by the pace of the first steps, so the whole script ends within 20 minutes on two
cores. A line with the score is added to the output file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

IMAGE = {"image_size": 32, "patch_size": 4, "width": 128, "layers": 4, "head_width": 32}


def recipe(options: argparse.Namespace, steps: int) -> dict[str, Any]:
    """The recipe of a run of so many steps."""
    source = {
        "path": f"{options.shared}/data/image_text/cifar10.parquet", "where": {"split": "train"},
        "columns": {"image": "image", "captions": "texts", "label": "group"},
    }  # fmt: skip
    return {
        "name": "cifar-clip", "seed": options.seed,
        "method": {"name": "clip", "transform": {"crop": [0.4, 1.0], "flip": 0.5}},
        "model": {
            "kind": "dual",
            "towers": {
                "dim": 128, "text": {"kind": "static", "tokenizer": "clip", "dim": 128, "max_length": 32},
                "image": {"config": IMAGE},
            },
        },
        "data": {"train": [source]},
        "train": {
            "max_steps": steps, "batch_size": options.batch, "lr": options.lr, "betas": [0.9, 0.98],
            "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.05, "save_every": 10**6, "log_every": 50,
        },
    }  # fmt: skip


def trained(options: argparse.Namespace, steps: int, folder: str) -> tuple[Path, float]:
    """The model folder, and seconds of the steps alone."""
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    class Clock(Progress):
        begun = ended = 0.0

        def start(self, total: int | None, done: int) -> None:
            self.begun = time.perf_counter()

        def step(self, done: int, figures: Any) -> None:
            self.ended = time.perf_counter()
            if figures:
                print(f"step {done}: loss {figures['loss']:.3f}, waiting for data {figures['data_wait_share']:.1%}")

    clock = Clock()
    result = train(recipe(options, steps), output=f"{folder}/{steps}", progress=clock)
    return result.output, clock.ended - clock.begun


def main() -> None:
    """Train for the given time and score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--minutes", type=float, default=18.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--output", type=Path, default=Path("cifar_clip.jsonl"))
    parser.add_argument("--keep", type=Path, help="keep the trained model in this folder")
    parser.add_argument("--smoke", action="store_true", help="a few steps, nothing kept")
    options = parser.parse_args()
    from embedkit.evaluation import open_suite
    from embedkit.formats import load

    if options.smoke:
        options.batch = 16
    begun = time.perf_counter()
    suite = open_suite("zero-shot", f"{options.shared}/data", None, "dev" if options.smoke else "test")
    with tempfile.TemporaryDirectory() as folder:
        _, pace = trained(options, 2 if options.smoke else 20, folder)
        steps = 4 if options.smoke else max(21, int(60 * options.minutes / (pace / 20)))
        print(f"{pace:.1f} s for the first steps: {steps} steps of {options.batch} images")
        model, seconds = trained(options, steps, folder)
        report = suite.run(load(model, device="cpu"))
        if options.keep is not None:
            shutil.copytree(model, options.keep)
    row = {
        "steps": steps, "batch": options.batch, "images": steps * options.batch, "seed": options.seed,
        "top1": report.scores["cifar10"], "seconds": seconds, "seconds_in_all": time.perf_counter() - begun,
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    print(json.dumps(row))
    if not options.smoke:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
