"""Export: what other libraries read equals what we compute, or is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError
from embedkit.formats import export
from embedkit.models.modules.static import StaticEncoder
from embedkit.models.modules.text import Dense
from tests.helpers import tiny

TEXTS = tiny.SENTENCES
TEMPLATE = {"prompts": {"t": "{} means [MASK] ."}, "default_prompt": "t"}


def test_sentence_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = tiny.text_encoder(dense=[Dense(32, 8), Dense(8, 4, train_only=True)])
    export(model, tmp_path / "m", "sentence-transformers")
    theirs = library.SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    assert not list((tmp_path / "m").glob("embedkit_train_only*"))
    export(tiny.text_encoder(), tmp_path / "m", "sentence-transformers")  # an earlier export is replaced


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"pooling": "first-last"}, "no first-last pooling"),
        ({"pooling": "mask", **TEMPLATE}, "no mask pooling"),
        (TEMPLATE, "text behind the slot"),
    ],
)
def test_refused_for_sentence_transformers(settings: dict, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=reason):
        export(tiny.text_encoder(**settings), tmp_path / "m", "sentence-transformers")
    assert not (tmp_path / "m").exists()


def test_transformers_encoder_and_pooler(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(0)
    model = tiny.text_encoder(pooling="cls", dense=[Dense(32, 32)], normalize=False)
    export(model, tmp_path / "m", "transformers")
    theirs, tokenizer = AutoModel.from_pretrained(tmp_path / "m"), AutoTokenizer.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        output = theirs(**tokenizer(TEXTS, padding=True, return_tensors="pt")).pooler_output
    np.testing.assert_allclose(output.numpy(), model.encode(TEXTS), atol=1e-5)
    use = json.loads((tmp_path / "m" / "embedkit_export.json").read_text())["use"]
    assert use == {"pooling": "cls", "normalize": False, "max_length": 64}


@pytest.mark.parametrize(
    ("family", "settings"),
    [("bert", {"dense": [Dense(32, 8)]}), ("distilbert", {"pooling": "cls", "dense": [Dense(32, 32)]}),
     ("bert", {"pooling": "cls", "dense": [Dense(32, 32, "relu")]})],
)  # fmt: skip
def test_refused_for_transformers(family: str, settings: dict, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot hold this head"):
        export(tiny.text_encoder(family, **settings), tmp_path / "m", "transformers")


def test_static_and_unknown_formats(tmp_path: Path) -> None:
    model = StaticEncoder(tiny.tokenizer(), 8)
    for format in ("transformers", "onnx"):
        with pytest.raises(ModelError, match="export to sentence-transformers"):
            export(model, tmp_path / "m", format)
    with pytest.raises(ModelError, match="did you mean 'onnx'"):
        export(model, tmp_path / "m", "onxx")


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"dense": [Dense(32, 8)]}),
        pytest.param("modernbert", {"pooling": "first-last", "normalize": False}, marks=pytest.mark.slow),
        pytest.param("t5", {"pooling": "max"}, marks=pytest.mark.slow),
        pytest.param("roberta", {"pooling": "mask", **TEMPLATE}, marks=pytest.mark.slow),
        pytest.param("mpnet", {"pooling": "last-token"}, marks=pytest.mark.slow),
    ],
)
def test_onnx(family: str, settings: dict, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = tiny.text_encoder(family, **settings)
    export(model, tmp_path / "m", "onnx")
    session = runtime.InferenceSession(str(tmp_path / "m" / "model.onnx"), providers=["CPUExecutionProvider"])
    rows = model.prepare(TEXTS).rows()
    longest = max(map(len, rows)) + 3
    ids = np.array([row + [0] * (longest - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=1e-4)
    said = json.loads((tmp_path / "m" / "embedkit_export.json").read_text())
    assert said["format"] == "onnx"
    assert said["difference"] <= 1e-4
    assert model.way() == tiny.text_encoder(family).way()  # the model itself is untouched


def test_onnx_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("embedkit.formats.onnx.text_graph.TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="differs from the model"):
        export(tiny.text_encoder("distilbert"), tmp_path / "m", "onnx")
    assert not (tmp_path / "m").exists()


def test_a_tokenizer_is_written_without_the_limits_of_its_last_call(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    model = tiny.text_encoder()
    model.tokenizer("the red bird", truncation=True, max_length=3, padding="max_length")
    model.save(tmp_path / "m")
    written = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    assert written.truncation is None
    assert written.padding is None
    assert model.tokenizer.backend_tokenizer.truncation["max_length"] == 3  # the user's own object is as it was
