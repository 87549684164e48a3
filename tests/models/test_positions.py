"""A longer context: old positions are there again, the rest lies between as Long-CLIP's code has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.config.model import ModelConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import ModelError
from embedkit.factory import build
from embedkit.models.modules.clip_text import stretched


def long_clip(old: torch.Tensor, keep: int = 20) -> torch.Tensor:
    """CLIP's table for four times as many positions behind the first `keep`, place by place."""
    rows, length = [], len(old)
    for place in range(keep):
        rows.append(old[place])
    for place in range(keep, length - 1):
        for quarter in range(4):
            rows.append((4 - quarter) / 4 * old[place] + quarter / 4 * old[place + 1])
    for quarter in range(4):  # behind the last one nothing is known: the line goes on
        rows.append(old[length - 1] + quarter / 4 * (old[length - 1] - old[length - 2]))
    return torch.stack(rows)


def test_clips_77_positions_become_long_clips_248() -> None:
    table = torch.randn(77, 8, dtype=torch.float64)
    found = stretched(table, 248, keep=20)
    torch.testing.assert_close(found, long_clip(table), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[:20], table[:20], rtol=0, atol=0)
    torch.testing.assert_close(found[20::4], table[20:], rtol=1e-12, atol=1e-12)


def test_other_lengths_lie_on_the_lines_between_old_positions() -> None:
    line = torch.arange(10, dtype=torch.float64)[:, None] * 3.0
    found = stretched(line, 17, keep=3)
    assert found[:3].flatten().tolist() == [0.0, 3.0, 6.0]
    np.testing.assert_allclose(np.diff(found[3:].flatten().numpy()), 3.0 * 7 / 14, rtol=1e-12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    settings = {"model.towers.text.tokenizer": "builtin"}
    model: Any = build(load_recipe("clip-small", settings).model)
    model.text.encoder.embeddings.position_embedding.weight.data.normal_(std=0.5)
    model.eval().save(tmp_path / "clip")
    return tmp_path / "clip"


def longer(folder: Path, **text: Any) -> Any:
    return build(ModelConfig(kind="dual", name=str(folder), towers={"text": text}))


def test_a_stretched_tower_reads_short_texts_as_before_and_is_saved(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = embedkit.load(folder, device="cpu")
    model = longer(folder, max_length=248, keep_positions=20).eval()
    assert "77 positions are stretched to 248: the first 20 stay, the others are 4 times as far apart" in caplog.text
    short = ["a red house", "the dog"]
    np.testing.assert_array_equal(model.encode(short), plain.encode(short))
    words = " ".join(["a", "red", "house", "and", "the", "dog"] * 30)
    texts = [f"{words} {end}" for end in ("dog", "house")]
    assert np.allclose(*plain.encode(texts))  # cut before they differ
    assert not np.allclose(*model.encode(texts), atol=1e-4)
    model.save(tmp_path / "long")
    back = embedkit.load(tmp_path / "long", device="cpu")
    assert back.max_length == 248
    np.testing.assert_array_equal(back.encode(texts), model.encode(texts))


def test_a_stretched_tower_leaves_for_transformers(folder: Path, tmp_path: Path) -> None:
    model = longer(folder, max_length=100, keep_positions=20).eval()
    model.text.cleaning = "whitespace"
    embedkit.export(model, tmp_path / "m", "transformers", samples=8)  # refuses other vectors
    assert embedkit.load(tmp_path / "m", device="cpu").max_length == 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"keep_positions": 20}, "says not how long; set max_length too"),
        ({"keep_positions": 20, "max_length": 77}, "the tower has 77 positions already; leave it out"),
        ({"keep_positions": 76, "max_length": 99}, "of 77 positions at most 75 can be kept"),
        ({"max_length": 99}, "max_length is 99; this encoder takes at most 77 tokens"),
    ],
)
def test_what_cannot_be_stretched_is_told(folder: Path, text: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        longer(folder, **text)


def test_a_random_tower_has_the_length_that_it_is_made_with() -> None:
    with pytest.raises(ModelError, match="model.towers.text.keep_positions"):
        build(load_recipe("clip-small", {"model.towers.text.keep_positions": 20}).model)
