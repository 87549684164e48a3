"""The topic model against its formulas, text by text in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError
from embedkit.methods.topic_moco import TopicMoCo
from embedkit.models.augment.counter_rng import uniforms
from embedkit.models.heads.layers import Dense
from tests.methods import toys


def test_topics_words_and_divergence_are_those_of_the_formulas() -> None:
    method, model = TopicMoCo(rebuild=0.5, divergence=2.0), toys.encoder("bert", pooling="mean")
    model.dense.append(Dense(model.hidden_size, 3, "identity").double())
    method.adapt(model)
    torch.manual_seed(0)
    parts = method.parts(model).double()
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    outputs = {"anchor": method.embed(model, parts, inputs)}
    batch = toys.batch(outputs, 4, rows=slice(1, 3))
    topics = method.project(outputs, batch, parts)["anchor"].detach().numpy()
    terms = {name: float(x.detach()) for name, x in method.terms(outputs, {}, batch, parts).items()}
    pooled = model.pooled(inputs).detach().numpy()
    mean = model(inputs).detach().numpy()
    w, b = (z.detach().numpy() for z in (parts["spread"].weight, parts["spread"].bias))
    decoder, bias = (z.detach().numpy() for z in (parts["decoder"].weight, parts["decoder"].bias))
    radius, angle = (uniforms(inputs, f"topics-{part}", 3) for part in ("radius", "angle"))
    words, divergences = [], []
    for row, ids in enumerate(inputs.rows()):
        log_variance = w @ pooled[row] + b
        noise = np.sqrt(-2 * np.log1p(-radius[row])) * np.cos(2 * np.pi * angle[row])
        score = mean[row] + np.exp(log_variance / 2) * noise
        topic = np.exp(score) / np.exp(score).sum()
        assert topics[row] == pytest.approx(topic, rel=1e-9)
        logits = decoder @ topic + bias
        logs = logits - np.log(np.exp(logits).sum())
        words.append(-sum(logs[token] for token in ids if token not in model.tokenizer.all_special_ids))
        divergences.append(0.5 * sum(m * m + np.exp(v) - 1 - v for m, v in zip(mean[row], log_variance, strict=True)))
    assert terms["rebuilt"] == pytest.approx(0.5 * sum(words[1:3]) / 4, rel=1e-9)
    assert terms["divergence"] == pytest.approx(2.0 * sum(divergences[1:3]) / 4, rel=1e-9)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="head of their number"):
        TopicMoCo().adapt(toys.encoder("bert"))
