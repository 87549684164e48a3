"""ConSERT: the views at the embedding layer, NT-Xent, and the supervised form with its adversary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedkit import objectives
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import RecipeError, UserError
from embedkit.methods.common.augmenting import augmented
from embedkit.methods.consert import ConSERT
from embedkit.methods.consert_sup import ConSERTSupervised
from embedkit.models.augment.embedding_augmentation import edits, shuffled
from embedkit.training import setup
from tests.methods import toys

ROWS = [{"anchor": text, "positive": other, "label": label} for text, other, label in
        zip(toys.TEXTS, toys.TEXTS[::-1], (0, 2, 1, 2), strict=True)]  # fmt: skip
CUTS = {"token_cutoff": 0.3, "feature_cutoff": 0.2, "element_cutoff": 0.2}


def cut(name: str, rate: float = 0.3, salt: int = 0) -> tuple[Any, torch.Tensor]:
    """Inputs of 7, 4, 13 and 4 tokens, and ones (T, 32) after an edit."""
    inputs = toys.seeded(toys.encoder().prepare(toys.TEXTS), salt)
    return inputs, edits[name](rate)(torch.ones(inputs.tokens, 32, dtype=torch.float64), inputs)


def by_text(inputs: Any, values: torch.Tensor) -> list[torch.Tensor]:
    return list(values.split(inputs.costs.tolist()))


def test_token_cutoff_zeroes_its_share_of_whole_tokens() -> None:
    inputs, found = cut("token_cutoff")
    for text in by_text(inputs, found):
        gone = (text == 0).all(1)
        assert int(gone.sum()) == int(0.3 * len(text))
        assert (text[~gone] == 1).all()


def test_feature_cutoff_zeroes_the_same_columns_in_a_text() -> None:
    inputs, found = cut("feature_cutoff")
    columns = []
    for text in by_text(inputs, found):
        gone = (text == 0).all(0)
        assert int(gone.sum()) == int(0.3 * 32)
        assert (text[:, ~gone] == 1).all()
        columns.append(gone)
    assert not torch.equal(columns[0], columns[1])


def test_element_cutoff_zeroes_single_numbers_and_rescales_none() -> None:
    inputs, found = cut("element_cutoff")
    for text in by_text(inputs, found):
        assert int((text == 0).sum()) == int(0.3 * text.numel())
        assert ((text == 0) | (text == 1)).all()


@pytest.mark.parametrize("name", CUTS)
def test_cuts_depend_on_the_seed_of_the_text_alone(name: str) -> None:
    inputs, found = cut(name)
    other = cut(name, salt=1)[1]
    assert not torch.equal(found, other)
    order = [2, 0]
    chosen = inputs.select(order)
    again = edits[name](0.3)(torch.ones(chosen.tokens, 32, dtype=torch.float64), chosen)
    assert torch.equal(again, torch.cat([by_text(inputs, found)[i] for i in order]))


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_shuffle_permutes_the_positions_of_all_tokens(packing: str) -> None:
    model = toys.encoder("bert", packing=packing)
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    positions = [p.tolist() for p in by_text(inputs, shuffled(inputs).positions)]
    assert all(sorted(p) == list(range(len(p))) for p in positions)
    assert positions[2] != sorted(positions[2])
    for row, place, z in zip(inputs.rows(), positions, model(inputs, shuffle=True), strict=True):
        assert torch.allclose(z, toys.bert(model, row, place).mean(0), atol=1e-12)


@pytest.mark.parametrize("packing", ["packed", "padded", "buckets"])
def test_edits_stand_behind_the_layer_norm_of_the_embeddings(packing: str) -> None:
    model = toys.encoder("bert", packing=packing)
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    seen: list[torch.Tensor] = []
    changed = model(inputs, edit=lambda hidden, given: (seen.append(hidden), hidden * 0)[1])
    e = model.encoder.embeddings
    rows = sorted(inputs.rows(), key=len)
    wanted = [e.LayerNorm(e.word_embeddings.weight[row] + e.position_embeddings.weight[: len(row)]
                          + e.token_type_embeddings.weight[0]) for row in rows]  # fmt: skip
    assert torch.allclose(seen[0], torch.cat(wanted), atol=1e-12)
    assert torch.allclose(changed[1], changed[3], atol=1e-12)  # nothing is left of the words
    assert not torch.allclose(model(inputs)[1], model(inputs)[3])


def test_the_model_averages_two_layers_later_and_one_in_training() -> None:
    model = toys.encoder("bert", pooling="last-two")
    inputs = model.prepare(toys.TEXTS)
    whole = model.encoder(input_ids=torch.tensor([inputs.rows()[0]]), output_hidden_states=True).hidden_states
    assert torch.allclose(model(inputs)[0], ((whole[-1] + whole[-2]) / 2)[0].mean(0), atol=1e-12)
    views = ConSERT({"feature_cutoff": 0.2}, {"shuffle": True}).views(ROWS, lambda i: np.random.default_rng(i))
    assert [view.settings for view in views.values()] == [
        {"pooling": "mean", "feature_cutoff": 0.2}, {"pooling": "mean", "shuffle": True},
    ]  # fmt: skip
    assert torch.allclose(model(inputs, pooling="mean")[0], whole[-1][0].mean(0), atol=1e-12)


def ntxent(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    """CE([ab|aa]) + CE([ba|bb]) with self-similarities masked."""
    a, b = F.normalize(a), F.normalize(b)
    own = torch.eye(len(a)) * 1e9
    labels = torch.arange(len(a))
    first = torch.cat([a @ b.T, a @ a.T / 1 - own * temperature], 1) / temperature
    second = torch.cat([b @ a.T, b @ b.T / 1 - own * temperature], 1) / temperature
    return F.cross_entropy(first, labels) + F.cross_entropy(second, labels)


@pytest.mark.parametrize(("fidelity", "factor"), [("code", 0.15), ("paper", 0.5)])
def test_objective_is_ntxent_with_the_factor_of_code_or_paper(fidelity: str, factor: float) -> None:
    z = {name: torch.randn(5, 8, dtype=torch.float64) for name in ("anchor", "positive")}
    objective = objectives.build(ConSERT(fidelity=fidelity).objective)
    found = objective(z, toys.batch(z, 5)).loss
    assert found.item() == pytest.approx(factor * ntxent(*z.values(), 0.1).item(), rel=1e-9)


@pytest.mark.parametrize("fidelity", ["code", "paper"])
def test_supervised_loss_is_classes_and_both_contrasts(fidelity: str) -> None:
    method, model = ConSERTSupervised(second={"token_cutoff": 0.1}, fidelity=fidelity), toys.encoder()
    parts = method.parts(model).double()
    names = ("anchor", "hypothesis", "positive", "hypothesis2")
    outputs = {name: torch.randn(4, 32, dtype=torch.float64) for name in names}
    labels = torch.tensor([0, 2, 1, 2])
    total = 0.0
    for rows in (slice(0, 1), slice(1, 4)):  # two processes
        batch = toys.batch(outputs, 4, rows, label=labels)
        seen = method.project(outputs, batch, parts)
        assert seen["positive"] is outputs["positive"]
        terms = method.terms(outputs, seen, batch, parts)
        total += sum(float(term.detach()) for term in terms.values())
    u, v = outputs["anchor"], outputs["hypothesis"]
    features = [u, v, (u - v).abs()] + ([torch.maximum(u, v) ** 2] if fidelity == "code" else [])
    wanted = F.cross_entropy(torch.cat(features, 1) @ parts["classifier"].weight.T + parts["classifier"].bias, labels)
    factor = 0.15 if fidelity == "code" else 0.075
    wanted = wanted + factor * ntxent(outputs["hypothesis"], outputs["hypothesis2"], 0.1)
    assert total == pytest.approx(wanted.item(), rel=1e-9)


def test_without_contrast_it_is_a_classifier_of_two_vectors() -> None:
    method = ConSERTSupervised(weight=0.0)
    assert method.objective is None
    assert list(method.views(ROWS, lambda i: np.random.default_rng(i))) == ["anchor", "hypothesis"]


@pytest.mark.parametrize("fidelity", ["code", "paper"])
@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_the_adversary_moves_by_epsilon_along_the_gradient_of_the_pair(packing: str, fidelity: str) -> None:
    """Each token with the code, each text with the paper."""
    method = ConSERTSupervised(second={"adversarial": 0.5}, fidelity=fidelity)
    model = toys.encoder("bert", packing=packing)
    parts = method.parts(model).double()
    view = method.views(ROWS, lambda i: np.random.default_rng(i))["pair"]
    inputs = toys.seeded(method.prepare(model, "pair", view).replace(**view.data))
    found = method.embed(model, parts, inputs, pair_epsilon=0.5)
    for row, z in zip(ROWS, found, strict=True):
        ids = [model.prepare([row[role]]).rows()[0] for role in ("anchor", "positive")]
        starts = [embedded(model, i).detach().requires_grad_() for i in ids]
        u, v = (from_embedded(model, x).mean(0) for x in starts)
        features = torch.cat([u, v, (u - v).abs(), *([torch.maximum(u, v) ** 2] if fidelity == "code" else [])])
        loss = F.cross_entropy(parts["classifier"](features)[None], torch.tensor([row["label"]]))
        gradients = torch.autograd.grad(loss, starts)
        lengths = [g.norm(dim=1, keepdim=True) if fidelity == "code" else g.norm() for g in gradients]
        moved = [x + 0.5 * g / n for x, g, n in zip(starts, gradients, lengths, strict=True)]
        wanted = torch.cat([from_embedded(model, x).mean(0) for x in moved])
        assert torch.allclose(z, wanted, atol=1e-10)


def test_a_view_of_the_adversarial_pair_can_be_augmented() -> None:
    """ConSERT's own adversary and the view of that name do not take each other's settings."""
    cls = augmented(ConSERTSupervised, {"anchor": [{"name": "adversarial", "epsilon": 0.3}]})
    method, model = cls(second={"adversarial": 0.5}), toys.encoder("bert")
    parts = method.parts(model).double()
    made = method.views(ROWS, lambda i: np.random.default_rng(i))
    for name, width in (("anchor", 32), ("pair", 64)):
        view = made[name]
        inputs = toys.seeded(method.prepare(model, name, view).replace(**view.data))
        assert method.embed(model, parts, inputs, **view.settings).shape == (len(ROWS), width)


def embedded(model: Any, ids: list[int]) -> torch.Tensor:
    return model.encoder.embeddings(input_ids=torch.tensor([ids]))[0]


def from_embedded(model: Any, x: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(1, 1, 1, 1, dtype=x.dtype)
    return model.encoder.encoder(x[None], attention_mask=mask).last_hidden_state[0]


PUBLISHED = {
    "consert": ({"feature_cutoff": 0.2}, {"shuffle": True}, 10),
    "consert-bert-large": ({}, {"shuffle": True}, 25),
    "consert-joint-unsup": ({}, {"shuffle": True}, 25),
    "consert-joint-unsup-bert-large": ({}, {"shuffle": True}, 10),
    "consert-sup-unsup": ({}, {"feature_cutoff": 0.1}, 25),
    "consert-sup-unsup-bert-large": ({}, {"feature_cutoff": 0.1}, 10),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_that_extend_another_have_the_published_views(name: str) -> None:
    recipe = load_recipe(name)
    method = setup.build_method(recipe)
    assert isinstance(method, ConSERT)
    assert (method.settings["anchor"], method.settings["positive"], recipe.train.epochs) == PUBLISHED[name]
    assert recipe.evaluation is not None and recipe.evaluation.patience == 10


def test_wrong_views_are_refused() -> None:
    with pytest.raises(RecipeError, match="unknown setting 'cutoff'"):
        ConSERT(first={"cutoff": 0.1})
    with pytest.raises(RecipeError, match="unknown setting 'adversarial'"):
        ConSERT(second={"adversarial": 0.1})
    model = toys.encoder()
    with pytest.raises(UserError, match="rate is 1.5"):
        model(toys.seeded(model.prepare(["a dog"])), token_cutoff=1.5)
    with pytest.raises(UserError, match="unknown setting 'token_cut'"):
        model(model.prepare(["a dog"]), token_cut=0.5)
    with pytest.raises(UserError, match="need a seed"):
        model(model.prepare(["a dog"]), token_cutoff=0.5)
