"""The page of published works: held to the registries, and to every recipe of a paper."""

from __future__ import annotations

import pytest

from embedkit.config.recipe_io import grouped_recipes
from tools.literature import PAGE, Literature, Work, faults, literature, page, without_row

TABLE = literature()


def test_every_name_of_the_table_exists() -> None:
    assert faults(TABLE) == []


def test_page_is_what_the_generator_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(TABLE), "run: python tools/regenerate.py docs/literature.md"


def test_every_recipe_of_a_paper_stands_on_the_page() -> None:
    papers = [recipe.name for group, recipe in grouped_recipes() if group != "own-data"]
    assert without_row(TABLE, papers) == []


def test_a_recipe_without_a_row_is_told_what_to_write() -> None:
    (words,) = without_row(TABLE, ["simcse-unsup-bert-large", "brand-new"])
    assert "recipes: [brand-new]" in words and "tools/regenerate.py docs/literature.md" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipes": ["no-such"]}, "no recipe 'no-such'"),
        ({"objectives": ["no-such"]}, "no objective 'no-such'"),
        ({"tasks": ["no-such"]}, "no task 'no-such'"),
        ({"evidence": "rumour"}, "no evidence 'rumour'"),
        ({}, "it names nothing that runs it"),
    ],
)
def test_faults_name_the_work_and_what_is_wrong(changes: dict[str, object], words: str) -> None:
    row = {"key": "x", "group": "text", "title": "X", "what": "y", "evidence": "code", **changes}
    table = Literature(evidence=TABLE.evidence, groups=TABLE.groups, works=[Work.model_validate(row)])
    assert any("work x" in one and words in one for one in faults(table))


def test_status_follows_what_runs_and_what_is_missing() -> None:
    row = {"key": "x", "group": "text", "title": "X", "what": "y", "evidence": "code"}
    assert Work(**row, recipes=["pairs"]).status == "runs"  # type: ignore[arg-type]
    assert Work(**row, recipes=["pairs"], missing="z").status == "in part"  # type: ignore[arg-type]
    assert Work(**row, missing="z", pages=["views.md"]).status == "not yet"  # type: ignore[arg-type]
    assert "| not yet: z |" in page(Literature(evidence={}, groups={"text": "T"}, works=[Work(**row, missing="z")]))  # type: ignore[arg-type]
