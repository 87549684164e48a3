"""Paired comparison, and what it refuses to compare in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_rel

from embedkit.errors import DataError, UserError
from embedkit.evaluation import compare, compare_reports, evaluate
from embedkit.evaluation.core.stats import Samples
from embedkit.evaluation.core.task import TaskResult
from embedkit.evaluation.report.report import Report
from tests.evaluation.test_retrieval import collection
from tests.evaluation.toys import BagOfWords, Described, sts_folder


class Noisy(Described):
    """The same model with a little noise on every vector."""

    def __init__(self, noise: float, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.noise = noise

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        vectors = super().encode(inputs)
        return vectors + self.noise * BagOfWords(seed=99).encode([t.replace(" ", "_") for t in inputs])


def _mean_report(values: np.ndarray, name: str = "m") -> Report:
    result = TaskResult("t", "accuracy", 100 * values.mean(), {}, Samples("mean", {"value": values}))
    return Report("own", {"t": result}, {"t": result.score}, "t", {"name": name}, {"split": "test"})


def test_significance_agrees_with_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    hard = rng.standard_normal(300)
    first = hard + 0.2 * rng.standard_normal(300)
    for gain in (0.0, 0.03, 0.1):
        second = hard + 0.2 * rng.standard_normal(300) + gain
        row = compare_reports(_mean_report(first), _mean_report(second)).rows[0]
        wanted = ttest_rel(second, first)
        low, high = (100 * bound for bound in wanted.confidence_interval())
        assert row.p == pytest.approx(wanted.pvalue, abs=0.03)
        assert row.interval == pytest.approx((low, high), abs=0.4)
        assert row.significant == (wanted.pvalue < 0.05)


def test_pairing_finds_what_separate_intervals_hide(tmp_path: Path) -> None:
    data = sts_folder(tmp_path / "data", ["stsb", "sts12"], 300)
    options = {"tasks": ["stsb", "sts12"], "resamples": 300}
    good, worse = (evaluate(Noisy(noise), "sts", data, **options) for noise in (0.0, 0.6))
    rows = {row.name: row for row in compare_reports(good, worse).rows}
    assert set(rows) == {"stsb", "sts12", "avg"}
    for name, row in rows.items():
        assert row.difference == pytest.approx(worse.scores[name] - good.scores[name])
        assert row.interval[0] < row.difference < row.interval[1]
    one, other = good.tasks["stsb"].samples.values, worse.tasks["stsb"].samples.values
    wanted = 100 * (spearmanr(other["gold"], other["prediction"])[0] - spearmanr(one["gold"], one["prediction"])[0])
    assert rows["stsb"].difference == pytest.approx(wanted)
    own = good.tasks["stsb"].interval
    assert rows["stsb"].interval[1] - rows["stsb"].interval[0] < own[1] - own[0]


def test_files_are_compared_like_reports(tmp_path: Path) -> None:
    data = sts_folder(tmp_path / "data", ["stsb"])
    reports = [evaluate(Noisy(n), "sts", data, ["stsb"], resamples=0, name=f"n{n}") for n in (0.0, 0.5, 1.0)]
    paths = [report.save(tmp_path / f"{n}.json") for n, report in enumerate(reports)]
    found = compare(paths, resamples=200)
    direct = compare_reports(reports[0], reports[2], resamples=200)
    assert [c.second for c in found] == ["n0.5", "n1.0"]
    assert found[1].rows[0].difference == direct.rows[0].difference
    assert found[1].rows[0].interval == pytest.approx(direct.rows[0].interval, abs=0.05)
    json.dumps(found[0].to_json(), allow_nan=False)
    assert "n0.0 -> n1.0" in found[1].table()


def test_a_model_against_itself_has_no_difference(tmp_path: Path) -> None:
    data = sts_folder(tmp_path, ["stsb"])
    report = evaluate(Described(), "sts", data, ["stsb"], resamples=0)
    comparison = compare_reports(report, report, resamples=50)
    assert comparison.rows[0].difference == 0
    assert comparison.rows[0].p == 1
    assert not comparison.rows[0].significant
    assert "both results are of the same model" in comparison.notes


def test_unlike_tasks_are_named_and_not_subtracted(tmp_path: Path) -> None:
    one = evaluate(Described(), "sts", sts_folder(tmp_path / "a", ["stsb", "sts12"]), ["stsb", "sts12"], resamples=0)
    other_data = sts_folder(tmp_path / "b", ["sts12", "stsb"])
    other = evaluate(Described(), "sts", other_data, ["stsb", "sts12"], resamples=0)
    for row in compare_reports(one, other).rows:
        assert row.difference is None
        assert row.unlike == ("some tasks are unlike" if row.name == "avg" else "the data differ")
    by_mean = evaluate(
        Described(), "sts", tmp_path / "a", ["stsb", "sts12"], settings={"aggregation": "mean"}, resamples=0
    )
    assert compare_reports(one, by_mean).rows[0].unlike == "settings differ: aggregation all / mean"
    fewer = evaluate(Described(), "sts", tmp_path / "a", ["stsb"], resamples=0)
    rows = compare_reports(one, fewer).rows
    assert (rows[0].difference, rows[1].unlike) == (0, "they are averages of different tasks")


def test_settings_of_the_models_are_told(tmp_path: Path) -> None:
    data = sts_folder(tmp_path, ["stsb"])
    one = evaluate(Described(), "sts", data, ["stsb"], resamples=0)
    two = evaluate(Described(seed=1), "sts", data, ["stsb"], dim=8, prompt="p: ", resamples=0)
    notes = compare_reports(one, two).notes
    assert "dim differs: None / 8" in notes
    assert "prompt differs: None / p: " in notes


def test_retrieval_is_compared_by_query(tmp_path: Path) -> None:
    collection(tmp_path / "scifact")
    one, two = (evaluate(Noisy(n), "retrieval", tmp_path, ["scifact"], resamples=0) for n in (0.0, 2.0))
    row = compare_reports(one, two).rows[0]
    assert row.interval[0] <= row.difference <= row.interval[1]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    data = sts_folder(tmp_path / "data", ["stsb"])
    path = evaluate(Described(), "sts", data, ["stsb"], resamples=0).save(tmp_path / "a.json")
    other = evaluate(Described(), "sts-mteb", data, ["stsb"], resamples=0).save(tmp_path / "b.json")
    with pytest.raises(UserError, match="different suites: 'sts', 'sts-mteb'"):
        compare([path, other])
    with pytest.raises(UserError, match="two or more"):
        compare([path])
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        compare([path, tmp_path / "none.json"])
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(DataError, match=r"c\.json: not a result file"):
        compare([path, tmp_path / "c.json"])
    (tmp_path / "d.json").write_text('{"format": 1, "suite": "sts"}')
    with pytest.raises(DataError, match="damaged result file"):
        compare([path, tmp_path / "d.json"])


def test_a_result_file_comes_back_whole(tmp_path: Path) -> None:
    data = sts_folder(tmp_path / "data", ["stsb"])
    report = evaluate(Described(), "sts", data, ["stsb"], resamples=20)
    again = Report.load(report.save(tmp_path / "deep" / "a.json"))
    assert again.to_json() == report.to_json()
    assert again.main == report.main
    gold = report.tasks["stsb"].samples.values["gold"]
    assert np.array_equal(again.tasks["stsb"].samples.values["gold"], gold)
    assert list(tmp_path.joinpath("deep").iterdir()) == [tmp_path / "deep" / "a.json"]
