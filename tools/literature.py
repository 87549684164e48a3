"""The page of published works, from tools/literature.yaml and the registries. Run: python tools/literature.py

The table says in our words what a work is about, what was read of it, and the names of the recipes, objectives, views,
tasks ... that run it. Every name is looked up; a wrong one is an error that says where it stands.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tools" / "literature.yaml"
PAGE = ROOT / "docs" / "literature.md"

NOUNS = {
    "recipes": "recipe", "methods": "method", "objectives": "objective", "views": "view", "commands": "command",
    "criteria": "criterion", "suites": "suite", "tasks": "task", "pages": "page",
}  # fmt: skip
"""What may run a work, by its key in the table."""

HEAD = """# Literature

This page is written by `python tools/regenerate.py docs/literature.md` from tools/literature.yaml; do not edit it.

Published works on contrastive and self-supervised embeddings, and what runs each here. *Read* says what the
implementation, or where there is none the row, rests on: {evidence}. A work that runs in part, or not yet, says what is
missing. Surveys and theory name the part of the library that they speak of.

{counts}
"""

_ROW = "| work | idea | runs by | read | missing |\n| --- | --- | --- | --- | --- |"


class Work(BaseModel):
    """A published work: a row of the page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    group: str
    title: str
    what: str
    evidence: str
    missing: str = ""
    recipes: list[str] = []
    methods: list[str] = []
    objectives: list[str] = []
    views: list[str] = []
    commands: list[str] = []
    criteria: list[str] = []
    suites: list[str] = []
    tasks: list[str] = []
    pages: list[str] = []

    def names(self) -> Iterator[tuple[str, str]]:
        """Kind and name of everything that runs the work."""
        for kind in NOUNS:
            for name in getattr(self, kind):
                yield kind, name

    @property
    def status(self) -> str:
        """How much of the work runs."""
        if not self.missing:
            return "runs"
        return "in part" if any(kind != "pages" for kind, _ in self.names()) else "not yet"


class Literature(BaseModel):
    """The table: works by group, and what their evidence is called."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evidence: dict[str, str]
    groups: dict[str, str]
    works: list[Work]

    @property
    def recipes(self) -> set[str]:
        """Names of recipes that are in the table."""
        return {name for work in self.works for name in work.recipes}


def literature() -> Literature:
    """The table as it stands in tools/literature.yaml."""
    return Literature.model_validate(yaml.safe_load(TABLE.read_text(encoding="utf-8")))


@cache
def registries() -> dict[str, frozenset[str]]:
    """The names that a work may be run by, as they stand in the registries."""
    from embedkit.cli.app import _COMMANDS
    from embedkit.config.resources import recipe_names, suite_names
    from embedkit.evaluation.core.task import TASKS
    from embedkit.methods.base import methods
    from embedkit.mining.selection.base import criteria
    from embedkit.objectives.registry import presets
    from embedkit.views.base import views

    pages = [path.name for path in PAGE.parent.glob("*.md")]
    names: dict[str, Iterable[str]] = {
        "recipes": recipe_names(), "methods": methods, "objectives": presets, "views": views, "commands": _COMMANDS,
        "criteria": criteria, "suites": suite_names(), "tasks": TASKS, "pages": pages,
    }  # fmt: skip
    return {kind: frozenset(entries) for kind, entries in names.items()}


def faults(table: Literature) -> list[str]:
    """What is wrong in the table, in words: names that do not exist, keys given twice."""
    words = [f"the key {key} is given twice" for key, count in Counter(w.key for w in table.works).items() if count > 1]
    for work in table.works:
        where = f"tools/literature.yaml, work {work.key}"
        words += [
            f"{where}: no {NOUNS[kind]} {name!r}" for kind, name in work.names() if name not in registries()[kind]
        ]
        words += [f"{where}: no group {work.group!r}"] if work.group not in table.groups else []
        words += [f"{where}: no evidence {work.evidence!r}"] if work.evidence not in table.evidence else []
        if not work.missing and not any(work.names()):
            words.append(f"{where}: it names nothing that runs it, and nothing that is missing")
    return words


def without_row(table: Literature, recipes: list[str]) -> list[str]:
    """What to write for each of `recipes` that the table has no row for; a recipe covers its variants."""
    return [
        f"recipes/{name}.yaml has no row: add `recipes: [{name}]` to its work in tools/literature.yaml, or a line "
        f'`- {{key: {name}, group: text, title: "...", what: "...", evidence: code, recipes: [{name}]}}`, and run '
        "python tools/regenerate.py docs/literature.md"
        for name in recipes
        if not any(name == row or name.startswith(f"{row}-") for row in table.recipes)
    ]


def page(table: Literature) -> str:
    """The page as Markdown."""
    counts = Counter(work.status for work in table.works)
    total = ", ".join(f"{counts[status]} {words}" for status, words in (("runs", "run"), ("in part", "run in part"),
                                                                        ("not yet", "do not run yet")))  # fmt: skip
    evidence = "; ".join(f"*{name}*, {words}" for name, words in table.evidence.items())
    parts = [HEAD.format(evidence=evidence, counts=f"{len(table.works)} works: {total}.")]
    for group, title in table.groups.items():
        rows = [_row(work) for work in table.works if work.group == group]
        parts.append("\n".join([f"## {title}\n", _ROW, *rows]) + "\n")
    return "\n".join(parts)


def _row(work: Work) -> str:
    runs = []
    for kind, noun in NOUNS.items():
        names = getattr(work, kind)
        if names:
            quoted = [f"[{name}]({name})" if kind == "pages" else f"`{name}`" for name in names]
            plural = {"criterion": "criteria"}.get(noun, f"{noun}s") if len(names) > 1 else noun
            runs.append(f"{plural} {', '.join(quoted)}")
    missing = work.missing if work.status != "not yet" else f"not yet: {work.missing}"
    return f"| {work.title} | {work.what} | {'; '.join(runs)} | {work.evidence} | {missing} |"


def main() -> int:
    """Print the page; 1 and the faults where the table has some."""
    table = literature()
    wrong = faults(table)
    for words in wrong:
        print(words, file=sys.stderr)
    if not wrong:
        print(page(table), end="")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
