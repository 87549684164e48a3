"""Write constraints.txt: the versions, here and now, of what pyproject.toml names. Run: python tools/constraints.py"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

HEAD = """\
# Versions that CI installs, so that a run can be repeated; the package itself asks for lower bounds only.
# Made by tools/constraints.py. The marker leaves Python 3.10 free, for which some of these versions do not exist.
"""


def direct_names(pyproject: str) -> list[str]:
    """Names of all packages that a pyproject.toml requires, extras included, sorted."""
    parts = re.findall(r'^(?:dependencies|\w+) = \[(.*?)^\]|^\w+ = \[(".*")\]$', pyproject, re.MULTILINE | re.DOTALL)
    names = {name for part in parts for name in re.findall(r'"([A-Za-z0-9_.-]+)>=', "".join(part))}
    return sorted(names, key=str.lower)


def render(names: list[str]) -> str:
    """The file: one pinned version a line.

    Raises
    ------
    SystemExit
        A package is not installed here.
    """
    lines = []
    for name in names:
        try:
            lines.append(f'{name}=={version(name)}; python_version >= "3.11"\n')
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed: install the dev extra first")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    (ROOT / "constraints.txt").write_text(render(direct_names((ROOT / "pyproject.toml").read_text())))
