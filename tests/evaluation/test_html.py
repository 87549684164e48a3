"""The HTML report: whole, self-contained, and safe with hostile names."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from embedkit.errors import DataError
from embedkit.evaluation import evaluate
from embedkit.evaluation.core.task import TaskResult
from embedkit.evaluation.core.worst import worst_pairs
from embedkit.evaluation.report.charts import Bar, bars, histogram, lines, ticks
from embedkit.evaluation.report.html import html_report, write_html
from embedkit.evaluation.report.report import Report
from tests.evaluation.test_retrieval import collection
from tests.evaluation.toys import Described, sts_folder

VOID = {"meta", "line", "rect", "polygon", "polyline", "circle", "br"}


class Balanced(HTMLParser):
    """Counts tags and refuses what is not closed, or is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: dict[str, int] = {}

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        assert not {"src", "href", "onload", "onerror"} & {name for name, _ in attributes}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def parsed(text: str) -> Balanced:
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert "script" not in parser.tags
    return parser


@pytest.fixture
def reports(tmp_path: Path) -> list[Report]:
    data = sts_folder(tmp_path / "data", ["stsb"], 60)
    collection(tmp_path / "data" / "retrieval" / "scifact")
    found = []
    for seed, name in ((0, "<b>first</b>"), (1, 'second" & co')):
        model = Described(seed=seed)
        found.append(evaluate(model, "sts", data, ["stsb"], resamples=50, name=name))
        found.append(evaluate(model, "geometry", data, resamples=0, name=name))
        found.append(evaluate(model, "retrieval", data, ["scifact"], resamples=50, name=name))
    return found


def test_report_is_whole_and_needs_nothing_else(reports: list[Report]) -> None:
    text = html_report(reports, title="A & B")
    tags = parsed(text).tags
    assert not re.search(r"https?://|@import|url\(", text)
    assert "<b>first" not in text
    assert "&lt;b&gt;first&lt;/b&gt;" in text
    for report in reports:
        assert f"{report.main:.2f}" in text
    assert tags["svg"] == 3 + 3 + 3 + 4  # scores; differences; geometry plots; distributions of two tasks, two models
    assert "p</th>" in text
    assert reports[0].notes[0] in text
    assert reports[0].settings["data"]["stsb"]["sha256"] in text


def test_result_files_give_the_same_report(reports: list[Report], tmp_path: Path) -> None:
    again = [Report.load(report.save(tmp_path / f"{n}.json")) for n, report in enumerate(reports)]
    assert html_report(again[:3]) == html_report(reports[:3])


def test_training_curves_of_a_run_folder(reports: list[Report], tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1 / step, "lr": 1e-4} for step in range(10, 60, 10)]
    rows.insert(2, {"step": 20, "scores": {"sts/stsb": 61.5}})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = write_html(tmp_path / "out" / "report.html", reports[:1], runs=[tmp_path])
    tags = parsed(path.read_text()).tags
    assert tags["polyline"] == 3
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(DataError, match="no run folder"):
        html_report(reports[:1], runs=[tmp_path / "out"])
    with pytest.raises(DataError, match="no result"):
        html_report([])


def test_bars_are_drawn_to_scale_from_zero() -> None:
    svg = bars("t", [("a", [Bar(10.0, (8.0, 12.0))]), ("b", [Bar(-5.0)]), ("c", [None])], ["one"])
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]
    assert len(widths) == 2
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    assert svg.count('class="whisker"') == 3


def test_charts_survive_empty_constant_and_non_finite_input() -> None:
    for svg in (
        bars("t", [("a", [Bar(0.0)])], ["one"]),
        histogram("t", [("a", [0, 0, 0])], 0.0, 1.0, "x"),
        lines("t", [("a", [])], "x"),
        lines("t", [("a", [(1.0, 2.0)])], "x"),
        lines("t", [("a", [(1.0, float("nan")), (2.0, 3.0), (3.0, 3.0)])], "x"),
    ):
        assert "nan" not in svg
        parsed(svg)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0.13, 0.17, [0.13, 0.14, 0.15, 0.16, 0.17]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == wanted


def test_the_page_tells_what_a_reader_needs_and_no_folder_of_the_machine(reports: list[Report], tmp_path: Path) -> None:
    text = html_report(reports)
    assert "60 rows" in text  # how much was scored
    assert str(tmp_path) not in text
    assert "/data/stsb.tsv.gz" in text
    assert "Paired bootstrap" in text
    plain = [report for report in reports if report.suite == "geometry"]  # nothing to draw again, so no interval
    assert "Paired bootstrap; " not in html_report(plain)
    assert 'class="best"' not in html_report(plain)


@pytest.mark.parametrize(("second", "bold"), [(0, False), (40, True)])
def test_the_best_is_bold_where_it_is_better_by_its_interval(second: int, bold: bool) -> None:
    class Good:
        """As good as the share of rows that it knows."""

        def __init__(self, known: int) -> None:
            self.known = known

        def encode(self, texts: list[str], **options: object) -> np.ndarray:
            rng = np.random.default_rng(0)
            table = rng.standard_normal((40, 16))
            return np.array([table[int(t[1:])] * (1 if t[0] == "d" or int(t[1:]) < self.known else -1) for t in texts])

    data = [{"query": f"q{n}", "positive": f"d{n}"} for n in range(40)]
    found = [evaluate(Good(known), "own-retrieval", data, resamples=20, name=f"m{known}") for known in (2, 2 + second)]
    assert ('class="best"' in html_report(found)) == bold


def test_a_report_prints_as_a_table_and_shows_in_notebooks(reports: list[Report]) -> None:
    report = reports[0]
    assert "array" not in str(report)
    assert f"{report.main:8.2f}" in str(report)
    assert len(str(report)) < 1000
    assert repr(report) == f"<Report sts: avg {report.main:.2f}, 1 tasks>"
    html = report._repr_html_()
    parsed(html)
    assert f"{report.main:.2f}" in html
    assert "&lt;b&gt;first" in html


def test_what_a_model_does_worst_on_is_there_to_read(tmp_path: Path) -> None:
    texts = [f"text {n} <b>" for n in range(8)]
    gold = np.arange(8.0)
    prediction = np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])  # the first one stands seven places too high
    worst = worst_pairs(texts, texts[::-1], gold, prediction)
    assert worst[0] == {"first": "text 0 <b>", "second": "text 7 <b>", "gold": "0", "prediction": "0.900"}
    result = TaskResult("stsb", "spearman", 61.2, {"spearman_all": 61.2}, worst=worst)
    report = Report("sts", {"stsb": result}, {"stsb": 61.2}, "stsb", {"name": "mine"}, {"split": "test"})
    assert "worst" not in report.to_json()["tasks"]["stsb"], "cards and pushed results hold no texts of the data"
    again = Report.load(report.save(tmp_path / "result.json"))
    assert again.tasks["stsb"].worst == worst
    page = html_report([again])
    assert (
        "To read: what each model does worst on" in page
        and "text 0 &lt;b&gt;" in page
        and "<b>" not in page.split("To read")[1]
    )


def test_histograms_side_by_side_have_the_same_axes(reports: list[Report]) -> None:
    flat, steep = [("a", [1.0, 1.0])], [("a", [0.0, 2.0])]
    tops = []
    for counts in (flat, steep):
        points = re.search(r'points="([^"]+)"', histogram("h", counts, 0, 1, "x", top=1.0))
        assert points is not None
        tops.append(min(float(point.split(",")[1]) for point in points[1].split()))
    assert tops == [69.0, 10.0], "half of all is half as high"


def test_the_recipe_of_a_run_is_shown_without_folders(reports: list[Report], tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    (tmp_path / "recipe.yaml").write_text(f"name: faq\ntrain: {{lr: 0.1, ema: null, output: {tmp_path}/runs/faq}}\n")
    page = html_report(reports, runs=[tmp_path])
    assert (
        "The recipe" in page and "lr: 0.1" in page and "ema" not in page.split("The recipe")[1].split("</details>")[0]
    )
    assert str(tmp_path) not in page
