"""The words of the house: no participle as a name, an example for every public class and function.

``python tools/gate.py`` holds the checkout to both; ``python tools/vocabulary.py FOLDER...`` lists what is missing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_WORDS = """
allowed asked built cached changed chosen closed counted done drawn expected found given held joined kept known
learned learnt listed loaded made meant moved named noted opened packed padded passed refused said saved seen sent
shown skipped spent started stored taken told trained used wanted written
"""
PARTICIPLES = frozenset(_WORDS.split())
"""Names that say what happened to a thing instead of what it is (``kept`` for ``rows``)."""


def participles(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Line and name of every variable, parameter, field and attribute that is a bare participle.

    Examples
    --------
    >>> import ast
    >>> list(participles(ast.walk(ast.parse("kept = [row for row in rows]"))))
    [(1, 'kept')]
    """
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute) and not isinstance(node.ctx, ast.Store):
            continue
        name = {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr"}.get(type(node))
        if name is not None and (word := getattr(node, name)).lstrip("_") in PARTICIPLES:
            yield node.lineno, word  # type: ignore[attr-defined]


def without_example(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every public class and function of a module that shows no example.

    The example of a class may stand at one of its methods.

    Examples
    --------
    >>> import ast
    >>> list(without_example(ast.parse("def twice(x):\\n    return 2 * x")))
    [(1, 'twice')]
    """
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        inner = node.body if isinstance(node, ast.ClassDef) else ()
        places = [node, *(one for one in inner if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))]
        if not any(">>> " in (ast.get_docstring(place) or "") for place in places):
            yield node.lineno, node.name


def main(folders: list[str]) -> int:
    """Print what is missing below some folders; 1 when there is any."""
    count = 0
    for path in sorted(file for folder in folders or ["embedkit"] for file in Path(folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = not any(part.startswith("_") and part != "__init__.py" for part in path.parts)
        for line, name in participles(ast.walk(tree)):
            print(f"{path}:{line}: {name}: a participle as a name; use a noun")
            count += 1
        for line, name in without_example(tree) if public else ():
            print(f"{path}:{line}: {name} has no example")
            count += 1
    print(f"{count} findings")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
