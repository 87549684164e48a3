"""Image methods on the same pictures, tower, batch, steps and seeds, and three of them by lightly: one table of probes.

    python eval/images.py --out runs/images [--methods simclr,byol] [--seeds 0,1,2] [--steps 400] [--speed]

Each method runs by its own shipped recipe with these replaced: tower (a small ViT for 32 pixels), data, batch, steps,
rate, the sizes of heads and of queues, and the decay of running means, which is for short runs here. Colours and
crops are those of the transform `small`. ``lightly/NAME`` is a plain PyTorch loop of lightly's parts from the same
weights, with the same crops, heads and optimiser (`images_lightly.py`); ``dino-2`` is DINO on two views, as that loop.

Scores are of the tower's vectors, without projector: a logistic regression, and 20 nearest neighbours by cosine, on
`--fit` training pictures, tested on `--test` others. Each run adds a line to OUT/results.jsonl; a finished one is not
run again, and an interrupted one goes on from its checkpoint. OUT/images.md is written anew after each. `--speed`
trains nothing to its end: it prints images a second of both toolkits, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

SIZE = 32
TOWER = {"image_size": SIZE, "patch_size": 8, "width": 96, "layers": 3, "head_width": 32}
HIDDEN, OUT, PROTOTYPES, DECAY = 256, 64, 128, 0.95
LARGE = {"name": "small", "count": 2}
FOCAL = {"name": "small", "crop": [0.05, 0.4], "size": 16, "count": 4}
PLAIN = {"method.transform": "small", "method.hidden": HIDDEN, "method.size": OUT}
LISTED = {"method.views": [LARGE], "method.hidden": HIDDEN, "method.size": OUT}
CASES: dict[str, dict[str, Any]] = {
    "simclr": PLAIN,
    "moco": PLAIN | {"objective.size": 2048, "guide.ema": DECAY},
    "byol": LISTED | {"objective": {"name": "byol", "hidden": HIDDEN}, "guide.ema": DECAY},
    "barlow-twins": LISTED,
    "vicreg": LISTED,
    "nnclr": PLAIN | {"objective.size": 2048, "objective.hidden": HIDDEN},
    "swav": LISTED | {"method.views": [LARGE, FOCAL],
                      "objective": {"name": "swav", "prototypes": PROTOTYPES, "freeze_steps": 5}},
    "dino": LISTED | {"method.views": [LARGE, FOCAL], "method.prototypes": PROTOTYPES, "guide.ema": DECAY,
                      "method.freeze_epochs": 0, "objective": {"name": "dino"}},
    "msn": LISTED | {"objective.prototypes": PROTOTYPES, "guide.ema": DECAY, "method.views": [
        {"name": "small"}, {"name": "small", "patch_dropout": 0.15, "teacher": False}, FOCAL]},
    "densecl": PLAIN | {"objective.size": 2048, "guide.ema": DECAY, "auxiliary.0.hidden": HIDDEN,
                        "auxiliary.0.size": OUT, "auxiliary.0.queue": 2048},
}  # fmt: skip
PEERS = ("simclr", "byol", "dino")  # by lightly too; dino with two views alone
CASES["dino-2"] = CASES["dino"] | {"method.views": [LARGE]}
RECIPE = {"dino-2": "dino"}
THEIRS = {"simclr": "simclr", "byol": "byol", "dino": "dino-2"}


def overrides(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What replaces settings of a method's recipe."""
    source = {"path": str(drawn(options, "train")), "columns": {"image": "image"}}
    return {
        "seed": seed, "model.towers.dim": TOWER["width"], "model.towers.image": {"config": TOWER},
        "data.train": [source], "data.workers": options.workers,
        "train.max_steps": options.steps, "train.epochs": None, "train.batch_size": options.batch,
        "train.lr": options.lr, "train.weight_decay": 0.05, "train.warmup": 0.1, "train.chunk_size": None,
        "train.max_grad_norm": 3.0, "train.save_every": max(1, options.steps // 2), "train.log_every": options.steps,
        "train.threads": options.threads, **CASES[name],
    }  # fmt: skip


def checked(name: str, seed: int, options: argparse.Namespace) -> Any:
    """The recipe of a run."""
    from embedkit.config.recipe_io import load_recipe

    given = [f"{key}={json.dumps(value)}" for key, value in overrides(name, seed, options).items()]
    return load_recipe(RECIPE.get(name, name), given)


def trained(name: str, seed: int, folder: Path, options: argparse.Namespace) -> tuple[Any, float]:
    """A model, and the processor seconds of its steps, of all threads of this process."""
    from embedkit.formats import load
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    times: list[float] = []

    class Clock(Progress):
        def start(self, total: int | None, done: int) -> None:
            times.append(time.process_time())

        def step(self, done: int, figures: Any) -> None:
            times.append(time.process_time())

    result = train(checked(name, seed, options), output=folder, resume=True, progress=Clock())
    return load(result.output, device="cpu"), times[-1] - times[0]


def drawn(options: argparse.Namespace, split: str) -> Path:
    """A file of the pictures of a split that are used, drawn once: the data's own are sorted by class."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    count = options.rows if split == "train" else options.test
    path = Path(options.out) / f"{split}-{count}.parquet"
    if not path.is_file():
        table = pq.read_table(options.cifar, columns=["image", "label", "split"])
        table = table.filter(pc.equal(table["split"], split))
        part = path.with_suffix(".part")
        pq.write_table(table.take(np.random.default_rng(0).permutation(table.num_rows)[:count]), part)
        part.rename(path)
    return path


def pictures(options: argparse.Namespace, split: str, count: int) -> tuple[list[bytes], np.ndarray]:
    """Files and classes of `count` pictures of a split."""
    import pyarrow.parquet as pq

    table = pq.read_table(drawn(options, split)).slice(0, count)
    images = [value["bytes"] if isinstance(value, dict) else value for value in table["image"].to_pylist()]
    return images, table["label"].to_numpy()


def probe(encode: Callable[[list[bytes]], np.ndarray], options: argparse.Namespace) -> dict[str, float]:
    """Accuracy in percent of a logistic regression and of 20 neighbours."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    (fit, classes), (test, wanted) = pictures(options, "train", options.fit), pictures(options, "test", options.test)
    x, y = encode(fit), encode(test)
    scaler = StandardScaler().fit(x)
    linear = LogisticRegression(C=0.1, max_iter=300).fit(scaler.transform(x), classes)
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12) for z in (x, y)]
    near = np.argsort(-(unit[1] @ unit[0].T), axis=1)[:, :20]
    votes = np.stack([(classes[near] == k).sum(axis=1) for k in range(10)], axis=1).argmax(axis=1)
    return {
        "linear": 100 * float(linear.score(scaler.transform(y), wanted)),
        "knn": 100 * float((votes == wanted).mean()),
    }


def encoder(model: Any) -> Callable[[list[bytes]], np.ndarray]:
    """Vectors of an embedkit model."""
    return lambda images: np.asarray(model.encode(images, batch_size=256))


def finished(options: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of results of this budget."""
    path = Path(options.out) / "results.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = [row for row in map(json.loads, lines) if row["budget"] == budget(options)]
    return {(row["method"], row["seed"]): row for row in rows}


def budget(options: argparse.Namespace) -> list[Any]:
    """What has to be equal for rows of one table."""
    return [options.steps, options.batch, options.rows, options.lr, options.fit, options.test]


def run(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run of a method, trained and scored."""
    import torch

    torch.set_num_threads(options.threads)
    folder = Path(options.out) / "runs" / f"{name.replace('/', '-')}-{seed}-{options.steps}x{options.batch}"
    if name.startswith("lightly/"):
        from images_lightly import start_of, train_lightly

        model, seconds = train_lightly(start_of(options, checked, seed), name.partition("/")[2], seed, options)
    elif name == "untrained":
        from images_lightly import start_of

        model, seconds = start_of(options, checked, seed), 0.0
    else:
        model, seconds = trained(name, seed, folder, options)
    return {"method": name, "seed": seed, "budget": budget(options), "seconds": seconds,
            **probe(encoder(model), options)}  # fmt: skip


def table(rows: Iterable[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table, in Markdown."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["method"], []).append(row)
    lines = [f"{options.steps} steps of {options.batch} images, {options.rows} training images of CIFAR-10.", ""]
    lines += ["| method | linear | 20 neighbours | processor seconds | seeds |", "| --- | --- | --- | --- | --- |"]
    for name, own in sorted(by_name.items(), key=lambda pair: -statistics.fmean(row["linear"] for row in pair[1])):
        cells = []
        for key in ("linear", "knn", "seconds"):
            values = [row[key] for row in own]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines) + "\n"


def speed(options: argparse.Namespace) -> None:
    """Images a second of both toolkits, each in turn, medians of the rounds."""
    from images_lightly import start_of, train_lightly

    found: dict[str, list[float]] = {}
    for number in range(options.rounds):
        for theirs, ours in THEIRS.items():
            found.setdefault(f"embedkit {theirs}", []).append(pace(ours, options, number))
            marks: list[float] = []
            train_lightly(start_of(options, checked, 0), theirs, 0, options, marks)
            found.setdefault(f"lightly {theirs}", []).append(rate(marks, options))
    for name, values in found.items():
        print(f"{name}: {statistics.median(values):.0f} images/s ({min(values):.0f} to {max(values):.0f})")


def rate(marks: list[float], options: argparse.Namespace) -> float:
    """Images a second of the second half of the steps: processes for the crops start after some 4,000 of them."""
    marks = marks[len(marks) // 2 :]
    return options.batch * (len(marks) - 1) / (marks[-1] - marks[0]) if len(marks) > 1 else 0.0


def pace(name: str, options: argparse.Namespace, number: int) -> float:
    """Images a second of a short run, see `rate`."""
    import shutil

    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    marks: list[float] = []

    class Marks(Progress):
        def step(self, done: int, figures: Any) -> None:
            marks.append(time.perf_counter())

    folder = Path(options.out) / "speed" / f"{name}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    train(checked(name, 0, options), output=folder, progress=Marks())
    return rate(marks, options)


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/images")
    parser.add_argument("--cifar", type=Path, default=Path("../shared/data/image_text/cifar10.parquet"))
    parser.add_argument("--methods", help="names with commas; all by default")
    parser.add_argument("--seeds", default="0,1,2")
    for name, value in (("steps", 400), ("batch", 64), ("rows", 8000), ("fit", 2000), ("test", 2000), ("threads", 1),
                        ("workers", 1), ("rounds", 3)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--speed", action="store_true")
    return parser


def main() -> None:
    """Run what is missing, or the speed."""
    options = arguments().parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    if options.speed:
        speed(options)
        return
    every = ["untrained", *CASES, *(f"lightly/{name}" for name in PEERS)]
    names = options.methods.split(",") if options.methods else every
    for seed in (int(text) for text in options.seeds.split(",")):
        for name in names:
            if (name, seed) in finished(options):
                continue
            row = run(name, seed, options)
            with (Path(options.out) / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            (Path(options.out) / "images.md").write_text(table(finished(options).values(), options))


if __name__ == "__main__":
    main()
