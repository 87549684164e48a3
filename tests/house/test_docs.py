"""What the pages of the documentation name is there: files, modules, tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from embedkit.config.peer_names import ANSWERS, LOSS_ANSWERS, ours, plain

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))
TOP = ("embedkit", "tests", "recipes", "eval", "tools", "docs", "findings", "examples")


def texts(page: Path) -> str:
    """A page without addresses of the web and blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"https?://\S+", "", text)


def plugin_groups() -> set[str]:
    """Groups of entry points that registries have."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "embedkit").rglob("*.py"))
    return {group for text in sources for group in re.findall(r'plugins="([\w.]+)"', text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page: Path) -> None:
    names = re.findall(
        rf"(?<![\w./-])((?:\.\./)*(?:{'|'.join(TOP)})/[\w./-]*\w\.(?:py|md|yaml|json|html|png|svg|sh|txt))", texts(page)
    )
    missing = sorted({name for name in names if "NAME" not in name and not (ROOT / name.lstrip("./")).exists()})
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_exist(page: Path) -> None:
    missing = []
    for name in sorted(set(re.findall(r"`(embedkit(?:\.\w+)+)`", texts(page))) - plugin_groups()):
        parts = name.split(".")
        homes = [ROOT.joinpath(*parts[:n]) for n in range(len(parts), 0, -1)]
        home = next(h for h in homes if h.is_dir() or h.with_suffix(".py").is_file())
        rest = parts[len(home.relative_to(ROOT).parts) :]
        if not rest:
            continue
        files = [f for f in (home.with_suffix(".py"), home / "__init__.py", home / "__init__.pyi") if f.is_file()]
        if not any(re.search(rf"\b{rest[0]}\b", file.read_text(encoding="utf-8")) for file in files):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_exist(page: Path) -> None:
    missing = []
    for file, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", texts(page)):
        path = ROOT / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        if name not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}:
            missing.append(f"{file}::{name}")
    assert missing == []


def test_names_of_other_libraries_are_understood_as_the_page_says() -> None:
    page = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(?:loss=|batch_sampler=)?(\w+)` \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) > 30
    wrong = []
    for name, here in rows:
        answered = plain(name) in ANSWERS | LOSS_ANSWERS
        names = ours(name)
        words = re.findall(r"`([^`]+)`", here)
        if not answered and names and not any(our in word for our in names for word in words):
            wrong.append((name, names, here))
        if not answered and not names and "_" in name and "=" in here:
            wrong.append((name, "not understood", here))
    assert wrong == []
