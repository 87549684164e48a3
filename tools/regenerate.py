"""Write the generated files of the repository anew. Run: python tools/regenerate.py [FILE ...]

Without names: the pages made from the registries, and the stored values of what is new. A stored value that would
change is left as it is, since a change of results is made on purpose: name its file to store it.
"""

from __future__ import annotations

import json
import subprocess  # nosec B404
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _module(name: str, *arguments: str) -> str:
    """What ``python -m name`` prints."""
    command = [sys.executable, "-m", name, *arguments]
    result = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)  # nosec B603
    return result.stdout


def objectives(by_name: bool) -> None:
    """docs/objectives.md: every objective and part."""
    (ROOT / "docs" / "objectives.md").write_text(_module("embedkit.objectives.catalogue"), encoding="utf-8")


def literature(by_name: bool) -> None:
    """docs/literature.md: published works and what runs them."""
    (ROOT / "docs" / "literature.md").write_text(_module("tools.literature"), encoding="utf-8")


def recipe_schema(by_name: bool) -> None:
    """recipes/recipe.schema.json: the JSON schema of recipes, without what other installed packages add."""
    code = (
        "import sys; from embedkit.cli.schema import schema_text;"
        "sys.stdout.buffer.write(schema_text(installed=False).encode())"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)  # nosec B603
    (ROOT / "recipes" / "recipe.schema.json").write_bytes(result.stdout)


def stored_settings(by_name: bool) -> None:
    """Default settings of objectives and parts: new ones are added, and all written when the file is named."""
    path = ROOT / "tests" / "objectives" / "stored_settings.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    _module("tests.objectives.test_catalogue")
    if not by_name:
        after = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**after, **before}, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def stored_losses(by_name: bool) -> None:
    """Losses of twenty steps: those of new cases; give cases to ``python -m tests.training.test_stored_losses``."""
    _module("tests.training.test_stored_losses")


def constraints(by_name: bool) -> None:
    """constraints.txt: the versions installed here; written only when it is named."""
    if by_name:
        subprocess.run([sys.executable, "tools/constraints.py"], cwd=ROOT, check=True)  # nosec B603


FILES: dict[str, Callable[[bool], None]] = {
    "docs/objectives.md": objectives,
    "docs/literature.md": literature,
    "recipes/recipe.schema.json": recipe_schema,
    "tests/objectives/stored_settings.json": stored_settings,
    "tests/training/stored_losses.json": stored_losses,
    "constraints.txt": constraints,
}


def main(names: list[str]) -> int:
    """Write the named files, or all; 2 for a name that is none of them."""
    unknown = [name for name in names if name not in FILES]
    if unknown:
        print(f"{unknown[0]}: not a generated file; known: {', '.join(FILES)}", file=sys.stderr)
        return 2
    for name, write in FILES.items():
        if not names or name in names:
            print(f"{name} ...", flush=True)
            write(name in names)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
