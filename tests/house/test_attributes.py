"""No attribute is born outside of ``__init__``: what an object has can be read in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tools.gate import Source, read

ROOT = Path(__file__).parents[2]
BORN_IN = ("__init__", "__post_init__", "__new__")


def assigned(node: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes of ``self`` that are assigned somewhere below a node."""
    for child in ast.walk(node):
        if not isinstance(child, ast.Attribute) or not isinstance(child.ctx, ast.Store):
            continue
        if isinstance(child.value, ast.Name) and child.value.id == "self":
            yield child


def declared(owner: ast.ClassDef) -> set[str]:
    """Names that a class body and its constructors give to its objects."""
    names: set[str] = set()
    for part in owner.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            names.add(part.target.id)
        elif isinstance(part, ast.Assign):
            names |= {target.id for target in part.targets if isinstance(target, ast.Name)}
        elif isinstance(part, ast.FunctionDef):
            names.add(part.name)
            names |= {attribute.attr for attribute in assigned(part)} if part.name in BORN_IN else set()
    return names


def strays(sources: list[Source]) -> list[str]:
    """``file:line: Class.attribute`` of each attribute that another method than a constructor brings into being."""
    classes = [(source, node) for source in sources for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)]
    own = {node.name: declared(node) for _, node in classes}
    bases = {node.name: [base.id for base in node.bases if isinstance(base, ast.Name)] for _, node in classes}

    def known(name: str) -> set[str]:
        return own.get(name, set()).union(*(known(base) for base in bases.get(name, []) if base != name))

    return [
        f"{source.path}:{attribute.lineno}: {node.name}.{attribute.attr}"
        for source, node in classes
        for part in node.body if isinstance(part, ast.FunctionDef) and part.name not in BORN_IN
        for attribute in assigned(part) if attribute.attr not in known(node.name)
    ]  # fmt: skip


def test_no_attribute_is_born_outside_of_the_constructor() -> None:
    assert strays(read(ROOT, ["embedkit"])) == []


def test_one_that_is_would_be_found() -> None:
    text = (
        "class Base:\n    shared: int\n"
        "class Run(Base):\n    def __init__(self):\n        self.step = 0\n"
        "    def start(self):\n        self.step, self.state = 1, None\n        self.shared = 2\n"
    )
    assert strays([Source(Path("run.py"), text)]) == ["run.py:7: Run.state"]
