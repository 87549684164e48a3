"""Tasks from local folders through mteb, offline, against embedkit's own figures and plain statements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("mteb")

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import UserError
from embedkit.evaluation import evaluate, metric_names, open_suite
from embedkit.factory import build
from tests.evaluation.test_images import TwoTowers, _captions, _png, _write
from tests.evaluation.test_retrieval import collection
from tests.evaluation.toys import BagOfWords, sentences, sts_folder, write_tsv


def _both(suite: str, folder: Path, task: str, model: Any = None, **settings: Any) -> tuple[Any, Any]:
    """The task's result by embedkit, and mteb's report of it."""
    model = model or BagOfWords(8)
    own = evaluate(model, suite, folder, [task], resamples=0, settings=settings).tasks[task]
    report = evaluate(model, f"mteb:{suite}/{task}", folder)
    assert metric_names(f"mteb:{suite}/{task}") == [f"mteb/{name}" for name in report.scores]
    return own, report


def test_sts_has_the_same_correlation(tmp_path: Path) -> None:
    own, report = _both("sts", sts_folder(tmp_path, ["stsb", "sts12"]), "stsb")
    assert list(report.scores) == ["sts-stsb", "avg"]
    assert report.scores["sts-stsb"] == pytest.approx(own.score, abs=1e-3)


def test_a_whole_suite_and_another_split(tmp_path: Path) -> None:
    folder = sts_folder(tmp_path, ["sts12", "stsb"])
    for name in ("sts13", "sts14", "sts15", "sts16"):
        sts_folder(folder, [name])
    sts_folder(folder, ["sickr"])
    report = evaluate(BagOfWords(8), "mteb:sts", folder, split="dev")
    own = evaluate(BagOfWords(8), "sts", folder, split="dev", resamples=0)
    assert list(report.scores) == ["sts-stsb", "sts-sickr", "avg"]
    assert metric_names("mteb:sts", split="dev") == [f"mteb/{name}" for name in report.scores]
    assert report.scores["sts-sickr"] == pytest.approx(own.scores["sickr"], abs=1e-3)


def test_retrieval_has_the_same_measures(tmp_path: Path) -> None:
    collection(tmp_path / "scifact")
    own, report = _both("retrieval", tmp_path, "scifact")
    metrics = report.tasks["retrieval-scifact"].metrics
    for theirs, ours in (("ndcg_at_10", "ndcg@10"), ("map_at_100", "map@100"), ("recall_at_5", "recall@5")):
        assert 100 * metrics[theirs] == pytest.approx(own.metrics[ours], abs=2e-3), "mteb rounds to five decimals"


def test_pair_classification_has_the_same_average_precision(tmp_path: Path) -> None:
    texts = sentences(80, 2)
    rows = [(a, b, int(len(set(a.split()) & set(b.split())) > 2)) for a, b in zip(texts[:40], texts[40:], strict=True)]
    write_tsv(tmp_path / "mrpc.tsv", ("sentence1", "sentence2", "label"), rows)
    own, report = _both("pair-classification", tmp_path, "mrpc")
    assert report.scores["pair-classification-mrpc"] == pytest.approx(own.score, abs=1e-3)


def test_classification_learns_from_few_rows(tmp_path: Path) -> None:
    rows = [(text, int("cat" in text), split) for split in ("train", "test") for text in sentences(120, len(split))]
    write_tsv(tmp_path / "trec.tsv", ("text", "label", "split"), rows)
    own, report = _both("transfer", tmp_path, "trec", folds=3)
    assert report.tasks["transfer-trec"].metric == "accuracy"
    assert 60 < report.scores["transfer-trec"] <= own.score + 5


def test_pairs_and_single_splits_are_refused(tmp_path: Path) -> None:
    rows = [(text, n % 2, "all") for n, text in enumerate(sentences(40))]
    write_tsv(tmp_path / "mr.tsv", ("text", "label", "split"), rows)
    with pytest.raises(UserError, match="task mr: has one split"):
        evaluate(BagOfWords(), "mteb:transfer/mr", tmp_path)
    sts_folder(tmp_path, ["stsb"])
    with pytest.raises(UserError, match="mteb has no task like 'geometry'"):
        evaluate(BagOfWords(), "mteb:geometry/stsb", tmp_path)
    with pytest.raises(UserError, match="no evaluation suite named 'stss'"):
        evaluate(BagOfWords(), "mteb:stss", tmp_path)


def test_what_mteb_has_not_is_refused_where_its_base_class_is_known(tmp_path: Path) -> None:
    data = {"text": ["a cat", "a dog"] * 8, "label": [0, 1] * 8, "split": ["train"] * 8 + ["test"] * 8}
    with pytest.raises(UserError, match="task data: mteb has no task like 'head'") as caught:
        evaluate(BagOfWords(), "mteb:own-head", data)
    assert "head" not in str(caught.value).partition("kinds: ")[2]
    build(load_recipe("quickstart", smoke=True).model).save(tmp_path / "old")
    pairs = {"query": ["a", "b"], "positive": ["c", "d"]}
    task = open_suite("own-compatibility", pairs, settings={"old": str(tmp_path / "old")}).tasks[0]
    with pytest.raises(UserError, match="mteb has no task like 'compatibility'"):
        task.as_mteb()


def test_image_text_both_ways_with_several_captions(tmp_path: Path) -> None:
    _write(tmp_path / "flickr8k_1k.parquet", _captions(20, same=3))
    own, report = _both("image-text", tmp_path, "flickr8k", TwoTowers())
    there, back = report.tasks["image-text-flickr8k-i2t"].metrics, report.tasks["image-text-flickr8k-t2i"].metrics
    for k in (1, 5, 10):
        assert 100 * there[f"hit_rate_at_{k}"] == pytest.approx(own.metrics[f"image_to_text_hit_rate@{k}"], abs=2e-3)
        assert 100 * there[f"recall_at_{k}"] == pytest.approx(own.metrics[f"image_to_text_recall@{k}"], abs=2e-3)
        assert 100 * back[f"hit_rate_at_{k}"] == pytest.approx(own.metrics[f"text_to_image_hit_rate@{k}"], abs=2e-3)
    assert own.metrics["image_to_text_recall@1"] < own.metrics["image_to_text_hit_rate@1"]


def test_zero_shot_with_one_template(tmp_path: Path) -> None:
    names = [str(int(n)) for n in np.random.default_rng(0).integers(0, 6, 30)]
    table = {"image": [_png(int(name)) for name in names], "label_name": names}
    pq.write_table(pa.table(table), tmp_path / "cifar10.parquet")
    own, report = _both("zero-shot", tmp_path, "cifar10", TwoTowers())
    assert report.scores["zero-shot-cifar10"] == pytest.approx(own.metrics["top1_first_template"], abs=1e-3)
