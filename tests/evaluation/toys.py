"""Small models and data folders for the evaluation tests."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class BagOfWords:
    """A sentence is the sum of fixed random vectors of its words; counts what it was asked to encode."""

    def __init__(self, dim: int = 32, seed: int = 0) -> None:
        self.dim, self.seed = dim, seed
        self.asked: list[str] = []
        self.prompts_used: list[Any] = []

    def encode(self, inputs: Sequence[str], **options: Any) -> np.ndarray:
        self.asked.extend(inputs)
        self.prompts_used.append(options.get("prompt"))
        rows = []
        for text in inputs:
            seeds = [[zlib.crc32(word.encode()), self.seed] for word in text.lower().split()]
            rows.append(sum(np.random.default_rng(s).standard_normal(self.dim) for s in seeds))
        return np.array(rows, dtype=np.float32).reshape(len(inputs), self.dim)


class Described(BagOfWords):
    """The same with the description that embedkit's own models give."""

    def describe(self) -> dict[str, Any]:
        return {"hash": f"weights-{self.seed}", "pooler": "mean", "max_length": 64, "dtype": "float32", "dim": self.dim}


class Fixed:
    """Returns given vectors by text."""

    def __init__(self, table: dict[Any, Any]) -> None:
        self.table = table

    def encode(self, inputs: Sequence[Any], **options: Any) -> np.ndarray:
        return np.array([self.table[item] for item in inputs], dtype=np.float32)


WORDS = ["cat", "dog", "house", "tree", "river", "stone", "cloud", "bread", "music", "winter"]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Random sentences of three to seven words; some stand twice."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, int(rng.integers(3, 8)))) for _ in range(count)]


def sts_rows(count: int, seed: int = 0, subsets: Sequence[str] = ("one", "two")) -> list[tuple[str, float, str, str]]:
    """Rows ``(subset, score, sentence1, sentence2)`` with tied scores."""
    rng = np.random.default_rng(seed)
    first, second = sentences(count, seed + 1), sentences(count, seed + 2)
    return [
        (str(rng.choice(list(subsets))), float(np.round(rng.uniform(0, 5) * 2) / 2), a, b)
        for a, b in zip(first, second, strict=True)
    ]


def write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """A tsv file, gzipped when the name ends with .gz."""
    text = "\n".join("\t".join(map(str, row)) for row in [header, *rows]) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


STS_HEADER = ("subset", "score", "sentence1", "sentence2", "split")


def sts_folder(folder: Path, names: Sequence[str] = ("sts12", "stsb"), count: int = 40) -> Path:
    """A data folder laid out like the STS suites': one NAME.tsv.gz a task, splits in a column."""
    for number, name in enumerate(names):
        rows = [(*row, "test") for row in sts_rows(count, 10 * number)]
        dev = "trial" if name == "sickr" else "dev"
        rows += [(*row, dev) for row in sts_rows(count // 2, 10 * number + 5)]
        write_tsv(folder / f"{name}.tsv.gz", STS_HEADER, rows)
    return folder
