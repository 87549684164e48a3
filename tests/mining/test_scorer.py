"""Scores of pairs: those of sentence-transformers for its folders, whatever the batches, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from embedkit.data.builtin import tokenizer
from embedkit.errors import ModelError, NonFiniteError, UnsafeFileError, UserError
from embedkit.mining.scorer import load_scorer

WORDS = ["a", "red", "lamp", "stands", "in", "the", "huge", "house", "small", "dog", "sleeps", "while", "rain"]


def write_classifier(folder: Path, labels: int, seed: int = 0) -> Path:
    """A small classifier whose scores differ clearly, as its weights are large."""
    torch.manual_seed(seed)
    words = tokenizer()
    names = {0: "contradiction", 1: "entailment", 2: "neutral"} if labels == 3 else {0: "LABEL_0"}
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, initializer_range=0.6, id2label=names,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("models") / "cross", 1)


@pytest.fixture(scope="module")
def entailment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("models") / "nli", 3)


def pairs(count: int, longest: int = 30) -> tuple[list[str], list[str]]:
    draw = np.random.default_rng(3)
    texts = [" ".join(draw.choice(WORDS, int(draw.integers(1, longest)))) for _ in range(2 * count)]
    return texts[:count], texts[count:]


@pytest.mark.parametrize(
    "activation", [None, "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"]
)
@pytest.mark.parametrize("labels", [1, 3])
def test_equal_to_cross_encoder(tmp_path: Path, labels: int, activation: str | None) -> None:
    """Long pairs, which are cut, among them; folders of transformers and those that sentence-transformers saved."""
    library = pytest.importorskip("sentence_transformers")
    plain = write_classifier(tmp_path / "plain", labels)
    if activation is not None:
        config = json.loads((plain / "config.json").read_text())
        config["sentence_transformers"] = {"activation_fn": activation}
        (plain / "config.json").write_text(json.dumps(config))
    theirs = library.CrossEncoder(str(plain), device="cpu")
    theirs.save_pretrained(str(tmp_path / "own"))
    texts_a, texts_b = pairs(60)
    expected = theirs.predict(list(zip(texts_a, texts_b, strict=True)))
    assert np.ptp(expected) > 0.1
    for folder in (plain, tmp_path / "own"):
        found = load_scorer(folder, device="cpu")(texts_a, texts_b)
        assert found.dtype == np.float32 and found.shape == ((60,) if labels == 1 else (60, 3))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(load_scorer(theirs)(texts_a, texts_b), expected, rtol=1e-5, atol=1e-6)


def test_a_language_model_as_cross_encoder_is_read_by_sentence_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    words.add_tokens(["yes", "no"])
    words.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    config = LlamaConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=32, initializer_range=0.5)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    words.save_pretrained(tmp_path / "lm")
    texts_a, texts_b = pairs(5, 6)
    theirs = library.CrossEncoder(str(tmp_path / "lm"), device="cpu")
    expected = theirs.predict(list(zip(texts_a, texts_b, strict=True)))
    found = load_scorer(tmp_path / "lm", device="cpu")(texts_a, texts_b)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="settings of its own"):
        load_scorer(tmp_path / "lm", max_length=8)


def test_batches_and_order_change_nothing(cross: Path) -> None:
    texts_a, texts_b = pairs(50)
    expected = load_scorer(cross, device="cpu", batch_size=50)(texts_a, texts_b)
    backwards = load_scorer(cross, device="cpu", batch_size=7)(texts_a[::-1], texts_b[::-1])[::-1]
    np.testing.assert_allclose(backwards, expected, rtol=1e-5, atol=1e-6)
    one = [float(load_scorer(cross, device="cpu")([a], [b])[0]) for a, b in zip(texts_a[:5], texts_b[:5], strict=True)]
    np.testing.assert_allclose(one, expected[:5], rtol=1e-5, atol=1e-6)
    again = load_scorer(cross, device="cpu", batch_size=50)(texts_a, texts_b)
    assert again.tobytes() == expected.tobytes()


def test_equal_pairs_are_scored_once_and_windows_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkit.mining.scorer._WINDOW", 4)
    calls, seen = [], []

    def score(texts_a: list[str], texts_b: list[str]) -> list[float]:
        calls.append(len(texts_a))
        return [len(a) + 10 * len(b) for a, b in zip(texts_a, texts_b, strict=True)]

    lengths = [1, 2, 3, 1, 4, 5, 6, 2]
    texts = ["x" * n for n in lengths]
    scorer = load_scorer(score)
    found = scorer(texts, texts, progress=lambda count, total: seen.append((count, total)))
    assert found.tolist() == [11.0 * n for n in lengths]
    assert calls == [4, 2] and seen == [(4, 6), (6, 6)] and scorer.name == "score"
    assert scorer([], []).shape == (0,)


def test_one_label_of_several(entailment: Path) -> None:
    texts_a, texts_b = pairs(8)
    logits = load_scorer(entailment, device="cpu")(texts_a, texts_b).astype(float)
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for label in ("Entailment", "1", 1):
        scorer = load_scorer(entailment, device="cpu", label=label)
        np.testing.assert_allclose(scorer(texts_a, texts_b), share[:, 1], rtol=1e-4, atol=1e-6)
        assert scorer.labels == ("entailment",)
    raw = load_scorer(entailment, device="cpu", label=2, activation="identity")(texts_a, texts_b)
    np.testing.assert_allclose(raw, logits[:, 2], rtol=1e-5, atol=1e-5)
    assert load_scorer(lambda a, b: [[1, 2, 3]] * len(a), label=2)(["x"], ["y"]).tolist() == [3.0]


def test_length_and_type_are_used(cross: Path) -> None:
    texts_a, texts_b = pairs(6)
    whole = load_scorer(cross, device="cpu")(texts_a, texts_b)
    assert np.abs(load_scorer(cross, device="cpu", max_length=8)(texts_a, texts_b) - whole).max() > 1e-3
    assert 0 < np.abs(load_scorer(cross, device="cpu", dtype="bf16")(texts_a, texts_b) - whole).max() < 0.2


@pytest.mark.parametrize(("output", "expected"), [
    ([1.0], "returned the shape (1,) for 2 pairs"), (["a", "b"], "returned list, no scores"),
    (np.ones((2, 2, 2)), "returned the shape (2, 2, 2)"), (None, "returned the shape"),
    (np.ones((2, 0)), "shape (2, 0)"),
])  # fmt: skip
def test_functions_that_give_no_scores(output: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_scorer(lambda a, b: output)(["x", "y"], ["z", "z"])
    assert expected in str(caught.value)


def test_mistakes_are_one_line(tmp_path: Path, cross: Path, entailment: Path) -> None:
    def bad(expected: str, kind: type[Exception] = UserError, spec: Any = cross, **options: Any) -> None:
        with pytest.raises(kind) as caught:
            load_scorer(spec, **options)
        assert expected in str(caught.value), str(caught.value)

    bad("it gives one score a pair", label=1)
    bad("known: contradiction, entailment, neutral", spec=entailment, label="maybe")
    bad("none of the number 3", spec=entailment, label=3)
    bad("is no activation; known: identity", activation="relu")
    bad("3 is not from 4 to 40", max_length=3)
    bad("41 is not from 4 to 40", max_length=41)
    bad("batch_size: 0 is no whole number", batch_size=0)
    bad("does not score pairs", spec=3)
    bad("no such model folder", ModelError, tmp_path / "nowhere.zip")
    bad("no such Python file", spec="nowhere.py:score")
    bad("device: it is for a model in a folder", spec=len, device="cpu")
    BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path / "vectors"
    )
    tokenizer().save_pretrained(tmp_path / "vectors")
    bad("is a BertModel, which does not score pairs", ModelError, tmp_path / "vectors")
    folder = write_classifier(tmp_path / "code", 1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sentence_transformers": {"activation_fn": "os.Thing"}}))
    bad("the activation 'os.Thing' is not known", ModelError, folder)
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    bad("brings its own code", UnsafeFileError, folder)
    with pytest.raises(NonFiniteError, match="gives NaN or infinity for 'x | z'"):
        load_scorer(lambda a, b: [0.0, np.nan])(["w", "x"], ["z", "z"])
    with pytest.raises(UserError, match="2 texts and 1 are no pairs"):
        load_scorer(lambda a, b: a)(["x", "y"], ["z"])
    with pytest.raises(UserError, match="it gives one score a pair"):
        load_scorer(lambda a, b: [1.0] * len(a), label=0)(["x", "y"], ["z", "z"])
