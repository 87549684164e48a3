"""Every import of own modules names a module, and a name in it, that is there; mypy looks past missing ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("embedkit", "tests", "eval", "tools")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def names_in(path: Path) -> set[str]:
    """All names that a module could define, those of its stub among them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    stub = path.with_suffix(".pyi")
    if stub.is_file():
        names |= set(re.findall(r" as (\w+)", stub.read_text(encoding="utf-8")))
    return names


def test_imports_of_own_modules_exist() -> None:
    modules = {name_of(path): path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    names = {module: names_in(path) for module, path in modules.items()}
    packages = {module.rpartition(".")[0] for module in modules} | set(modules)
    wrong = []
    for path in modules.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in ("embedkit", "tests"):
                continue
            if node.module not in packages:
                wrong.append(f"{path}:{node.lineno}: {node.module}")
                continue
            here = names.get(node.module or "", set())
            wrong += [
                f"{path}:{node.lineno}: {node.module}.{alias.name}"
                for alias in node.names
                if f"{node.module}.{alias.name}" not in packages and alias.name not in here
            ]
    assert wrong == []
