"""What is installed: the wheel carries recipes and suites, CI runs README's command, constraints are complete."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import embedkit
from embedkit.config import resources
from embedkit.config.recipe_io import dump_recipe, load_recipe
from embedkit.errors import RecipeError, UserError


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    builders = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling, of the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = builders.WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


def test_wheel_carries_everything(wheel: zipfile.ZipFile, root: Path) -> None:
    names = set(wheel.namelist())
    wanted = {f"embedkit/shipped/{path.relative_to(root)}" for path in root.glob("recipes/**/*.yaml")}
    wanted |= {f"embedkit/shipped/{path.relative_to(root)}" for path in root.glob("eval/*.yaml")}
    wanted |= {f"embedkit/shipped/{p.relative_to(root)}" for p in root.glob("eval/published/*") if p.is_file()}
    assert len(wanted) > 3 and wanted <= names
    assert {"embedkit/shipped/recipes/base/smoke.yaml", "embedkit/shipped/recipes/recipe.schema.json"} <= names
    assert {"embedkit/py.typed", "embedkit/cli/app.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]
    (licence,) = [name for name in names if name.endswith("licenses/LICENSE")]
    assert "Apache License" in wheel.read(licence).decode()


def test_recipes_and_suites_are_found_in_a_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    for member in wheel.infolist():
        wheel.extract(member, tmp_path)
    code = (
        "import json; from embedkit.config import resources as r; from embedkit import __file__ as f;"
        "from embedkit.config.recipe_io import dump_recipe, load_recipe;"
        "whole = dump_recipe(load_recipe('sct-distil-tiny'));"
        "print(json.dumps([f, r.recipe_names(), r.suite_names(), r.recipe_path('quickstart').read_text(), whole]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    file, recipes, suites, text, whole = json.loads(done.stdout)
    assert Path(file).is_relative_to(tmp_path)
    assert recipes == resources.recipe_names() and suites == resources.suite_names()
    assert text == resources.recipe_path("quickstart").read_text()
    assert whole == dump_recipe(load_recipe("sct-distil-tiny"))  # through bases in a folder below


def test_names_are_helped() -> None:
    with pytest.raises(RecipeError, match="did you mean 'quickstart'"):
        resources.recipe_path("quickstrat")
    with pytest.raises(UserError, match="did you mean 'builtin-sts'"):
        resources.suite_path("builtin-st")
    with pytest.raises(UserError, match="no published figures"):
        resources.published_path("nothing.yaml")


def test_ci_runs_the_test_command_of_the_readme(root: Path) -> None:
    readme = (root / "README.md").read_text()
    commands = re.findall(r"^python3 -m venv .*$", readme, re.MULTILINE)
    assert len(commands) == 2, "README has two commands, each one line"
    assert "embedkit quickstart" in commands[0] and "pytest" in commands[1]
    script = (root / ".ci" / "run").read_text()
    (extract,) = re.findall(r"^tests=\$\((grep .*)\)$", script, re.MULTILINE)
    found = subprocess.run(["bash", "-c", extract], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.rstrip("\n") == commands[1]
    assert os.access(root / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", str(root / ".ci" / "run")], check=True)


def test_constraints_name_every_direct_dependency(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("constraints", root / "tools" / "constraints.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (root / "pyproject.toml").read_text()
    names = module.direct_names(text)
    assert {"torch", "transformers", "typer", "pytest", "peft", "open_clip_torch"} <= set(names)
    pinned = re.findall(r"^([^#\s=]+)==\S+; python_version", (root / "constraints.txt").read_text(), re.MULTILINE)
    assert sorted(pinned, key=str.lower) == names
    assert not re.findall(r'"[A-Za-z0-9_.-]+==', text), "pyproject has lower bounds only"


def test_version_is_in_the_changelog(root: Path) -> None:
    assert f"## {embedkit.__version__}" in (root / "CHANGELOG.md").read_text()


def test_every_import_is_a_declared_dependency(root: Path) -> None:
    """What the package imports is required by it or by one of its extras."""
    text = (root / "pyproject.toml").read_text()
    declared = {name.lower().replace("-", "_") for name in re.findall(r'"([A-Za-z0-9_.-]+)>=', text)}
    known_as = {
        "yaml": "pyyaml",
        "pil": "pillow",
        "sklearn": "scikit_learn",
        "open_clip": "open_clip_torch",
        "faiss": "faiss_cpu",
        "mlflow": "mlflow_skinny",
    }
    trackers = ("trackio", "aim", "swanlab")
    missing = {}
    for path in (root / "embedkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                top = name.split(".")[0]
                # IPython is imported inside a notebook's kernel alone, a tracker where it is at work: they are there
                if top in sys.stdlib_module_names or top in ("embedkit", "__future__", "IPython", *trackers):
                    continue
                package = known_as.get(top.lower(), top.lower())
                if package not in declared:
                    missing[top] = str(path.relative_to(root))
    assert missing == {}
