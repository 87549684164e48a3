"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import embedkit

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def with_examples() -> list[str]:
    """Modules with an example, found in their text so that collecting the tests imports nothing."""
    root = Path(embedkit.__path__[0]).parent
    names = []
    for path in sorted((root / "embedkit").rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            names.append(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", with_examples())
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failures = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=OPTIONS)
    tests = [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples]
    for test in tests:
        runner.run(test, out=failures.append)
    assert tests, "the examples of this module are not found by doctest"
    assert not failures, "".join(failures)
