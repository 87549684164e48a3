"""Own parts: a class in a file, an installed package with entry points, and plug-ins that are wrong."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from embedkit.errors import RecipeError, UserError
from embedkit.evaluation.core.task import TASKS
from embedkit.evaluation.suites.kinds import SUITES
from embedkit.methods import methods
from embedkit.models.modules.image_towers import image_towers
from embedkit.objectives import build, presets
from embedkit.registry import Registry, load_object
from embedkit.views import views

OBJECTIVE = """
from embedkit.evaluation.core.task import Task
from embedkit.evaluation.suites.kinds import SuiteKind
from embedkit.models.modules.image_towers import ImageTower
from embedkit.objectives import LossOutput, NegativeCount, Objective

class MyLoss(Objective):
    def __init__(self, spread: float = 1.0):
        super().__init__()
        self.spread = spread

    def forward(self, embeddings, batch):
        return LossOutput((embeddings["anchor"] - embeddings["positive"]).square().mean() * self.spread * batch.share)

    def negatives(self, batch_size, hard, processes):
        return NegativeCount(0, 0, 0)

class Short(Objective):
    def forward(self, embeddings):
        return None

class Empty(Objective):
    pass

class Tower(ImageTower):
    pass

class Kind(Task):
    pass

class Suites(SuiteKind):
    pass

def function(batch):
    return 0
"""
METHOD = """
from embedkit.methods import Method
from embedkit.methods.pairs import Pairs

class MyMethod(Pairs):
    paper = "own"

class NoViews(Method):
    pass

class WrongViews(Method):
    def views(self, rows):
        return {}
"""
VIEW = """
from embedkit.views import Step

def shout(mark: str = "!") -> Step:
    return Step(edit=lambda text, random: text.upper() + mark)
"""
TINY = [
    "--smoke", "train.max_steps=2", "train.epochs=null", "evaluation=null", "train.precision=fp32",
]  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (
        ("loss.py", OBJECTIVE),
        ("method.py", METHOD),
        ("view.py", VIEW),
        ("broken.py", "import nosuch"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_class_in_a_file_is_an_objective(own: Path) -> None:
    objective = build({"name": "loss.py:MyLoss", "spread": 3.0})
    assert objective.spread == 3.0
    assert presets["loss.py:MyLoss"].settings == {"spread": 1.0}
    with pytest.raises(RecipeError, match="unknown setting 'spred'.*did you mean 'spread'"):
        build({"name": "loss.py:MyLoss", "spred": 1.0})


@pytest.mark.parametrize(
    ("registry", "name", "message"),
    [
        (presets, "loss.py:MyLos", "has no 'MyLos'; did you mean 'MyLoss'"),
        (presets, "loss.py:Short", "forward has a wrong signature"),
        (presets, "loss.py:Empty", "this class is no objective; derive it from"),
        (presets, "loss.py:function", "this function is no objective"),
        (presets, "nosuch.py:MyLoss", "no such Python file"),
        (presets, "broken.py:MyLoss", "cannot be imported.*No module named 'nosuch'"),
        (presets, "nosuch.module:MyLoss", "cannot be imported.*No module named 'nosuch'"),
        (methods, "method.py:NoViews", "this class is no method; derive it from"),
        (methods, "loss.py:MyLoss", "this class is no method"),
        (methods, "method.py:WrongViews", r"views has a wrong signature.*; write views\(self, rows, random\)"),
        (views, "loss.py:MyLoss", "this class is no view; give a function"),
        (image_towers, "loss.py:MyLoss", "this class is no image tower; derive it from"),
        (image_towers, "loss.py:Tower", "does not define .*; define it"),
        (TASKS, "loss.py:function", "this function is no kind of task; derive it from"),
        (TASKS, "loss.py:Kind", "does not define .*; define it"),
        (SUITES, "loss.py:MyLoss", "this class is no kind of suite; derive it from"),
        (SUITES, "loss.py:Suites", "does not define .*; define it"),
    ],
)
def test_a_wrong_plugin_is_one_line(registry: Registry, name: str, message: str, own: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        registry[name]
    assert "\n" not in str(error.value)


def test_methods_and_views_in_files(own: Path) -> None:
    assert methods["method.py:MyMethod"].__name__ == "MyMethod"
    step = views["view.py:shout"](mark="?")
    assert step.edit is not None and step.edit("yes", None) == "YES?"  # type: ignore[arg-type]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "embedkit", *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_own_parts_train_from_the_command_line(own: Path) -> None:
    result = run(
        "train", "quickstart", *TINY, "objective=loss.py:MyLoss", "method=method.py:MyMethod", "--output", "run"
    )
    assert result.returncode == 0, result.stderr
    assert (own / "run" / "model" / "embedkit.json").is_file()
    for name in ("loss.py:Short", "broken.py:MyLoss"):
        wrong = run("train", "quickstart", *TINY, f"objective={name}", "--output", "wrong")
        assert wrong.returncode == 2 and len(wrong.stderr.strip().splitlines()) == 1, wrong.stderr
        assert not (own / "wrong").exists()


@pytest.mark.slow
def test_the_template_project_is_installed_and_trains(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", "--target", str(site), str(root / "docs" / "plugin-template"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{root}")
    monkeypatch.chdir(tmp_path)
    shown = run("objectives", "squared-distance", "--json", "-")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["settings"] == {"spread": 1.0}
    result = run("train", "quickstart", *TINY, "objective={name: squared-distance, spread: 2}", "--output", "run")
    assert result.returncode == 0, result.stderr
    lines = sum(len(p.read_text().splitlines()) for p in (root / "docs" / "plugin-template" / "src").rglob("*.py"))
    assert lines <= 30


def points(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str]) -> None:
    group = "embedkit.objectives"
    entries = [importlib.metadata.EntryPoint(name, value, group) for name, value in pairs]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)


def test_an_entry_point_may_not_take_a_name(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, ("infonce", "loss.py:MyLoss"))
    with pytest.raises(UserError, match=r"entry point embedkit.objectives of .*'infonce' exists already; rename it"):
        list(presets)
    points(monkeypatch, ("mine", "loss.py:MyLoss"), ("mine", "loss.py:Short"))
    with pytest.raises(UserError, match="'mine' exists already"):
        list(presets)
    points(monkeypatch, ("mine", "loss.py:MyLoss"))
    assert "mine" in presets and presets["mine"].name == "mine"


def test_a_name_is_taken_once() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("one")(1)
    with pytest.raises(UserError, match="the number 'one' exists already; give yours another name"):
        registry.add("one")(2)


def test_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my.py").write_text(f"value = {value}")
    assert [load_object(f"{tmp_path}/{folder}/my.py:value") for folder in "ab"] == [1, 2]
