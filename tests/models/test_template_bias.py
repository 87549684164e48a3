"""Template denoising against the definition: each text's vector minus that of its template alone, at its places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embedkit.errors import UserError
from embedkit.models.augment.template_bias import TemplateBias, bare_templates
from embedkit.models.heads.layers import Dense
from embedkit.models.inputs.inputs import Inputs
from tests.helpers import tiny

TEMPLATE = "the sentence {} means [MASK] ."
TEXTS = ["a man", "the dog", "two children are running", "", "they eat", "two children are running"]


def encoder(bias: dict[str, Any] | None, **settings: Any) -> Any:
    return tiny.text_encoder(
        settings.pop("family", "bert"), pooling="mask", prompts={"t": TEMPLATE}, default_prompt="t", normalize=False,
        template_bias=bias, **settings,
    )  # fmt: skip


def by_hand(model: Any, inputs: Inputs, first: int = 0, shift: int = 0) -> tuple[Tensor, Tensor]:
    """Mask-token states (N, H) of each text, and of its template without the text, one at a time."""
    whole, bare = [], []
    mask = model.tokenizer.mask_token_id
    for row, (start, stop) in zip(inputs.rows(), inputs.data["gaps"], strict=True):
        places = [*range(start), *range(stop, len(row))]
        for kept, results, extra in ((list(range(len(row))), whole, 0), (places, bare, shift)):
            ids = torch.tensor([[row[place] for place in kept]])
            positions = torch.tensor([[place + first + extra for place in kept]])
            states = model.encoder(input_ids=ids, position_ids=positions).last_hidden_state[0]
            results.append(states[[row[place] for place in kept].index(mask)])
    return torch.stack(whole), torch.stack(bare)


@pytest.mark.parametrize(("family", "first", "shift"), [("bert", 0, 0), ("roberta", 1, 0), ("roberta", 1, -1)])
def test_the_bias_is_the_template_alone_at_the_places_it_had(family: str, first: int, shift: int) -> None:
    model = encoder({"when": "always", "shift": shift}, family=family)
    inputs = model.prepare(TEXTS)
    with torch.no_grad():
        whole, bare = by_hand(model, inputs, first, shift)
        torch.testing.assert_close(model(inputs), whole - bare, atol=1e-5, rtol=1e-4)
    assert bare.std(0).max() > 1e-3  # the places differ by the length of the text


def test_a_head_reads_the_difference_or_is_applied_to_both() -> None:
    for at in ("pooled", "head"):
        torch.manual_seed(0)
        head = Dense(32, 8, "tanh")
        model = encoder({"when": "always", "at": at}, dense=[head])
        inputs = model.prepare(TEXTS)
        with torch.no_grad():
            whole, bare = by_hand(model, inputs)
            expected = head(whole - bare) if at == "pooled" else head(whole) - head(bare)
            torch.testing.assert_close(model(inputs), expected, atol=1e-5, rtol=1e-4)


def test_in_training_alone() -> None:
    model = encoder({"when": "training"}, dropout=0.0)
    inputs = model.prepare(TEXTS)
    with torch.no_grad():
        whole, bare = by_hand(model, inputs)
        torch.testing.assert_close(model(inputs), whole, atol=1e-5, rtol=1e-4)
        model.train()
        torch.testing.assert_close(model(inputs), whole - bare, atol=1e-5, rtol=1e-4)
    assert model.beyond_modules == []
    assert encoder({"when": "always"}).beyond_modules == ["the bias of its template is taken off the vector"]


def test_vectors_do_not_depend_on_the_company() -> None:
    model = encoder({"when": "always"})
    together = model.encode(TEXTS)
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_bias_takes_part_in_the_gradient() -> None:
    model = encoder({"when": "always"}, dropout=0.0).train()
    inputs = model.prepare(TEXTS)
    grads = []
    for run in (lambda: model(inputs), lambda: torch.sub(*by_hand(model, inputs))):
        model.zero_grad()
        run().square().sum().backward()
        grads.append(model.encoder.embeddings.position_embeddings.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1], atol=1e-3, rtol=1e-3)


def test_one_bare_template_for_each_length() -> None:
    model = encoder({"when": "always"})
    inputs = model.prepare(TEXTS)
    bare, own = bare_templates(inputs)
    lengths = (inputs.data["gaps"][:, 1] - inputs.data["gaps"][:, 0]).tolist()
    assert len(bare) == len(set(lengths))
    same = {(i, j) for i in range(len(own)) for j in range(len(own)) if own[i] == own[j]}
    assert same == {(i, j) for i in range(len(own)) for j in range(len(own)) if lengths[i] == lengths[j]}
    assert len({tuple(row) for row in bare.rows()}) == 1  # the tokens are the template's, the positions differ


def test_an_empty_text_has_the_template_as_it_is() -> None:
    model = encoder({"when": "always"})
    (empty,) = model.encode([""], normalize=False)
    np.testing.assert_allclose(empty, 0.0, atol=1e-5)


def test_without_a_template_with_a_mask_the_way_is_said() -> None:
    model = encoder({"when": "always"})
    with pytest.raises(UserError, match=r"needs inputs made with a template that holds the mask token") as caught:
        bare_templates(model.prepare(["a dog"], ""))
    assert "model.prompts" in str(caught.value.remedy)
    marked = Inputs.of([[2, 4, 3]], marks=[1])  # a marked token alone does not say where the text was
    with pytest.raises(UserError, match="needs inputs made with a template"):
        bare_templates(marked)
    gaps = Inputs.of([[2, 4, 3]], data={"gaps": np.array([[1, 2]])})
    with pytest.raises(UserError, match="needs inputs made with a template"):
        bare_templates(gaps)


def test_settings_as_plain_values() -> None:
    assert TemplateBias().spec() == {"when": "always", "at": "pooled", "shift": 0}
    known = {"when": "training", "at": "head", "shift": -2}
    assert encoder(known).spec()["template_bias"] == known
    assert "template_bias" not in encoder(None).spec()


def test_no_inputs_have_no_bias() -> None:
    model = encoder({"when": "always"})
    assert model(model.prepare([])).shape == (0, 32)
