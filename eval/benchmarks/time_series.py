"""Time series that a package brings: a linear model on raw numbers, and on vectors of encoders without and with labels.

    pip download --no-deps aeon==1.6.0
    python eval/benchmarks/time_series.py --wheel aeon-1.6.0-py3-none-any.whl --folder FOLDER [--seeds 3] [--steps 300]

The wheel of the PyPI package aeon holds training and test splits of series of the UCR and UEA archives; only their
files are read, the package is not installed. For each set, on its training split: the recipes `sequence-cpc` and
`time-series` without labels, and `time-series` with the objective `supcon`, which reads them; and the same encoder as
it starts. A logistic regression, whose strength is chosen by cross-validation on the training split, reads their
frozen vectors, and the raw numbers: all steps side by side, series of several lengths brought to the longest one.
Accuracies x 100 on the test split. Constants are the recipes', with segments of a sixth of the median length; nothing
was tuned on a test split.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

SETS = ("ItalyPowerDemand", "GunPoint", "ArrowHead", "BasicMotions", "JapaneseVowels")
RUNS = ("sequence-cpc", "time-series", "supcon")
STRENGTHS = 10.0 ** np.arange(-3, 4)

Split = tuple[list[np.ndarray], np.ndarray]


def read_split(wheel: Path, name: str, split: str) -> Split:
    """Series (T, W) and class numbers of a ``.ts`` file of the wheel."""
    member = f"aeon/datasets/data/{name}/{name}_{split}.ts"
    lines = zipfile.ZipFile(wheel).read(member).decode("utf-8").splitlines()
    begin = next(place for place, line in enumerate(lines) if line.strip().lower() == "@data") + 1
    series, labels = [], []
    for line in filter(str.strip, lines[begin:]):
        *columns, label = line.split(":")
        values = [np.array([float(value) for value in column.split(",")]) for column in columns]
        series.append(np.stack(values, axis=1).astype(np.float32))
        labels.append(label.strip())
    return series, np.array(labels)


def write_rows(path: Path, series: list[np.ndarray], labels: np.ndarray) -> None:
    """The training rows as embedkit reads them."""
    lengths = [len(one) for one in series]
    np.savez(path, x=np.concatenate(series), x_offsets=np.concatenate([[0], np.cumsum(lengths)]), label=labels)


def raw(series: list[np.ndarray], steps: int) -> np.ndarray:
    """All numbers of each series side by side, after it was brought to `steps` steps."""
    from embedkit.views.series import interpolated

    return np.stack([interpolated(one, steps).reshape(-1) for one in series])


def accuracy(train: np.ndarray, y: np.ndarray, test: np.ndarray, wanted: np.ndarray) -> float:
    """Accuracy x 100 of a logistic regression on standardised columns."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(min(5, int(np.unique(y, return_counts=True)[1].min())), shuffle=True, random_state=0)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    search = GridSearchCV(pipeline, {"logisticregression__C": STRENGTHS}, cv=folds)
    return 100.0 * float((search.fit(train, y).predict(test) == wanted).mean())


def trained(run: str, folder: Path, length: int, width: int, seed: int, steps: int, rows: int) -> Any:
    """The encoder of a run; ``steps`` 0 gives it as it starts."""
    import embedkit
    from embedkit.config.recipe_io import load_recipe

    output = folder / f"{run}-{seed}-{steps}"
    columns = {"x": "anchor", **({"label": "label"} if run == "supcon" else {})}
    settings = [
        f"train.max_steps={max(steps, 1)}", "train.epochs=null", f"train.batch_size={min(64, rows)}", f"seed={seed}",
        f"train.lr={1e-3 if steps else 1e-12}", f"train.output={output}",
    ]  # fmt: skip
    recipe = load_recipe("sequence-cpc" if run == "sequence-cpc" else "time-series", settings)
    given = recipe.model_dump(mode="json", exclude_defaults=True)
    given["data"]["train"] = [{"path": str(folder / "train.npz"), "columns": columns}]
    if run == "sequence-cpc":
        given["method"] |= {"length": length, "stride": max(1, length // 2), "most": 12}
    elif run == "supcon":
        given.pop("auxiliary")
        given["objective"] = {"name": "supcon", "temperature": 0.1}
    else:
        given["auxiliary"][0] |= {"length": length}
    embedkit.train(given)
    return embedkit.load(output, device="cpu")


def main() -> None:
    """Train, probe, write ``results.json`` and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, list[float]]] = {}
    for name in given.sets:
        (train, labels), (test, wanted) = (read_split(given.wheel, name, split) for split in ("TRAIN", "TEST"))
        names = np.unique(labels)
        y, wanted = np.searchsorted(names, labels), np.searchsorted(names, wanted)
        folder = given.folder / name
        folder.mkdir(exist_ok=True)
        write_rows(folder / "train.npz", train, y)
        longest = max(len(one) for one in train)
        length = max(3, round(float(np.median([len(one) for one in train])) / 6))
        scores = {"raw": [accuracy(raw(train, longest), y, raw(test, longest), wanted)]}
        for run in ("start", *RUNS):
            for seed in range(given.seeds):
                steps = 0 if run == "start" else given.steps
                model = trained(
                    run.replace("start", "time-series"), folder, length, train[0].shape[1], seed, steps, len(train)
                )
                vectors = [model.encode(part, normalize=False) for part in (train, test)]
                scores.setdefault(run, []).append(accuracy(vectors[0], y, vectors[1], wanted))
        results[name] = scores
        (given.folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        cells = " | ".join(f"{np.mean(values):.1f} ({np.ptp(values):.1f})" for values in scores.values())
        print(f"| {name}, {len(train)} + {len(test)} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
