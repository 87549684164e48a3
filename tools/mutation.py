"""Mutation testing: change the code in one place at random, and see whether the tests notice.

    python -B tools/mutation.py [GROUP ...] [--mutants 60] [--seed 0] [--json FILE]

Operators and their places come from cosmic-ray (``pip install cosmic-ray``). Of all places in the modules of a group so
many are drawn, each with one of the operators that fit there. A mutant is tested in a copy of the last commit, by a
process forked from one that has imported the heavy libraries; it is killed when a test fails, cannot be collected, or
does not end in three times the time of the untouched code. A survivor is printed with its change: it is either a gap
in the tests or a change that no test can see (an equivalent one: speed, the size of a buffer, the words of an error).
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SAID = "pytest.txt"
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(?!BitOr)|ReplaceComparisonOperator_(?!Is)|ReplaceUnaryOperator|AddNot|ReplaceTrue"
    r"|ReplaceFalse|ReplaceAnd|ReplaceOr|ReplaceBreak|ReplaceContinue|NumberReplacer|ZeroIterationForLoop)"
)  # "|" stands in types, which are not evaluated; "is" is compared with None


@dataclass(frozen=True)
class Group:
    """Modules (globs below embedkit/) and the tests (below tests/) that must notice, the quickest first."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = {
    "samplers": Group(
        ("data/samplers.py", "data/draws.py", "data/mixing.py"),
        ("data/test_samplers.py", "data/test_mixing.py", "data/test_training.py", "data/test_streams.py"),
    ),
    "checkpointing": Group(
        ("training/checkpoint.py", "training/state.py"),
        ("training/test_checkpoint.py", "training/test_outputs.py", "training/test_run.py", "training/test_resume.py"),
    ),
    "metrics": Group(
        ("evaluation/ranking.py", "evaluation/stats.py", "evaluation/search.py", "evaluation/geometry.py"),
        ("evaluation/test_stats.py", "evaluation/test_geometry.py", "evaluation/test_search.py",
         "evaluation/test_retrieval.py", "evaluation/test_sts.py"),
    ),
    "objectives": Group(
        ("objectives/*.py",),
        ("objectives/test_kernel.py", "objectives/test_families_contract.py", "objectives/test_identities.py",
         "objectives/test_wrappers.py", "objectives/test_tiled.py", "objectives/test_extremes.py",
         "objectives/test_shared_input.py", "objectives/test_oracles.py"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: a file, the line, and the whole changed text."""

    path: Path
    line: int
    operator: str
    text: str


def mutants_of(path: Path, copy: Path) -> list[list[Mutant]]:
    """All mutants of a file, grouped by their place."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = path.read_text(encoding="utf-8")
    tree, places = get_ast(source), defaultdict(list)
    for name in filter(OPERATORS.match, operator_names()):
        operator: Any = get_operator(name)()
        found = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        for occurrence, (start, stop) in enumerate(found):
            text = mutate_code(source, get_operator(name)(), occurrence)
            if text is not None and text != source:
                places[start, stop].append(Mutant(path.relative_to(copy), start[0], name.split("/")[1], text))
    return [places[key] for key in sorted(places)]


def drawn(group: Group, copy: Path, count: int, draws: random.Random) -> list[Mutant]:
    """So many mutants of a group, at different places."""
    files = sorted({path for glob in group.modules for path in (copy / "embedkit").glob(glob)})
    places = [place for path in files for place in mutants_of(path, copy)]
    return [draws.choice(place) for place in draws.sample(places, min(count, len(places)))]


def tested(copy: Path, tests: tuple[str, ...], limit: float | None) -> str:
    """Run the tests of the copy in a forked process: "passed", "failed" or "too long"."""
    child = os.fork()
    if child == 0:
        _run_tests(copy, tests)
    end = time.monotonic() + (limit or 3600.0)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _end_group(child)
            return "passed" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        time.sleep(0.05)
    _end_group(child)
    os.waitpid(child, 0)
    return "too long"


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _run_tests(copy: Path, tests: tuple[str, ...]) -> None:
    import pytest

    os.setpgid(0, 0)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    said = os.open(copy.parent / SAID, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(said, stream)
    words = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *(f"tests/{name}" for name in tests)]
    code = 99
    with contextlib.suppress(BaseException):
        code = int(pytest.main(words))
    os._exit(code)


def run_group(name: str, options: argparse.Namespace, copy: Path) -> dict[str, Any]:
    """All drawn mutants of a group; the row of the table."""
    group = GROUPS[name]
    began = time.monotonic()
    if tested(copy, group.tests, None) != "passed":
        said = (copy.parent / SAID).read_text(encoding="utf-8", errors="replace")
        raise SystemExit(f"{name}: the tests fail before anything was changed: {said[-1500:]}")
    limit = 3 * (time.monotonic() - began) + 10
    count: dict[str, int] = defaultdict(int)
    survivors = []
    for mutant in drawn(group, copy, options.mutants, random.Random(f"{options.seed} {name}")):
        file = copy / mutant.path
        before = file.read_text(encoding="utf-8")
        file.write_text(mutant.text, encoding="utf-8")
        result = tested(copy, group.tests, limit)
        file.write_text(before, encoding="utf-8")
        count[result] += 1
        if result == "passed":
            change = difflib.unified_diff(before.splitlines(), mutant.text.splitlines(), n=0, lineterm="")
            lines = [line for line in change if line[0] in "+-" and not line.startswith(("+++", "---"))]
            survivors.append({"file": str(mutant.path), "line": mutant.line, "change": lines})
            print(f"survived {mutant.path}:{mutant.line} {mutant.operator}\n  " + "\n  ".join(lines), flush=True)
    total = sum(count.values())
    score = 100 * (total - count["passed"]) / max(1, total)
    print(f"{name}: {total} mutants, {count['failed']} failed a test, {count['too long']} took too long, "
          f"{count['passed']} survived: {score:.1f} %", flush=True)  # fmt: skip
    return {"group": name, "mutants": total, "score": score, **count, "survivors": survivors}


def main() -> int:
    """Run the groups and print their scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], default=list(GROUPS))
    parser.add_argument("--mutants", type=int, default=60, help="drawn in each group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if not sys.flags.dont_write_bytecode:
        parser.error("start it with python -B: compiled files of one mutant must not be read by the next")
    for name in ("torch", "scipy.stats", "sklearn.linear_model", "transformers", "pytest", "pydantic"):
        __import__(name)
    sys.modules["torch"].set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / ROOT.name
        copy.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x"], cwd=copy, check=True, input=archive)
        if (ROOT.parent / "shared").is_dir():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        rows = [run_group(name, options, copy) for name in options.groups]
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["score"] < 85 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
