"""Heads of masked language models against transformers' own, and which tokens are hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.errors import ModelError
from embedkit.formats.transformers.masked_head import frozen_masked_model, masked_head
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.modules.masked import MaskedHead, MaskedModel, hide_tokens, in_input_order, names_in
from tests.helpers import tiny

TEXTS = [text for text in tiny.SENTENCES if text]
FAMILIES = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM", "distilbert": "DistilBertForMaskedLM",
            "xlm-roberta": "XLMRobertaForMaskedLM", "camembert": "CamembertForMaskedLM"}  # fmt: skip


def masked_lm(family: str, path: Path, **settings: Any) -> Any:
    """A random masked language model of transformers, saved to `path` with the tiny tokenizer."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, FAMILIES[family])(tiny.config(family, **settings)).eval()
        tiny.spread(model)
        torch.nn.init.normal_(dict(model.named_parameters())[(names_in(family) or ("", "", ""))[2]])
    model.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return model


def seeded(inputs: Inputs, first: int = 1) -> Inputs:
    return inputs.replace(seeds=np.arange(first, first + len(inputs), dtype=np.uint64))


@pytest.fixture
def bert(tmp_path: Path) -> tuple[Any, MaskedModel]:
    """transformers' model, and embedkit's of its folder."""
    return masked_lm("bert", tmp_path), frozen_masked_model(str(tmp_path))


# --- the head --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_transformers(family: str, tmp_path: Path) -> None:
    theirs = masked_lm(family, tmp_path)
    ours = frozen_masked_model(str(tmp_path))
    inputs = ours.model.prepare(TEXTS)
    with torch.no_grad():
        states = in_input_order(ours.model.token_states(inputs), inputs)
        found = ours.head(states, ours.model.encoder.get_input_embeddings().weight)
        expected = [theirs(input_ids=torch.tensor([row])).logits[0] for row in inputs.rows()]
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_guesses_are_the_most_probable_words(bert: tuple[Any, MaskedModel]) -> None:
    theirs, ours = bert
    inputs = ours.model.prepare(TEXTS)
    with torch.no_grad():
        expected = [theirs(input_ids=torch.tensor([row])).logits[0].argmax(1) for row in inputs.rows()]
    assert ours.guesses(inputs).tolist() == torch.cat(expected).tolist()


def test_drawn_guesses_follow_the_probabilities_and_the_seed(bert: tuple[Any, MaskedModel]) -> None:
    theirs, ours = bert
    count = 3000
    inputs = seeded(Inputs.of([[2, 9, 4, 3]] * count))
    draws = ours.guesses(inputs, sample=True).view(count, 4)[:, 2].numpy()
    with torch.no_grad():
        exact = theirs(input_ids=torch.tensor([[2, 9, 4, 3]])).logits[0, 2].double().softmax(0).numpy()
    found = np.bincount(draws, minlength=len(exact)) / count
    assert np.abs(found - exact).max() < 4 * np.sqrt(0.25 / count)
    assert len(set(draws.tolist())) > 1
    part = inputs.select(np.arange(100, 110))
    assert ours.guesses(part, sample=True).view(10, 4)[:, 2].tolist() == draws[100:110].tolist()


def test_a_long_batch_is_guessed_in_parts_of_equal_result(bert: tuple[Any, MaskedModel]) -> None:
    _, ours = bert
    inputs = ours.model.prepare(TEXTS * 40)
    assert inputs.tokens > 1024
    few = ours.guesses(ours.model.prepare(TEXTS))
    assert ours.guesses(inputs).tolist() == few.tolist() * 40


def test_token_vectors_come_back_in_the_order_of_the_texts() -> None:
    model = tiny.text_encoder()
    inputs = model.prepare(TEXTS)
    with torch.no_grad():
        found = in_input_order(model.token_states(inputs), inputs)
        expected = [model.encoder(input_ids=torch.tensor([row])).last_hidden_state[0] for row in inputs.rows()]
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_of_a_folder_has_the_names_of_its_architecture(family: str, tmp_path: Path) -> None:
    theirs = masked_lm(family, tmp_path)
    head = frozen_masked_model(str(tmp_path)).head
    state = theirs.state_dict()
    assert names_in(family) is not None
    for name, tensor in head.named_as(family).items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


def test_an_architecture_whose_names_are_not_known_has_no_head_of_its_folder(tmp_path: Path) -> None:
    assert names_in("mpnet") is None
    assert MaskedHead(8, 20).named_as("mpnet") == {}
    tiny.model_folder(tmp_path / "m", "mpnet")
    with pytest.raises(ModelError, match="holds no masked-word head") as caught:
        frozen_masked_model(str(tmp_path / "m"))
    assert caught.value.where == str(tmp_path / "m")


def test_a_new_head_starts_small_and_without_bias() -> None:
    head = masked_head(tiny.text_encoder())
    assert head.bias.tolist() == [0.0] * len(tiny.tokenizer())
    assert head.dense.bias.tolist() == [0.0] * 32
    assert head.dense.weight.std().item() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize("added", [-3, 4])
def test_the_bias_is_fitted_to_the_vocabulary(added: int, tmp_path: Path) -> None:
    own = masked_lm("bert", tmp_path).state_dict()["cls.predictions.bias"]
    model = embedkit.load(tmp_path, device="cpu")
    words = len(tiny.tokenizer()) + added
    model.encoder.resize_token_embeddings(words, mean_resizing=False)
    bias = masked_head(model).bias.detach()
    assert len(bias) == words
    kept = min(words, len(own))
    torch.testing.assert_close(bias[:kept], own[:kept], rtol=0, atol=0)
    assert bias[kept:].abs().sum() == 0


def test_word_vectors_of_another_size_have_no_such_head() -> None:
    with pytest.raises(ModelError, match="electra has word vectors of another size than its token vectors"):
        masked_head(tiny.text_encoder("electra"))


def test_only_a_text_encoder_is_a_masked_language_model(tmp_path: Path) -> None:
    from embedkit.models.modules.static import StaticEncoder

    StaticEncoder(tiny.tokenizer(), 8).save(tmp_path / "s")
    with pytest.raises(ModelError, match="is a static model; give a masked language model"):
        frozen_masked_model(str(tmp_path / "s"))


# --- hidden tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_special_tokens_are_never_hidden_and_the_rest_at_the_rate(rate: float) -> None:
    words = tiny.tokenizer()
    inputs = seeded(Inputs.of([[2, *range(10, 40), 3]] * 200))
    hidden = hide_tokens(inputs, words, rate).inputs
    changed = hidden.ids.numpy() != inputs.ids.numpy()
    special = np.isin(inputs.ids.numpy(), [2, 3])
    assert not changed[special].any()
    # one tenth stays as it is, and of the tenth that is drawn at random one in |V| is the word itself
    expected = rate * (0.9 - 0.1 / len(words))
    assert changed[~special].mean() == pytest.approx(expected, abs=0.02)
    assert hidden.offsets.tolist() == inputs.offsets.tolist()


def test_a_hidden_token_is_the_mask_itself_or_a_word_of_the_whole_vocabulary() -> None:
    words = tiny.tokenizer()
    inputs = seeded(Inputs.of([[9] * 50] * 200))
    ids = hide_tokens(inputs, words, 1.0).inputs.ids.numpy()
    assert ids.min() >= 0 and ids.max() < len(words)
    assert (ids == words.mask_token_id).mean() == pytest.approx(0.8 + 0.1 / len(words), abs=0.015)
    assert (ids == 9).mean() == pytest.approx(0.1 + 0.1 / len(words), abs=0.015)
    rest = ids[(ids != words.mask_token_id) & (ids != 9)]
    assert len(set(rest.tolist())) > 0.95 * (len(words) - 2)  # some 1000 draws
    assert np.bincount(rest).max() < 5 * len(rest) / len(words)


def test_streams_hide_other_tokens_and_one_stream_the_same() -> None:
    words = tiny.tokenizer()
    inputs = seeded(Inputs.of([[2, *range(10, 40), 3]] * 20))
    first, again, other = (hide_tokens(inputs, words, 0.5, stream).inputs.ids for stream in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    words = tiny.tokenizer()
    words.mask_token = None
    with pytest.raises(ModelError, match="has no mask token; use an encoder trained as a masked language model"):
        hide_tokens(seeded(Inputs.of([[2, 9, 3]])), words)
