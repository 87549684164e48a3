"""A user's own data: what they are taken for, the names of their scores, files and Python objects."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from embedkit.errors import DataError, UserError
from embedkit.evaluation import evaluate, metric_names, open_suite, recognise
from embedkit.evaluation.core.suites import load_suite
from embedkit.evaluation.datasets.look import name_of
from embedkit.evaluation.suites.own import own_suites, resolve
from tests.evaluation.toys import BagOfWords, sentences, sts_rows, write_tsv

QUESTIONS = [("how do i pay", "by card or invoice"), ("where are you", "in a small town"), ("who is there", "nobody")]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    lines = [",".join(f'"{cell}"' for cell in row) for row in [header, *rows]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def beir(folder: Path, split: str = "test", ids: Sequence[Any] = ("a", "b", "c"), key: str = "_id") -> Path:
    """A collection whose queries are the first words of their documents."""
    texts = ["a red car on the road", "blue birds in a tree", "green stones by the river"]
    (folder / "qrels").mkdir(parents=True)
    rows = [json.dumps({key: name, "title": None, "text": text}) for name, text in zip(ids, texts, strict=True)]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    queries = [json.dumps({key: f"q{n}", "text": " ".join(text.split()[:3])}) for n, text in enumerate(texts)]
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    lines = [f"q{n}\t{name}\t1.0" for n, name in enumerate(ids)]
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n")
    return folder


SCORED = [(a, b, score) for _, score, a, b in sts_rows(30)]
TWO = [(a, b, int(score > 2)) for a, b, score in SCORED]
CLASSES = [(text, ("billing", "shipping")[n % 2]) for n, text in enumerate(sentences(40))]


@pytest.mark.parametrize(
    ("header", "rows", "suite"),
    [
        (("question", "answer"), QUESTIONS, "own-retrieval"),
        (("query", "positive"), QUESTIONS, "own-retrieval"),
        (("sentence1", "sentence2", "score"), SCORED, "own-sts"),
        (("sentence1", "sentence2", "label"), SCORED, "own-sts"),
        (("sentence1", "sentence2", "label"), TWO, "own-pairs"),
        (("text", "label"), CLASSES, "own-classification"),
    ],
)
def test_a_file_is_taken_for_the_only_thing_that_it_can_be(
    header: Sequence[str], rows: Sequence[Any], suite: str, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "my-faq.csv", header, rows)
    assert recognise(str(path)).suite == suite
    report = evaluate(BagOfWords(), data=path, resamples=0)
    assert report.suite == suite
    assert list(report.scores) == ["my-faq"]
    assert any(note.startswith("taken for ") and suite in note for note in report.notes)


@pytest.mark.parametrize(
    ("header", "rows", "listed"),
    [
        (("sentence1", "sentence2", "score"), TWO, ["own-pairs", "own-sts"]),  # a scale of two, or belonging together
        (("sentence1", "sentence2"), QUESTIONS, ["own-retrieval"]),  # a paraphrase, a translation, a premise
        (("spalte", "wert"), QUESTIONS, ["own-retrieval", "own-sts", "'spalte', 'wert'"]),
        (("text", "label"), [(f"text {n}", n) for n in range(20)], ["own-classification"]),  # a class each: ids, prices
    ],
)
def test_two_readings_or_none_are_not_guessed(
    header: Sequence[str], rows: Sequence[Any], listed: Sequence[str], tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "faq.csv", header, rows)
    with pytest.raises(UserError) as error:
        evaluate(BagOfWords(), data=path)
    assert "--suite" in str(error.value.remedy)
    for name in listed:
        assert name in str(error.value.remedy)


@pytest.mark.parametrize("suite", [one.name for one in own_suites()])
def test_scores_are_called_after_the_data_before_and_after_opening(suite: str, tmp_path: Path) -> None:
    path = tmp_path / "my shop.tsv.gz"
    assert metric_names(suite, data=path) == [f"{suite}/my-shop"]
    assert resolve(load_suite(suite), path)[0].main == "my-shop"
    assert name_of(tmp_path / "avg.csv") == name_of([{"text": "a"}]) == "data"
    with pytest.raises(DataError, match="--data"):
        open_suite(suite)


@pytest.mark.parametrize("suite", ["retrieval", "mteb:retrieval"])
def test_an_own_collection_is_never_called_after_a_benchmark(suite: str, tmp_path: Path) -> None:
    folder = beir(tmp_path / "mybeir")
    names = metric_names(suite, data=folder)
    assert not any("scifact" in name or "cranfield" in name for name in names)
    assert any("mybeir" in name for name in names)
    if suite == "retrieval":
        report = evaluate(BagOfWords(), suite, folder, resamples=0)
        assert report.suite == "own-retrieval"
        assert report.scores == {"mybeir": 100.0}
        assert any("suite retrieval" in note for note in report.notes)


def test_a_named_task_is_the_owners_word(tmp_path: Path) -> None:
    report = evaluate(BagOfWords(), "retrieval", beir(tmp_path / "copy"), ["scifact"], resamples=0)
    assert list(report.scores) == ["scifact", "avg"]
    assert any("the folder" in note and "itself is taken for it" in note for note in report.notes)
    assert any("the protocol has 300: not comparable" in note for note in report.notes)


def test_an_own_file_given_to_a_suite_of_benchmarks_keeps_the_suites_settings(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "my_scores.csv", ("sentence1", "sentence2", "score"), SCORED)
    for suite, rule in (("sts", "senteval"), ("sts-mteb", "scikit-learn")):
        report = evaluate(BagOfWords(), suite, path, resamples=0)
        assert (report.suite, list(report.scores)) == ("own-sts", ["my_scores"])
        assert report.settings["tasks"]["my_scores"]["zero_vectors"] == rule


@pytest.mark.parametrize("asked", ["dev", "validation", "val"])
@pytest.mark.parametrize("there", ["dev", "validation"])
def test_dev_and_validation_are_one_split(asked: str, there: str, tmp_path: Path) -> None:
    folder = beir(tmp_path / "faq", there)
    assert evaluate(BagOfWords(), "own-retrieval", folder, split=asked, resamples=0).scores == {"faq": 100.0}
    with pytest.raises(DataError) as error:
        open_suite("own-retrieval", folder)
    assert f"its splits are {there}" in str(error.value.remedy)


@pytest.mark.parametrize("key", ["_id", "id"])
def test_hand_made_collections_have_numbers_for_ids_and_judgements_with_a_point(key: str, tmp_path: Path) -> None:
    report = evaluate(BagOfWords(), "own-retrieval", beir(tmp_path / "faq", ids=(1, 2, 3), key=key), resamples=0)
    assert report.scores == {"faq": 100.0}


def test_a_collection_in_the_hubs_parquet_form(tmp_path: Path) -> None:
    plain = beir(tmp_path / "plain")
    hub = tmp_path / "hub"
    for name in ("corpus", "queries"):
        rows = [json.loads(line) for line in (plain / f"{name}.jsonl").read_text().splitlines()]
        (hub / name).mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), hub / name / f"{name}-00000.parquet")
    (hub / "qrels").mkdir()
    judged = [{"query-id": f"q{n}", "corpus-id": name, "score": 1} for n, name in enumerate("abc")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(judged), hub / "qrels" / "test-00000-of-00001.parquet")
    reports = [evaluate(BagOfWords(), "own-retrieval", folder, resamples=0) for folder in (plain, hub)]
    assert [one.main for one in reports] == [100.0, 100.0]
    hashes = [next(iter(one.settings["data"].values()))["sha256"] for one in reports]
    assert hashes[0] == hashes[1]


def test_pairs_make_a_corpus_of_all_answers_and_hard_negatives(tmp_path: Path) -> None:
    path = tmp_path / "faq.jsonl"
    rows = [{"query": "red car", "positive": "car red", "negative": "red tree"},
            {"query": "red car", "positive": "red car car", "negative": None},
            {"query": "blue bird", "positive": "bird blue", "negative": "green bird"}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = open_suite("own-retrieval", path)
    c = suite.tasks[0].collection
    assert (len(c.queries), len(c.documents)) == (2, 5)
    assert c.qrels == {"q0": {"d0": 1, "d1": 1}, "q1": {"d2": 1}}
    assert suite.run(BagOfWords(64)).scores == {"faq": 100.0}


def test_columns_can_be_named_and_the_guess_is_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "faq.csv", ("frage", "antwort"), QUESTIONS)
    with pytest.raises(DataError) as error:
        open_suite("own-retrieval", path)
    assert "--set 'columns={COLUMN: query or positive" in str(error.value.remedy)
    columns = {"columns": {"frage": "query", "antwort": "positive"}}  # the remedy, followed
    assert open_suite("own-retrieval", path, settings=columns).tasks[0].collection.queries[0] == "how do i pay"
    guessed = open_suite("own-retrieval", write_csv(tmp_path / "b.csv", ("question", "answer"), QUESTIONS))
    assert any("read as question = query, answer = positive" in note for note in guessed.tasks[0].notes)
    with pytest.raises(DataError, match="no column 'fragen'"):
        open_suite("own-retrieval", path, settings={"columns": {"fragen": "query"}})
    with pytest.raises(DataError, match="'kind' is nothing that is read here"):
        open_suite("own-retrieval", path, settings={"columns": {"frage": "kind"}})


def _objects() -> dict[str, Any]:
    import datasets
    import pandas

    rows = [{"sentence1": a, "sentence2": b, "score": score} for a, b, score in SCORED]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return {
        "list": rows, "dict": columns, "dataset": datasets.Dataset.from_list(rows), "frame": pandas.DataFrame(rows),
        "arrow": pyarrow.Table.from_pylist(rows),
        "splits": datasets.DatasetDict({"test": datasets.Dataset.from_list(rows),
                                        "train": datasets.Dataset.from_list(rows[:3])}),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["list", "dict", "dataset", "frame", "arrow", "splits"])
def test_rows_in_memory_score_as_their_file(kind: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "f.csv", ("sentence1", "sentence2", "score"), SCORED)
    expected = evaluate(BagOfWords(), "own-sts", path, resamples=0).main
    for suite in (None, "own-sts", "sts"):
        report = evaluate(BagOfWords(), suite, _objects()[kind], resamples=0)
        assert report.scores == {"data": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("data", "words"),
    [([], "no rows"), ({"text": []}, "no rows"), (7, "no kind of data"), ([1, 2], "row 1 is int")],
)  # fmt: skip
def test_objects_that_hold_nothing_are_refused(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        evaluate(BagOfWords(), "own-sts", data)


def test_rows_in_memory_are_refused_for_named_tasks() -> None:
    with pytest.raises(DataError, match="files of its own") as error:
        evaluate(BagOfWords(), "sts", [{"sentence1": "a"}], ["stsb"])
    assert "leave out tasks" in str(error.value.remedy)


def test_classification_learns_on_train_where_there_is_one(tmp_path: Path) -> None:
    for split, part in (("train", CLASSES), ("test", CLASSES[:20])):
        write_csv(tmp_path / "faq" / f"{split}.csv", ("text", "label"), part)
    suite = open_suite("own-classification", tmp_path / "faq")
    assert suite.tasks[0].settings.protocol == "folds"
    assert len(suite.tasks[0].tables[-1]) == 20
    alone = open_suite("own-classification", tmp_path / "faq" / "train.csv")
    assert alone.tasks[0].settings.protocol == "nested"
    assert any("by cross-validation" in note for note in alone.tasks[0].notes)


@pytest.mark.parametrize(("rows", "folds"), [(4, 2), (5, 3), (6, 4), (13, 10)])
def test_small_classes_have_fewer_folds(rows: int, folds: int) -> None:
    data = [{"text": f"{word} {n}", "label": word} for word in ("cat", "dog") for n in range(rows)]
    suite = open_suite("own-classification", data)
    assert suite.tasks[0].settings.folds == folds
    assert suite.run(BagOfWords()).scores["data"] == 100.0
    assert any(f"{folds} folds, not 10" in note for note in suite.tasks[0].notes) == (folds < 10)


def test_a_class_of_three_rows_is_too_small() -> None:
    data = [{"text": f"{word} {n}", "label": word} for word in ("cat", "dog") for n in range(3)]
    with pytest.raises(DataError, match="class 'cat' has 3 rows"):
        open_suite("own-classification", data)


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.tsv.gz"])
def test_files_of_one_folder_are_told_apart_by_split_words(name: str, tmp_path: Path) -> None:
    for split, part in (("train", SCORED[:20]), ("dev", SCORED[20:])):
        write_tsv(tmp_path / f"faq_{split}.tsv", ("sentence1", "sentence2", "score"), part)
    assert len(open_suite("own-sts", tmp_path, split="validation").tasks[0].first) == 10
    with pytest.raises(DataError, match="no row of split 'test'") as error:
        open_suite("own-sts", tmp_path)
    assert "validation, train" in str(error.value.remedy)
    extra = tmp_path / name
    extra.write_bytes(gzip.compress(b"x") if name.endswith("gz") else b"sentence1\tsentence2\tscore\na\tb\t1\n")
    if not name.endswith("gz"):
        with pytest.raises(DataError, match="does not") as error:
            open_suite("own-sts", tmp_path)
        assert str(error.value.remedy).startswith("give the file itself")
        assert np.isfinite(evaluate(BagOfWords(), "own-sts", tmp_path / "faq_dev.tsv", resamples=0).main)


def test_truncate_dim_has_one_name() -> None:
    rows = [{"query": a, "positive": b} for a, b in QUESTIONS]
    reports = [evaluate(BagOfWords(), data=rows, resamples=0, **{key: 4}) for key in ("truncate_dim", "dim")]
    assert reports[0].settings["dim"] == reports[1].settings["dim"] == 4
    with pytest.raises(UserError, match="two names of one setting"):
        evaluate(BagOfWords(), data=rows, truncate_dim=4, dim=8)


OWN_PARTS = """
from embedkit.evaluation import Task, TaskResult
from embedkit.evaluation.core.suites import SuiteConfig, TaskConfig
from embedkit.evaluation.core.task import TASKS, Request
from embedkit.evaluation.suites.shipped import YamlSuites


class Lengths(Task):
    data = {"source": "three words", "rows": 3, "sha256": "0"}

    def requests(self):
        return [Request(["a", "b", "c"])]

    def score(self, embed):
        return TaskResult(self.name, "dims", float(embed(["a"]).shape[1]), {})


class Mine(YamlSuites):
    def name(self, suite):
        return "mine"

    def _config(self):
        return SuiteConfig(name="mine", description="x", tasks=[TaskConfig(name="dims", kind="own.py:Lengths")])

    def scores(self, suite, options):
        return super().scores(self._config(), options)

    def open(self, suite, options):
        return super().open(self._config(), options)


class Nothing:
    pass
"""


def test_kinds_of_suites_and_tasks_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN_PARTS)
    assert metric_names("own.py:Mine") == ["mine/dims", "mine/avg"]
    report = evaluate(BagOfWords(24), "own.py:Mine", resamples=0)
    assert report.scores == {"dims": 24.0, "avg": 24.0}
    for name, words in (("own.py:Nothing", "no kind of suite"), ("own.py:Nine", "has no 'Nine'")):
        with pytest.raises(UserError, match=words):
            evaluate(BagOfWords(), name)
    (tmp_path / "s.yaml").write_text("name: s\ndescription: x\ntasks:\n  - {name: a, kind: 'own.py:Nothing'}\n")
    with pytest.raises(UserError, match="no kind of task"):
        evaluate(BagOfWords(), "s.yaml")
