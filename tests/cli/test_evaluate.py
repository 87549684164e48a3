"""``embedkit eval``: several models and suites, result files, comparison, report, card, and what it refuses."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.evaluation import EmbeddingCache, OpenSuite, Report, load_reports, load_suite
from tests.evaluation.toys import sts_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two saved models ``a/model`` and ``b/model`` with the run that made the first, and STS data."""
    folder = tmp_path_factory.mktemp("eval")
    scored = "evaluation={suite: builtin-sts, split: dev}"
    assert main(["train", "quickstart", "--smoke", "--output", str(folder / "a"), scored]) == 0
    assert main(["train", "quickstart", "--smoke", "--output", str(folder / "b"), "seed=7", "train.lr=1e-6"]) == 0
    sts_folder(folder / "data", ["sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr"], 60)
    return folder


def models(place: Path) -> list[str]:
    return [str(place / name / "model") for name in ("a", "b")]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``embedkit eval``."""
    capsys.readouterr()
    code = main(["eval", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_several_models_and_suites_in_one_call(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, cache = tmp_path / "all.json", tmp_path / "cache"
    words = [*models(place), "-s", "sts", "-s", "geometry", "--data", str(place / "data"), "--resamples", "20"]
    code, out, _ = run(capsys, *words, "--json", str(target), "--cache", str(cache))
    assert code == 0
    reports = load_reports(target)
    names = [(report.model["name"], report.suite) for report in reports]
    assert names == [(name, suite) for name in models(place) for suite in ("sts", "geometry")]
    for report in reports:
        assert f"{report.main:.2f}" in out
    assert "note: sts12: 60 rows, the protocol has 3,108" in out
    assert reports[1].timing["inputs_encoded"] == 0, "geometry's sentences are those of sts"
    assert reports[0].interval is not None
    code, _, _ = run(capsys, *words, "--json", str(target), "--cache", str(cache))
    again = load_reports(target)
    assert code == 0 and sum(report.timing["inputs_encoded"] for report in again) == 0
    assert [report.scores for report in again] == [report.scores for report in reports]


def test_no_vectors_of_a_model_are_held_after_its_turn(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[weakref.ref[EmbeddingCache]] = []
    run_suite = OpenSuite.run

    def recorded(self: OpenSuite, *given: Any, cache: EmbeddingCache, **more: Any) -> Report:
        if not caches or caches[-1]() is not cache:
            caches.append(weakref.ref(cache))
        gc.collect()
        assert [known() is not None for known in caches] == [False] * (len(caches) - 1) + [True]
        return run_suite(self, *given, cache=cache, **more)

    monkeypatch.setattr(OpenSuite, "run", recorded)
    assert main(["eval", *models(place), "-s", "builtin-sts", "-s", "geometry", "-d", str(place / "data")]) == 0
    assert len(caches) == 2


def test_results_equal_those_of_the_library(place: Path, tmp_path: Path) -> None:
    model, target = models(place)[0], tmp_path / "a.json"
    words = ["eval", model, "-s", "sts", "-d", str(place / "data"), "--set", "aggregation=wmean", "--dim", "8"]
    assert main([*words, "--json", str(target)]) == 0
    report = Report.load(target)
    known = embedkit.evaluate(
        embedkit.load(model), "sts", place / "data", settings={"aggregation": "wmean"}, dim=8, resamples=0
    )
    assert report.scores == pytest.approx(known.scores)
    assert report.settings["tasks"]["sts12"]["aggregation"] == "wmean" and report.settings["dim"] == 8


def test_pooling_length_and_precision_are_replaced(place: Path, tmp_path: Path) -> None:
    model, target = models(place)[0], tmp_path / "a.json"
    words = ["eval", model, "-s", "builtin-sts", "--no-card", "--json", str(target)]
    assert main(words) == 0
    usual = Report.load(target)
    assert main([*words, "--pooling", "cls", "--max-length", "4", "--dtype", "fp64"]) == 0
    report = Report.load(target)
    assert report.main != usual.main
    assert report.settings["max_length"] == 4 and report.settings["precision"] == "float64"
    assert report.settings["pooler"] == "cls" != usual.settings["pooler"]


def test_differences_are_told_with_their_significance(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for model, file in zip(models(place), files, strict=True):
        words = [model, "--no-card", "-s", "builtin-sts", "--json", str(file)]
        assert run(capsys, *words)[0] == 0
    target, page = tmp_path / "c.json", tmp_path / "c.html"
    code, out, _ = run(capsys, "--compare", *map(str, files), "--json", str(target), "--report", str(page))
    assert code == 0
    (comparison,) = json.loads(target.read_text())
    row = comparison["rows"][0]
    assert row["difference"] == pytest.approx(Report.load(files[1]).main - Report.load(files[0]).main)
    assert f"{row['difference']:+.2f}" in out and f"p = {row['p']:.3g}" in out
    assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    assert (" *" in out.splitlines()[1]) == row["significant"]
    assert page.read_text().startswith("<!doctype html>")


def test_unlike_results_are_never_subtracted_in_silence(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model, _), data, files = models(place), str(place / "data"), []
    for way in ("all", "mean"):
        files.append(str(tmp_path / f"{way}.json"))
        words = [model, "-s", "sts", "-d", data, "--tasks", "sts12", "--set", f"aggregation={way}", "--json", files[-1]]
        assert run(capsys, *words)[0] == 0
    code, out, err = run(capsys, "--compare", *files)
    assert code == 2 and err == "embedkit: no task could be compared; the reasons stand beside the tasks\n"
    assert "not compared: settings differ: aggregation all / mean" in out
    assert "both results are of the same model" in out


def test_report_shows_the_run_that_made_the_model(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert run(capsys, str(place / "a"), "-s", "builtin-sts", "--report", str(page))[0] == 0
    text = page.read_text()
    assert "<h2>Training</h2>" in text
    assert str(place / "a") not in text  # a page that is passed on tells no folders of the machine


def test_training_writes_a_card_with_the_scores_of_the_saved_weights(place: Path) -> None:
    result = json.loads((place / "a" / "result.json").read_text())
    card = (place / "a" / "model" / "README.md").read_text()
    assert f"| graded | spearman | {result['scores']['builtin-sts/graded']:.2f} |" in card
    assert "The recipe of the run:" in card and "model-index" in card


def test_whole_suites_go_into_the_card_and_stay_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = models(place)[1]
    data = ["--data", str(place / "data")]
    assert run(capsys, model, "-s", "geometry", *data)[0] == 0
    assert run(capsys, model, "-s", "builtin-sts")[0] == 0
    card = (Path(model) / "README.md").read_text()
    assert "### geometry" in card and "### builtin-sts" in card and "model-index" in card
    assert run(capsys, model, "-s", "builtin-sts", "--dim", "4")[0] == 0
    assert run(capsys, model, "-s", "sts", *data, "--tasks", "stsb")[0] == 0
    assert run(capsys, model, "-s", "sts", *data, "--no-card")[0] == 0
    assert (Path(model) / "README.md").read_text() == card
    embedkit.load(model)


def test_every_metric_is_printed_by_its_name(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "m.json"
    words = [models(place)[0], "-s", "sts", "-d", str(place / "data"), "--no-card", "--json", str(target)]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "spearman_wmean" not in out and "spearman" in out
    code, out, _ = run(capsys, *words, "--metrics")
    lines = [line.split() for line in out.splitlines()]
    metrics = Report.load(target).tasks["sts12"].metrics
    assert {"spearman_all", "spearman_mean", "spearman_wmean", "pearson"} <= set(metrics)
    for name, value in metrics.items():
        assert ["sts12", name, f"{value:.4f}"] in lines


def test_json_on_standard_output_is_all_that_is_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, models(place)[0], "-s", "builtin-sts", "--json", "-")
    assert code == 0 and json.loads(out)["suite"] == "builtin-sts" and "graded" in err


def test_local_data_are_scored_by_mteb(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mteb")
    target = tmp_path / "m.json"
    words = [models(place)[0], "-s", "mteb:sts/stsb", "-d", str(place / "data"), "--json", str(target)]
    code, out, _ = run(capsys, *words)
    assert code == 0
    report = Report.load(target)
    own = embedkit.evaluate(models(place)[0], "sts", place / "data", ["stsb"], resamples=0)
    (score,) = [value for name, value in report.scores.items() if name != "avg"]
    assert score == pytest.approx(own.scores["stsb"], abs=1e-2) and f"{score:.2f}" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no model is given"),
        (["m", "m"], "given twice"),
        (["m", "-s", "builtin-sts", "-s", "builtin-sts"], "the suite 'builtin-sts' is given twice"),
        (["m", "-s", "sts", "-s", "geometry", "--tasks", "stsb"], "--tasks goes with one --suite"),
        (["m", "-s", "builtin-sts", "--set", "aggregation"], "is not KEY=VALUE"),
        (["m", "-s", "builtin-sts", "--set", "agregation=all"], "did you mean 'aggregation'?"),
        (["m", "-s", "builtin-sts", "--set", "aggregation=some"], "settings.aggregation"),
        (["m", "-s", "builtin-sts", "--resamples", "-1"], "use 0 or more"),
        (["m", "-s", "builtin-sts", "--resamples", "many"], "--resamples"),
        (["m", "-s", "builtin-sts", "--report", "no/such/folder/x.html"], "the folder of the report"),
        (["m", "-s", "builtin-sts", "--cache", __file__], "the cache is a file"),
        (["m", "-s", "builtin-sts", "--mteb-results", __file__], "--mteb-results is a file"),
        (["m", "-s", "mteb:"], "names no task"),
        (["m", "-d", "nothing.csv"], "nothing.csv: no such file or folder"),
        (["m", "-s", "builtin-sts", "--max-length", "long"], "--max-length"),
        (["--compare", "one.json"], "one.json: cannot be read"),
        (["--compare"], "two or more result files"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words)
    assert code == 2 and out == ""
    assert said in err and err.startswith("embedkit: ") and err.count("\n") == 1


def test_a_suites_file_is_printed_as_a_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suites", "own-retrieval"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(text)
    assert load_suite(tmp_path / "mine.yaml") == load_suite("own-retrieval")
    assert main(["suites", "own-retrieva"]) == 2
    assert "did you mean 'own-retrieval'" in capsys.readouterr().err


def test_own_data_are_recognised_and_an_empty_setting_is_an_empty_text(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / "my-faq.csv", tmp_path / "result.json"
    path.write_text("question,answer\nthe old man waits,a man who is old waits\na child runs,a girl is running\n")
    words = [models(place)[0], "-d", str(path), "--set", "document_prompt=", "--dim", "8", "--json", str(target)]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "taken for questions and answers" in out and "suite own-retrieval" in out and "my-faq" in out
    report = Report.load(target)
    assert list(report.scores) == ["my-faq"] and report.settings["dim"] == 8
    assert report.settings["tasks"]["my-faq"]["document_prompt"] == ""
    code, _, err = run(capsys, models(place)[0], "-s", "builtin-sts", "--mteb-results", str(tmp_path / "out"))
    assert code == 2 and "add --suite mteb:TASK" in err
