"""Lists of image views: sizes, who sees them, one decoding, groups of one draw; teachers that cover the projector."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from embedkit.config.recipe import GuideConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.data import RowBatch
from embedkit.errors import ModelError, RecipeError
from embedkit.methods import methods
from embedkit.models.heads.projector import projector
from embedkit.objectives.base import ObjectiveBatch
from embedkit.training import setup
from embedkit.training.loop import build
from embedkit.training.loop.batches import prepare
from embedkit.training.loop.guide import Guide
from embedkit.training.parallel.engine import Engine
from embedkit.views.crops import crops_of
from tests.helpers import image_data
from tests.methods.test_image_methods import DUAL, _rows
from tests.training import common

VIEWS = [{"name": "small", "count": 2}, {"name": "small", "crop": [0.05, 0.3], "size": 16, "count": 3}]
SMALL = {"views": VIEWS, "hidden": 24, "size": 8}


def _step(method: Any, objective: Any, decay: float = 0.5) -> Any:
    from embedkit import objectives

    method.use_guide(GuideConfig(ema=decay))
    step = common.make_step(objective, None, method=method, config=DUAL)
    step.bundle.objective = objectives.build(objective, dim=method.embedding_size, num_rows=64).double()
    step.bundle.guide = Guide(
        GuideConfig(ema=decay), step.bundle.model, method.followed_parts(step.bundle.parts)
    ).double()
    step.bundle.train()
    return step


def test_views_have_their_sizes_and_the_teacher_sees_the_large_ones() -> None:
    step = _step(methods["image-views"](**SMALL), {"name": "byol", "hidden": 4})
    batch = common.step_batch(step, _rows(6))
    pools = {tuple(name for name, _ in pool.names): pool for pool in batch.pools}
    large, small = pools["anchor", "positive"], pools["view3", "view4", "view5"]
    assert large.inputs.pixels.shape == (12, 3, 32, 32) and small.inputs.pixels.shape == (18, 3, 16, 16)
    assert (large.guided, small.guided) == (True, False)
    assert small.inputs.patches * 4 == large.inputs.patches
    assert len({item.seed for view in batch.views.values() for item in view.inputs}) == 30


def test_the_teacher_covers_the_projector_and_gives_keys_of_every_view_that_it_sees() -> None:
    """Against the two means run by hand: encoder, then projector over all of its views in one pass."""
    views = [{"name": "small", "count": 2}, {"name": "small", "size": 16, "teacher": True}]
    step = _step(methods["image-views"](views=views, hidden=24, size=8), {"name": "swav", "prototypes": 6})
    with torch.no_grad():
        for parameter in step.bundle.guide.parameters():
            parameter.mul_(1.5)
    data = _rows(6)
    step.gradients(common.step_batch(step, data))
    batch = common.step_batch(step, data)
    outputs = {}
    for pool in batch.pools:
        sizes = [count for _, count in pool.names]
        with torch.no_grad():
            vectors = step.bundle.guide.encoder(pool.inputs).double().split(sizes)
        outputs |= dict(zip([name for name, _ in pool.names], vectors, strict=True))
    linear, norm, _, last = step.bundle.guide.parts["projector"]
    hidden = linear(torch.cat(list(outputs.values())))
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    wanted = last(hidden.relu()).split(6)
    for (name, found), vectors in zip(step.latest.batch.guide.items(), wanted, strict=True):
        torch.testing.assert_close(found, vectors, msg=name)


def test_a_mean_follows_along_its_schedule_and_covers_chosen_parts_only() -> None:
    model, part = torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)
    guide = Guide(GuideConfig(ema=0.9, ema_end=1.0), model, {"projector": part})
    before, mean = model.weight.detach().clone(), part.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1.0
        part.weight += 2.0
        part.running_mean.fill_(3.0)  # type: ignore[union-attr]
    guide.after_update(model, {"projector": part}, progress=0.5)  # decay 0.95
    torch.testing.assert_close(guide.encoder.weight, before + 0.05)
    torch.testing.assert_close(guide.parts["projector"].weight, mean + 0.1)
    assert float(guide.parts["projector"].running_mean[0]) == 3.0
    guide.after_update(model, {"projector": part}, progress=1.0)
    torch.testing.assert_close(guide.encoder.weight, before + 0.05)  # decay 1
    method = methods["simclr"]()
    method.use_guide(GuideConfig(ema=0.9, parts=[]))
    assert (method.guide_dim(7), list(method.followed_parts(torch.nn.ModuleDict()))) == (7, [])
    assert [crop.teacher for crop in crops_of(VIEWS)] == [True, True, False, False, False]


@pytest.mark.parametrize("name", ["moco", "image-views"])
@pytest.mark.parametrize(
    "objective",
    [{"name": "byol", "hidden": 8}, {"name": "all4one", "hidden": 8, "size": 32, "heads": 2},
     {"name": "mls", "size": 32}, {"name": "ascl", "size": 32, "keys": "guide"}],
    ids=lambda objective: objective["name"],
)  # fmt: skip
def test_every_objective_that_reads_a_guide_works_on_every_image_method(
    tmp_path: Path, name: str, objective: dict[str, Any]
) -> None:
    overrides = [f"method={{name: {name}, transform: small, hidden: 24, size: 8}}", f"objective={objective}",
                 "guide={ema: 0.9}", "train.max_steps=1"]  # fmt: skip
    recipe = load_recipe("simclr", overrides, smoke=True)
    inputs = build.open_inputs(setup.check_all(recipe))
    state, _ = build.build_state(inputs, Engine(recipe, tmp_path), "fp32")
    world = build.World()
    step = build.TrainStep(state.bundle, inputs.method, world, build.Chunking(), autocast=contextlib.nullcontext)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(contextlib.closing(build.batches_of(inputs, state, None, world, stack)))
        result = step.gradients(next(stream))
        step.after_update()
        with torch.no_grad():  # at first a mean is what it follows, and a difference of both has no gradient
            for parameter in state.bundle.guide.parameters():  # type: ignore[union-attr]
                parameter.mul_(1.5)
        second = step.gradients(next(stream))
    assert torch.isfinite(result.loss) and torch.isfinite(second.loss)
    image = [p.grad for key, p in state.bundle.model.named_parameters() if key.startswith("image.")]
    assert any(grad is not None and bool(grad.any()) for grad in image)


def test_moco_computes_what_is_read_only() -> None:
    """Queries by the encoder, keys by its mean; both by both for an objective that is symmetric."""
    for objective, trained, guided in (
        ({"name": "moco", "size": 32, "direction": {"name": "rows", "keys": "guide"}}, {"anchor"}, {"positive"}),
        ({"name": "byol", "hidden": 4}, {"anchor", "positive"}, {"anchor", "positive"}),
    ):
        method = setup.check(load_recipe("moco", [f"objective={objective}"], smoke=True))
        assert (method.trained_views, method.guide_views) == (trained, guided)
        views = method.views(_rows(4), np.random.default_rng)
        assert {name for name, view in views.items() if view.guided} == guided
        assert {name for name, view in views.items() if not view.settings} == trained


@pytest.mark.parametrize("beside", ["{name: heads, heads: [{target: label, views: [positive]}]}",
                                    "{name: lorot, view: positive}"])  # fmt: skip
def test_a_view_that_something_beside_reads_is_embedded_by_the_encoder_too(beside: str) -> None:
    changes = [f"auxiliary=[{beside}]", "auxiliary.0.weight=1.0",
               'data.train=[{path: "builtin:shapes-train", columns: {image: image, label: label}}]']  # fmt: skip
    method: Any = setup.check(load_recipe("moco", changes, smoke=True))
    assert (method.main.trained_views, method.main.guide_views) == ({"anchor"}, {"positive"})
    views = method.views(_rows(4), np.random.default_rng)
    assert views["positive"].guided and not views["positive"].settings.get("key")


def test_orl_compares_a_region_with_its_partner_and_with_itself() -> None:
    """The loss against BYOL's on each of the two pairs; a row without a partner has its own image there."""
    recipe = load_recipe("orl", smoke=True)
    method, wanted = setup.check(recipe), []
    rows = [{**row, "image2": other["image"]} for row, other in zip(_rows(4), _rows(8)[4:], strict=True)]
    views = method.views([*rows, _rows(4)[0]], np.random.default_rng)
    shown = {name: [item.picture for item in view.inputs] for name, view in views.items()}
    assert shown["anchor"] == shown["view3"] and shown["positive"][4] == shown["anchor"][4]
    assert shown["positive"][:4] == [row["image2"] for row in rows]
    step = _step(method, {"name": "view-pairs", "objective": {"name": "byol", "hidden": 4},
                          "anchors": ["anchor"], "positives": ["positive", "view3"]})  # fmt: skip
    result = step.gradients(common.step_batch(step, rows))
    embeddings, batch, inner = step.latest.embeddings, step.latest.batch, step.bundle.objective.inner[0]
    for name in ("positive", "view3"):
        guide = {"anchor": batch.guide["anchor"], "positive": batch.guide[name]}
        pair = {"anchor": embeddings["anchor"], "positive": embeddings[name]}
        wanted.append(float(inner(pair, ObjectiveBatch.of(pair, guide=guide)).loss))
    assert float(result.loss) == pytest.approx(np.mean(wanted), rel=1e-9)


def test_msn_leaves_patches_out_of_one_view_and_embeds_the_whole_one_by_the_mean_alone() -> None:
    """Against passes by hand: the teacher's view by the mean, a large view with some patches, small ones whole."""
    from embedkit import objectives
    from embedkit.models.modules.dual import DualEncoder
    from embedkit.models.modules.patches import PatchDropout

    recipe = load_recipe("msn", smoke=True)
    method, objective = setup.check(recipe), recipe.objective.model_dump(exclude_none=True)
    step = common.make_step(objective, None, method=method, config=DUAL)
    bundle = step.bundle
    method.adapt(bundle.model)
    bundle.objective = objectives.build(objective, dim=method.embedding_size, num_rows=64).double()
    bundle.guide = Guide(GuideConfig(ema=0.5), bundle.model, method.followed_parts(bundle.parts)).double()
    bundle.train()
    with torch.no_grad():
        for parameter in bundle.guide.parameters():
            parameter.mul_(1.5)
    batch = common.step_batch(step, _rows(6))
    pools = {tuple(name for name, _ in pool.names): pool for pool in batch.pools}
    assert {names: pool.guided for names, pool in pools.items()} == {
        ("anchor",): True, ("positive",): False, ("view3", "view4"): False}  # fmt: skip
    with mock.patch.object(DualEncoder, "pixels", autospec=True, side_effect=DualEncoder.pixels) as passes:
        step.gradients(batch)
    assert passes.call_count == 3  # the anchor by the mean alone
    embeddings = step.latest.embeddings
    assert torch.equal(embeddings["anchor"], step.latest.batch.guide["anchor"])
    [drop] = [module for module in bundle.model.modules() if isinstance(module, PatchDropout)]
    assert drop.rate == 0.0
    with torch.no_grad():
        small = bundle.model(pools["view3", "view4"].inputs).double().split(6)
        drop.rate = 0.25
        part = bundle.model(pools["positive",].inputs).double()
        assert drop.places.shape == (6, 12)  # of 16
        wanted = bundle.parts["projector"](torch.cat([part, *small])).split(6)
    for name, vectors in zip(("positive", "view3", "view4"), wanted, strict=True):
        torch.testing.assert_close(embeddings[name], vectors)


def test_patches_are_left_out_by_one_setting_only() -> None:
    changes = ["model.towers.image.patch_dropout=0.5"]
    recipe = load_recipe("msn", changes, smoke=True)
    inputs = build.open_inputs(setup.check_all(recipe))
    with pytest.raises(ModelError, match="patches are left out of all views and of some"):
        build.build_state(inputs, Engine(recipe, Path()), "fp32")


def test_each_image_is_decoded_once_for_all_of_its_views() -> None:
    from embedkit.data.images import decoding

    rows = [{"image": image} for image, _ in image_data.samples(5)]
    batch = RowBatch(rows, list(range(5)), 5, 0, 0)
    with mock.patch.object(decoding, "load_picture", side_effect=decoding.load_picture) as load:
        [(_, decoded)] = decoding.decode_batches(iter([(0, batch)]), decoding.Decoding(), str)
        step = _step(methods["image-views"](**SMALL), {"name": "swav", "prototypes": 4})
        made = prepare(decoded, step.method, step.bundle.model, seed=1, epoch=0)
    assert len(made.views) == 5 and load.call_count == 5


def test_pictures_are_decoded_as_large_as_the_hungriest_view_needs() -> None:
    method = methods["image-views"](views=[{"name": "weak", "count": 2}, {"name": "simclr", "size": 96}])
    assert method.picture_side(64) == 192
    assert methods["image-views"](views=["none", "none"]).picture_side(64) == 64


def test_groups_of_one_draw_are_equal_parts_of_the_batch() -> None:
    method = methods["image-views"](transform="small", hidden=24, size=8, groups=3)
    method.shares_draws = True
    step = common.make_step("care", None, method=method, config=DUAL)
    whole = common.step_batch(step, _rows(12))
    seeds = [item.seed for item in whole.views["anchor"].inputs]
    assert [seeds.index(seed) for seed in seeds] == [0] * 4 + [4] * 4 + [8] * 4
    assert [whole.labels["group"].tolist().index(g) for g in whole.labels["group"].tolist()] == [0] * 4 + [4] * 4 + [
        8
    ] * 4
    part = RowBatch(_rows(12)[5:9], [5, 6, 7, 8], 12, 5, 0, [5, 6, 7, 8])
    half = prepare(part, method, step.bundle.model, seed=1, epoch=0)
    assert [item.seed for item in half.views["anchor"].inputs] == seeds[5:9]
    assert torch.equal(half.labels["group"], whole.labels["group"][5:9])


def test_prototypes_rest_at_first() -> None:
    method = methods["image-views"](
        transform="small", hidden=8, size=4, prototypes=6, freeze_steps=1, freeze_epochs=1
    )  # fmt: skip
    assert (method.embedding_size, method.embedding_dim(None)) == (6, 6)  # type: ignore[arg-type]
    step = common.make_step("ntxent", None, method=method, config=DUAL)
    outputs = {name: torch.randn(5, 16, dtype=torch.float64) for name in ("anchor", "positive")}
    layer = step.bundle.parts["projector"][-1]
    for number, epoch, moved in ((0, 1, False), (1, 0, False), (1, 1, True)):
        made = method.project(outputs, mock.Mock(step=number, epoch=epoch), step.bundle.parts)
        step.bundle.zero_grad()
        made["anchor"].sum().backward()
        assert (layer.weight.grad is not None) is moved
        assert float(made["anchor"].abs().max()) <= 1.0
    assert [type(m).__name__ for m in projector(4, 8, 2, layers=3, norm=False, last_norm=True, activation="gelu")] == [
        "Linear", "GELU", "Linear", "GELU", "Linear", "BatchNorm1d"]  # fmt: skip


def test_further_projectors_have_means_and_keys_of_their_own() -> None:
    """Against the modules by hand, in one step of MoCo's loss through one of them and BYOL's through the other."""
    further = {"near": {"views": ["anchor", "positive"], "size": 6, "layers": 1}, "far": {"views": ["view3"]}}
    method = methods["image-views"](**SMALL, projectors=further)
    assert method.sizes == {"near-anchor": 6, "near-positive": 6, "far-view3": 8}
    assert method.listed_views == {"view4", "view5", *method.sizes}
    step = _step(method, {"name": "byol", "hidden": 4})
    assert method.guided == {"near-anchor", "near-positive"}  # the teacher does not see the small views
    parts, means = step.bundle.parts, step.bundle.guide.parts
    assert list(means) == ["projector", "projector-near", "projector-far"]
    with torch.no_grad():
        for parameter in step.bundle.guide.parameters():
            parameter.mul_(1.5)
    step.gradients(common.step_batch(step, _rows(6)))
    outputs, made, batch = step.latest.outputs, step.latest.embeddings, step.latest.batch
    for view in ("anchor", "positive"):
        linear = parts["projector-near"][0]
        torch.testing.assert_close(made[f"near-{view}"], outputs[view] @ linear.weight.T + linear.bias)
        torch.testing.assert_close(batch.owner[f"near-{view}"], batch.owner[view])
    assert made["far-view3"].shape == (6, 8) and "far-view4" not in made
    teacher = {view: step.bundle.guide.encoder(pool.inputs.select(np.arange(6 * place, 6 * place + 6)))
               for pool in common.step_batch(step, _rows(6)).pools if pool.guided
               for place, view in enumerate(("anchor", "positive"))}  # fmt: skip
    for view, z in teacher.items():
        linear = means["projector-near"][0]
        torch.testing.assert_close(batch.guide[f"near-{view}"], (z @ linear.weight.T + linear.bias).detach())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method.views=[small]"], r"method\.views: 1 view has nothing to be compared with; give 2 to 16"),
        (["method.views=[{name: small, count: 17}]"], r"method\.views: 17 views; give 2 to 16"),
        (["method.views=[small, {name: small, sise: 16}]"], r"method\.views\.1\.sise: unknown setting 'sise'"),
        (["method.views=[small, {name: small, size: 4}]"], "4 x 4 pixels are smaller than a patch of the tower, 8 x 8"),
        (["method.views=[small, {name: small, teacher: true}]"], "there is no teacher; add guide"),
        (["method.views=[small, {name: none, flip: 0.5}]"], "settings of no transform"),
        (["method.views=[{name: small, count: 3}]", "objective=byol", "guide={ema: 0.9}"],
         "objective 'byol' does not read 'view3', a view of the list"),
        (["method.transform=small", "objective=byol", "guide={ema: 0.9, parts: [head]}"], "no part 'head'"),
        (["method.transform=small", "method.groups=2"], "compares nothing within groups"),
        (["method.transform=small", "method.freeze_steps=2"], "no prototypes to freeze"),
        (["method.transform=small", "method.freeze_epochs=2"], r"freeze_epochs: has no prototypes to freeze"),
        (["method.views=[small, {name: small, patch_dropout: 1.0}]"], r"method\.views\.1\.patch_dropout"),
        (["method.prototypes=8", "objective=dino", "guide={model: {kind: static, tokenizer: builtin, dim: 8}}"],
         r"guide: the teacher has no projector, so no prototypes .*; give guide: \{ema: 0\.996\}"),
        (["method={name: moco}", "guide=null"], "moco needs a running mean"),
        (["method.projectors={near: {views: [view3]}}"], r"projectors\.near\.views: there is no view 'view3'"),
        (["method.projectors={near: {views: []}}"], r"projectors\.near\.views: it reads no view"),
        (["method.projectors={near: {views: [anchor], wide: 3}}"], "unknown setting 'wide'"),
        (["method.projectors={near: {views: [anchor]}}"],
         "does not read 'near-anchor', what a projector makes of a view; leave it out there, or name it in the inputs"),
    ],
)  # fmt: skip
def test_bad_input_is_told_before_the_model_loads(overrides: list[str], said: str) -> None:
    given = ["method={name: image-views}", *overrides]
    with pytest.raises(RecipeError, match=said):
        setup.check_all(
            load_recipe("byol", ["method.views=null", "objective=ntxent", "guide=null", *given], smoke=True)
        )
