"""Exact search at scale: time and peak memory against faiss IndexFlatIP and sentence-transformers' evaluator.

    pip install "embedkit[search,st]"
    python eval/benchmarks/search_scale.py --documents 1000000 --queries 10000 --folder /tmp/search

Documents are random unit vectors of 256 numbers, float16, memory-mapped; each query has one relevant document. Every
way runs in a process of its own, in turn, and reports its peak memory. What is timed, vectors being ready:

embedkit               the order of equal scores by document id, the search for 100 documents a query, and nDCG, MAP,
                       MRR, recall, precision and hit rate of every query: what `embedkit eval` does after encoding
sentence-transformers  ``InformationRetrievalEvaluator.compute_all_metrics`` with its own defaults (cosine, chunks of
                       50,000 documents, the same depths): search and measures
faiss                  making the index (from float32, which it needs) and the search; compared with our search alone

Beside the time on the wall stands the processor time of all threads, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

DIM, DEPTH = 256, 100
CUTOFFS = (1, 3, 5, 10, 100)


def make(folder: Path, documents: int, queries: int) -> None:
    """Write the vectors once."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"documents-{documents}.npy"
    if path.is_file():
        return
    rng = np.random.default_rng(0)
    store = np.lib.format.open_memmap(path, "w+", np.float16, (documents, DIM))
    for start in range(0, documents, 50_000):
        part = rng.standard_normal((min(50_000, documents - start), DIM), dtype=np.float32)
        store[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    store.flush()
    asked = rng.standard_normal((queries, DIM), dtype=np.float32)
    np.save(folder / f"queries-{queries}.npy", asked / np.linalg.norm(asked, axis=1, keepdims=True))


class Clock:
    """Seconds on the wall and of the processor since it was made."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both, as JSON."""
        return {"wall": time.perf_counter() - self.wall, "processor": time.process_time() - self.processor}


def embedkit_way(documents: Any, queries: Any) -> dict[str, Any]:
    """Blocked search over the memory map, then the measures."""
    from embedkit.evaluation.measures.ranking import ranking_metrics
    from embedkit.retrieval.exact import array_blocks, exact_top_k, trec_preference

    ids = [str(n) for n in range(len(documents))]
    whole = Clock()
    preference = trec_preference(ids)
    clock = Clock()
    _, places = exact_top_k(queries, array_blocks(documents, 4096), DEPTH, len(documents), preference)
    search = clock.read()
    gains = np.zeros(places.shape)
    for row, found in enumerate(places):
        relevant = {ids[row % len(ids)]: 1}
        gains[row] = [relevant.get(ids[place], 0) for place in found]
    metrics = ranking_metrics(gains, [[1]] * len(queries), CUTOFFS)
    return {"search": search, "whole": whole.read(), "places": places, "ndcg": float(metrics["ndcg@10"].mean())}


def faiss_way(documents: Any, queries: Any) -> dict[str, Any]:
    """IndexFlatIP; adding the documents counts, as reading them does above."""
    import faiss

    clock = Clock()
    index = faiss.IndexFlatIP(DIM)
    for start in range(0, len(documents), 50_000):
        index.add(np.asarray(documents[start : start + 50_000], dtype=np.float32))
    _, places = index.search(queries, DEPTH)
    return {"search": clock.read(), "places": places}


def st_way(documents: Any, queries: Any) -> dict[str, Any]:
    """InformationRetrievalEvaluator with a model that returns the stored vectors."""
    import torch
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import cos_sim

    ids = [str(n) for n in range(len(documents))]
    asked = {f"q{n}": f"q{n}" for n in range(len(queries))}
    evaluator = InformationRetrievalEvaluator(
        asked, dict(zip(ids, ids, strict=True)), {f"q{n}": {ids[n % len(ids)]} for n in range(len(queries))},
        write_csv=False, score_functions={"cosine": cos_sim},
    )  # fmt: skip

    def embed(model: Any, texts: list[str], **options: Any) -> Any:
        store = queries if texts[0].startswith("q") else documents
        rows = [int(text.lstrip("q")) for text in texts]
        return torch.from_numpy(np.asarray(store[rows[0] : rows[-1] + 1], dtype=np.float32))

    evaluator.embed_inputs = embed
    whole = Clock()
    scores = evaluator.compute_all_metrics(None)
    return {"whole": whole.read(), "ndcg": float(scores["cosine"]["ndcg@k"][10])}


WAYS = {"embedkit": embedkit_way, "faiss": faiss_way, "sentence-transformers": st_way}


def run_one(way: str, folder: Path, documents: int, queries: int, threads: int) -> None:
    """Measure one way in this process and print JSON."""
    import torch

    torch.set_num_threads(threads)
    if way == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
    store = np.load(folder / f"documents-{documents}.npy", mmap_mode="r")
    asked = np.load(folder / f"queries-{queries}.npy")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = WAYS[way](store, asked)
    found["peak_mib"], found["before_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, before
    places = found.pop("places", None)
    found["check"] = None if places is None else int(np.asarray(places)[:50].astype(np.int64).sum())
    print(json.dumps(found))


def main() -> int:
    """Run the ways in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/embedkit-search"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--one", choices=list(WAYS))
    arguments = parser.parse_args()
    sizes = arguments.folder, arguments.documents, arguments.queries
    make(*sizes)
    if arguments.one:
        run_one(arguments.one, *sizes, arguments.threads)
        return 0
    rows: dict[str, Any] = {}
    for way in arguments.ways:
        command = [sys.executable, __file__, "--one", way, "--documents", str(sizes[1]), "--queries", str(sizes[2]),
                   "--folder", str(sizes[0]), "--threads", str(arguments.threads)]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[way] = row = json.loads(done.stdout.splitlines()[-1])
        said = "  ".join(f"{part} {row[part]['wall']:7.1f} s ({row[part]['processor']:7.1f} s processor)"
                         for part in ("search", "whole") if part in row)  # fmt: skip
        print(f"{way:<22} {said}  peak {row['peak_mib']:6.0f} MiB (before {row['before_mib']:.0f})", flush=True)
    tell("faiss", "search", rows)
    tell("sentence-transformers", "whole", rows)
    if {"embedkit", "faiss"} <= set(rows):
        same = rows["embedkit"]["check"] == rows["faiss"]["check"]
        print(f"documents found for 50 queries {'equal' if same else 'differ (near ties in float32)'}")
    return 0


def tell(other: str, part: str, rows: dict[str, Any]) -> None:
    """Print how many times as fast as `other` embedkit was in `part`."""
    if {"embedkit", other} <= set(rows):
        ratio = {kind: rows[other][part][kind] / rows["embedkit"][part][kind] for kind in ("wall", "processor")}
        print(f"{part}: {ratio['wall']:.2f} x the speed of {other} (processor time: {ratio['processor']:.2f} x)")


if __name__ == "__main__":
    sys.exit(main())
