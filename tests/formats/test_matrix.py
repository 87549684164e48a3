"""Folders of many architectures in many layouts: embedkit's vectors equal those of the library that owns the folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.formats.sentence_transformers.writer import SEES_PADDING
from tests.helpers import architectures, tiny

TEXTS = [text for text in tiny.SENTENCES if text]
BOUND = 2e-5
# every architecture is tried; the long tail, whose code in embedkit is the same, only with the slow tests
QUICK = ("bert", "roberta", "t5", "modernbert", "mpnet", "convbert", "xlm", "gpt2", "qwen3", "gemma3_text")


def families() -> list[Any]:
    """The architectures, those of the long tail marked as slow."""
    return [
        family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in architectures.FAMILIES
    ]


def theirs(path: Path, batch: int = 1) -> np.ndarray:
    """Vectors by sentence-transformers, one text at a time."""
    module = pytest.importorskip("sentence_transformers")
    model = module.SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": "float32"})
    return model.encode(TEXTS, batch_size=batch, show_progress_bar=False)


def close(ours: np.ndarray, other: np.ndarray) -> None:
    """Assert that two arrays agree in relation to their largest value."""
    np.testing.assert_allclose(ours, other, atol=BOUND * max(1.0, float(np.abs(other).max())))


@pytest.mark.parametrize("family", families())
def test_each_architecture_in_each_layout(family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = architectures.encoder_folder(family, tmp_path / "bare")
    model = embedkit.load(bare, device="cpu")
    name = json.loads((bare / "config.json").read_text())["architectures"][0]
    assert model.pooling == ("last-token" if name.endswith("ForCausalLM") else "mean")  # GPT2LMHeadModel: the mean
    ours = model.encode(TEXTS)
    close(ours, theirs(bare))

    module = pytest.importorskip("sentence_transformers")
    module.SentenceTransformer(str(bare), device="cpu").save(str(tmp_path / "new"))  # the form of 5.4 and later
    listing = (tmp_path / "new" / "modules.json").read_text()
    assert "sentence_transformers.base" in listing
    close(embedkit.load(tmp_path / "new", device="cpu").encode(TEXTS), ours)

    with caplog.at_level(logging.WARNING):
        model.save(tmp_path / "old")  # the form of 5.2 and before
    (tmp_path / "old" / "embedkit.json").unlink()
    assert "sentence_transformers.models.Transformer" in (tmp_path / "old" / "modules.json").read_text()
    close(theirs(tmp_path / "old"), ours)
    close(embedkit.load(tmp_path / "old", device="cpu").encode(TEXTS), ours)
    # padding: the library's vectors in a batch are those of one text at a time, or saving has told that they are not
    moved = np.abs(theirs(tmp_path / "old", batch=len(TEXTS)) - ours).max() > 1e-3 * np.abs(ours).max()
    assert moved == (family in SEES_PADDING)
    assert ("sees the padding" in caplog.text) == (family in SEES_PADDING)


def test_the_matrix_has_at_least_thirty_architectures() -> None:
    print(f"{len(architectures.FAMILIES)} architectures x 3 layouts")
    assert len(architectures.FAMILIES) >= 30


def test_an_old_folder_without_flags_has_the_mean(tmp_path: Path) -> None:
    tiny.model_folder(tmp_path / "m", normalize=False)
    (tmp_path / "m" / "embedkit.json").unlink()
    (tmp_path / "m" / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32}))
    close(embedkit.load(tmp_path / "m", device="cpu").encode(TEXTS), theirs(tmp_path / "m"))
