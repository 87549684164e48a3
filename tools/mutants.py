"""The places where mutation testing changes the code, and the tests that must notice."""

from __future__ import annotations

import ast
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(?!BitOr)|ReplaceComparisonOperator_(?!Is)|ReplaceUnaryOperator|AddNot|ReplaceTrue"
    r"|ReplaceFalse|ReplaceAnd|ReplaceOr|ReplaceBreak|ReplaceContinue|NumberReplacer|ZeroIterationForLoop)"
)  # "|" stands in types, which are not evaluated; "is" is compared with None


@dataclass(frozen=True)
class Group:
    """Modules (globs below embedkit/) and the tests (below tests/) that must notice.

    `apart` are tests that run the code in processes of their own, where its lines are not seen: what no other test
    reaches meets them.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    apart: tuple[str, ...] = ()


GROUPS = {
    "samplers": Group(
        ("data/samplers.py", "data/draws.py", "data/mixing.py"),
        ("data/test_samplers.py", "data/test_mixing.py", "data/test_training.py", "data/test_streams.py"),
    ),
    "checkpointing": Group(
        ("training/checkpoint.py", "training/state.py"),
        ("training/test_state.py", "training/test_checkpoint.py", "training/test_outputs.py", "training/test_run.py",
         "training/test_resume.py"),
        ("training/test_processes.py",),
    ),
    "metrics": Group(
        ("evaluation/ranking.py", "evaluation/stats.py", "evaluation/search.py", "evaluation/geometry.py"),
        ("evaluation/test_stats.py", "evaluation/test_geometry.py", "evaluation/test_search.py",
         "evaluation/test_retrieval.py", "evaluation/test_sts.py"),
        ("evaluation/test_distributed.py::test_shared_search_equals_one_search_with_ties_and_small_parts",),
    ),
    "objectives": Group(
        ("objectives/*.py",),
        ("objectives/test_kernel.py", "objectives/test_families_contract.py", "objectives/test_identities.py",
         "objectives/test_wrappers.py", "objectives/test_tiled.py", "objectives/test_oracles.py"),
        ("objectives/test_exactness.py", "objectives/test_catalogue.py"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: a file, the line, and the whole changed text."""

    path: Path
    line: int
    operator: str
    text: str


Choice = tuple[Path, int, str, int]
"""A file, a line, the name of an operator, and which of its places in the file it is."""


def places_of(path: Path) -> list[list[Choice]]:
    """All changes of a file, grouped by their place."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = path.read_text(encoding="utf-8")
    nodes, silent, places = list(ast_nodes(get_ast(source))), _silent(source), defaultdict(list)
    for name in filter(OPERATORS.match, operator_names()):
        operator: Any = get_operator(name)()
        positions = [place for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, (start, stop) in enumerate(positions):
            if not any(low <= start and stop <= high for low, high in silent):
                places[start, stop].append((path, start[0], name, occurrence))
    return [places[key] for key in sorted(places)]


def _silent(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Spans (line from 1, column from 0) of annotations and of what is raised: no behaviour but the words of errors."""
    lines, spans = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise):
            parts: list[ast.AST | None] = [node]
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            parts = [node.annotation]
        else:
            parts = [getattr(node, "returns", None)]
        for part in parts:
            if isinstance(part, (ast.stmt, ast.expr)):
                ends = [(part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)]
                low, high = [(line, len(lines[line - 1].encode()[:column].decode())) for line, column in ends]
                spans.append((low, high))
    return spans


def files_of(group: Group, copy: Path) -> list[Path]:
    """The modules of a group."""
    return sorted({path for glob in group.modules for path in (copy / "embedkit").glob(glob)})


def drawn(group: Group, copy: Path, count: int, draws: random.Random) -> Iterator[Mutant]:
    """So many mutants of a group, at different places."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    places = [place for path in files_of(group, copy) for place in places_of(path)]
    for place in draws.sample(places, min(count, len(places))):
        for path, line, name, occurrence in draws.sample(place, len(place)):
            source = path.read_text(encoding="utf-8")
            text = mutate_code(source, get_operator(name)(), occurrence)
            if text is not None and text != source:
                yield Mutant(path.relative_to(copy), line, name.split("/")[1], text)
                break
