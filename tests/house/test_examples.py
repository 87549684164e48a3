"""The scripts of examples/ run from beginning to end, in a folder of their own, and are short."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


def test_there_are_twenty_and_they_are_short() -> None:
    assert len(SCRIPTS) >= 20
    assert [script.name for script in SCRIPTS if len(script.read_text(encoding="utf-8").splitlines()) > 60] == []


def test_they_can_be_run_one_after_another_in_one_folder() -> None:
    folders = [set(re.findall(r'output="(runs/[\w-]+)"', script.read_text(encoding="utf-8"))) for script in SCRIPTS]
    names = [name for each in folders for name in each]
    assert len(names) > 20 and len(names) == len(set(names))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_example_runs(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()
