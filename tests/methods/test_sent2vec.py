"""Sent2Vec: which words are hidden, what the sides are made of, the loss, and that it learns."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.model import ModelConfig
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.sent2vec import Sent2Vec
from embedkit.views.words import word_counts
from tests.training import common

STATIC = ModelConfig(kind="static", tokenizer="builtin", dim=8, ngrams=2, buckets=50, max_length=32)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """A file in which "the" is frequent, "dog" less, "river" rare, "tree" hardly there."""
    path = tmp_path / "text.txt"
    path.write_text("the the the the dog\n" * 90 + "the dog river\n" * 9 + "tree\n")
    return str(path)


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 0]))


def test_words_are_counted(corpus: str) -> None:
    counts, total = word_counts(corpus)
    assert counts == {"the": 369, "dog": 99, "river": 9, "tree": 1}
    assert total == 478


def test_hidden_words_follow_the_law(corpus: str) -> None:
    method = Sent2Vec(frequencies=corpus, t=1e-2, least=5)
    words = ["the", "dog", "river", "tree"]
    seen = Counter(words[method.draw(words, random(seed))] for seed in range(3000))
    keep = {}
    for word, count in {"the": 369, "dog": 99, "river": 9}.items():
        f = count / 478
        keep[word] = min(1.0, math.sqrt(1e-2 / f) + 1e-2 / f)
    for word, weight in keep.items():
        assert seen[word] / 3000 == pytest.approx(weight / sum(keep.values()), abs=0.03)
    assert seen["tree"] == 0  # seen less than five times
    assert method.draw(["tree", "unknown"], random(0)) in (0, 1)
    even = Counter(Sent2Vec().draw(words, random(seed)) for seed in range(1200))
    assert all(abs(even[i] / 1200 - 0.25) < 0.05 for i in range(4))


def test_the_hidden_word_is_the_target_and_leaves_a_placeholder() -> None:
    rows = [{"anchor": "The dog's tail, it sleeps."}, {"anchor": "!"}, {"anchor": "a cat"}]
    for seed in range(10):
        made = Sent2Vec().views(rows, lambda i, seed=seed: random(seed * 10 + i))
        for context, target, row in zip(made["anchor"].inputs, made["positive"].inputs, rows, strict=True):
            assert context.split().count("[UNK]") == 1
            words = [target if word == "[UNK]" else word for word in context.split()]
            assert "".join(words) == row["anchor"].lower().replace(" ", "")
    step = common.make_step(Sent2Vec.objective, method=Sent2Vec(), config=STATIC)
    model = step.bundle.model
    ids = model.prepare(["the [UNK] sleeps"]).ids.tolist()
    assert ids[1] == model.tokenizer.unk_token_id


def test_the_loss_is_the_formula() -> None:
    """Logistic loss of dot products, the other rows' targets as negatives, equal targets left out."""
    method = Sent2Vec(ngram_dropout=0.0)
    step = common.make_step({**Sent2Vec.objective, "bias": -1.0}, method=method, config=STATIC)
    model, table = step.bundle.model, step.bundle.parts["output"]
    with torch.no_grad():
        table.weight.normal_(generator=torch.Generator().manual_seed(2))
    rows = [*({"anchor": text} for text in common.texts(15)), {"anchor": "it's"}]  # a target of three pieces
    batch = common.step_batch(step, rows)
    contexts, targets = batch.views["anchor"].inputs, batch.views["positive"].inputs
    assert len(set(targets)) < len(targets)
    h, u = [], []
    for context, target in zip(contexts, targets, strict=True):
        words, pieces = model.prepare([context]).ids, model.prepare([target]).ids
        pieces = pieces[pieces < model.pieces]
        assert len(words) > len(context.split()) or len(context.split()) == 1  # bigrams come in
        h.append(model.embedding.weight[words].mean(0))
        u.append(table.weight[pieces].mean(0))
    total = 0.0
    for i in range(16):
        for j in range(16):
            s = float(h[i] @ u[j]) - 1.0
            if i == j:
                total += math.log1p(math.exp(-s)) / 16
            elif targets[i] != targets[j] and contexts[i] not in (targets[j], contexts[j]):
                total += math.log1p(math.exp(s)) / 16
    assert float(step.gradients(batch).loss) == pytest.approx(total, rel=1e-6)


def test_ngrams_are_dropped_at_their_rate_and_pieces_never() -> None:
    method = Sent2Vec(ngram_dropout=0.4)
    step = common.make_step(Sent2Vec.objective, method=method, config=STATIC)
    model = step.bundle.model
    inputs = model.prepare(["the red cat sleeps near a small house and the old dog"] * 300)
    inputs = inputs.replace(seeds=np.arange(300, dtype=np.uint64))
    seen: list[Any] = []
    real = model.forward
    model.forward = lambda kept: seen.append(kept) or real(kept)
    method.embed(model, step.bundle.parts, inputs)
    kept = seen[0].ids.numpy()
    grams = int((inputs.ids >= model.pieces).sum())
    assert int((kept < model.pieces).sum()) == int((inputs.ids < model.pieces).sum())
    assert int((kept >= model.pieces).sum()) / grams == pytest.approx(0.6, abs=0.03)
    model.eval()
    method.embed(model, step.bundle.parts, inputs)
    assert len(seen[1].ids) == len(inputs.ids)


def test_what_it_cannot_train_is_refused() -> None:
    step = common.make_step("infonce")
    with pytest.raises(ModelError, match="static"):
        Sent2Vec().adapt(step.bundle.model)
    for bad in ({"t": 2}, {"ngram_dropout": 1.0}, {"t": True}):
        with pytest.raises(RecipeError):
            Sent2Vec(**bad)


def test_the_start_is_scaled() -> None:
    step = common.make_step(Sent2Vec.objective, method=Sent2Vec(), config=STATIC)
    Sent2Vec(start=0.05).adapt(step.bundle.model)
    assert float(step.bundle.model.embedding.weight.std()) == pytest.approx(0.05)
    assert float(step.bundle.parts["output"].weight.abs().sum()) == 0
