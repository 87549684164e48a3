"""Every short case, as a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.frame import Case, NotHere, World, all_cases


@pytest.mark.parametrize("one", [one for one in all_cases() if not one.long], ids=str)
def test_fault(one: Case, tmp_path: Path) -> None:
    shared = ROOT.parent / "shared"
    try:
        one.run(World(tmp_path, shared=shared if shared.is_dir() else None))
    except NotHere as reason:
        pytest.skip(str(reason))
