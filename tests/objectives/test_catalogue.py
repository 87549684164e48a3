"""The list of objectives and its page in the docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embedkit.objectives import table
from embedkit.objectives.catalogue import COLUMNS, page
from embedkit.objectives.parts.slots import SLOTS, part_settings
from embedkit.objectives.registry import presets

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).with_name("stored_settings.json")


def test_the_page_of_objectives_is_up_to_date() -> None:
    written = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    assert written == page(), "run: python tools/regenerate.py docs/objectives.md"


def test_the_table_has_every_objective_with_all_columns() -> None:
    rows = {row["name"]: row for row in table()}
    assert rows.keys() == set(presets)
    for row in rows.values():
        assert row.keys() == {*COLUMNS, "family"}
        assert row["inputs"]
    assert rows["ntxent"]["inputs"].startswith("anchor, positive")
    assert rows["moco"]["state"] == "queue of Q keys"
    assert rows["clip"]["tiled"]
    assert not rows["barlow-twins"]["tiled"]
    assert rows["supcon"]["distributed"] == "anchors"
    assert rows["vicreg"]["distributed"] == "whole"


def defaults() -> dict[str, Any]:
    """Every setting of every objective and part with its default, as JSON shows it."""
    table()  # imports all
    parts = {f"{slot} {name}": part_settings(slot, name) for slot, known in SLOTS.items() for name in known}
    found = {name: presets[name].settings for name in presets} | parts
    return json.loads(json.dumps(found, default=lambda value: "required" if value is ... else str(value)))  # type: ignore[no-any-return]


def test_defaults_are_those_that_were_stored() -> None:
    """A changed default changes the results of every recipe that leaves it out: ``python -m`` this module stores."""
    assert defaults() == json.loads(STORED.read_text(encoding="utf-8"))


def test_formulas_that_are_not_verified_say_so() -> None:
    notes = {row["name"]: row["note"] for row in table()}
    for name in ("moco-filtered", "hallucinator", "mls", "focal-infonce"):
        assert "[R]" in notes[name], name
    for name in ("mochi", "cmim", "supcon-in", "poly-view-statistics", "poly-view-geometric"):
        assert "[M]" in notes[name], name


def test_the_page_names_every_part() -> None:
    text = page()
    for slot, parts in SLOTS.items():
        for name in parts:
            assert f"| {slot} | {name} |" in text or f"| {slot} | **{name}** |" in text


if __name__ == "__main__":
    STORED.write_text(json.dumps(defaults(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
