"""The table of differences between embedkit and other libraries: a few of its rows, and what it says of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("open_clip")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def interop() -> Any:
    spec = importlib.util.spec_from_file_location("interop", ROOT / "eval" / "interop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["interop"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "name"),
    [("of_transformers", "SigLIP"), ("of_vision", "DINOv3"), ("of_timm", "vit_small_patch16_dinov3"),
     ("of_open_clip", "ViT-B-16-SigLIP2"), ("of_open_clip", "nllb-clip-base-siglip")],
)  # fmt: skip
def test_a_row_agrees(interop: Any, kind: str, name: str, tmp_path: Path) -> None:
    row = getattr(interop, kind)(name, tmp_path / "m")
    assert row.agrees
    assert not row.reason
    assert row.images is not None
    assert row.images > 0 or kind == "of_open_clip"


def test_what_is_not_read_has_its_reason(interop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkit.formats.open_clip import towers

    monkeypatch.delitem(towers.POOLERS, "cls_pooler")
    row = interop.of_open_clip("nllb-clip-base", tmp_path / "m")
    assert "cls_pooler is not supported" in row.line()
    assert "1 models: 0 compared" in interop.table([row])


def test_a_difference_is_seen(interop: Any) -> None:
    assert interop.difference([[1.0, 0.0]], [[2.0, 0.0]]) == 0.0
    assert interop.difference([[1.0, 0.0]], [[0.0, 1.0]]) == 1.0
    assert not interop.Row("timm", "x", images=interop.difference([[1.0, 0.0]], [[1.0, 1.0]])).agrees


def test_the_page_holds_every_family(interop: Any) -> None:
    from tests.helpers import vision_folders

    page = (ROOT / "docs" / "interop.md").read_text(encoding="utf-8")
    names = [*vision_folders.DUALS, *vision_folders.TOWERS, *interop.TIMM]
    assert not [name for name in names if f"| {name} |" not in page]
    assert page.count("| open_clip |") > 50
