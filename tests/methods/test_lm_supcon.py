"""LM-SupCon: what its prompts hold, both losses against plain restatements, two optimiser steps on a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError, RecipeError
from embedkit.methods.common.prompts import in_prompts
from embedkit.methods.lm_supcon import LMSupCon
from embedkit.training import setup
from embedkit.training.loop.build import open_inputs, opened
from embedkit.training.loop.loop import loop
from tests.methods import toys
from tests.objectives.oracles import softmax
from tests.training import runs
from tests.training.test_stored_losses import recipe

WORDS = {"0": "dog", "1": "park"}
ROWS = [{"anchor": text, "class:label": label} for text, label in zip(toys.TEXTS, ["0", None, "1", "0"], strict=True)]


def made(**settings: Any) -> tuple[LMSupCon, Any]:
    model = toys.encoder(pooling="mask")
    method = LMSupCon(WORDS, "the {} is [MASK]", **settings)
    torch.manual_seed(1)
    method.adapt(model)
    return method, model.double()


def random(row: int) -> np.random.Generator:
    return np.random.default_rng([7, row])


def test_views_hold_a_drawn_template_and_an_example_of_each_class_but_the_text_itself() -> None:
    method, model = made(demonstrations=True, templates=["{} so [MASK]", "[MASK] as {}"])
    method.learn_start(model, method.parts(model), ROWS)
    assert method.examples == {"0": [toys.TEXTS[0], toys.TEXTS[3]], "1": [toys.TEXTS[2]]}
    views = method.views(ROWS * 10, random)
    assert list(views) == ["anchor", "second", "first"]
    contents = {name: [json.loads(prompt) for prompt in view.inputs] for name, view in views.items()}
    assert {template for _, template, _ in contents["anchor"]} == {"the {} is [MASK]"}
    assert {template for _, template, _ in contents["first"]} == {"{} so [MASK]", "[MASK] as {}"}
    assert contents["first"] != contents["second"]
    for text, _, examples in contents["second"]:
        assert text not in [shown for shown, _ in examples]
        known = [(shown, WORDS[row["class:label"]]) for shown, row in zip(toys.TEXTS, ROWS, strict=True)
                 if row["class:label"] is not None]  # fmt: skip
        assert all(tuple(example) in known for example in examples)
    one = model.tokenizer.decode(in_prompts(model, views["anchor"]).rows()[0])
    assert one.count(model.tokenizer.mask_token) == 1 and "dog" in one and "park" in one


def test_without_examples_the_anchor_is_the_first_view() -> None:
    method, _ = made()
    views = method.views(ROWS, random)
    assert list(views) == ["anchor", "second"]
    assert json.loads(views["anchor"].inputs[1]) == ["the dog", "the {} is [MASK]", []]


def terms(method: LMSupCon, model: Any, **more: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    parts = method.parts(model).double()
    views = method.views(ROWS, random)
    outputs = {
        name: method.embed(model, parts, method.prepare(model, name, view)).detach() for name, view in views.items()
    }
    numbers = {name: torch.from_numpy(values) for name, values in method.targets(ROWS).items()}
    batch = toys.batch(outputs, 4, targets=numbers, **more)
    return method.terms(outputs, {}, batch, parts), outputs, parts


def test_the_losses_are_those_of_the_formulas(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    method, model = made(fidelity="paper")
    torch.nn.init.normal_(model.mask_head.bias)
    found, outputs, parts = terms(method, model)

    model.eval().save(tmp_path / "model")
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", attn_implementation="eager").double().eval()
    losses = []
    for text, label in ((toys.TEXTS[0], 0), (toys.TEXTS[2], 1), (toys.TEXTS[3], 0)):
        tokens = model.tokenizer(f"the {text} is [MASK]", return_tensors="pt")
        place = int((tokens["input_ids"][0] == model.tokenizer.mask_token_id).nonzero()[0])
        logits = theirs(**tokens).logits[0, place].detach().numpy()
        two = logits[[model.tokenizer.convert_tokens_to_ids(word) for word in WORDS.values()]]
        losses.append(np.log(np.exp(two).sum()) - two[label])
    assert float(found["label-words"]) == pytest.approx(np.mean(losses), rel=1e-5)

    z = torch.cat([parts["projector"](outputs[name][:, :-2]) for name in ("anchor", "second")]).detach().numpy()
    rows = softmax.supcon_rows(z, [0, -1, 1, 0] * 2, 0.07, False)
    assert float(found["contrast"]) == pytest.approx(np.mean(rows), rel=1e-9)


def test_the_release_takes_a_step_on_each_loss() -> None:
    method, model = made()
    assert method.turns == 2 and made(fidelity="paper")[0].turns == 1
    assert list(terms(method, model, turn=0)[0]) == ["contrast"]
    assert list(terms(method, model, turn=1)[0]) == ["label-words"]


@pytest.mark.parametrize(("case", "turns"), [("lm-supcon", 2), ("lm-supcon+paper", 1)])
def test_a_run_steps_as_often_as_the_method_says(tmp_path: Path, case: str, turns: int) -> None:
    from embedkit.config.recipe_io import load_recipe

    given = recipe(case)
    given["train"] |= {"max_steps": 3}
    recorder = runs.Recorder()
    with opened(open_inputs(setup.check_all(load_recipe(given))), tmp_path, recorder) as run:
        loop(run)
        counts = {int(state["step"]) for state in run.state.optimiser.adamw.state.values()}
    assert run.state.position.step == 3
    assert max(counts) == 3 * turns
    assert {"contrast", "label-words"} <= recorder.figures[1].keys()
    parts = recorder.figures[1]["contrast"] + recorder.figures[1]["label-words"]
    assert recorder.figures[1]["loss"] == pytest.approx(parts, rel=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="mask token"):
        LMSupCon(WORDS).adapt(toys.encoder())
    with pytest.raises(RecipeError, match="'extraordinarily' is unknown; choose a word"):
        LMSupCon({"0": "dog", "1": "extraordinarily"}).adapt(toys.encoder(pooling="mask"))
