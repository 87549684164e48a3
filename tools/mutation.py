"""Mutation testing: change the code in one place at random, and see whether the tests notice.

    python tools/mutation.py [GROUP ...] [--mutants 60] [--seed 0] [--commit HEAD] [--json FILE]

Operators and their places come from cosmic-ray (``pip install "embedkit[mutation]"``). Of all places in the modules of
a group so many are drawn, each with one of the operators that fit there; annotations and what ``raise`` says are left
out. Everything runs in a copy of a commit. The tests of a group run once over the untouched code, and the lines
that each of them reaches are noted; a mutant then meets the tests that reach its statement, the quickest first, in a
process forked from one that has collected them. Only the code of the functions is exchanged there, unless the place
runs at import: then everything is imported anew. A mutant is killed when a test fails, cannot be collected, or takes
eight times the processor time that it took with the untouched code, and four seconds. A survivor is printed with its
change: it is a gap in the tests, or a change that no test can see: those are listed in tools/mutation_equivalent.yaml.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import difflib
import gc
import json
import multiprocessing
import os
import random
import signal
import subprocess  # nosec B404
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
import yaml
from mutants import GROUPS, Mutant, drawn, files_of

ROOT = Path(__file__).resolve().parent.parent
SAID, REACHED, ROW = "pytest.txt", "reached.json", "row.json"
IMPORT = "import"
EQUIVALENT = Path(__file__).with_name("mutation_equivalent.yaml")
_SETTINGS = "_hypothesis_internal_use_settings"
_DIFFERENT = 77
_WORDS = {0: "passed", 5: "passed", _DIFFERENT: "different"}  # 5: a mutant has renamed the tests that would meet it


class Watch:
    """A plugin of pytest that notes processor time and lines of given files for each test."""

    def __init__(self, copy: Path, files: list[Path]) -> None:
        self.copy, self.names = copy, {str(file): str(file.relative_to(copy)) for file in files}
        self.lines: dict[str, dict[int, set[str]]] = {name: defaultdict(set) for name in self.names.values()}
        self.seconds: dict[str, float] = {}
        self.now, self.failure = IMPORT, ""

    def hit(self, name: str, line: int) -> None:
        """What the probes in a function call before each statement."""
        self.lines[name][line].add(self.now)

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """What sys.settrace calls at each function, while modules are imported."""
        lines = self.lines.get(self.names.get(frame.f_code.co_filename, ""))
        if lines is None:
            return None

        def line(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                lines[frame.f_lineno].add(self.now)
            return line

        return line

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins, with its fixtures: they may serve the whole module."""
        self.now, self._began = nodeid.split("::")[0], time.process_time()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: Any) -> None:
        """The test itself begins."""
        self.now = item.nodeid

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: Any) -> None:
        """The test itself has ended."""
        self.now = item.nodeid.split("::")[0]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A phase of a test has ended."""
        if report.failed:
            self.failure = f"{report.nodeid}, {report.when}: {report.longreprtext[-3000:]}"

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test has ended."""
        self.seconds[nodeid] = time.process_time() - self._began

    def tests_of(self, mutant: Mutant) -> tuple[dict[str, float], bool]:
        """The tests that reach the statement of a mutant, with their seconds; does it run at import?"""
        reached = self.lines[str(mutant.path)]
        first, last = _statement((self.copy / mutant.path).read_text(encoding="utf-8"), mutant.line)
        names = {test for line in range(first, last + 1) for test in reached.get(line, ())}
        early = IMPORT in names
        if early:  # a constant, say: any test that runs code of the file may see it
            names = {test for tests in reached.values() for test in tests}
        tests = [test for test in self.seconds if test in names or test.split("::")[0] in names]
        return {test: self.seconds[test] for test in tests}, early


def _statement(source: str, line: int) -> tuple[int, int]:
    """First and last line of the innermost statement at a line (of its head, if it has a body)."""
    best = (line, line)
    for node in ast.walk(ast.parse(source)):  # outer ones first
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            last = node.end_lineno if body is None else max(node.lineno, body[0].lineno - 1)
            if line <= (last or 0):
                best = (node.lineno, last or 0)
    return best


def _probed(body: list[ast.stmt], name: str, inside: bool = False) -> list[ast.stmt]:
    """Statements with a call of ``__reached__`` before each one that stands in a function."""
    statements: list[ast.stmt] = []
    for node in body:
        if inside:
            call = ast.parse(f"__reached__({name!r}, {node.lineno})").body[0]
            statements += [ast.copy_location(call, node)]
        deeper = inside or isinstance(node, ast.FunctionDef)
        for part in (node, *getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            for block in ("body", "orelse", "finalbody"):
                if getattr(part, block, None):
                    setattr(part, block, _probed(getattr(part, block), name, deeper))
        statements.append(node)
    return statements


class Exchange:
    """Puts changed code into the functions of files that are imported already."""

    def __init__(self, files: list[Path]) -> None:
        names = {str(file) for file in files}
        functions = [thing for thing in gc.get_objects() if isinstance(thing, FunctionType)]
        self.functions = [function for function in functions if function.__code__.co_filename in names]

    def put(self, file: Path, before: str, after: str | ast.Module) -> None:
        """Raise ValueError where the shape of the code differs, so that functions cannot be told apart."""
        new: dict[CodeType, CodeType] = {}
        _pair(compile(before, str(file), "exec"), compile(after, str(file), "exec"), new)
        for function in self.functions:
            if function.__code__ in new:
                function.__code__ = new[function.__code__]


def _pair(old: CodeType, new: CodeType, pairs: dict[CodeType, CodeType]) -> None:
    pairs[old] = new
    inner = [[const for const in code.co_consts if isinstance(const, CodeType)] for code in (old, new)]
    for one, other in zip(*inner, strict=True):
        _pair(one, other, pairs)


class Trial:
    """A plugin of pytest: after the collection it tests mutants, each in a forked process."""

    def __init__(self, copy: Path, name: str, options: argparse.Namespace, zygote: Zygote) -> None:
        self.copy, self.name, self.options, self.zygote = copy, name, options, zygote
        self.out = os.dup(1)
        self.watch = Watch(copy, files_of(GROUPS[name], copy))

    def say(self, text: str) -> None:
        """Print, past what pytest captures."""
        os.write(self.out, f"{text}\n".encode())

    def pytest_runtestloop(self, session: Any) -> bool:
        """What pytest does in place of running the tests."""
        sys.settrace(None)
        began = time.monotonic()
        if forked(lambda: self._untouched(session)) != "passed":
            raise SystemExit(f"{self.name}: the tests fail before anything was changed")
        record = json.loads((self.copy.parent / REACHED).read_text(encoding="utf-8"))
        for file, lines in record["lines"].items():
            for line, tests in lines.items():
                self.watch.lines[file][int(line)].update(tests)
        self.watch.seconds = record["seconds"]
        self.say(f"{self.name}: {len(session.items)} tests, {sum(self.watch.seconds.values()):.0f} s of processor, "
                 f"{time.monotonic() - began:.0f} s")  # fmt: skip
        row = self._mutants(session)
        (self.copy.parent / ROW).write_text(json.dumps(row), encoding="utf-8")
        return True

    def _untouched(self, session: Any) -> int:
        import hypothesis

        vars(builtins)["__reached__"] = self.watch.hit
        exchange = Exchange(files := files_of(GROUPS[self.name], self.copy))
        for file in files:
            source = file.read_text(encoding="utf-8")
            tree = ast.parse(source)
            tree.body = _probed(tree.body, str(file.relative_to(self.copy)))
            exchange.put(file, source, ast.fix_missing_locations(tree))
        for item in session.items:  # a few examples reach what many reach
            test = getattr(item, "obj", None)
            if hasattr(test, _SETTINGS):
                setattr(test, _SETTINGS, hypothesis.settings(getattr(test, _SETTINGS), max_examples=20))
        code = _run_items(session, session.items)
        if self.watch.failure:
            self.say(self.watch.failure)
        text = json.dumps({"seconds": self.watch.seconds, "lines": self.watch.lines}, default=sorted)
        (self.copy.parent / REACHED).write_text(text, encoding="utf-8")
        return code

    def _mutants(self, session: Any) -> dict[str, Any]:
        group, count, survivors = GROUPS[self.name], defaultdict[str, int](int), []
        exchange = Exchange(files_of(group, self.copy))
        gc.freeze()  # pages that the collector of a child does not touch need not be copied
        draws = random.Random(f"{self.options.seed} {self.name}")
        for mutant in drawn(group, self.copy, self.options.mutants, draws):
            tests, early = self.watch.tests_of(mutant)
            if not tests:
                tests, early = {f"tests/{test}": 20.0 for test in group.apart}, True
            result = self._result(session, mutant, tests, None if early else exchange) if tests else "not reached"
            count[result] += 1
            self.say(
                f"{sum(count.values())} {result}: {mutant.path}:{mutant.line} {mutant.operator}, {len(tests)} tests"
            )
            if result in ("passed", "not reached"):
                survivors.append(self._survivor(mutant))
        total = sum(count.values())
        killed = count["failed"] + count["too long"]
        score, same = 100 * killed / max(1, total), sum("why" in survivor for survivor in survivors)
        adjusted = 100 * killed / max(1, total - same)
        self.say(f"{self.name}: {total} mutants, {count['failed']} failed a test, {count['too long']} took too long, "
                 f"{count['passed']} passed, {count['not reached']} met no test: {score:.1f} %; "
                 f"{adjusted:.1f} % without {same} that no test can see")  # fmt: skip
        return {
            "group": self.name,
            "mutants": total,
            "score": score,
            "adjusted": adjusted,
            **count,
            "survivors": survivors,
        }

    def _survivor(self, mutant: Mutant) -> dict[str, Any]:
        before = (self.copy / mutant.path).read_text(encoding="utf-8")
        change = difflib.unified_diff(before.splitlines(), mutant.text.splitlines(), n=0, lineterm="")
        lines = [line for line in change if line[0] in "+-" and not line.startswith(("+++", "---"))]
        self.say("  " + "\n  ".join(lines))
        survivor = {"file": str(mutant.path), "line": mutant.line, "change": lines}
        sides = [sorted(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+"]
        for entry in yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")):
            if [survivor["file"], *sides] == [entry["file"], [entry["before"]], [entry["after"]]]:
                self.say(f"  {entry['why']}")
                survivor["why"] = entry["why"]
        return survivor

    def _result(self, session: Any, mutant: Mutant, tests: dict[str, float], exchange: Exchange | None) -> str:
        file, limit = self.copy / mutant.path, 60 + 10 * sum(tests.values())  # it may wait for ever
        before = file.read_text(encoding="utf-8")
        file.write_text(mutant.text, encoding="utf-8")  # also for processes that tests start

        def warm() -> int:
            try:
                assert exchange is not None
                exchange.put(file, before, mutant.text)
            except ValueError:
                return _DIFFERENT
            return _run_items(session, _ordered(session.items, tests), tests)

        try:
            result = "different" if exchange is None else forked(warm, limit)
            if result == "different":
                result = self.zygote(tests, limit)
            return result
        finally:
            file.write_text(before, encoding="utf-8")


class Only:
    """A plugin of pytest that runs the given tests alone."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def pytest_runtestloop(self, session: Any) -> bool:
        """What pytest does in place of running the tests."""
        os._exit(_run_items(session, _ordered(session.items, self.seconds), self.seconds))


def _ordered(items: list[Any], seconds: dict[str, float]) -> list[Any]:
    """The chosen tests, those of the quickest files first."""
    files: dict[str, float] = defaultdict(float)
    for test, own in seconds.items():
        files[test.split("::")[0]] += own

    def place(item: Any) -> tuple[float, str, float]:
        file = item.nodeid.split("::")[0]
        return files[file], file, seconds.get(item.nodeid, 0.0)

    return sorted((item for item in items if {item.nodeid, item.nodeid.split("::")[0]} & seconds.keys()), key=place)


def _run_items(session: Any, items: list[Any], seconds: dict[str, float] | None = None) -> int:
    """Run tests up to the first failure; the exit status. With `seconds` one that takes far longer ends the process."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        if seconds is not None:
            signal.setitimer(signal.ITIMER_PROF, 4 + 8 * seconds.get(item.nodeid, 10.0))
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return 1
    return 0


def forked(work: Callable[[], int], limit: float = 3600.0) -> str:
    """Do the work in a forked process, for at most so many seconds; in a word what its exit status means."""
    child = os.fork()
    if child == 0:
        code = 99
        with contextlib.suppress(BaseException):
            os.setpgid(0, 0)
            code = work()
        os._exit(code)
    end, child_id = time.monotonic() + limit, 0
    while not child_id and time.monotonic() < end:
        child_id, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not child_id:
        os.waitpid(child, 0)
        return "too long"
    code = os.waitstatus_to_exitcode(status)
    return "too long" if code == -signal.SIGPROF else _WORDS.get(code, "failed")


def collect(copy: Path, tests: Sequence[str], plugins: list[Any]) -> int:
    """Start pytest in the copy; what it prints goes into a file."""
    import hypothesis

    os.chdir(copy)
    sys.path.insert(0, str(copy))
    output = os.open(copy.parent / SAID, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # the same examples every time, none made smaller
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None, deadline=None, phases=phases)
    hypothesis.settings.load_profile("mutation")
    plain = ["-q", "--tb=native", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist"]
    words = [*plain, f"--basetemp={copy.parent / 'temporary'}", *tests]
    return int(pytest.main(words, plugins=plugins))


class Zygote:
    """A process that has imported the heavy libraries and nothing of embedkit, ready to be forked."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        self._inside, self._outside = multiprocessing.Pipe()

    def __call__(self, tests: dict[str, float], limit: float) -> str:
        """Called in the process of a group: run tests where embedkit is imported anew; what came of it."""
        self._inside.send_bytes(json.dumps([tests, limit]).encode())
        return self._inside.recv_bytes().decode()

    def serve(self, group: Callable[[], int]) -> int:
        """Fork the process of a group, do what it asks for, and give its exit status."""
        child = os.fork()
        if child == 0:
            code = 99
            with contextlib.suppress(SystemExit):
                code = group()
            os._exit(code)
        while True:
            child_id, status = os.waitpid(child, os.WNOHANG)
            if child_id:
                return os.waitstatus_to_exitcode(status)
            if self._outside.poll(0.2):
                tests, limit = json.loads(self._outside.recv_bytes())
                files = sorted({test.split("::")[0] for test in tests})
                result = forked(lambda: collect(self.copy, files, [Only(tests)]), limit)  # noqa: B023
                self._outside.send_bytes(result.encode())


def run_group(name: str, options: argparse.Namespace, copy: Path) -> dict[str, Any]:
    """All drawn mutants of a group; the row of the table."""
    zygote = Zygote(copy)

    def group() -> int:
        trial = Trial(copy, name, options, zygote)
        sys.settrace(trial.watch.trace)  # what runs at import
        tests = [f"tests/{test}" for test in GROUPS[name].tests if (copy / "tests" / test.split("::")[0]).exists()]
        return collect(copy, tests, [trial, trial.watch])

    row = copy.parent / ROW
    row.unlink(missing_ok=True)
    zygote.serve(group)
    if not row.exists():
        raise SystemExit((copy.parent / SAID).read_text(encoding="utf-8", errors="replace")[-3000:])
    return dict(json.loads(row.read_text(encoding="utf-8")))


def main() -> int:
    """Run the groups and print their scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], default=list(GROUPS))
    parser.add_argument("--mutants", type=int, default=60, help="drawn in each group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", default="HEAD", help="the state of the repository that is tested")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if not sys.flags.dont_write_bytecode:
        parser.error("start it with python -B: compiled files of one mutant must not be read by the next")
    heavy = (
        "torch",
        "scipy.stats",
        "sklearn.linear_model",
        "transformers",
        "hypothesis",
        "pyarrow.parquet",
        "pydantic",
    )
    for name in heavy:
        __import__(name)
    sys.modules["torch"].set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / ROOT.name
        copy.mkdir()
        # fixed words for git and tar, no shell
        archive = subprocess.run(  # nosec B603, B607
            ["git", "archive", options.commit], cwd=ROOT, check=True, stdout=subprocess.PIPE
        ).stdout
        subprocess.run(["tar", "-x"], cwd=copy, check=True, input=archive)  # nosec B603, B607
        if (ROOT.parent / "shared").is_dir():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        rows = [run_group(name, options, copy) for name in options.groups]
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["score"] < 85 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
