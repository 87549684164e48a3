"""Two processes give the scores of one, on each of them, and each encodes half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from embedkit.evaluation import Embedder, EmbeddingCache, evaluate
from embedkit.retrieval.exact import exact_top_k
from tests.evaluation.test_retrieval import collection
from tests.evaluation.toys import BagOfWords, sts_folder
from tests.helpers.gloo import run_processes


def _scores(data: str, distributed: bool) -> tuple[dict[str, float], int]:
    model = BagOfWords()
    report = evaluate(model, "sts", data, ["sts12", "stsb"], distributed=distributed, resamples=20)
    return report.scores | {"low": report.tasks["stsb"].interval[0]}, len(model.asked)


def test_two_processes_score_like_one(tmp_path: Path) -> None:
    data = str(sts_folder(tmp_path))
    alone, whole = _scores(data, False)
    answers: list[Any] = run_processes(_scores, 2, data, True)
    assert [scores for scores, _ in answers] == [alone, alone]
    asked = [count for _, count in answers]
    assert sum(asked) == whole
    assert abs(asked[0] - asked[1]) <= 1


def _retrieved(data: str, distributed: bool) -> tuple[dict[str, float], list[float], int]:
    model = BagOfWords()
    report = evaluate(model, "retrieval", data, ["scifact"], distributed=distributed, resamples=0)
    task = report.tasks["scifact"]
    return task.metrics, task.samples.values["value"].tolist(), len(model.asked)  # type: ignore[union-attr]


def test_two_processes_search_half_of_the_corpus_each(tmp_path: Path) -> None:
    collection(tmp_path / "retrieval" / "scifact")
    metrics, values, whole = _retrieved(str(tmp_path), False)
    answers: list[Any] = run_processes(_retrieved, 2, str(tmp_path), True)
    assert [answer[:2] for answer in answers] == [(metrics, values)] * 2
    asked = [count for *_, count in answers]
    assert sum(asked) == whole and abs(asked[0] - asked[1]) <= 2


def _found(size: int, k: int, world: int, shared: bool) -> tuple[list[Any], list[Any]]:
    """The search over a corpus with many ties; a process that is one of `world` adds its part of it."""
    import torch.distributed as dist

    rng = np.random.default_rng(size)
    queries, documents = rng.integers(-1, 2, (7, 3)), rng.integers(-1, 2, (size, 3)).astype(np.float32)
    step = -(-size // world)
    blocks: list[Any] = [(start, documents[start : start + step]) for start in range(0, size, step)]
    if shared:
        blocks = blocks[dist.get_rank() : dist.get_rank() + 1]
    scores, places = exact_top_k(queries.astype(np.float32), blocks, k, size, shared=shared)
    return scores.tolist(), places.tolist()


def test_shared_search_equals_one_search_with_ties_and_small_parts() -> None:
    for size, k, world in ((1, 3, 2), (5, 4, 2), (40, 10, 3), (300, 25, 3)):
        assert run_processes(_found, world, size, k, world, True) == [_found(size, k, world, False)] * world


def _after_a_search(texts: list[str], folder: str) -> tuple[list[list[float]], int]:
    """Vectors of all texts after each process has cached those of its part of them, and how many were encoded then."""
    import torch.distributed as dist

    model, cache = BagOfWords(8), EmbeddingCache(Path(folder) / str(dist.get_rank()))
    first, second = (Embedder(model, cache=cache, model_key="key", distributed=True) for _ in range(2))
    for _ in first.blocks(texts, 4, own=True):
        pass
    assert any(cache.folder.rglob("*.safetensors"))  # type: ignore[union-attr]
    return second(texts).tolist(), second.encoded


def test_processes_with_different_caches_encode_the_same_texts(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(11)]
    answers: list[Any] = run_processes(_after_a_search, 2, texts, str(tmp_path))
    assert [vectors for vectors, _ in answers] == [BagOfWords(8).encode(texts).tolist()] * 2
    assert [encoded for _, encoded in answers] == [11, 11]
