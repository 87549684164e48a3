"""PromptBERT: the bias of a template, both heads, the learnt template, and what is left at use time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError, RecipeError
from embedkit.formats import load
from embedkit.formats.registry import writers
from embedkit.formats.sentence_transformers import writer as sentence_transformers
from embedkit.methods.mlm import MaskedWords
from embedkit.methods.promptbert import PromptBERTSupervised, PromptBERTUnsupervised
from embedkit.methods.promptbert_opti import PromptBERTOptimised
from embedkit.models.augment.template_bias import bare_templates
from embedkit.models.modules.text import Dense
from tests.methods import toys

FIRST, SECOND = 'this sentence of "{}" means [MASK].', 'this sentence : "{}" means [MASK].'


def prompted(family: str = "bert", *, head: bool = False, train_only: bool = False) -> Any:
    dense = [Dense(32, 32, train_only=train_only)] if head else []
    return toys.encoder(
        family, pooling="mask", dense=dense, prompts={"first": FIRST, "second": SECOND}, default_prompt="first"
    )


def bias(model: Any, length: int, prompt: str = FIRST, start: int = 0) -> torch.Tensor:
    """The state of the mask token in the template alone, later tokens `length` places on."""
    before, after = prompt.split("{}")
    words = model.tokenizer
    front = [2, *words(before, add_special_tokens=False)["input_ids"]]
    back = [*words(after, add_special_tokens=False)["input_ids"], 3]
    ids = front + back
    positions = [start + place + (length if place >= len(front) else 0) for place in range(len(ids))]
    return toys.bert(model, ids, positions)[ids.index(words.mask_token_id)]


def test_bare_templates_are_one_a_length_with_shifted_positions() -> None:
    model = prompted()
    inputs = model.prepare([*toys.TEXTS, "a cat", "big ball"])
    bare, own = bare_templates(inputs)
    assert own.tolist() == [0, 1, 2, 1, 1, 1]  # texts of 5, 2, 11, 2, 2 and 2 words
    assert len(bare) == 3
    template = [2, *model.tokenizer('this sentence of "', add_special_tokens=False)["input_ids"],
                *model.tokenizer('" means [MASK].', add_special_tokens=False)["input_ids"], 3]  # fmt: skip
    assert bare.rows() == [template] * 3
    assert bare.marks.tolist() == [7] * 3
    for k, length in enumerate((5, 2, 11)):
        assert bare.positions[10 * k : 10 * k + 10].tolist() == [0, 1, 2, 3, 4, *range(5 + length, 10 + length)]


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_a_view_is_its_mask_state_less_that_of_its_template(packing: str) -> None:
    model = prompted(head=True, train_only=True)
    PromptBERTUnsupervised().adapt(model)
    model.packing = packing
    for name, prompt in (("first", FIRST), ("second", SECOND)):
        inputs = model.prepare(toys.TEXTS, name)
        found = model(inputs)
        for row, mark, length, z in zip(inputs.rows(), inputs.marks, (5, 2, 11, 2), found, strict=True):
            h = toys.bert(model, row, list(range(len(row))))[mark]
            assert torch.allclose(z, model.dense[0](h - bias(model, length, prompt)), atol=1e-12)
        raw = model.eval()(inputs)  # at use time neither bias nor head
        row, mark = inputs.rows()[0], inputs.marks[0]
        assert torch.allclose(raw[0], toys.bert(model, row, list(range(len(row))))[mark], atol=1e-12)
        model.train()


def test_views_are_one_sentence_under_two_templates() -> None:
    rows = [{"anchor": "a dog"}, {"anchor": "a cat"}]
    views = PromptBERTUnsupervised().views(rows, lambda i: np.random.default_rng(i))
    assert [(n, v.inputs, v.prompt) for n, v in views.items()] == [
        ("anchor", ["a dog", "a cat"], "first"), ("positive", ["a dog", "a cat"], "second"),
    ]  # fmt: skip


@pytest.mark.parametrize(("fidelity", "start"), [("code", 0), ("paper", 1)])  # padding is 0 in this vocabulary
def test_roberta_counts_the_bias_from_zero_in_code(fidelity: str, start: int) -> None:
    model = prompted("roberta", head=True)
    PromptBERTSupervised(fidelity).adapt(model)
    inputs = model.prepare(toys.TEXTS)
    for row, mark, length, z in zip(inputs.rows(), inputs.marks, (5, 2, 11, 2), model(inputs), strict=True):
        h = toys.bert(model, row, list(range(1, 1 + len(row))))[mark]
        assert torch.allclose(z, model.dense[0](h - bias(model, length, start=start)), atol=1e-12)


def test_the_pretrained_transform_reads_vector_and_bias_apart_and_stays(tmp_path: Path) -> None:
    pretrained = prompted()
    MaskedWords().adapt(pretrained)
    torch.nn.init.normal_(pretrained.mask_head.dense.bias)
    pretrained.float().save(tmp_path / "pretrained")
    model = load(tmp_path / "pretrained").double().train()
    PromptBERTSupervised().adapt(model)
    model.double().eval()
    head = pretrained.double().mask_head
    inputs = model.prepare(toys.TEXTS)
    for row, mark, length, z in zip(inputs.rows(), inputs.marks, (5, 2, 11, 2), model(inputs), strict=True):
        h = toys.bert(model, row, list(range(len(row))))[mark]
        assert torch.allclose(z, head.transform(h) - head.transform(bias(model, length)), atol=1e-10)

    model.float().save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.encode(toys.TEXTS), model.encode(toys.TEXTS))
    assert again.template_bias == model.template_bias
    for name in ("sentence-transformers", "transformers"):
        with pytest.raises(ModelError, match="bias of its template"):
            writers[name].write(again, tmp_path / "other")


def test_the_unsupervised_model_says_its_template_and_is_refused_where_no_template_goes(tmp_path: Path) -> None:
    model = prompted(head=True, train_only=True)
    PromptBERTUnsupervised().adapt(model)
    model.float().eval().save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert (again.pooling, again.prompts[again.default_prompt]) == ("mask", FIRST)
    assert np.array_equal(again.encode(toys.TEXTS), model.encode(toys.TEXTS))
    with pytest.raises(ModelError, match="no mask pooling"):
        writers["sentence-transformers"].write(again, tmp_path / "other")


def test_a_learnt_template_trains_its_words_only_and_needs_nothing_special_later(tmp_path: Path) -> None:
    model = prompted()
    plain = model.encode(toys.TEXTS)
    PromptBERTOptimised().adapt(model)
    model.double()
    names = [f"[template{i}]" for i in range(7)]
    assert model.prompts["first"] == "".join([*names[:4], "{}", *names[4:6], "[MASK]", names[6]])
    assert np.allclose(model.encode(toys.TEXTS), plain, atol=1e-12)  # it starts as the template in words
    words = model.encoder.get_input_embeddings().weight
    first = len(words) - 7
    model(model.prepare(toys.TEXTS)).square().sum().backward()
    assert words.grad[:first].abs().max() == 0
    assert (words.grad[first:].abs().amax(1) > 0).all()
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained == ["encoder.embeddings.word_embeddings.weight", *(n for n in trained if n.startswith("dense."))]
    with torch.no_grad():
        words[first:] += torch.randn_like(words[first:])
    model.float().eval().save(tmp_path / "model")
    again = load(tmp_path / "model")
    vectors = again.encode(toys.TEXTS)
    assert np.array_equal(vectors, model.encode(toys.TEXTS))
    assert not np.allclose(vectors, plain, atol=1e-3)


def test_a_model_without_template_is_refused() -> None:
    with pytest.raises(ModelError, match="reads the mask token of a template"):
        PromptBERTUnsupervised().adapt(toys.encoder())
    model = prompted()
    del model.prompts["second"]
    with pytest.raises(ModelError, match="no prompt 'second'"):
        PromptBERTUnsupervised().adapt(model)
    with pytest.raises(RecipeError, match="'code' or 'paper'"):
        PromptBERTSupervised("book")


def test_the_slot_of_sentences_ends_them_with_a_full_stop() -> None:
    model = prompted()
    model.prompts["sentence"] = FIRST.replace("{}", "{.}")
    texts = ["a dog", "a dog.", "who?", 'he says "no"', "they' ", ""]
    wanted = ["a dog.", "a dog.", "who?", 'he says "no"', "they' .", ""]
    found, plain = model.prepare(texts, "sentence"), model.prepare(wanted, "first")
    assert found.rows() == plain.rows()
    assert found.data["gaps"].tolist() == plain.data["gaps"].tolist()
    assert sentence_transformers.is_prefix("query: {}")
    assert not sentence_transformers.is_prefix("query: {.}")


def test_training_reads_the_first_template_and_use_time_the_default() -> None:
    model = prompted()
    model.prompts["sentence"], model.default_prompt = FIRST.replace("{}", "{.}"), "sentence"
    PromptBERTOptimised().adapt(model)
    assert model.prompts["sentence"] == model.prompts["first"].replace("{}", "{.}")
    assert model.prompts["second"] == SECOND
    for method in (PromptBERTSupervised(), PromptBERTOptimised()):
        views = method.views([{"anchor": "a dog", "positive": "a cat"}], lambda i: np.random.default_rng(i))
        assert method.prepare(model, "anchor", views["anchor"]).rows() == model.prepare(["a dog"], "first").rows()
    assert model.prepare(["a dog"]).rows() == model.prepare(["a dog."], "first").rows()
