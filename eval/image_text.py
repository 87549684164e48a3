"""Image-text methods on the same pairs, towers, batch, steps and seeds, and CLIP by open_clip's own loop: retrieval.

    python eval/image_text.py --out runs/image-text [--data ../shared/data] [--methods clip,slip] [--seeds 0,1,2]

Each method runs by its own shipped recipe with these replaced: towers (small ones, the text tower CLIP's with its
vocabulary), data, batch, steps, rate, and the sizes of heads and decoders; `dreamlip` draws whole captions, for these
have one sentence each. ``open_clip/clip`` is `train_one_epoch` of
open_clip_train from the same weights, with its transforms, its cosine schedule and the same optimiser; each of its
epochs draws one caption an image, and pictures that one can see through lie on white, as in embedkit.

Scores are those of `eval/image-text.yaml` on the test split: R@1, R@5 and R@10 both ways, and their mean. Each run adds
a line to OUT/results.jsonl; a finished one is not run again, and an interrupted one of embedkit goes on from its
checkpoint. OUT/image_text.md is written anew after each.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "benchmarks"))

SIZE, WIDTH = 32, 64
IMAGE = {"image_size": SIZE, "patch_size": 8, "width": WIDTH, "layers": 2, "head_width": 32}
TEXT = {"model_type": "clip_text_model", "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 4 * WIDTH, "max_position_embeddings": 77}  # fmt: skip
HEAD = {"auxiliary.0.layers": 2, "auxiliary.0.width": WIDTH, "auxiliary.0.heads": 2}
CASES: dict[str, dict[str, Any]] = {
    "clip": {},
    "siglip": {},
    "slip": {"method.projectors": {"ssl": {"views": ["image1", "image2"], "hidden": 256, "layers": 3, "size": 64}}},
    "coca": HEAD | {"auxiliary.0.queries": 8},
    "soft-mask": HEAD,
    "patch-grouping": {},
    "dreamlip": {"method.texts": {"positive": "first", **{f"text{k}": "caption" for k in range(1, 7)}}},
}
THEIRS = "open_clip/clip"
TASKS = {"emoji": "emoji_noto72", "flickr8k": "flickr8k_1k"}
COLUMNS = ("mean", "image to text R@1", "R@5", "R@10", "text to image R@1", "R@5", "R@10")


def checked(name: str, seed: int, options: argparse.Namespace) -> Any:
    """The recipe of a run."""
    from embedkit.config.recipe_io import load_recipe

    source = {"path": str(pairs(options)), "columns": {"image": "image", "captions": "texts"}}
    given = {
        "seed": seed, "data.train": [source], "data.workers": 1,
        "model.towers": {"dim": WIDTH, "text": {"config": TEXT, "tokenizer": "clip"}, "image": {"config": IMAGE}},
        "train.max_steps": options.steps, "train.epochs": None, "train.batch_size": options.batch,
        "train.lr": options.lr, "train.weight_decay": 0.1, "train.betas": [0.9, 0.98], "train.eps": 1e-6,
        "train.warmup": options.steps // 10, "train.chunk_size": None, "train.log_every": options.steps,
        "train.save_every": max(1, options.steps // 2), "train.holdout": 0.0, "train.threads": options.threads,
        **CASES[name],
    }  # fmt: skip
    return load_recipe(name, [f"{key}={json.dumps(value)}" for key, value in given.items()])


def pairs(options: argparse.Namespace) -> Path:
    """The training pairs of the task, a file of their own."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = Path(options.out) / f"{options.task}-train.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        file = Path(options.data) / "image_text" / f"{TASKS[options.task]}.parquet"
        table = pq.read_table(file, columns=["image", "captions", "split"])
        part = path.with_suffix(".part")
        pq.write_table(table.filter(pc.equal(table["split"], "train")).drop_columns("split"), part)
        part.rename(path)
    return path


def by_embedkit(name: str, seed: int, options: argparse.Namespace) -> Any:
    """A model trained by embedkit."""
    from embedkit.formats import load
    from embedkit.training import train

    folder = Path(options.out) / "runs" / f"{options.task}-{name}-{seed}-{options.steps}"
    result = train(checked(name, seed, options), output=folder, resume=(folder / "checkpoints").is_dir())
    return load(result.output, device="cpu")


def on_white(image: Any) -> Any:
    """A picture without what shows through, as embedkit reads it; `convert("RGB")`, open_clip's way, is on black."""
    from PIL import Image

    layers = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


class Epoch:
    """Batches of one epoch in the form of open_clip's loaders: a drawn caption an image, its transforms, all rows."""

    def __init__(self, rows: list[dict[str, Any]], size: int, seed: int) -> None:
        import open_clip

        self.rows, self.size, self.random = rows, size, np.random.default_rng(seed)
        self.num_batches, self.num_samples = len(rows) // size, len(rows) // size * size
        self.transform = open_clip.image_transform(SIZE, is_train=True)
        self.tokenizer = open_clip.SimpleTokenizer()

    def __iter__(self) -> Any:
        import torch
        from PIL import Image

        order = self.random.permutation(len(self.rows))
        for start in range(0, self.num_samples, self.size):
            part = [self.rows[place] for place in order[start : start + self.size]]
            images = torch.stack([self.transform(on_white(Image.open(io.BytesIO(row["image"])))) for row in part])
            texts = [row["captions"][self.random.integers(len(row["captions"]))] for row in part]
            yield images, self.tokenizer(texts)


def by_open_clip(seed: int, options: argparse.Namespace) -> Any:
    """CLIP trained by open_clip's loop from the weights that embedkit starts from, as an embedkit model for scoring."""
    import math

    import pyarrow.parquet as pq
    import torch
    from clip_training import OpenClip
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    from embedkit.factory import build

    recipe = checked("clip", seed, options)
    model = build(recipe.model, seed)
    torch.manual_seed(seed)
    theirs = OpenClip(model, SimpleNamespace(precision="fp32", batch=options.batch))
    theirs.model.logit_scale.data.fill_(math.log(1 / 0.07))
    for group, decay in zip(theirs.adamw.param_groups, (0.0, 0.1), strict=True):
        group |= {"lr": options.lr, "weight_decay": decay}
    loader = Epoch(pq.read_table(pairs(options)).to_pylist(), options.batch, seed)
    epochs = math.ceil(options.steps / loader.num_batches)
    schedule = cosine_lr(theirs.adamw, options.lr, options.steps // 10, options.steps)
    theirs.args.skip_scheduler = False
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
    for epoch in range(epochs):
        loader.num_samples = min(loader.num_batches, options.steps - epoch * loader.num_batches) * options.batch
        train_one_epoch(theirs.model, data, theirs.loss, epoch, theirs.adamw, None, schedule, None, theirs.args)
    back(model, theirs.model.state_dict())
    return model.eval()


def back(model: Any, state: dict[str, Any]) -> None:
    """Put open_clip's weights into the model that they came from."""
    from embedkit.formats.open_clip import keys as clip_keys

    visual = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}
    model.image.encoder.load_state_dict(visual)
    outside = ("visual.", "logit_")
    text = {name: tensor for name, tensor in state.items() if not name.startswith(outside)}
    model.text.encoder.load_state_dict(clip_keys.text_to_hf(text))
    model.projection("text").load_state_dict({"layers.0.weight": text["text_projection"].T})


def scores(model: Any, options: argparse.Namespace) -> list[float]:
    """The columns of the table."""
    import embedkit

    report = embedkit.evaluate(model, HERE / "image-text.yaml", options.data, tasks=[options.task], resamples=0)
    row = report.to_json()["tasks"][options.task]
    ways = ("image_to_text", "text_to_image")
    return [row["score"], *(row["metrics"][f"{way}_hit_rate@{k}"] for way in ways for k in (1, 5, 10))]


def finished(options: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of results of this budget."""
    path = Path(options.out) / "results.jsonl"
    rows = map(json.loads, path.read_text().splitlines() if path.is_file() else [])
    return {(row["method"], row["seed"]): row for row in rows if row["budget"] == budget(options)}


def budget(options: argparse.Namespace) -> list[Any]:
    """What has to be equal for rows of one table."""
    return [options.task, options.steps, options.batch, options.lr]


def markdown(rows: dict[tuple[str, int], dict[str, Any]], options: argparse.Namespace) -> str:
    """The table: means over seeds, and the standard deviation of the first column."""
    lines = [f"{options.task}, {options.steps} steps of {options.batch} pairs, rate {options.lr:g}.", "",
             "| method | seeds | " + " | ".join(COLUMNS) + " |", "| --- |" + 7 * " ---: |" + " ---: |"]  # fmt: skip
    for name in dict.fromkeys(method for method, _ in rows):
        table = np.array([row["scores"] for (method, _), row in rows.items() if method == name])
        spread = f" ± {statistics.stdev(table[:, 0]):.2f}" if len(table) > 1 else ""
        mean = [f"{value:.2f}" for value in table.mean(axis=0)]
        lines.append(f"| {name} | {len(table)} | {mean[0]}{spread} | " + " | ".join(mean[1:]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/image-text")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--task", default="emoji", choices=TASKS)
    parser.add_argument("--methods", default=",".join([THEIRS, *CASES]))
    parser.add_argument("--seeds", default="0,1,2")
    for option, value in (("steps", 200), ("batch", 64), ("threads", 1)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    for seed in map(int, options.seeds.split(",")):
        for name in options.methods.split(","):
            if (name, seed) in finished(options):
                continue
            began = time.process_time()
            model = by_open_clip(seed, options) if name == THEIRS else by_embedkit(name, seed, options)
            seconds = time.process_time() - began
            row = {"method": name, "seed": seed, "budget": budget(options), "seconds": seconds}
            row["scores"] = scores(model, options)
            with (Path(options.out) / "results.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            Path(options.out, "image_text.md").write_text(markdown(finished(options), options))
            print(row, flush=True)


if __name__ == "__main__":
    main()
