"""Several views of images and captions: what is drawn, what branches compute, what is told before a model is read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.recipe import GuideConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.data.images.pictures import load_picture
from embedkit.errors import DataError, RecipeError
from embedkit.methods import methods
from embedkit.methods.branches.captions import drawn_texts
from embedkit.objectives.base import ObjectiveBatch
from embedkit.training.setup import build_method, open_rows
from tests.helpers import image_data

LONG = ["a dog", "One. Two. Three. Four.", "Five. Six."]


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 0]))


def test_every_sentence_is_drawn_the_last_one_too_and_none_twice_while_there_are_others() -> None:
    kinds: Any = {"positive": "first", **{f"text{i}": "sentence" for i in range(1, 6)}, "text6": "same"}
    counts: Counter[str] = Counter()
    for seed in range(600):
        texts = drawn_texts(LONG, kinds, 1, random(seed))
        assert texts["positive"] == texts["text6"] == "a dog"
        drawn = [texts[f"text{i}"] for i in range(1, 6)]
        assert len(set(drawn)) == 5
        counts.update(drawn)
    assert set(counts) == {"One.", "Two.", "Three.", "Four.", "Five.", "Six."}
    assert max(counts.values()) - min(counts.values()) < 60


def test_few_sentences_are_drawn_equally_often_and_runs_stay_in_their_caption() -> None:
    kinds: Any = {"positive": "first", **{f"text{i}": "sentence" for i in range(1, 5)}}
    drawn = drawn_texts(["a dog", "One. Two."], kinds, 1, random(1))
    assert Counter(list(drawn.values())[1:]) == {"One.": 2, "Two.": 2}
    found = {drawn_texts(LONG, {"text": "sentence", "raw": "first"}, 2, random(seed))["text"] for seed in range(99)}
    assert found == {"One. Two.", "Two. Three.", "Three. Four.", "Five. Six."}
    only = drawn_texts(["One. Two."], {"positive": "first", "text": "sentence"}, 1, random(0))
    assert only["positive"] == "One. Two." and only["text"] in ("One.", "Two.")


def test_texts_of_a_row_stay_with_it_where_they_are_not_as_many_as_the_rows() -> None:
    method = methods["clip-views"](texts={"positive": "first", "text1": "sentence", "text2": "sentence"})
    rows = [{"image": b"", "texts": [f"raw {row}", f"One of {row}. Two of {row}. Three of {row}."]} for row in range(5)]
    views = method.views(rows, random)
    for name in ("positive", "text1", "text2"):
        assert views[name].owner == list(range(5))
        assert [str(row) in text for row, text in enumerate(views[name].inputs)] == [True] * 5


def test_a_negated_text_is_the_first_one_with_words_around() -> None:
    rows = [{"image": b"", "texts": ["a dog", "a cat"]}] * 3
    for settings, around in ({}, "This image does not show {}"), ({"negation": "no {}"}, "no {}"):
        method = methods["clip-views"](texts={"positive": "caption", "text1": "negated"}, **settings)
        views = method.views(rows, random)
        assert views["text1"].inputs == views["positive"].inputs
        assert (views["text1"].prompt, views["positive"].prompt) == (around, None)


def test_a_branch_is_a_projector_for_each_tower_on_what_the_tower_gives() -> None:
    """One hidden layer, normalised over all rows of a view; the shared vectors are the model's own."""
    from embedkit.factory import build

    recipe = load_recipe("clip", smoke=True)
    method = methods["clip-views"](
        images={"anchor": "none", "image1": "none"}, texts={"positive": "caption", "text1": "same"},
        projectors={"local": {"views": ["image1", "text1"], "layers": 2, "hidden": 6, "size": 5}},
    )  # fmt: skip
    model: Any = build(recipe.model, 0).double().eval()
    parts = method.parts(model).double()
    assert sorted(parts) == ["local-image", "local-text"] and method.sizes == {"local-image1": 5, "local-text1": 5}
    samples = image_data.samples(4)
    batch = [{"image": load_picture(image), "texts": [text]} for image, text in samples]
    views = method.views(batch, random)
    outputs = {
        name: method.embed(model, parts, method.prepare(model, name, view), **view.settings)
        for name, view in views.items()
    }
    facts = ObjectiveBatch.of(outputs, keys={name: torch.arange(4) for name in outputs})
    made = method.project(outputs, facts, parts)
    for view, tower in (("image1", "image"), ("text1", "text")):
        inputs = method.prepare(model, view, views[view])
        encoder = model.image if tower == "image" else model.text
        raw = encoder(model.pixels(inputs) if tower == "image" else inputs)
        torch.testing.assert_close(made[view], model.projections[tower](raw))
        first, norm, _, last = parts[f"local-{tower}"]  # type: ignore[misc]
        hidden = raw @ first.weight.T
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt()
        torch.testing.assert_close(made[f"local-{view}"], hidden.relu() @ last.weight.T + last.bias)
        assert torch.equal(facts.owner[f"local-{view}"], facts.owner[view])
    assert made["anchor"].shape == (4, model.dim)


def test_the_mean_of_a_branch_follows_the_guides_decay() -> None:
    from embedkit.factory import build

    method = methods["clip-views"](
        projectors={"self": {"views": ["anchor"], "layers": 1, "size": 3, "reads": "shared"}}
    )
    method.use_guide(GuideConfig(ema=0.9, ema_end=1.0))
    parts = method.parts(build(load_recipe("clip", smoke=True).model, 0))
    old = {n: p.detach().clone() for n, p in parts["mean-self-image"].named_parameters()}
    with torch.no_grad():
        for parameter in parts["self-image"].parameters():
            parameter.add_(1.0)
    batch = ObjectiveBatch.of({"anchor": torch.zeros(1, 1)}, guide_decay=0.25)
    method.after_step({}, {}, batch, None, parts)
    for name, mean in parts["mean-self-image"].named_parameters():
        torch.testing.assert_close(mean, old[name] + 0.75)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": {"image1": "weak"}}, "method.images: there is no view 'anchor'"),
        ({"texts": {"text1": "caption"}}, "method.texts: there is no view 'positive'"),
        ({"texts": {"positive": "sentences"}}, "sentences"),
        ({"texts": {"positive": "caption", "anchor": "same"}}, "a view of images and of texts"),
        ({"merged": 2}, "no view draws sentences"),
        ({"negation": "no {}"}, "method.negation: no view is negated"),
        ({"texts": {"text1": "negated", "positive": "caption"}}, "method.texts.text1: 'negated' is the text of the"),
        ({"images": {"anchor": "weeak"}}, "weak"),
        ({"projectors": {"local": {"views": ["image1"]}}}, "there is no view 'image1'"),
        ({"projectors": {"lo.cal": {"views": ["anchor"]}}}, "a projector called 'lo.cal'"),
        ({"projectors": {"local": {"views": []}}}, "it reads no view"),
        ({"projectors": {"local": {"views": ["anchor"], "wide": 3}}}, "unknown setting 'wide'"),
        ({"projectors": {"local": {}}}, "views is missing"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        methods["clip-views"](**settings)


def test_captions_without_sentences_are_told_before_a_model_is_read() -> None:
    recipe = load_recipe("dreamlip", ["data.train=[{path: 'builtin:shapes-train', limit: 64}]"], smoke=True)
    with pytest.raises(
        DataError, match=r"none of the first 16 rows has a caption of two sentences; give long captions"
    ):
        open_rows(recipe, build_method(recipe))


def test_a_term_on_a_branch_of_another_size_says_what_it_needs() -> None:
    from embedkit.training import setup

    recipe = load_recipe("siamlip", ["method.projectors.siam.size=24"], smoke=True)
    with pytest.raises(
        Exception, match=r"has vectors of 128 numbers, the embedding 'siam-.*' has 24; give the term dim: 24"
    ):
        setup.check_all(recipe)


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("method.images.image3=weak", r"method\.images\.image3: .*'image3'"),
        ("method.texts={positive: caption, text1: first}", r"method\.texts\.text1: .*'text1'"),
    ],
)
def test_a_view_that_no_term_and_no_projector_reads_is_refused(override: str, place: str) -> None:
    from embedkit.training import setup

    with pytest.raises(RecipeError, match=place):
        setup.check_all(load_recipe("slip", [override], smoke=True))


def test_a_view_that_a_method_beside_reads_may_have_no_term() -> None:
    from embedkit.training import setup

    texts, beside = "method.texts={positive: caption, text1: first}", "auxiliary=[{name: patch-grouping, view: text1}]"
    assert setup.check_all(load_recipe("slip", [texts, beside], smoke=True)).contract.requires == {"image", "texts"}
