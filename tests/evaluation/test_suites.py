"""Suites are found by name, checked by key, and name their metrics without data or model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embedkit.config.resources import suite_names
from embedkit.errors import UserError
from embedkit.evaluation import SuiteConfig, describe_suites, load_suite, metric_names, open_suite
from embedkit.evaluation.core.task import TASKS
from tests.evaluation.toys import sts_folder

SEVEN = ["sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr"]


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_are_whole(name: str) -> None:
    import embedkit.evaluation.tasks  # noqa: F401 - fills the registry

    suite = load_suite(name)
    assert suite.name == name
    assert suite.description
    for task in suite.tasks:
        known = TASKS[task.kind].settings_type.model_fields
        assert set(task.settings) <= set(known)
    kinds = {task.kind for task in suite.tasks}
    for key in suite.settings:
        assert any(key in TASKS[kind].settings_type.model_fields for kind in kinds)
    assert dict(describe_suites())[name] == suite.description


def test_metric_names_follow_tasks_and_split() -> None:
    assert metric_names("sts") == [f"sts/{name}" for name in [*SEVEN, "avg"]]
    assert metric_names("sts", split="dev") == ["sts/stsb", "sts/sickr", "sts/avg"]
    assert metric_names("sts", ["sickr", "sts13"]) == ["sts/sts13", "sts/sickr", "sts/avg"]


def test_metric_names_of_local_tasks_for_mteb_are_those_of_its_report() -> None:
    assert metric_names("mteb:sts/stsb, STS12") == ["mteb/sts-stsb", "mteb/STS12", "mteb/avg"]
    assert metric_names("mteb:image-text/flickr8k")[:2] == [f"mteb/image-text-flickr8k-{way}" for way in ("i2t", "t2i")]
    with pytest.raises(UserError, match="suite 'sts' has no task 'stsbb'"):
        metric_names("mteb:sts/stsbb")


def test_metric_names_import_nothing_heavy() -> None:
    code = (
        "import sys, embedkit.evaluation as e; e.metric_names('sts');"
        "print([m for m in ('torch', 'scipy', 'sklearn', 'datasets', 'pyarrow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stts",), "did you mean 'sts'"),
        (("sts", ["stsbb"]), "did you mean 'stsb'"),
        (("sts", ["sts12"], "dev"), "it has test, train"),
        (("sts", None, "validation"), "use dev, test, train"),
    ],
)
def test_unknown_names_are_refused_with_help(arguments: tuple, said: str) -> None:
    with pytest.raises(UserError, match=said):
        metric_names(*arguments)


GOOD = "name: mine\ndescription: my pairs\ntasks:\n  - {name: a, kind: sts}\n"


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert metric_names(path) == ["mine/a", "mine/avg"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "averge: plain\n", "averge"),
        (GOOD + "main: b\n", "main 'b' is not one of"),
        (GOOD + "  - {name: a, kind: sts}\n", "must differ"),
        (GOOD + "average: none\n", "main 'avg' is not one of"),
        ("name: mine\ndescription: x\ntasks: []\n", "tasks"),
        ("name: [\n", "mine.yaml"),
    ],
)
def test_a_wrong_suite_is_refused_by_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_suite(path)
    assert "mine.yaml" in str(caught.value)


def test_a_missing_suite_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml"):
        load_suite(tmp_path / "none.yaml")


def test_public_names_are_what_they_say_and_no_module_hides_one() -> None:
    import types

    import embedkit.evaluation as evaluation

    for name in evaluation.__all__:
        assert not isinstance(getattr(evaluation, name), types.ModuleType)
    for name in evaluation.__all__:  # a second time, when every module has been imported
        assert not isinstance(getattr(evaluation, name), types.ModuleType)


def test_settings_of_the_user_win_over_those_of_the_task_and_of_the_suite(tmp_path: Path) -> None:
    task = {"name": "stsb", "kind": "sts", "settings": {"subsets": False}}
    suite = {"name": "own", "description": "x", "settings": {"aggregation": "mean"}, "tasks": [task]}
    config = SuiteConfig.model_validate(suite)
    data = sts_folder(tmp_path, ["stsb"])
    stored = open_suite(config, data).tasks[0].stored_settings()
    assert stored == {"aggregation": "mean", "subsets": False, "zero_vectors": "senteval"}
    settings = {"aggregation": "all", "subsets": True, "zero_vectors": "scikit-learn"}
    assert open_suite(config, data, settings=settings).tasks[0].stored_settings() == settings
