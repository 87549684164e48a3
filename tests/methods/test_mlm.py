"""Masked words: which are chosen, what the loss is, and that transformers reads the saved head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import RecipeError, UserError
from embedkit.formats import load
from embedkit.formats.transformers.masked_head import masked_head
from embedkit.methods.base import View
from embedkit.methods.common.auxiliary import Auxiliary, WithAuxiliaries
from embedkit.methods.mlm import MaskedWords
from embedkit.methods.simcse import SimCSEUnsupervised
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.modules.masked import hide_tokens
from embedkit.training import setup
from tests.helpers import tiny
from tests.methods import toys
from tests.training import runs


def test_fifteen_in_a_hundred_are_chosen_and_eight_of_ten_masked() -> None:
    words = tiny.tokenizer()
    inputs = toys.seeded(Inputs.of([[2, *([9] * 98), 3]] * 400))
    hidden = hide_tokens(inputs, words)
    ids, seen = inputs.ids.numpy(), hidden.inputs.ids.numpy()
    share = hidden.targets.sum() / (98 * 400)
    assert share == pytest.approx(0.15, abs=0.01)
    assert not hidden.targets[np.isin(ids, [2, 3])].any()  # special tokens never
    now = seen[hidden.targets]
    assert (now == words.mask_token_id).mean() == pytest.approx(0.8, abs=0.02)
    assert (now == 9).mean() == pytest.approx(0.1 + 0.1 / len(words), abs=0.015)
    assert len(set(now.tolist())) > 0.9 * len(words)  # random tokens come from the whole vocabulary
    assert (seen[~hidden.targets] == ids[~hidden.targets]).all()


def test_the_same_tokens_are_chosen_in_any_chunk() -> None:
    model = toys.encoder()
    inputs = toys.seeded(model.prepare(toys.TEXTS * 5))
    whole = hide_tokens(inputs, model.tokenizer, 0.4).inputs.rows()
    order = [7, 3, 18, 0]
    assert hide_tokens(inputs.select(order), model.tokenizer, 0.4).inputs.rows() == [whole[i] for i in order]
    other = hide_tokens(toys.seeded(inputs, 1), model.tokenizer, 0.4).inputs.rows()
    assert other != whole


def test_loss_is_the_mean_cross_entropy_that_transformers_gives(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    method, model = MaskedWords(0.3), toys.encoder()
    method.adapt(model)
    nn.init.normal_(model.double().mask_head.bias)
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    outputs = {"anchor": method.embed(model, nn.ModuleDict(), inputs)}
    outputs = {"anchor": outputs["anchor"].detach()}
    found = method.terms(outputs, {}, toys.batch(outputs, 4), nn.ModuleDict())["mlm"]
    shares = [method.terms(outputs, {}, toys.batch(outputs, 4, rows), nn.ModuleDict())["mlm"]
              for rows in (slice(0, 1), slice(1, 4))]  # fmt: skip
    assert float(sum(shares)) == pytest.approx(float(found), rel=1e-12)

    model.eval().save(tmp_path / "model")
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", attn_implementation="eager").double().eval()
    hidden = hide_tokens(inputs, model.tokenizer, 0.3)
    losses = []
    for row, seen, chosen in zip(inputs.rows(), hidden.inputs.rows(),
                                 np.split(hidden.targets, inputs.offsets[1:-1]), strict=True):  # fmt: skip
        logits = theirs(input_ids=torch.tensor([seen])).logits[0]
        losses += F.cross_entropy(logits[chosen], torch.tensor(row)[chosen], reduction="none").tolist()
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_the_saved_head_is_found_again_and_does_not_change_the_model(tmp_path: Path, family: str) -> None:
    model = toys.encoder(family).eval()
    model.mask_head = masked_head(model)
    nn.init.normal_(model.mask_head.bias)
    model.float().save(tmp_path / "model")
    again = load(tmp_path / "model")
    head = masked_head(again)
    saved = model.mask_head.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in head.state_dict().items())
    assert again.hash() == model.hash()
    assert again.mask_head is None
    assert np.array_equal(again.encode(toys.TEXTS), model.encode(toys.TEXTS))


def test_as_auxiliary_it_reads_every_text_view_and_its_weight_decays() -> None:
    both = WithAuxiliaries(SimCSEUnsupervised(), [Auxiliary(MaskedWords(), "mlm", "auxiliary.0", 0.1, 0.95, 100)])
    rows = [{"anchor": text} for text in toys.TEXTS]
    views = both.views(rows, lambda i: np.random.default_rng(i))
    assert list(views) == ["anchor", "positive", "mlm/anchor", "mlm/positive"]
    assert views["mlm/positive"].inputs == toys.TEXTS
    assert not views["mlm/anchor"].guided
    numbers = torch.tensor([[2.0, 1.0], [6.0, 1.0], [1.0, 2.0], [3.0, 2.0]])
    outputs = {"anchor": torch.ones(4, 3), "positive": torch.ones(4, 3), "mlm/anchor": numbers, "mlm/positive": numbers}
    parts = nn.ModuleDict({"main": nn.ModuleDict(), "mlm": nn.ModuleDict()})
    batch = toys.batch(outputs, 4)
    batch.step = 250
    assert set(both.project(outputs, batch, parts)) == {"anchor", "positive"}
    term = both.terms(outputs, {}, batch, parts)["mlm"]
    assert float(term) == pytest.approx(0.1 * 0.95**2.5 * 24 / 12)


def test_the_views_of_the_main_method_are_made_once_whatever_stands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    plain = SimCSEUnsupervised.views
    monkeypatch.setattr(SimCSEUnsupervised, "views", lambda *given: made.append(1) or plain(*given))
    beside = [Auxiliary(MaskedWords(), "mlm", "auxiliary.0"), Auxiliary(MaskedWords(), "more", "auxiliary.1")]
    views = WithAuxiliaries(SimCSEUnsupervised(), beside).views([{"anchor": "a"}], np.random.default_rng)
    assert list(views) == ["anchor", "positive", "mlm/anchor", "mlm/positive", "more/anchor", "more/positive"]
    assert len(made) == 1 and views["anchor"].guided and not views["anchor"].settings


def test_the_main_method_reads_masked_texts_where_an_old_error_is_to_be_repeated() -> None:
    model = toys.encoder()
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    found = {}
    for reads in ("texts", "masked"):
        beside = Auxiliary(MaskedWords(0.5, main_reads=reads), "mlm", "auxiliary.0")
        both = WithAuxiliaries(SimCSEUnsupervised(), [beside])
        parts = nn.ModuleDict({"main": nn.ModuleDict(), "mlm": nn.ModuleDict()})
        found[reads] = both.embed(model, parts, inputs)
    assert torch.equal(found["texts"], model(inputs))
    hidden = hide_tokens(inputs, model.tokenizer, 0.5, "mlm-main")
    assert not torch.equal(hidden.inputs.ids, inputs.ids)
    assert torch.equal(found["masked"], model(hidden.inputs))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match="rate is 1.5"):
        MaskedWords(1.5)
    with pytest.raises(RecipeError, match="weight is -1"):
        Auxiliary(MaskedWords(), "mlm", "auxiliary.0", -1)
    with pytest.raises(RecipeError, match="is no auxiliary method"):
        SimCSEUnsupervised().beside({"anchor": View([], [])})


@pytest.mark.parametrize(
    ("auxiliary", "said"),
    [
        ([{"name": "mlm", "weigth": 1.0}], "unknown setting 'weigth'"),
        ([{"name": "mlm"}, {"name": "mlm"}], "one method stands twice"),
        ([{"name": "mlms"}], "unknown method 'mlms'"),
        ([{"name": "simcse-unsup"}], "is no auxiliary method"),
    ],
)
def test_auxiliaries_of_a_recipe_are_checked_before_anything_is_loaded(auxiliary: list[Any], said: str) -> None:
    given = runs.recipe() | {"auxiliary": auxiliary}
    with pytest.raises(UserError, match=said):
        setup.check(load_recipe(given))


def test_an_output_matrix_of_its_own_starts_as_the_word_vectors_and_is_trained_apart() -> None:
    found = {}
    for tied in (True, False):
        method, model = MaskedWords(0.5, tied), toys.encoder()
        torch.manual_seed(0)
        method.adapt(model)
        parts = method.parts(model).double()
        model.double()
        inputs = toys.seeded(model.prepare(toys.TEXTS))
        loss = method.embed(model, parts, inputs)[:, 0].sum()
        loss.backward()
        found[tied] = (float(loss.detach()), model.encoder.get_input_embeddings().weight.grad, parts, model)
    (loss, whole, none, saved), (same, reading, parts, without) = found[True], found[False]
    assert same == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(reading + parts["words"].weight.grad, whole)  # both roles of a word vector
    assert reading.abs().sum() > 0 and parts["words"].weight.grad.abs().sum() > 0
    assert not list(none.parameters()) and parts["head"].bias.grad.abs().sum() > 0
    assert saved.mask_head is not None and without.mask_head is None


def test_the_masked_loss_of_a_run_is_logged_and_added(tmp_path: Path) -> None:
    given = runs.recipe(train={"max_steps": 2}) | {"auxiliary": [{"name": "mlm", "weight": 0.5}]}
    both, alone = runs.Recorder(), runs.Recorder()
    runs.run(tmp_path / "both", given, progress=both)
    runs.run(tmp_path / "alone", runs.recipe(train={"max_steps": 2}), progress=alone)
    first = both.figures[1]
    words = load(tmp_path / "both" / "model").encoder.config.vocab_size
    assert first["mlm"] == pytest.approx(0.5 * np.log(words), rel=0.05)  # a new head knows nothing
    assert first["loss"] == pytest.approx(alone.figures[1]["loss"] + first["mlm"], rel=1e-5)
