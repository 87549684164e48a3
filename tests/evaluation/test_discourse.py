"""DiscoEval: its files as they are, its features against the formulas, its classifier's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.data.builtin import stories
from embedkit.errors import EmbedkitError
from embedkit.evaluation import evaluate, open_suite
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.measures.probes import SentEvalSettings, senteval_softmax
from tests.evaluation.toys import BagOfWords, sentences

SIZES = {"train": 30, "valid": 12, "test": 10}


def release(folder: Path, labels: dict[str, int]) -> Path:
    """A folder like the release's ``data``, with random rows; `labels`: the number of labels by task folder."""
    rng = np.random.default_rng(0)
    counts = {"SP": 5, "BSO": 2, "DC": 6, "SSP": 1, "PDTB": 2}
    for name, classes in labels.items():
        for split, size in SIZES.items():
            path = folder / name / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            count = counts[name.partition("/")[0]]
            rows = [sentences(count, seed=1000 * size + row) for row in range(size)]
            cells = [row if name.startswith("BSO") else [str(rng.integers(0, classes)), *row] for row in rows]
            path.write_text("".join("\t".join(row) + "\n" for row in cells))
    return folder


PUBLIC = {
    "SP/wiki": 5, "SP/arxiv": 5, "SP/rocstory": 5, "BSO/wiki": 2, "BSO/arxiv": 2, "BSO/rocstory": 2,
    "DC/wiki": 2, "DC/chat": 2, "SSP/abs": 2,
}  # fmt: skip


def expected_features(form: str, x: list[np.ndarray]) -> np.ndarray:
    if form == "position":
        return np.hstack([x[0], x[0] - x[1], x[0] - x[2], x[0] - x[3], x[0] - x[4]])
    if form == "order":
        return np.vstack([np.hstack([x[0], x[1], x[0] - x[1]]), np.hstack([x[1], x[0], x[1] - x[0]])])
    if form == "relation":
        return np.hstack([x[0], x[1], x[0] * x[1], abs(x[0] - x[1])])
    return np.hstack(x)


def test_the_release_is_read_as_it_is(tmp_path: Path) -> None:
    suite = open_suite("discourse", release(tmp_path, PUBLIC))
    assert len(suite.tasks) == 9
    model = BagOfWords(dim=6)
    for task in suite.tasks:
        form = task.settings.form
        for split, (x, y) in zip(("train", "valid", "test"), task._features(Embedder(model)), strict=True):
            rows = [
                line.split("\t") for line in (tmp_path / task.config.file / f"{split}.txt").read_text().splitlines()
            ]
            texts = rows if form == "order" else [row[1:] for row in rows]
            vectors = [model.encode([row[place] for row in texts]) for place in range(len(texts[0]))]
            np.testing.assert_allclose(x, expected_features(form, vectors), atol=1e-6)
            labels = [1] * len(rows) + [0] * len(rows) if form == "order" else [int(row[0]) for row in rows]
            assert y.tolist() == labels


def test_scores_are_those_of_a_classifier_chosen_on_valid(tmp_path: Path) -> None:
    data = release(tmp_path, PUBLIC)
    report = evaluate(BagOfWords(dim=6), "discourse", data, tasks=["ssp-abs", "bso-wiki"], resamples=20)
    assert set(report.scores) == {"ssp-abs", "bso-wiki", "avg"} and report.tasks["ssp-abs"].interval is not None
    assert report.tasks["bso-wiki"].details["rows"] == [60, 24, 20]
    dev = evaluate(BagOfWords(dim=6), "discourse", data, tasks=["ssp-abs"], split="dev", resamples=0)
    assert dev.tasks["ssp-abs"].metrics["dev_accuracy"] == report.tasks["ssp-abs"].metrics["dev_accuracy"]


def test_a_folder_above_the_data_is_found_too(tmp_path: Path) -> None:
    release(tmp_path / "DiscoEval" / "data", {"SSP/abs": 2})
    assert len(open_suite("discourse", tmp_path / "DiscoEval", tasks=["ssp-abs"]).tasks[0].parts) == 3


def test_licensed_tasks_read_relations_and_trees(tmp_path: Path) -> None:
    release(tmp_path, {"PDTB/Explicit": 3, "PDTB/Implicit": 3})
    (tmp_path / "RST").mkdir()
    for split, size in SIZES.items():
        rows = [
            {"label": f"r{row % 2}", "first": sentences(1 + row % 3, row), "second": sentences(2, row + 99)}
            for row in range(size)
        ]
        (tmp_path / "RST" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = BagOfWords(dim=4)
    suite = open_suite("discourse-licensed", tmp_path)
    x, y = suite.tasks[2]._features(Embedder(model))[-1]
    sides = [np.array([model.encode(row[key]).mean(axis=0) for row in rows]) for key in ("first", "second")]
    np.testing.assert_allclose(x, expected_features("relation", sides), atol=1e-5)
    assert y.tolist() == [row % 2 for row in range(SIZES["test"])]
    assert set(suite.run(model).scores) == {"pdtb-explicit", "pdtb-implicit", "rst", "avg"}


def test_builtin_stories_can_be_told_apart_by_words_that_are_there() -> None:
    report = evaluate(BagOfWords(dim=128), "builtin-discourse", resamples=0)
    assert report.scores["ssp"] == 100.0 and report.scores["bso"] > 90 and report.scores["sp"] > 60
    assert not report.notes
    once = list(stories.rows("position", "test"))
    assert once == list(stories.rows("position", "test")) and once != list(stories.rows("position", "valid"))
    for label, *texts in once:
        places = [next(i for i, time in enumerate(stories.TIMES) if text.startswith(time)) for text in texts]
        assert places[0] == int(label) and places[1:] == [place for place in range(5) if place != int(label)]


def test_the_authors_classifier_has_their_settings() -> None:
    tasks = {task.name: task.settings for task in open_suite_configs()}
    assert (tasks["dc-wiki"].hidden, tasks["dc-wiki"].patience, tasks["dc-wiki"].epochs_per_look) == (2000, 8, 15)
    assert tasks["sp-wiki"].hidden == 0 and tasks["sp-wiki"].strength is None and tasks["ssp-abs"].strength == 1e-9


def open_suite_configs() -> list[Any]:
    """The tasks of the shipped suite with their settings, no data opened."""
    from types import SimpleNamespace

    from embedkit.evaluation.core.suites import load_suite
    from embedkit.evaluation.tasks.analysis.discourse import DiscourseSettings

    return [
        SimpleNamespace(name=task.name, settings=DiscourseSettings(**task.settings))
        for task in load_suite("discourse").tasks
    ]


def test_a_hidden_layer_learns_what_no_plane_can_part() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (1600, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    torch.manual_seed(0)
    for hidden, right in ((0, False), (64, True)):
        settings = SentEvalSettings(hidden=hidden, patience=20, epochs_per_look=10)
        predict = senteval_softmax((x, y), 1e-9, (x, y), 2, settings)
        assert (np.mean(predict(x) == y) > 0.95) == right


def test_senteval_fidelity_runs_with_hidden_units(tmp_path: Path) -> None:
    settings = {"fidelity": "senteval", "hidden": 8, "most_epochs": 30}
    data = release(tmp_path, {"DC/wiki": 2})
    report = evaluate(BagOfWords(dim=4), "discourse", data, tasks=["dc-wiki"], settings=settings, resamples=0)
    assert 0 <= report.main <= 100 and report.tasks["dc-wiki"].details["strengths"] == [1e-9]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "SSP/abs/valid.txt").unlink(), "no file valid.txt"),
        (
            lambda folder: (folder / "SSP/abs/test.txt").write_text("1\ttoo\tmany\n"),
            r"test.txt:1: 3 cells between tabs",
        ),
        (lambda folder: (folder / "SSP").rename(folder / "elsewhere"), "no folder SSP/abs"),
    ],
)
def test_bad_folders_are_one_line(tmp_path: Path, change: object, words: str) -> None:
    change(release(tmp_path, {"SSP/abs": 2}))  # type: ignore[operator]
    with pytest.raises(EmbedkitError, match=words):
        open_suite("discourse", tmp_path, tasks=["ssp-abs"])


def test_without_data_the_line_says_where_they_are() -> None:
    with pytest.raises(EmbedkitError, match="github.com/ZeweiChu/DiscoEval"):
        open_suite("discourse")
    with pytest.raises(EmbedkitError, match="files of its own"):
        open_suite("discourse", [{"text": "a", "label": 1}])
