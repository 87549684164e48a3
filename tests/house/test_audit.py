"""The audit of installed packages tells a vulnerability from a service that gives no answer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def audit(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", root / "tools" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BAD = {"name": "jinja2", "version": "2.4.1", "vulns": [{"id": "PYSEC-2014-8", "fix_versions": ["2.7.2"]}]}
GOOD = {"name": "numpy", "version": "2.4.6", "vulns": []}
UNKNOWN = {"name": "own", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("probe", "found", "code", "said"),
    [
        ([BAD], [GOOD, UNKNOWN], 0, "nothing known against 1 packages"),
        ([BAD], [GOOD, {**BAD, "name": "torch"}], 1, "torch 2.4.1: PYSEC-2014-8, mended in 2.7.2"),
        ([{**UNKNOWN, "name": "jinja2"}], [GOOD], 0, "cannot be reached"),
        ([{**BAD, "vulns": []}], [GOOD], 0, "cannot be reached"),
        (None, [GOOD], 0, "cannot be reached"),
        ([BAD], None, 0, "cannot be reached"),
    ],
)
def test_answers(
    probe: Any, found: Any, code: int, said: str, audit: ModuleType, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(audit, "ask", lambda *words: found if "--local" in words else probe)
    assert audit.main() == code
    assert said in capsys.readouterr().out
