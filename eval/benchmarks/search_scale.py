"""Exact search at scale: time and peak memory against faiss IndexFlatIP and sentence-transformers' evaluator.

    pip install "embedkit[search,st]"
    python eval/benchmarks/search_scale.py --documents 1000000 --queries 10000 --folder /tmp/search

Documents are random unit vectors of 256 numbers, float16, memory-mapped. Every way runs in a process of its own, in
turn, and reports its peak memory. faiss gets them as float32 (1 GB), as it needs. sentence-transformers' evaluator is
measured through its own search and scoring on vectors that are ready, on a part of the queries, since it holds Python
lists of all results; its time is given per query.
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


def embedkit_way(documents: Any, queries: Any) -> tuple[float, Any]:
    """Blocked search over the memory map."""
    from embedkit.evaluation.search import array_blocks, exact_top_k

    began = time.perf_counter()
    _, places = exact_top_k(queries, array_blocks(documents, 4096), DEPTH, len(documents))
    return time.perf_counter() - began, places


def faiss_way(documents: Any, queries: Any) -> tuple[float, Any]:
    """IndexFlatIP; adding the documents counts, as reading them does above."""
    import faiss

    began = time.perf_counter()
    index = faiss.IndexFlatIP(DIM)
    for start in range(0, len(documents), 50_000):
        index.add(np.asarray(documents[start : start + 50_000], dtype=np.float32))
    _, places = index.search(queries, DEPTH)
    return time.perf_counter() - began, places


def st_way(documents: Any, queries: Any) -> tuple[float, Any]:
    """InformationRetrievalEvaluator with a model that returns the stored vectors."""
    import torch
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    ids = [str(n) for n in range(len(documents))]
    asked = {f"q{n}": f"q{n}" for n in range(len(queries))}
    evaluator = InformationRetrievalEvaluator(
        asked, dict(zip(ids, ids, strict=True)), {name: {"0"} for name in asked}, write_csv=False,
        map_at_k=[DEPTH], accuracy_at_k=[1], precision_recall_at_k=[1], mrr_at_k=[10], ndcg_at_k=[10],
        score_functions={"dot": lambda a, b: a @ b.T}, main_score_function="dot",
    )  # fmt: skip

    def embed(model: Any, texts: list[str], **options: Any) -> Any:
        store = queries if texts[0].startswith("q") else documents
        rows = [int(text.lstrip("q")) for text in texts]
        return torch.from_numpy(np.asarray(store[rows[0] : rows[-1] + 1], dtype=np.float32))

    evaluator.embed_inputs = embed
    began = time.perf_counter()
    evaluator.compute_all_metrics(type("Stored", (), {"similarity_fn_name": "dot"})())
    return time.perf_counter() - began, None


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
    if way == "sentence-transformers":
        asked = asked[:: max(1, len(asked) // 1000)][:1000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, places = WAYS[way](store, asked)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    check = None if places is None else int(np.asarray(places)[:50].astype(np.int64).sum())
    print(json.dumps({"way": way, "queries": len(asked), "seconds": seconds,
                      "ms_per_query": 1000 * seconds / len(asked),
                      "peak_mib": peak, "before_mib": before, "check": check}))  # fmt: skip


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
    rows = {}
    for way in arguments.ways:
        command = [sys.executable, __file__, "--one", way, "--documents", str(sizes[1]), "--queries", str(sizes[2]),
                   "--folder", str(sizes[0]), "--threads", str(arguments.threads)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[way] = row = json.loads(done.stdout.splitlines()[-1])
        print(f"{way:<22} {row['queries']:>6} queries {row['seconds']:8.1f} s  {row['ms_per_query']:8.2f} ms/query  "
              f"peak {row['peak_mib']:7.0f} MiB (before {row['before_mib']:.0f})")  # fmt: skip
    if {"embedkit", "faiss"} <= set(rows):
        same = rows["embedkit"]["check"] == rows["faiss"]["check"]
        print(f"{rows['faiss']['ms_per_query'] / rows['embedkit']['ms_per_query']:.2f} x the speed of faiss; "
              f"places of 50 queries {'equal' if same else 'differ (near ties in float32)'}")  # fmt: skip
    if {"embedkit", "sentence-transformers"} <= set(rows):
        ratio = rows["sentence-transformers"]["ms_per_query"] / rows["embedkit"]["ms_per_query"]
        print(f"{ratio:.2f} x the speed of sentence-transformers' evaluator")
    return 0


if __name__ == "__main__":
    sys.exit(main())
