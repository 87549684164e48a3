"""What a run is made of is made once: the check of the recipe, the method, the objective, the sources."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from embedkit import objectives
from embedkit.data.sources.data_source import Source
from embedkit.methods.pairs import Pairs
from embedkit.training import setup
from tests.training import runs


def test_a_run_checks_builds_and_opens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(owner: Any, name: str, label: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            calls[label + (" of known size" if "dim" in options and options["dim"] is not None else "")] += 1
            return real(*args, **options)

        monkeypatch.setattr(owner, name, call)

    counted(setup, "check_all", "check")
    counted(setup, "build_method", "method")
    counted(Pairs, "__init__", "Pairs()")
    counted(objectives, "build", "objective")
    counted(Source, "__init__", "source opened")
    runs.run(tmp_path / "run")
    # the objective is made once without sizes, for what it needs of the data, and once for the model
    assert calls == {
        "check": 1, "method": 1, "Pairs()": 1, "objective": 1, "objective of known size": 1, "source opened": 1
    }  # fmt: skip
