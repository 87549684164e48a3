"""The settings of every method: what is wrong is refused with the key, in recipes and in Python, never by a crash."""

from __future__ import annotations

import contextlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from embedkit.config.recipe import GuideConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.config.sections import Component
from embedkit.config.settings import Count, File, check
from embedkit.errors import RecipeError, UserError
from embedkit.methods import methods
from embedkit.methods.base import Method
from embedkit.methods.branches.image_projectors import ImageProjectors
from embedkit.methods.branches.projectors import Branches
from embedkit.training import setup
from tests.methods import toys
from tests.training import runs

SETTINGS = [(name, key) for name, cls in methods.items() for key in inspect.signature(cls).parameters]
NEVER = ([3], {"x": [3]})  # fit no setting: not a number, text, a switch, a list of layers or of chains, a mapping
PERHAPS = (3, 3.5, -1, "x", True, None, [], {}, ["a", "b"], float("nan"))


RECIPE = load_recipe(runs.recipe())


GUIDES = dict.fromkeys(("moco", "adacontrast", "feature-search", "ibot", "slotcon"), GuideConfig(ema=0.9))
"""Of methods that cannot do without."""


def built(name: str, settings: dict[str, Any]) -> Method:
    method = Component(name=name, **settings)
    return setup.build_method(RECIPE.model_copy(update={"method": method, "guide": GUIDES.get(name)}))


def state(method: Method | Branches | ImageProjectors) -> dict[str, Any]:
    """What a method keeps; of a method or branches that it holds, what those keep."""
    held = (Method, Branches, ImageProjectors)
    return {key: state(value) if isinstance(value, held) else value for key, value in vars(method).items()}


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_a_wrong_type_is_told_with_the_key(name: str, key: str) -> None:
    for build in (built, lambda name, settings: methods[name](**settings)):
        for wrong in NEVER:
            with pytest.raises(RecipeError, match=rf"^method\.{key}[.:]") as caught:
                build(name, {**toys.REQUIRED.get(name, {}), key: wrong})
            assert caught.value.remedy


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_any_value_is_taken_or_refused(name: str, key: str) -> None:
    for value in PERHAPS:
        with contextlib.suppress(UserError):
            built(name, {**toys.REQUIRED.get(name, {}), key: value})


@pytest.mark.parametrize("name", methods)
def test_the_default_is_a_value_that_may_be_given(name: str) -> None:
    needed = toys.REQUIRED.get(name, {})
    defaults = {key: needed.get(key, p.default) for key, p in inspect.signature(methods[name]).parameters.items()}
    method = methods[name](**needed)
    method.use_guide(GUIDES.get(name))
    assert state(built(name, defaults)) == state(method)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("dclr", {"fidelity": "both"}, "method.fidelity: fidelity is 'both'; it must be 'code' or 'paper'"),
        ("dclr", {"fidelty": "code"}, "method.fidelty: unknown setting 'fidelty'; did you mean 'fidelity'?"),
        ("dclr", {"augmnt": {}}, "method.augmnt: unknown setting 'augmnt'; did you mean 'augment'?"),
        ("micse", {"layers": [1, "b"]}, "method.layers.1: layers.1 is 'b'; it must be a whole number"),
        ("micse", {"layers": 3}, "method.layers: layers is 3; it must be a list"),
        ("micse", {"layers": "7"}, "method.layers: layers is '7'; it must be a list"),
        ("clip", {"transform": 3}, "method.transform: transform is 3; it must be text or a mapping"),
        ("clip", {"template": "a {} {}"}, "it must hold {} once, where the text goes"),
        ("pairs", {"prompts": {"anchor": 3}}, "method.prompts.anchor: prompts.anchor is 3; it must be text"),
        ("sg-opt", {"hidden": 0}, "method.hidden: hidden is 0; it must be at least 1"),
        ("sg-opt", {"hidden": 10.7}, "method.hidden: hidden is 10.7; it must be a whole number"),
        ("sent2vec", {"t": True}, "method.t: t is True; it must be a number"),
        ("consert", {"first": {"token_cutoff": 1}}, "method.first.token_cutoff: token_cutoff is 1; it must be less"),
        ("consert", {"first": {"adversarial": 1}}, "method.first.adversarial: unknown setting"),
        ("views", {"more": ["dropout"]}, "method.more.0"),
        ("views", {"positive": 3}, "method.positive: an entry has no name"),
        ("simcse-unsup", {"augment": {"positive": 3}}, "method.augment.positive: an entry has no name"),
    ],
)
def test_what_is_said(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        built(name, settings)


def test_auxiliaries_are_named_by_their_place() -> None:
    given = {**runs.recipe(), "auxiliary": [{"name": "mlm", "weight": 0.1, "rate": "x"}]}
    with pytest.raises(RecipeError, match=r"^auxiliary\.0\.rate: rate is 'x'"):
        setup.build_method(load_recipe(given))


def test_a_new_method_is_checked_without_a_line_for_it() -> None:
    class Own(methods["mcse"]):  # type: ignore[misc]
        def __init__(self, often: Count, *, file: File = "a", **more: Any) -> None:
            super().__init__(**more)
            self.often, self.file = often, file

    made = Own(2, file=Path("x"), size=7)
    assert (made.often, made.file, made.size) == (2, "x", 7)
    with pytest.raises(RecipeError, match=r"method\.often: often is 0"):
        Own(0)
    with pytest.raises(RecipeError, match=r"method\.size: size is 0"):
        Own(1, size=0)
    with pytest.raises(RecipeError, match=r"method\.often: often is missing; give it a value"):
        check(Own, {}, "method")
    with pytest.raises(TypeError, match="often"):
        Own()


def test_numbers_come_out_as_the_annotation_has_them_in_the_order_given() -> None:
    def part(rate: float = 0.5, count: int = 1) -> None: ...

    found = check(part, {"count": 2, "rate": 1}, "x")
    assert list(found.items()) == [("count", 2), ("rate", 1.0)]
    assert isinstance(found["rate"], float)


@pytest.mark.parametrize(
    "change",
    [
        {"train.trackers": ["wandb", "wandb"]}, {"evaluation": {"suite": "sts", "tasks": ["stsb", "stsb"]}},
        {"model.lora": {"targets": ["query", "query"]}, }, {"guide": {"ema": 0.9, "parts": ["head", "head"]}},
        {"data.train": [{"path": "faq.csv", "header": ["question", "question"]}]},
        {"method": {"name": "micse", "layers": [7, 7]}},
    ],
)  # fmt: skip
def test_an_entry_that_stands_twice_in_a_list_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"name ('\w+'|7) once, it stands there twice"):
        setup.build_method(load_recipe(runs.recipe(), change))


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("clip", {"cutmix": 0.5}, r"method\.cutmix: has no effect without mixup; set that, or leave it out \(0\.0 if"),
        ("clip", {"mix_texts": 0.9}, r"method\.mix_texts: has no effect without mixup"),
        ("sent2vec", {"least": 9}, r"method\.least: has no effect without frequencies"),
        ("vat", {"reads": "vectors", "rate": 0.3}, r"method\.rate: has no effect without reads: words"),
    ],
)
def test_a_setting_that_another_one_switches_off_is_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        methods[name](**settings)
