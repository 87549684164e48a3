"""The documentation site builds without a warning, and its search box answers what new users ask.

The questions were chosen before the pages were written.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs", reason="needs the dev extra")

from tools.website.__main__ import build
from tools.website.assembly import ROOT
from tools.website.reference import PAGES, public

QUESTIONS = {
    "how do I fine-tune with LoRA": ("guides/lora.html", "model.lora"),
    "why is my R@1 different from open_clip": ("guides/photos.html", "hit_rate@1"),
    "how many negatives do I have": ("guides/pairs.html", "63 in-batch negatives"),
    "resume a stopped run": ("guides/pairs.html", "--resume"),
    "out of memory": ("troubleshooting.html", "train.chunk_tokens=auto"),
}
"""What a new user asks -> the page of the first result, and what stands in the section that it leads to."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "html"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def entries(site: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))[
        "docs"
    ]
    return found


@pytest.fixture(scope="module")
def index(entries: list[dict[str, Any]]) -> Any:
    """lunr with the fields and boosts of the theme's search box."""
    from lunr import lunr

    fields = [{"field_name": "title", "boost": 1000}, {"field_name": "text", "boost": 1}]
    rows = [
        {"location": e["location"], "title": e["title"], "text": re.sub("<[^>]+>", " ", e["text"])} for e in entries
    ]
    return lunr(ref="location", fields=fields, documents=rows)


def found(index: Any, question: str) -> list[str]:
    """Addresses of the results as the search box lists them: by page, the best section of each.

    A page counts twice as much as one of its sections, and so does what holds all words (the theme's own rule).
    """
    words = re.sub(r"[:^~*+-]", " ", question)
    best: dict[str, tuple[float, str]] = defaultdict(lambda: (0.0, ""))
    for result in index.search(words):
        location = result["ref"]
        whole = len(result["match_data"].metadata) >= len({index.pipeline.run_string(word)[0] for word in words.split()
                                                           if index.pipeline.run_string(word)})  # fmt: skip
        score = result["score"] * (1 + (int("#" not in location) + int(whole)) ** 2)
        page = location.partition("#")[0]
        best[page] = max(best[page], (score, location))
    return [location for _, location in sorted(best.values(), reverse=True)]


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_result_answers(index: Any, entries: list[dict[str, Any]], question: str) -> None:
    page, words = QUESTIONS[question]
    first = found(index, question)[0]
    assert first.partition("#")[0] == page
    (entry,) = [e for e in entries if e["location"] == first]
    text = (ROOT / "docs" / page.replace(".html", ".md")).read_text(encoding="utf-8")
    assert words in re.sub("<[^>]+>", "", entry["text"]) or ("#" not in first and words in text)


@pytest.mark.slow
def test_no_page_asks_another_address_for_anything(site: Path) -> None:
    outside = r"""<(?:script|img|link|iframe)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"[^>]*>"""
    asked = {tag for page in site.rglob("*.html") for tag in re.findall(outside, page.read_text(encoding="utf-8"))}
    assert asked == set()
    assert (site / "search" / "search_index.js").is_file()  # searched from disk, too


@pytest.mark.slow
def test_settings_and_api_are_whole(site: Path, entries: list[dict[str, Any]]) -> None:
    settings = (site / "settings.html").read_text(encoding="utf-8")
    for name in ("train.chunk_tokens", "data.train[].columns", "model.lora.rank", "simcse-unsup", "barlow-twins"):
        assert f"<code>{name}</code>" in settings
    anchors = {entry["location"].partition("#")[2] for entry in entries}
    assert [home for home in public().values() if home not in anchors] == []
    assert {name for _, _, names in PAGES.values() for name in names} >= set(public())


def test_a_link_to_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.website import assembly

    page = ROOT / "docs" / "guides" / "pairs.md"
    folder = tmp_path / "docs"
    text = page.read_text(encoding="utf-8")
    monkeypatch.setattr(Path, "read_text", lambda self, **_: text + "\n[gone](../nowhere.md)\n")
    with pytest.raises(FileNotFoundError, match=r"docs/guides/pairs\.md: a link to docs/nowhere\.md"):
        assembly._relinked(page, "guides/pairs.md", folder)
