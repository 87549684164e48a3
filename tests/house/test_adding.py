"""What the pages on adding something say is done on a copy of the checkout, which stays in order, and measured."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.regenerate import FILES as GENERATED

ROOT = Path(__file__).parents[2]
ROOMS = ("embedkit", "recipes", "eval", "tests", "docs", "tools")
PAGES = {
    "adding-an-objective.md": (2, r"[1-9]\d* passed"), "adding-a-method.md": (2, r"[1-9]\d* passed"),
    "adding-a-view.md": (2, r"[1-9]\d* passed"),
    "adding-a-data-format.md": (1, "'anchor': 'a house', 'positive': 'ein Haus'"),
    "adding-an-image-tower.md": (1, "'family': 'mixer'"), "adding-a-model-format.md": (1, r"\d+ 32\n\[PAD\]"),
    "adding-a-suite.md": (1, r"\['news', 'forum'\]"),
}  # fmt: skip
"""Page -> files that an addition touches at most, besides generated ones, and what its commands print."""


@dataclass(frozen=True)
class Addition:
    """One section of a page: files that it shows, and commands."""

    page: str
    number: int
    text: str

    @property
    def files(self) -> dict[str, str]:
        """Path -> contents of the blocks that begin with a comment ``# path``."""
        blocks = re.findall(r"^```(?:python|yaml)\n# (\S+\.\w+)\n(.*?)^```", self.text, flags=re.DOTALL | re.MULTILINE)
        return dict(blocks)

    @property
    def commands(self) -> list[str]:
        """Lines of the bash blocks."""
        return "".join(re.findall(r"^```bash\n(.*?)^```", self.text, flags=re.DOTALL | re.MULTILINE)).splitlines()

    @property
    def row(self) -> str:
        """Its row of the table in docs/architecture.md up to the seconds, which depend on the machine."""
        lines = sum(bool(line.strip()) for text in self.files.values() for line in text.splitlines())
        files = re.search(r"^Files touched: (\d)", self.text, flags=re.MULTILINE)
        assert files is not None, "the section does not say how many files are touched"
        return f"[{self.page}]({self.page}) | {files[1]} | {lines} | {len(self.commands)} |"


def _additions() -> Iterator[Addition]:
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for number, section in enumerate(re.split(r"^## ", text, flags=re.MULTILINE)):
            addition = Addition(page, number, section)
            if addition.files:
                yield addition


ADDITIONS = list(_additions())
every_addition = pytest.mark.parametrize("addition", ADDITIONS, ids=lambda one: f"{one.page[:-3]}-{one.number}")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in (*ROOMS, "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)  # compiled modules too, or every command compiles all of them
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


def contents(copy: Path) -> dict[str, bytes]:
    """The files of the rooms."""
    paths = (path for room in ROOMS for path in (copy / room).rglob("*") if path.is_file())
    return {str(path.relative_to(copy)): path.read_bytes() for path in paths if "__pycache__" not in path.parts}


@pytest.mark.slow
@every_addition
def test_the_steps_of_a_page_work(addition: Addition, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, output = PAGES[addition.page]
    monkeypatch.setenv("PYTHONPATH", str(copy))
    before, start = contents(copy), time.monotonic()
    for name, text in addition.files.items():
        assert name not in before, "the page shows a file that exists"
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text, encoding="utf-8")
    script = "\n".join(["set -euo pipefail", f"python() {{ '{sys.executable}' \"$@\"; }}", *addition.commands])
    result = subprocess.run(["bash", "-c", script], cwd=copy, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    assert re.search(output, result.stdout), result.stdout[-3000:]
    after = contents(copy)
    touched = {name for name in {*before, *after} if before.get(name) != after.get(name)} - set(GENERATED)
    assert set(addition.files) <= touched and len(touched) <= limit, touched
    assert f"Files touched: {len(touched)}" in addition.text
    print(f"\n| {addition.row} {seconds:.0f} |")
    gate = subprocess.run([sys.executable, "tools/gate.py"], cwd=copy, capture_output=True, text=True, check=False)
    assert gate.returncode == 0, gate.stdout


@every_addition
def test_the_table_of_additions_has_the_figures_of_the_pages(addition: Addition) -> None:
    assert addition.row in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), addition.row


def test_every_page_has_an_addition() -> None:
    on_disk = {path.name for path in (ROOT / "docs").glob("adding-*.md")}
    assert on_disk == set(PAGES) == {addition.page for addition in ADDITIONS}


@every_addition
def test_the_code_of_a_page_is_python(addition: Addition) -> None:
    for name, text in addition.files.items():
        if name.endswith(".py"):
            ast.parse(text)
