"""Token terms against their formulas, text by text in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedkit.errors import DataError, ModelError
from embedkit.methods.graph_supcon import GraphSupCon, class_shares
from embedkit.methods.simctg import TokenIsotropy
from embedkit.methods.vat import VirtualAdversarial
from embedkit.models.augment.embedding_augmentation import normal
from embedkit.models.modules.masked import hide_tokens
from tests.methods import toys

NOTHING = torch.nn.ModuleDict()


def whole(method: Any, model: Any, inputs: Any, parts: Any = NOTHING) -> float:
    """The term of one view in one process."""
    outputs = {"anchor": method.embed(model, parts, inputs)}
    (value,) = method.terms(outputs, {}, toys.batch(outputs, len(inputs)), parts).values()
    return float(value.detach())


def states(model: Any, ids: list[int], change: Any = None) -> torch.Tensor:
    """Last states (l, H) of one text by transformers itself, the embedding layer's output changed."""
    layer = model.encoder.embeddings
    handle = layer.register_forward_hook(lambda _, args, out: out if change is None else out + change[None])
    try:
        return model.encoder(torch.tensor([ids])).last_hidden_state[0]  # type: ignore[no-any-return]
    finally:
        handle.remove()


def test_isotropy_is_the_mean_hinge_of_pairs_of_tokens() -> None:
    model = toys.encoder("bert")
    inputs = model.prepare(toys.TEXTS)
    total, count = 0.0, 0
    for ids in inputs.rows():
        h = states(model, ids).detach().numpy()
        for i in range(len(ids)):
            for j in range(len(ids)):
                if i != j:
                    cosine = h[i] @ h[j] / np.linalg.norm(h[i]) / np.linalg.norm(h[j])
                    total, count = total + max(0.0, 0.9 - 1 + cosine), count + 1
    assert total > 0
    assert whole(TokenIsotropy(margin=0.9), model, inputs) == pytest.approx(total / count, rel=1e-8)
    assert whole(TokenIsotropy(margin=0.0), model, inputs) == pytest.approx(0.0, abs=1e-12)


def test_isotropy_of_texts_of_one_token_is_nothing() -> None:
    model = toys.encoder("bert")
    single = model.prepare(["dog"]).keep(np.array([True, False, False]))
    assert whole(TokenIsotropy(), model, single) == 0.0


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of rows of logits."""
    return F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(-1)


def test_the_adversarial_term_is_power_iteration_text_by_text() -> None:
    method = VirtualAdversarial(epsilon=0.7, steps=2, step_size=0.5, start=1e-2, rate=0.3)
    model = toys.encoder("bert")
    method.adapt(model)
    model.double()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    masked = hide_tokens(inputs, model.tokenizer, 0.3, "vat-mask").inputs
    words = model.encoder.get_input_embeddings().weight

    def logits(ids: list[int], noise: Any) -> torch.Tensor:
        return model.mask_head(states(model, ids, noise), words)  # type: ignore[no-any-return]

    total, count = 0.0, 0
    for place, ids in enumerate(masked.rows()):
        one = masked.select(np.array([place]))
        noise = 1e-2 * normal(torch.zeros(len(ids), model.hidden_size, dtype=torch.float64), one, "vat")
        clean = logits(ids, None).detach()
        for _ in range(2):
            leaf = noise.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(kl(clean, logits(ids, leaf)).sum(), leaf)
            noise = noise + 0.5 * gradient
        noise = 0.7 * noise / noise.norm(dim=1, keepdim=True)
        noisy = logits(ids, noise).detach()
        total += float((kl(clean, noisy) + kl(noisy, clean)).sum())
        count += len(ids)
    assert total > 1e-3
    assert whole(method, model, inputs) == pytest.approx(total / count, rel=1e-6)


def test_the_adversarial_term_moves_vectors_more_than_chance_and_the_clean_one_is_its_target() -> None:
    method, model = VirtualAdversarial(reads="vectors", epsilon=0.5, steps=3, step_size=1e3), toys.encoder("bert")
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    none = toys.encoder("bert").mask_head
    assert none is None and method.adapt(model) is None and model.mask_head is None  # it reads no words
    found = whole(method, model, inputs)
    rng = torch.Generator().manual_seed(1)
    chance = []
    for ids in inputs.rows():
        noise = torch.randn(len(ids), model.hidden_size, dtype=torch.float64, generator=rng)
        pair = [model_vector(model, ids, change) for change in (None, 0.5 * noise / noise.norm(dim=1, keepdim=True))]
        chance.append(1 - float(F.cosine_similarity(*pair, dim=0).detach()))
    assert found > 1.5 * float(np.mean(chance))


def model_vector(model: Any, ids: list[int], change: Any) -> torch.Tensor:
    h = states(model, ids, change)
    return h.mean(dim=0) if model.pooling == "mean" else h[0]


ROWS = "text,label\na man is playing guitar,music\nwho sings,music\nthe dog,animals\nchildren in the park,people\n"


def test_token_graph_weighs_pairs_by_the_probability_of_one_class(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(ROWS)
    method, model = GraphSupCon(str(file), tokens=50, temperature=0.5, smoothing=0.8), toys.encoder("bert")
    parts = method.parts(model).double()
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    vectors, ids = [], []
    for row in inputs.rows():
        for h, token in zip(states(model, row).detach().numpy(), row, strict=True):
            if token not in model.tokenizer.all_special_ids:
                vectors.append(h / np.linalg.norm(h))
                ids.append(token)
    shares = class_shares(str(file), model, 0.8)
    losses = []
    for i, token in enumerate(ids):
        others = [j for j in range(len(ids)) if j != i]
        scores = np.array([vectors[i] @ vectors[j] / 0.5 for j in others])
        weights = np.array([shares[token] @ shares[ids[j]] for j in others])
        logs = scores - np.log(np.exp(scores).sum())
        losses.append(-(weights / weights.sum()) @ logs)
    assert whole(method, model, inputs, parts) == pytest.approx(np.mean(losses), rel=1e-6)
    few = GraphSupCon(str(file), tokens=2)
    output = few.embed(model, parts, inputs).detach().unflatten(1, (2, -1))[:, :, -3:]
    assert (output.sum(dim=2) > 0.99).sum(dim=1).tolist() == [2, 2, 2, 2]


def test_shares_of_a_token_are_smoothed_counts(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(ROWS)
    model = toys.encoder("bert")
    rows = [line.split(",") for line in ROWS.splitlines()[1:]]
    counts = {name: [t for text, label in rows if label == name for t in model.prepare([text]).ids.tolist()]
              for name in ("animals", "music", "people")}  # fmt: skip
    total = sum(len(tokens) for tokens in counts.values())
    table = class_shares(str(file), model, 2.0)
    for token in model.prepare(["the dog"]).ids.tolist():
        own = [tokens.count(token) for tokens in counts.values()]
        expected = [(n + 2.0 * len(tokens) / total) / (sum(own) + 2.0)
                    for n, tokens in zip(own, counts.values(), strict=True)]  # fmt: skip
        assert table[token].tolist() == pytest.approx(expected, rel=1e-12)
    assert np.allclose(table.sum(axis=1), 1.0)
    file.write_text("text,label\na dog,animals\n")
    with pytest.raises(DataError, match="1 classes"):
        class_shares(str(file), model, 1.0)


def test_a_model_without_token_vectors_is_refused() -> None:
    from embedkit.data.builtin.sentences import tokenizer
    from embedkit.models import StaticEncoder

    for method in (TokenIsotropy(), VirtualAdversarial(), GraphSupCon("rows.csv")):
        with pytest.raises(ModelError, match="no token vectors"):
            method.adapt(StaticEncoder(tokenizer(), dim=4))
