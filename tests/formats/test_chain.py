"""An adapter trained on an encoder's stored vectors, fused with it: the same vectors, saved and loaded as one model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.data.builtin import tokenizer
from embedkit.errors import ModelError
from embedkit.models import FeatureEncoder, StaticEncoder

TEXTS = ["a red lamp", "two cats sleep", "the huge house"]


def test_the_chain_gives_what_the_adapter_makes_of_stored_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = StaticEncoder(tokenizer(), dim=8).eval()
    adapter = FeatureEncoder(width=8, dim=4, form="residual", start="orthogonal", scaling="standard")
    stored = words.encode(TEXTS)
    adapter.learn_inputs([stored])
    adapter.layers[-1].weight.data.normal_()
    adapter.eval()
    words.save("words")
    adapter.save("adapter")
    wanted = adapter.encode(stored)
    assert main(["fuse", "words", "adapter", "whole"]) == 0
    assert "the adapter reads what words gives: 4 numbers" in capsys.readouterr().out
    whole = embedkit.load("whole", device="cpu")
    assert whole.kind == "chain"
    assert np.allclose(whole.encode(TEXTS), wanted, atol=1e-6)
    assert whole.hash() == embedkit.fuse(["words", "adapter"], device="cpu").hash()
    second = FeatureEncoder(width=4, dim=2)
    assert np.allclose(embedkit.fuse([words, adapter, second], device="cpu").encode(TEXTS), second.encode(wanted),
                       atol=1e-6)  # fmt: skip


def test_what_does_not_fit_is_refused() -> None:
    words = StaticEncoder(tokenizer(), dim=8)
    with pytest.raises(ModelError, match="reads vectors of 5 numbers, the encoder gives 8"):
        embedkit.fuse([words, FeatureEncoder(width=5)], device="cpu")
    with pytest.raises(ModelError, match="an adapter has no weight"):
        embedkit.fuse([words, FeatureEncoder(width=8)], weights=[1.0, 1.0], device="cpu")
