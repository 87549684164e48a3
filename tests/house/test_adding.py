"""What the pages on adding something say is done on a copy of the checkout, and the checkout stays in order."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {
    "adding-a-data-format.md": "'anchor': 'a house', 'positive': 'ein Haus'",
    "adding-an-image-tower.md": "'family': 'mixer'",
    "adding-a-model-format.md": "1", "adding-a-suite.md": "['news', 'forum']",
}  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("embedkit", "recipes", "eval", "tools", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_steps_of_a_page_work(page: str, copy: Path) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        if language in ("python", "yaml"):
            path = copy / block.splitlines()[0].removeprefix("# ")
            assert not path.exists(), path
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.partition("\n")[2], encoding="utf-8")
    bash = "".join(re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    script = f"set -euo pipefail\npython() {{ '{sys.executable}' \"$@\"; }}\n{bash}"
    result = subprocess.run(["bash", "-c", script], cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert PAGES[page] in result.stdout
    gate = subprocess.run([sys.executable, "tools/gate.py"], cwd=copy, capture_output=True, text=True, check=False)
    assert gate.returncode == 0, gate.stdout


@pytest.mark.parametrize("page", PAGES)
def test_the_files_of_a_page_are_as_few_as_it_says(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    files = re.findall(r"^```(?:python|yaml)\n# (\S+)$", text, flags=re.MULTILINE)
    modules = [name for name in files if not name.endswith("__init__.py")]
    assert f"Files touched: {len(modules)}" in text
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        ast.parse(block)
