"""The embedding cache: nothing is encoded twice, nothing is mixed up, nothing half written is read."""

from __future__ import annotations

import gc
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from embedkit.errors import UserError
from embedkit.evaluation import EmbeddingCache, evaluate, evaluate_all
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import EncodedImage, item_key
from tests.evaluation.test_retrieval import collection
from tests.evaluation.toys import BagOfWords, Described, sts_folder

ITEMS = ["a cat", "a dog", "a house"]


def test_second_suite_and_second_call_encode_nothing(tmp_path: Path) -> None:
    data = sts_folder(tmp_path / "data", ["stsb"])
    for folder in (None, tmp_path / "cache"):
        cache, model = EmbeddingCache(folder), Described()
        first = evaluate(model, "sts", data, ["stsb"], cache=cache)
        asked = len(model.asked)
        second = evaluate(model, "sts-mteb", data, ["stsb"], cache=cache)
        assert len(model.asked) == asked
        assert first.scores["stsb"] == second.scores["stsb"]
        assert second.timing["inputs_from_cache"] == asked
    other_process = Described()
    again = evaluate(other_process, "sts", data, ["stsb"], cache=EmbeddingCache(tmp_path / "cache"))
    assert other_process.asked == []
    assert again.scores == first.scores


def test_models_and_prompts_do_not_share_vectors(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    for seed in (0, 1):
        for prompt in (None, "none", "query"):
            model = Described(seed=seed)
            embed = Embedder(model, cache=cache, model_key=f"weights {seed}")
            assert np.array_equal(embed(ITEMS, prompt), Described(seed=seed).encode(ITEMS))
            assert sorted(model.asked) == ITEMS


def test_a_model_without_hash_never_uses_a_cache(tmp_path: Path) -> None:
    data, cache = sts_folder(tmp_path / "data", ["stsb"]), EmbeddingCache(tmp_path / "cache")
    for _ in range(2):
        model = BagOfWords()
        evaluate(model, "sts", data, ["stsb"], cache=cache, resamples=0)
        assert model.asked
    assert not (tmp_path / "cache").exists()


def _held(thing: Any) -> int:
    """Vectors of a toy model that can be reached from an object."""
    seen: set[int] = set()
    todo, count = [thing], 0
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | ModuleType):
            continue
        seen.add(id(one))
        count += isinstance(one, np.ndarray) and one.ndim == 1
        todo += gc.get_referents(one)
    return count


def test_memory_keeps_queries_and_no_documents_and_a_folder_keeps_all(tmp_path: Path) -> None:
    collection(tmp_path / "data" / "scifact")
    told = {}
    for folder in (None, tmp_path / "cache"):
        cache, model = EmbeddingCache(folder), Described()
        report = evaluate(model, "retrieval", tmp_path / "data", ["scifact"], cache=cache, settings={"block": 7})
        told[folder] = _held(cache)
        asked = len(set(model.asked))
        again = Described()
        evaluate(again, "retrieval", tmp_path / "data", ["scifact"], cache=cache, settings={"block": 11})
        assert len(set(again.asked)) == (0 if folder else asked - told[None])
        assert _held(cache) == told[folder]
    assert told == {None: report.tasks["scifact"].details["queries"], tmp_path / "cache": 0}


def test_a_folder_gives_the_vectors_of_any_keys(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys, vectors = [item_key(str(n)) for n in range(30)], rng.standard_normal((30, 5)).astype(np.float32)
    writing = EmbeddingCache(tmp_path)
    for start in range(0, 30, 10):
        writing.put("m", None, keys[start : start + 10], vectors[start : start + 10], keep=False)
    for cache in (writing, EmbeddingCache(tmp_path)):
        for _ in range(20):
            chosen = rng.permutation(30)[: int(rng.integers(0, 30))]
            found = cache.get("m", None, [*(keys[i] for i in chosen), item_key("unknown")])
            assert set(found) == {keys[i] for i in chosen}
            assert all(np.array_equal(found[keys[i]], vectors[i]) for i in chosen)


def test_truncation_is_applied_after_the_cache() -> None:
    cache = EmbeddingCache()
    whole = Embedder(Described(), cache=cache, model_key="m")(ITEMS)
    short = Embedder(Described(), cache=cache, model_key="m", dim=4)(ITEMS)
    assert np.array_equal(short, whole[:, :4])


def test_text_and_image_of_equal_bytes_differ() -> None:
    assert item_key("abc") != item_key(EncodedImage(b"abc"))


def test_only_whole_files_are_read_and_damage_is_named(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    Embedder(Described(), cache=cache, model_key="m")(ITEMS)
    (file,) = tmp_path.glob("*/*.safetensors")
    (file.parent / ".half.1.tmp").write_bytes(b"half")
    model = Described()
    Embedder(model, cache=EmbeddingCache(tmp_path), model_key="m")(ITEMS)
    assert model.asked == []
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match=f"{file.name}: damaged embedding cache"):
        Embedder(Described(), cache=EmbeddingCache(tmp_path), model_key="m")(ITEMS)


def test_several_models_on_several_suites_share_one_cache(tmp_path: Path) -> None:
    data = sts_folder(tmp_path, ["stsb", "sts12"])
    models = {"one": Described(), "two": Described(seed=1)}
    reports = evaluate_all(models, ["sts", "sts-mteb"], data, tasks=["stsb", "sts12"])
    assert set(reports) == {(name, suite) for name in models for suite in ("sts", "sts-mteb")}
    for name, model in models.items():
        assert len(model.asked) == len(set(model.asked))
        assert reports[name, "sts"].scores["stsb"] == reports[name, "sts-mteb"].scores["stsb"]
    assert reports["one", "sts"].scores != reports["two", "sts"].scores
