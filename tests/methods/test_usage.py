"""Nothing is ignored, and nothing crashes: what a method and its objective read, over all that the registries hold."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from embedkit.config.recipe_io import load_recipe
from embedkit.config.settings import check
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.roles import ROLES
from embedkit.errors import RecipeError, UserError
from embedkit.methods import methods
from embedkit.methods.base import Method
from embedkit.methods.common.augmenting import augmented
from embedkit.methods.common.usage import (
    NUMBERS,
    Noted,
    Usage,
    _invented,
    _random,
    usage_of,
    views_of,
)
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.objectives import build
from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.probe import Situation, trial_run
from embedkit.objectives.registry import presets
from embedkit.objectives.tools import small_state
from embedkit.training import setup
from embedkit.training.view_checks import views_of_one_shape
from embedkit.views.base import View, views
from tests.methods import toys
from tests.objectives.test_families_contract import SETTINGS

NESTED = {name: SETTINGS[name] for name in ("sum", "harmonise", "mgda", "feature-transform")} | {
    "matryoshka": {"objective": "clip", "dims": [16, 8]},
    **{name: {"classes": 5} for name in ("proxy-anchor", "proxy-nca", "arcface", "cosface", "soft-triple")},
    "set-contrast": {"size": 2},  # seven rows hold one set of the default size, which is compared with none
}

BESIDE = ["captioning", "concepts", "image-text-matching", "patch-grouping"]
"""Methods that add a term to the views of another."""
OF_TOWERS = ["modalities"]
"""Methods whose views are the towers of a model, without which they have none."""
WHOLE = [name for name in methods if name not in (*BESIDE, *OF_TOWERS)]


def config(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **NESTED.get(name, {}), **more}


def method_of(name: str, *, ema: float | None = None) -> Method:
    method = methods[name](**toys.REQUIRED.get(name, {}))
    method.ema = ema
    return method


@lru_cache(maxsize=1)
def situations() -> dict[tuple[Any, ...], list[str]]:
    """What objectives are given by methods, with and without a guide -> the methods that give it."""
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for name in WHOLE:
        for ema in (None, 0.9):
            method = method_of(name, ema=ema)
            roles = method.contract.roles
            names = method.embedded(roles)
            seen = usage_views(method, roles)
            guided = frozenset(n for n in names if ema and n in seen and seen[n].guided)
            kind = (names, roles & NUMBERS, guided, tuple(method.widths.items()), method.embedding_size)
            kinds.setdefault(kind, []).append(f"{name}{' with a guide' if ema else ''}")
    return kinds


def usage_views(method: Method, roles: frozenset[str]) -> dict[str, Any]:
    return views_of(method, roles, False)[0]


def one_batch(names: frozenset[str], roles: frozenset[str], guided: frozenset[str], widths: dict[str, int], dim: int,
              limits: tuple[float, float]) -> tuple[dict[str, torch.Tensor], ObjectiveBatch]:  # fmt: skip
    """Seven rows drawn otherwise than those that the probe tries."""
    draw = torch.Generator().manual_seed(11)
    sizes = {name: 7 * (3 if name == "negatives" else 1) for name in sorted(names)}
    vectors = {n: torch.randn(s, dim * widths.get(n, 1), generator=draw, requires_grad=True) for n, s in sizes.items()}
    low, high = limits
    numbers: dict[str, Any] = {
        "score": low + (high - low) * torch.rand(7, generator=draw), "label": torch.arange(7) % 3,
        "group": torch.arange(7) // 3, "document_id": torch.arange(7) // 4, "position": torch.arange(7) % 4,
        "scores": {n: low + (high - low) * torch.rand(sizes[n], generator=draw) for n in ("positive", "negatives")
                   if n in sizes},
    }  # fmt: skip
    given = {role: numbers[role] for role in roles}
    guide = {name: torch.randn(sizes[name], dim, generator=draw) for name in guided}
    return vectors, ObjectiveBatch.of(vectors, guide=guide, **given)


COUNTS: Counter[str] = Counter()


@pytest.mark.parametrize("name", list(presets))
def test_every_objective_on_every_method_trains_or_is_refused_before_the_model_loads(name: str) -> None:
    """With and without guide, group, labels, scores, queue: a finite loss with a gradient, or a `UserError`."""
    forms = [config(name)]
    if presets[name].family == "table" and "bank" not in dict(presets[name].settings) and name != "kernel-mixture":
        forms.append(config(name, bank={"name": "queue", "size": 16}))
    for form in forms:
        for (names, numbers, guided, widths, size), users in situations().items():
            if "bank" in form and users[0] not in ("pairs", "simclr", "pairs with a guide"):
                continue
            for roles in {numbers, frozenset[str]()} if users[0] in ("pairs", "simclr") else {numbers}:
                situation = Situation(names, roles, guided, dict(widths), size, size)
                try:
                    built = build(form)
                    if built.requires - names - roles - ({"guide"} if guided else set()):
                        raise RecipeError("a role is missing")
                    _, dim = trial_run(form, situation)
                except UserError:
                    COUNTS["refused"] += len(users)
                    continue
                with small_state():
                    torch.manual_seed(0)
                    objective = build(form, dim=dim, num_rows=50_000)
                objective.begin(roles, dim if guided else None)
                limits = next((p.limits["score"] for p in objective.modules() if "score" in getattr(p, "limits", {})),
                              (0.0, 1.0))  # fmt: skip
                vectors, batch = one_batch(names, roles, guided, dict(widths), dim, limits)
                for _ in range(2):
                    loss = objective(vectors, batch).loss
                    assert torch.isfinite(loss), (form, users)
                    objective.after_step({n: z.detach() for n, z in vectors.items()}, batch)
                gradients = torch.autograd.grad(loss, list(vectors.values()), allow_unused=True)
                assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients), (form, users)
                COUNTS["trains"] += len(users)


def test_the_counts_of_the_walk_above() -> None:
    print(f"\nobjective x method x guide x roles x queue: {dict(COUNTS)}")
    if COUNTS:
        assert COUNTS["trains"] > 0


def usage(method: Method, objective: dict[str, Any], roles: frozenset[str], **more: Any) -> Usage:
    return usage_of(method, objective, roles, **more)


@pytest.mark.parametrize("name", BESIDE)
def test_what_has_no_views_of_its_own_is_refused_as_a_method(name: str) -> None:
    method = method_of(name)
    with pytest.raises(RecipeError, match="no views of its own; put it beside"):
        usage(method, {"name": "infonce"}, method.contract.roles)


@pytest.mark.parametrize("name", WHOLE)
def test_an_extra_of_each_sort_has_a_reader_or_is_refused(name: str) -> None:
    """Each role, guide, prompt, view and setting that a method is given beyond its needs is read, or told of."""
    method = method_of(name)
    own, needed = dict(method.objective or {}), toys.REQUIRED.get(name, {})
    outcomes: Counter[str] = Counter()
    needs_guide = bool(own) and "guide" in build(own).requires
    full = usage(method, own, method.contract.roles, optional=True, guide=needs_guide)
    narrowed = Contract(method.contract.requires, method.contract.accepts & full.roles)
    for role in ROLES:  # a role outside the contract is told of by the data: "nothing reads role ..."
        outcomes["read" if role in narrowed.roles else "told by the data"] += 1
    guided = method_of(name, ema=0.9)
    reads = method.reads_guide or (bool(own) and "guide" in build(own).requires | build(own).accepts)
    with contextlib.nullcontext() if reads else pytest.raises(RecipeError, match="guide"):
        usage(guided, own, guided.contract.roles, guide=True, optional=True)
    outcomes["guide read" if reads else "guide refused"] += 1
    for chain in ({"nosuchview": ["phrases"]}, {"anchor": ["nosuchstep"]}):
        with pytest.raises(UserError):
            usage(augmented(methods[name], chain)(**needed), own, method.contract.roles, guide=needs_guide)
        outcomes["refused"] += 1
    with pytest.raises(RecipeError, match=r"method\.nosuchsetting: unknown setting"):
        check(methods[name], {"nosuchsetting": 1}, "method")
    with pytest.raises(RecipeError, match="unknown setting 'nosuchsetting'"):
        build({**(own or {"name": "infonce"}), "nosuchsetting": 1})
    outcomes["refused"] += 2
    print(f"\n{name}: {dict(outcomes)}")
    assert sum(outcomes.values()) == len(ROLES) + 5


PROMPTED = [name for name in methods if "prompts" in inspect.signature(methods[name].__init__).parameters]


@pytest.mark.parametrize("name", PROMPTED)
def test_a_prompt_for_a_role_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"method\.prompts.*'anchr'.*anchor"):
        usage(methods[name](prompts={"anchr": "query: "}), {"name": "infonce"}, methods[name].contract.roles)
    good = methods[name](prompts={"anchor": "query: ", "positive": "passage: "})
    assert usage(good, dict(good.objective or {}), good.contract.roles).roles >= {"anchor", "positive"}
    assert good.prompts == {"anchor": "query: ", "positive": "passage: "}  # type: ignore[attr-defined]


@pytest.mark.parametrize("objective", ["vicreg", "barlow-twins", "infonce", "swav"])
def test_a_guide_that_no_objective_reads_is_refused(objective: str) -> None:
    method = method_of("simclr", ema=0.99)
    with pytest.raises(RecipeError, match="nothing reads the guide.*choose an objective that reads one"):
        usage(method, config(objective), method.contract.roles, guide=True, optional=True)


def test_a_mapping_among_the_settings_of_a_plug_in_is_read_or_refused() -> None:
    """The method checks nothing itself: what it never asks for is refused with what it asks for."""

    class Titled(Method):
        contract = Contract()

        def __init__(self, titles: dict[str, str]) -> None:
            self.titles = titles

        def views(self, rows: Any, random: Any) -> Any:
            texts = [f"{self.titles.get('anchor', '')} {row['anchor']}" for row in rows]
            return {"anchor": View(texts, list(range(len(rows))))}

    with pytest.raises(RecipeError, match=r"method\.titles\.anchr: nothing reads 'anchr'; known here: anchor"):
        usage(Titled({"anchr": "x"}), {}, frozenset({"anchor"}))
    assert usage(Titled({"anchor": "x"}), {}, frozenset({"anchor"})).roles == {"anchor"}


def test_labels_have_no_effect_on_pairs_and_one_on_supcon() -> None:
    method = method_of("pairs")
    assert "label" not in usage(method, config("infonce"), method.contract.roles, optional=True).roles
    assert "label" in usage(method, config("supcon"), method.contract.roles, optional=True).roles


def test_hard_negatives_that_the_objective_leaves_out_are_not_embedded() -> None:
    method = method_of("pairs")
    assert "negatives" not in usage(method, config("barlow-twins"), method.contract.roles, optional=True).roles
    assert "negatives" in usage(method, config("infonce"), method.contract.roles, optional=True).roles


def test_every_view_is_applied_or_refused_by_every_text_method() -> None:
    """A view in ``augment`` of the anchor: its chain has a place, or the method says why not."""
    settings: dict[str, dict[str, Any]] = {
        "substitution": {"table": "x.csv"}, "paraphrase": {"table": "x.csv"}, "template": {"text": "so {}"},
    }  # fmt: skip
    outcomes: Counter[str] = Counter()
    for method in methods:
        for step in views:
            try:
                cls = augmented(methods[method], {"anchor": [{"name": step, **settings.get(step, {})}]})
                one = cls(**toys.REQUIRED.get(method, {}))
                one.outline([Noted(_invented(one, i, one.contract.roles)) for i in range(3)], _random)
                outcomes["applied"] += 1
            except UserError:
                outcomes["refused"] += 1
    print(f"\nviews x methods: {dict(outcomes)}")
    assert outcomes["applied"] > 100


@pytest.mark.parametrize(
    ("name", "roles", "same_inputs"),
    [
        ("simcse-unsup", {"anchor"}, ("anchor", "positive")),
        ("dclr", {"anchor"}, ("anchor", "positive")),
        ("views", {"anchor"}, ("anchor", "positive")),
        ("views", {"anchor", "positive"}, ()),
        ("promcse", {"anchor"}, ("anchor", "positive")),
        ("promcse", {"anchor", "positive"}, ()),
        ("simcse-sup", {"anchor", "positive"}, ()),
        ("promptbert-unsup", {"anchor"}, ()),
        ("simclr", {"image"}, ()),
    ],
)
def test_views_that_only_dropout_tells_apart_are_known(
    name: str, roles: set[str], same_inputs: tuple[str, ...]
) -> None:
    method = method_of(name)
    assert usage(method, dict(method.objective or {}), frozenset(roles)).same_inputs == same_inputs


def test_images_of_one_shape_are_told_where_the_model_gives_each_its_own() -> None:
    """Patches that an auxiliary compares, and mixed images; nothing where shapes are kept or the model has one."""
    own, one = (SimpleNamespace(preprocess=Preprocess(patch=patch)) for patch in (16, None))
    for name, settings, told in (
        ("densecl", [], ["anchor", "positive"]), ("zerovl", ["method.mixup=0.1"], ["anchor"]), ("clip", [], []),
    ):  # fmt: skip
        method = setup.build_method(load_recipe(name, settings, smoke=True))
        usage = Usage(frozenset({"image", "texts"}))
        assert views_of_one_shape(method, usage, own) == told
        assert views_of_one_shape(method, usage, one) == []


def test_a_view_that_is_not_there_is_told_where_it_is_named() -> None:
    method = methods["image-views"](views=["byol", "byol-second", "byol"])
    objective = {"name": "view-pairs", "objective": "byol", "positives": ["positive", "view9"]}
    with pytest.raises(RecipeError, match=r"^objective\.positives\.1: no view .* 'view9'; did you mean 'view3'"):
        usage(method, objective, frozenset({"image"}))
    summed = {"name": "sum", "terms": [{"name": "byol"}, objective]}
    with pytest.raises(RecipeError, match=r"^objective\.terms\.1\.positives\.1: "):
        usage(method, summed, frozenset({"image"}))
