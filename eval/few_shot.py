"""How few texts a recipe needs: mean and spread of a suite's score over draws of the training rows.

    python eval/few_shot.py RECIPE FILE --rows 100,1000,10% [--draws 3] [--suite sts --data FOLDER] [KEY=VALUE ...]

The tables of miCSE's low-shot and ConSERT's few-shot sections are of this form. A draw is a random order of the file's
rows and the seed of its runs; its larger sets hold its smaller ones. Every run makes ``--steps`` steps, over the same
rows again where they are few, with a batch of all rows where those are fewer. Each has a folder of its own under
``--out`` and adds a line to results.jsonl there; a finished one is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def sizes_of(words: str, total: int) -> list[int]:
    """Numbers of rows from ``100,1000,10%``; each is at least 2 and at most `total`.

    >>> sizes_of("100,10%,100%", 400)
    [100, 40, 400]
    """
    sizes = []
    for word in words.split(","):
        size = round(total * float(word[:-1]) / 100) if word.endswith("%") else int(word)
        if not 2 <= size <= total:
            sys.exit(f"--rows {word}: {size} rows of {total}; give 2 to {total}")
        sizes.append(size)
    return sizes


def order_of(total: int, draw: int) -> np.ndarray:
    """The random order of the rows in a draw."""
    return np.random.default_rng([draw, total]).permutation(total)


def run_one(
    recipe: str, rows: Sequence[dict[str, Any]], draw: int, args: argparse.Namespace, overrides: dict[str, Any]
) -> dict[str, float]:
    """Scores of a model trained on `rows`, by suite and task."""
    import embedkit

    folder = args.out / f"{recipe}-{len(rows)}-{draw}"
    batch = min(len(rows), args.batch_size)
    settings: dict[str, Any] = {
        "seed": draw,
        "evaluation": None,
        "train__batch_size": batch,
        "train__max_steps": args.steps,
        "train__epochs": None,
        **overrides,
    }
    run = embedkit.train(recipe, data=list(rows), output=folder, smoke=args.smoke, **settings)
    report = embedkit.evaluate(str(run.output), args.suite, args.data, resamples=0)
    return {f"{report.suite}/{name}": float(score) for name, score in report.scores.items()}


def table(results: Sequence[dict[str, Any]], metric: str) -> str:
    """Mean, spread (standard deviation of a sample) and draws by number of rows, as Markdown."""
    by_size: dict[int, list[float]] = defaultdict(list)
    for one in results:
        by_size[one["rows"]].append(one["scores"][metric])
    lines = [f"| rows | {metric} | spread | draws |", "| ---: | ---: | ---: | ---: |"]
    for size, values in sorted(by_size.items()):
        spread = f"{np.std(values, ddof=1):.2f}" if len(values) > 1 else "-"
        lines.append(f"| {size} | {np.mean(values):.2f} | {spread} | {len(values)} |")
    return "\n".join(lines)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--rows", required=True)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--suite", default="sts")
    parser.add_argument("--data")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/few-shot"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Train and score what is not there yet, and print the table."""
    from embedkit.config.recipe_io import parse_yaml
    from embedkit.evaluation import main_metric
    from embedkit.evaluation.datasets.tables import read_table

    args = arguments(words)
    content = read_table(args.file)
    names = {"text": "anchor"}
    everything = [
        {names.get(key, key): cells[row] for key, cells in content.columns.items()} for row in range(len(content))
    ]
    overrides = {key: parse_yaml(text, key) for key, _, text in (word.partition("=") for word in args.overrides)}
    overrides = {key.replace(".", "__"): value for key, value in overrides.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "results.jsonl"
    results = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    done = {(one["recipe"], one["rows"], one["draw"]) for one in results}
    for size in sizes_of(args.rows, len(everything)):
        for draw in range(args.draws):
            if (args.recipe, size, draw) in done:
                continue
            rows = [everything[row] for row in order_of(len(everything), draw)[:size]]
            scores = run_one(args.recipe, rows, draw, args, overrides)
            results.append({"recipe": args.recipe, "rows": size, "draw": draw, "scores": scores})
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(results[-1]) + "\n")
    own = [one for one in results if one["recipe"] == args.recipe]
    print(table(own, main_metric(args.suite, data=args.data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
