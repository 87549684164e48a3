"""Every block of code in the documentation runs, or is marked and parsed.

A page is followed from top to bottom in a folder of its own, with small random models under the names of the hub.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from embedkit.views import views
from tests.helpers.pages import Reader, blocks, desk, hub

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "adding-*.md": "tests/house/test_adding.py",
    "training-data.md": "tests/mining/test_page.py",
}
"""Pages whose blocks another test runs."""

PAGES = sorted(
    page for page in (ROOT / "docs").rglob("*.md")
    if blocks(page) and not any(page.match(name) for name in ELSEWHERE)
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    assert len(list(hub(folder))) > 3
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk") / "files"
    desk(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_blocks_know_their_language(page: Path) -> None:
    known = {"bash", "python", "yaml", "text", "mermaid"}
    assert [block.line for block in blocks(page) if block.language not in known] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_what_the_page_says_runs(
    page: Path, models: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(files, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(models))
    monkeypatch.setenv("HF_HUB_CACHE", str(models))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(views, "_entries", dict(views.items()))  # what a page adds leaves with it
    reader = Reader(folder)
    for block in blocks(page):
        reader.follow(block)


def test_other_tests_run_the_rest() -> None:
    for name, test in ELSEWHERE.items():
        assert list((ROOT / "docs").glob(name))
        assert (ROOT / test).is_file()
