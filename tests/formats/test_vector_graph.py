"""Graphs of encoders of vectors and sequences: those of any form give the model's vectors, padded or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.data.builtin.sentences import tokenizer
from embedkit.errors import ModelError
from embedkit.formats import export
from embedkit.formats.onnx.vector_graph import PaddedSequence, VectorGraph
from embedkit.models import FeatureEncoder, StaticEncoder
from embedkit.models.combined.chain import EncoderChain
from embedkit.models.vectors.sequence import SequenceEncoder
from tests.helpers import tiny

SEQUENCES = [np.random.default_rng(length).standard_normal((length, 3), np.float32) for length in (7, 1, 12, 4)]


def _sequence_model(**settings: Any) -> SequenceEncoder:
    torch.manual_seed(0)
    model = SequenceEncoder(width=3, dim=4, hidden=8, depth=2, heads=2, scaling="standard", **settings)
    model.learn_inputs([3 * np.concatenate(SEQUENCES) + 1])
    return model.eval()


@pytest.mark.parametrize("form", ["mean", "attention", "transformer"])
@pytest.mark.parametrize(("patch", "kernel"), [(1, 3), (3, 4), (2, 1)])
def test_a_padded_batch_has_the_vectors_of_sequences_alone(form: str, patch: int, kernel: int) -> None:
    model = _sequence_model(form=form, patch=patch, kernel=kernel)
    if model.query is not None:
        torch.nn.init.normal_(model.query)
    features, mask = torch.full((4, 14, 3), 9.0), torch.zeros(4, 14, dtype=torch.int64)
    for row, steps in enumerate(SEQUENCES):
        features[row, : len(steps)], mask[row, : len(steps)] = torch.from_numpy(steps), 1
    with torch.no_grad():
        vectors = PaddedSequence(model)(features, mask).numpy()
    assert np.allclose(vectors, model.encode(SEQUENCES, normalize=False), atol=1e-5)


@pytest.mark.parametrize("unit", [True, False])
def test_a_text_encoder_with_its_adapter_is_one_graph(unit: bool) -> None:
    from embedkit.formats.onnx.text_graph import padded

    text = tiny.text_encoder("distilbert")
    chain = EncoderChain(text, FeatureEncoder(width=text.dim, dim=3, form="mlp"), unit=unit).eval()
    ids, mask = padded(chain.prepare(["a cat", "the two dogs of a man"]), text.encoder)
    with torch.no_grad():
        vectors = VectorGraph(chain).eval()(ids, mask).numpy()
    assert np.allclose(vectors, chain.encode(["a cat", "the two dogs of a man"]), atol=1e-5)


@pytest.mark.parametrize("kind", ["feature", "sequence"])
def test_the_written_graph_is_compared_with_the_model(kind: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    feature = EncoderChain(FeatureEncoder(width=3, scaling="center"), FeatureEncoder(width=3, dim=2, form="residual"))
    model = feature if kind == "feature" else _sequence_model(form="transformer", patch=2)
    folder = export(model, tmp_path / "m", "onnx")
    said = json.loads((folder / "embedkit_export.json").read_text())
    assert said["difference"] <= 1e-5 and said["output"] == "sentence_embedding"
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == said["inputs"]


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (lambda: SequenceEncoder(width=2, form="gru"), "does not hold the loop of a gru"),
        (lambda: EncoderChain(StaticEncoder(tokenizer(), dim=4), FeatureEncoder(width=4)), "is a static model"),
    ],
)  # fmt: skip
def test_what_no_graph_holds_is_told_before_it_is_made(model: Any, line: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=line):
        export(model(), tmp_path / "m", "onnx")
    assert not (tmp_path / "m").exists()
