"""Losses of patches: each against a statement in loops, in float64; chunks, processes, resuming change nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from embedkit import objectives
from embedkit.config.recipe import GuideConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.data.images.pictures import Picture
from embedkit.errors import ModelError, RecipeError
from embedkit.methods import methods
from embedkit.methods.common.auxiliary import Auxiliary, WithAuxiliaries
from embedkit.methods.patches import heads, losses, places
from embedkit.models.heads.pixels import PixelDecoder, patch_pixels
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.models.modules.dual import DualEncoder
from embedkit.models.modules.patches import recording
from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.parts.banks import Queue
from embedkit.training import batching, setup
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.guide import Guide
from embedkit.training.view_checks import _patches
from embedkit.views.image import ImageInput, Transform
from tests.helpers import dual
from tests.methods.matrix import gradients
from tests.methods.test_image_methods import _rows as rows_of_images
from tests.methods.test_matrix import same
from tests.training import common, runs

RECIPES = (
    "densecl", "pixpro", "detcon", "mae", "macrl", "patch-grouping", "slotcon", "ibot", "ibot+own", "pcd", "vicregl",
    "paka", "scfs", "mmc",
)  # fmt: skip


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_dense_contrast_is_a_softmax_over_the_match_and_other_images() -> None:
    queries, keys, pooled, rows = draw(2, 3, 4), draw(2, 5, 4, seed=1), draw(4, 4, seed=2), torch.tensor([1, 2])
    match = losses.nearest(queries, keys)
    found = losses.dense_contrast(queries, keys, match, pooled, rows, 0.2)
    for image in range(2):
        total = 0.0
        for query in queries[image]:
            best = max(keys[image], key=lambda key: cosine(query, key))
            positive = math.exp(cosine(query, best) / 0.2)
            others = [math.exp(cosine(query, pooled[j]) / 0.2) for j in range(4) if j != int(rows[image])]
            total -= math.log(positive / (positive + sum(others)))
        assert float(found[image]) == pytest.approx(total / 3, rel=1e-12)


def test_a_queue_holds_the_means_of_earlier_keys_and_repels_instead_of_the_batch() -> None:
    """DenseCL with a running mean: keys are its patches, negatives the queue, newest over oldest."""
    method, width = methods["densecl"](hidden=5, size=4, queue=3, match="place"), 4 + 2
    parts = torch.nn.ModuleDict({"projector": torch.nn.Identity(), "queue": Queue(3, dim=4)}).double()
    own, keys = draw(2, 3 * width), draw(2, 3 * width, seed=1)
    means = keys.unflatten(1, (3, width))[:, :, :4].mean(dim=1)
    start, rows = parts["queue"].vectors.clone(), {"anchor": draw(2, 4, seed=2)}
    batch = ObjectiveBatch.of(rows, own={"anchor": own}, own_guide={"positive": keys}, guide_parcel={"positive": means})
    found, total = method.terms({"anchor": rows["anchor"]}, {}, batch, parts)["dense"], 0.0
    for image in range(2):
        seen, others = own[image].view(3, width), keys[image].view(3, width)
        for patch in seen:
            best = min(others, key=lambda key, patch=patch: float((key[4:] - patch[4:]).norm()))
            scores = [cosine(patch[:4], key) / 0.2 for key in (best[:4], *start)]
            total += math.log(sum(map(math.exp, scores))) - scores[0]
    assert float(found) == pytest.approx(total / 6, rel=1e-12)
    method.after_step({"anchor": rows["anchor"]}, {}, batch, None, parts)
    wanted = torch.cat([torch.nn.functional.normalize(means, dim=1), start[2:]])
    torch.testing.assert_close(parts["queue"].vectors, wanted)


OWN_HEAD = "auxiliary=[{name: ibot, weight: 1.0, hidden: 32, size: 16, prototypes: 8}]"


def test_hidden_patches_go_through_the_head_of_whole_images() -> None:
    """iBOT beside DINO: the term against loops over the hidden patches of both large views, means by hand."""
    recipe = load_recipe("ibot", ["auxiliary.0.share=0.7"], smoke=True)
    method = setup.check(recipe)
    step = common.make_step("dino", None, method=method, config=recipe.model)
    bundle, term = step.bundle, method.beside_main[0].method
    method.adapt(bundle.model)
    bundle.objective = objectives.build("dino", dim=24, num_rows=64).double()
    followed = method.followed_parts(bundle.parts)
    assert sorted(followed) == ["ibot/bridge", "projector"]
    bundle.guide = Guide(GuideConfig(ema=0.5), bundle.model, followed).double()
    with torch.no_grad():
        for parameter in bundle.guide.parameters():
            parameter.mul_(1.5)
    batch = common.step_batch(step, rows_of_images(6))
    found = step.gradients(batch).terms["masked"]
    large = next(pool for pool in batch.pools if pool.guided)
    covered, filler = term.cover(large.inputs, bundle.parts["ibot"])
    sides, means = [], bundle.guide.parts
    for encoder, bridge, head, cover in (
        (bundle.model, bundle.parts["ibot"]["bridge"], bundle.parts["main"]["projector"], (covered, filler)),
        (bundle.guide.encoder, means["ibot/bridge"], means["projector"], None),
    ):
        with torch.no_grad(), encoder.patch_record(cover) as record:
            encoder(large.inputs)
            sides.append((head[:-1](bridge(record[0].tokens)), head[-1].weight))
    total, images = 0.0, len(covered)
    assert images == 12 and 0 < int(covered.any(dim=1).sum()) < 12  # two large views, some of them whole
    for image in range(images):
        own = []
        for place in covered[image].nonzero()[:, 0].tolist():
            student, teacher = (
                [cosine(tokens[image, place], direction) for direction in table] for tokens, table in sides
            )
            p, q = (np.exp(np.array(scores) / t) for scores, t in ((teacher, 0.07), (student, 0.1)))
            own.append(-float((p / p.sum() * np.log(q / q.sum())).sum()))
        total += float(np.mean(own)) if own else 0.0
    assert float(found) == pytest.approx(total / images, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["method.prototypes=null", "method.freeze_epochs=0", "method.freeze_steps=0"], "set method.prototypes"),
        (["method.norm=true"], "method.norm: false"), (["auxiliary.0.size=8"], "leave them out, or shared"),
        (["guide.parts=[ibot/bridge]"], "the teacher has no projector"),
        (["auxiliary=[]", "method={name: ibot, shared: true}"], "leave shared out"),
    ],
)  # fmt: skip
def test_a_head_that_cannot_be_shared_is_told(changes: list[str], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        setup.check(load_recipe("ibot", changes, smoke=True))
    assert told in caught.value.line()


def test_features_are_searched_for_in_the_other_view() -> None:
    """Against loops: two large views and a small one, the positive is the softmax mean of the teacher's patches."""
    method = methods["feature-search"](size=4, sharpness=0.1, temperature=0.2)
    own = {name: draw(2, 4, seed=seed) for seed, name in enumerate(("anchor", "positive", "view3"))}
    guide = {name: draw(2, 3 * 4, seed=7 + seed) for seed, name in enumerate(("anchor", "positive"))}
    pooled = {name: draw(3, 4, seed=9 + seed) for seed, name in enumerate(guide)}
    batch = ObjectiveBatch.of({"anchor": draw(3, 4)}, own=own, own_guide=guide, guide_parcel=pooled, rows=slice(1, 3))
    found, total = method.terms({}, {}, batch, torch.nn.ModuleDict())["search"], 0.0
    pairs = [(student, teacher) for teacher in guide for student in own if student != teacher]
    for student, teacher in pairs:
        for image in range(2):
            query, patches = own[student][image], [p / p.norm() for p in guide[teacher][image].view(3, 4)]
            weights = np.exp([cosine(query, patch) / 0.1 for patch in patches])
            there = sum(float(w) * patch for w, patch in zip(weights / weights.sum(), patches, strict=True))
            others = [cosine(query, pooled[teacher][k]) / 0.2 for k in range(3) if k != 1 + image]
            positive = cosine(query, there) / 0.2
            total += math.log(sum(map(math.exp, (positive, *others)))) - positive
    assert float(found) == pytest.approx(total / (len(pairs) * 3), rel=1e-12)


def test_features_are_searched_for_in_several_layers() -> None:
    """The mean over layers of what each layer gives alone; the patches of a layer are those behind its block."""
    both, one = methods["feature-search"](size=4, layers=2), methods["feature-search"](size=4)
    names, parts = ("anchor", "positive"), torch.nn.ModuleDict()
    own, pooled = ({name: draw(3, 2, 4, seed=seed + k) for k, name in enumerate(names)} for seed in (0, 2))
    guide = {name: draw(3, 2, 3, 4, seed=4 + k) for k, name in enumerate(names)}

    def loss(method: Any, layers: slice) -> float:
        own_, guide_, pooled_ = (
            {name: z[:, layers].flatten(1) for name, z in of.items()} for of in (own, guide, pooled)
        )
        batch = ObjectiveBatch.of({"anchor": draw(3, 4)}, own=own_, own_guide=guide_, guide_parcel=pooled_)
        return float(method.terms({}, {}, batch, parts)["search"])

    apart = [loss(one, slice(layer, layer + 1)) for layer in range(2)]
    assert loss(both, slice(None)) == pytest.approx(sum(apart) / 2, rel=1e-12) and apart[0] != apart[1]
    found = both.exchange({"anchor": guide["anchor"].flatten(1)}, {}, parts, guide=True)["anchor"]
    torch.testing.assert_close(found, guide["anchor"].mean(dim=2).flatten(1))


@pytest.mark.parametrize("family", ["open_clip-vit", "vit", "timm-vit"])
def test_patches_of_inner_blocks_are_those_behind_them(family: str) -> None:
    tower: Any = dual.image_tower(family)
    pixels = torch.randn(2, 3, *tower.size)
    with torch.no_grad():
        patches, plain = tower.patch_tokens(pixels, blocks=1), tower.patch_tokens(pixels)
        blocks = tower.blocks()
        with recording(blocks[-1]) as last:
            blocks[-1].register_forward_pre_hook(lambda module, inputs: last.append(inputs[0]))
            tower(pixels)
    assert plain.inner == () and torch.equal(plain.tokens, patches.tokens)
    torch.testing.assert_close(patches.inner[0], last[0][:, tower.prefix_tokens :])
    with pytest.raises(ModelError, match=f"9 layers are to be read of {len(blocks)}"):
        tower.patch_tokens(pixels, blocks=8) if len(blocks) < 9 else tower.inner_blocks(99)
    with pytest.raises(ModelError, match="has no row of patches"):
        dual.image_tower("open_clip-resnet").patch_tokens(torch.randn(1, 3, 64, 64), blocks=1)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("ibot", "auxiliary.0.low=0.9", "auxiliary.0.low: low is 0.9 and high 0.5"),
        ("ibot", "auxiliary.0.share=0", "auxiliary.0.share: share is 0: no image would have hidden patches"),
        ("detcon", "method.cells=20", "20 x 20 regions are smaller than a patch"),
        ("swav", "method.views=[{name: small, count: 2}, {name: small, size: 20}]", "give 16 or 24"),
        ("swav", "method.views=[{name: small, count: 2}, {name: small, size: 4}]", "give sizes of 8 at least"),
        ("ibot", "guide={model: {name: nowhere}}", "the teacher has no projector"),
        ("dino", "guide.parts=[]", "the teacher has no projector"),
    ],
)  # fmt: skip
def test_masks_crops_and_teachers_that_do_not_fit_are_told_before_a_model_is_read(
    name: str, change: str, told: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        setup.check(load_recipe(name, [change], smoke=True))
    assert told in caught.value.line() and caught.value.remedy


def test_all_or_none_of_the_patches_hidden_is_told() -> None:
    few = {"low": 0.0, "high": 0.01}
    for name, settings, grid, told in (
        ("ibot", few | {"shape": "patches"}, (4, 4), "none of the 16 patches"),
        ("ibot", few, (14, 14), "14 x 14 patches have 16 at least, and 2 would be hidden; set it to 0.09"),
        ("ibot", {}, (1, 16), "no room for blocks; set it to patches"),
        ("masked-pixels", {"rate": 0.99}, (4, 4), "all 16 patches"),
    ):  # fmt: skip
        with pytest.raises(RecipeError) as caught:
            methods[name](**settings).check_patches(grid)
        assert told in caught.value.line() and caught.value.remedy


def test_a_method_on_patches_by_itself_beside_others() -> None:
    for name in ("ibot", "densecl"):
        batching.check_first_rows(methods[name](), None)  # type: ignore[arg-type]
    labels = methods["heads"](heads=[{"target": "label", "classes": ["a", "b"]}])
    both = WithAuxiliaries(methods["feature-search"](size=4), [Auxiliary(labels, "heads", "auxiliary.0")])
    parts: Any = {"main": {}, "heads": {}}
    columns = torch.arange(24.0).view(2, 12)
    assert torch.equal(both.exchange({"anchor": columns}, {}, parts, guide=True)["anchor"],
                       columns.view(2, 3, 4).mean(dim=1))  # fmt: skip
    with pytest.raises(RecipeError, match="auxiliary.0: both methods read patches"):
        WithAuxiliaries(methods["ibot"](), [Auxiliary(methods["densecl"](), "densecl", "auxiliary.0")])


@pytest.mark.parametrize(("change", "patches"), [("64", (8, 8)), ("[64, 32]", (8, 4)), ("32", (4, 4))])
def test_patches_are_counted_at_the_size_that_images_are_given(change: str, patches: tuple[int, int]) -> None:
    recipe = load_recipe("detcon", [f"model.towers.image.preprocess={{size: {change}}}"], smoke=True)
    assert _patches(recipe) == (8, patches)


def test_a_text_as_wide_as_an_image_with_its_patches_is_left_whole() -> None:
    """What CLIP-rocket's branches read of a text, 16 + 32 numbers, and an image with 16 patches of 2 behind it."""
    losses: list[float] = []
    weights: dict[str, torch.Tensor] = {}
    for size in (2, 3):
        beside = f"auxiliary=[{{name: densecl, weight: 1.0, hidden: 8, size: {size}}}]"
        recipe = load_recipe("clip-rocket", [beside], smoke=True)
        method = setup.check(recipe)
        step = common.make_step(
            setup.objective_config(recipe, method), Chunking(size=5), method=method, config=recipe.model
        )
        weights = {name: z.clone() for name, z in (weights or step.bundle.parts["main"].state_dict()).items()}
        step.bundle.parts["main"].load_state_dict(weights)
        torch.manual_seed(0)  # of dropout
        result = step.gradients(common.step_batch(step, rows_of_images(6)))
        widths = {z.shape[1] for z in step.latest.outputs.values()}  # type: ignore[union-attr]
        losses.append(float(result.loss) - float(result.terms["dense"]))
        assert widths >= {16, 48}
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_running_mean_of_chosen_parts_of_a_term() -> None:
    """`guide.parts` names those of a term beside a method by NAME/PART."""
    wanted = "guide.parts=[projector, ibot/projector, ibot/prototypes]"
    method = setup.check(load_recipe("ibot", [OWN_HEAD, wanted], smoke=True))
    assert method.main.guide_parts == ("projector",)
    assert method.beside_main[0].method.guide_parts == ("projector", "prototypes")
    for parts, told in (("[projector, ibot/projector]", "leave guide.parts out"),
                        ("[projector]", "leave guide.parts out"), ("[]", "the teacher has no projector"),
                        ("[projector, ibot/head]", "no part 'head'"),
                        ("[projector, other/head]", "no part 'other/head'")):  # fmt: skip
        with pytest.raises(RecipeError) as caught:
            setup.check(load_recipe("ibot", [OWN_HEAD, f"guide.parts={parts}"], smoke=True))
        assert told in caught.value.line()


def test_propagation_and_consistency() -> None:
    tokens, values, others = draw(1, 3, 4), draw(1, 3, 4, seed=1), draw(1, 2, 4, seed=2)
    moved = losses.propagated(tokens, values, 2.0)[0]
    for i in range(3):
        wanted = sum(max(cosine(tokens[0, i], tokens[0, j]), 0.0) ** 2 * values[0, j] for j in range(3))
        torch.testing.assert_close(moved[i], wanted)
    pairs = torch.tensor([[[True, False], [False, True], [True, False]]])
    wanted_loss = -np.mean([cosine(tokens[0, i], others[0, j]) for i, j in ((0, 0), (1, 1), (2, 0))])
    assert float(losses.consistency(tokens, others, pairs)[0]) == pytest.approx(wanted_loss, rel=1e-12)
    assert float(losses.consistency(tokens, others, ~pairs & pairs)[0]) == 0.0


@pytest.mark.parametrize("threshold", [None, 0.1, 0.9])
def test_grouping_weighs_the_patches_that_fit(threshold: float | None) -> None:
    texts, patches = draw(2, 4), draw(2, 5, 4, seed=1)
    found = losses.grouped(texts, patches, threshold)
    for text, own, vector in zip(texts, patches, found, strict=True):
        fit = np.array([cosine(text, patch) for patch in own])
        fit = (fit - fit.min()) / (fit.max() - fit.min())
        fit[fit < (1 / 5 if threshold is None else threshold)] = 0
        wanted = sum(float(weight) * patch for weight, patch in zip(fit / fit.sum(), own, strict=True))
        torch.testing.assert_close(vector, wanted)


def test_regions_are_contrasted_with_all_regions_of_both_views() -> None:
    anchors, others = draw(3, 2, 4), draw(3, 2, 4, seed=1)
    there = torch.tensor([[[True, True], [True, False], [True, True]], [[True, True], [True, True], [False, True]]])
    total = 0.0
    for i in range(1, 3):
        for region in range(2):
            if not (there[0, i, region] and there[1, i, region]):
                continue
            scores = [math.exp(cosine(anchors[i, region], others[j, c]) / 0.1)
                      for j in range(3) for c in range(2) if there[1, j, c]]  # fmt: skip
            scores += [math.exp(cosine(anchors[i, region], anchors[j, c]) / 0.1)
                       for j in range(3) for c in range(2) if there[0, j, c] and (j, c) != (i, region)]  # fmt: skip
            total -= math.log(math.exp(cosine(anchors[i, region], others[i, region]) / 0.1) / sum(scores))
    found = losses.region_contrast(anchors, others, there, slice(1, 3), 0.1)
    assert float(found) == pytest.approx(total, rel=1e-12)


def test_assignments_centre_and_slots() -> None:
    tokens, table = draw(2, 3, 4), draw(5, 4, seed=1)
    scores = heads.cosines(tokens, table)
    assert float(scores[1, 2, 4]) == pytest.approx(cosine(tokens[1, 2], table[4]), rel=1e-12)
    teacher, student = scores.flip(1).softmax(dim=2), scores.log_softmax(dim=2)
    counts = torch.tensor([[True, False, True], [False, False, False]])
    wanted = np.mean([-float((teacher[0, p] * student[0, p]).sum()) for p in (0, 2)])
    assert heads.assignment_loss(student, teacher, counts).tolist() == pytest.approx([wanted, 0.0], rel=1e-12)
    shares = (scores / 0.1).softmax(dim=2)
    slots, there = heads.slots_of(tokens, shares)
    for k in range(5):
        wanted_slot = sum(float(shares[0, p, k]) * tokens[0, p] for p in range(3)) / float(shares[0, :, k].sum())
        torch.testing.assert_close(slots[0, k], wanted_slot)
        assert bool(there[0, k]) == any(int(shares[0, p].argmax()) == k for p in range(3))
    centre = heads.Centre(5, momentum=0.9).double()
    centre.follow(scores.mean(dim=(0, 1)))
    unit = torch.nn.functional.normalize(tokens, dim=2).mean(dim=(0, 1))  # the way that a step takes
    torch.testing.assert_close(centre.mean, 0.1 * torch.nn.functional.normalize(table, dim=1) @ unit)


def test_slots_are_contrasted_with_those_of_the_whole_batch() -> None:
    queries, keys = draw(2, 3, 4), draw(3, 3, 4, seed=1)
    own = torch.tensor([[True, True, False], [True, True, True]])
    there = torch.tensor([[True, True, True], [True, False, True], [False, True, True]])
    total = 0.0
    for i in range(2):
        for k in range(3):
            if own[i, k] and there[1 + i, k]:
                scores = {(j, m): math.exp(cosine(queries[i, k], keys[j, m]) / 0.2)
                          for j in range(3) for m in range(3) if there[j, m]}  # fmt: skip
                total -= math.log(scores[1 + i, k] / sum(scores.values()))
    assert float(heads.slot_contrast(queries, own, keys, there, 1, 0.2)) == pytest.approx(total, rel=1e-12)


def test_region_means() -> None:
    tokens, regions = draw(1, 4, 3), torch.tensor([[2, 0, 2, -1]])
    means, there = losses.region_means(tokens, regions, 3)
    assert there.tolist() == [[True, False, True]]
    torch.testing.assert_close(means[0, 2], (tokens[0, 0] + tokens[0, 2]) / 2)
    torch.testing.assert_close(means[0, 0], tokens[0, 1])


@pytest.mark.parametrize("transform", ["simclr", "none", {"name": "clip", "crop": None, "flip": 1.0}])
def test_a_frame_says_where_pixels_come_from(transform: Any) -> None:
    """A picture whose colours are its coordinates: the colour at a patch's middle is the place that is told."""
    wide, high = 120, 80
    x, y = np.meshgrid((np.arange(wide) + 0.5) / wide, (np.arange(high) + 0.5) / high)
    pixels = np.stack([255 * x, 255 * y, 0 * x], axis=2).round().astype(np.uint8)
    picture, preprocess = Picture(Image.fromarray(pixels), key=b"1"), Preprocess(size=(64, 64))
    own = Transform.of(transform if isinstance(transform, dict) else "none" if transform == "none" else {
        "name": "simclr", "jitter_rate": 0.0, "grey": 0.0, "blur": 0.0})  # fmt: skip
    for number in range(6):
        view = ImageInput(picture, own, (number, 7))
        shown = view.render((64, 64))
        shown = shown if isinstance(shown, np.ndarray) else preprocess(shown)
        middles = places.patch_places(torch.from_numpy(view.frame(preprocess))[None], (4, 4))[0].numpy()
        for place, (across, down) in enumerate(middles):
            row, column = divmod(place, 4)
            colour = shown[:, row * 16 + 7 : row * 16 + 9, column * 16 + 7 : column * 16 + 9].mean(axis=(1, 2)) / 255
            assert colour[:2] == pytest.approx([across, down * wide / high], abs=0.02)


def test_pixels_of_patches_and_where_a_decoder_puts_its_tokens() -> None:
    pixels = draw(1, 3, 4, 6)
    values = patch_pixels(pixels, (2, 3), normalize=False)
    torch.testing.assert_close(values[0, 4], pixels[0, :, 2:4, 2:4].flatten())
    unit = patch_pixels(pixels, (2, 3))
    torch.testing.assert_close(unit.mean(dim=2), torch.zeros(1, 6, dtype=torch.float64), atol=1e-12, rtol=0)
    decoder = PixelDecoder(8, grid=(2, 3), patch=(2, 2), layers=0, width=8, heads=1).double()
    tokens = draw(1, 2, 8, seed=3)
    found = decoder(tokens, torch.tensor([[1, 4]]))
    for place in range(6):
        token = {1: tokens[0, 0], 4: tokens[0, 1]}.get(place, decoder.filler)
        torch.testing.assert_close(found[0, place], decoder.outputs(token + decoder.positions[place]))


def case(name: str) -> dict[str, Any]:
    """The smoke run of a recipe with batches that chunks do not divide; "ibot+own" has a head of its own."""
    name, _, own = name.partition("+")
    whole = load_recipe(name, [OWN_HEAD] if own else [], smoke=True).model_dump(mode="json", exclude_defaults=True)
    kept = {key: whole[key] for key in ("model", "data", "method", "objective", "guide", "auxiliary") if key in whole}
    return {"name": name, "seed": 3, **kept, "train": {"batch_size": 12, "max_steps": 2, "lr": 1e-3}}


@pytest.mark.parametrize("name", RECIPES)
def test_chunks_and_processes_change_nothing(processes: Any, name: str) -> None:
    wanted = gradients(case(name))
    same(gradients(case(name), Chunking(size=5, keep=1)), wanted)
    results = processes(2).run(gradients, case(name), Chunking(size=4, keep=0))
    for _, found in results:
        same((sum(share for share, _ in results), found), wanted)


@pytest.mark.parametrize("name", ["densecl", "macrl", "slotcon", "ibot"])
def test_a_resumed_run_ends_bit_for_bit_like_a_whole_one(tmp_path: Path, name: str) -> None:
    given = case(name)
    given["train"] |= {"max_steps": 4, "save_every": 2, "chunk_size": 5, "keep_checkpoints": 4}
    runs.run(tmp_path, given)
    wanted = {file: runs.checkpoint(tmp_path, 4, file) for file in ("weights", "optimiser")}
    for file in (tmp_path / "checkpoints" / "step-00000004").iterdir():
        file.unlink()
    (tmp_path / "checkpoints" / "step-00000004").rmdir()
    runs.run(tmp_path, given, resume=True)
    for file, tensors in wanted.items():
        again = runs.checkpoint(tmp_path, 4, file)
        assert all(torch.equal(again[key], value) for key, value in tensors.items()), file


def test_a_term_beside_a_method_takes_no_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tower runs once a view, and the main method's loss is what it is alone."""
    alone, beside = case("patch-grouping"), case("patch-grouping")
    del alone["auxiliary"]
    beside["auxiliary"][0]["weight"] = 0.0
    passes, real = [], DualEncoder.pixels
    monkeypatch.setattr(DualEncoder, "pixels", lambda model, inputs: passes.append(1) or real(model, inputs))
    assert gradients(beside)[0] == pytest.approx(gradients(alone)[0], rel=1e-12)
    assert len(passes) == 2  # one in each of the two steps


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mae", {"model.towers.image.patch_dropout": None}, "set it to 0.75"),
        ("macrl", {"model.towers.image.patch_dropout": 0.5}, "leave it out, or set hide: drop"),
        ("macrl", {"model.towers.image.config": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}, "use a ViT"),
        ("macrl", {"method": "patch-grouping", "auxiliary": []}, "put it beside another method"),
        ("slotcon", {"guide": None}, "add guide"),
        ("ibot", {"guide": None}, "add guide"),
        ("pcd", {"guide": None}, "add guide"),
        ("paka", {"guide": None}, "add guide"),
        ("scfs", {"guide": None}, "add guide"),
        ("mmc", {"guide": None}, "add guide"),
        *(
            (name, {"model.towers.image.patch_dropout": 0.5}, "patches need whole images")
            for name in ("densecl", "pixpro", "slotcon", "ibot", "vicregl", "paka")
        ),
        ("pcd", {"auxiliary": [{"name": "patch-distillation", "size": 8}]}, "set it to 32"),
        ("macrl", {"auxiliary": [{"name": "patch-grouping"}]}, "put it beside clip"),
    ],
)
def test_what_does_not_fit_is_told_before_training(name: str, changes: dict[str, Any], message: str) -> None:
    given = case(name)
    for key, value in changes.items():
        *path, last = key.split(".")
        place = given
        for step in path:
            place = place[step]
        place[last] = value
    with pytest.raises((ModelError, RecipeError), match=message):
        gradients(given)


def test_a_resnets_map_is_a_grid_too() -> None:
    given = case("detcon")
    given["model"]["towers"]["image"] = {"config": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
    assert math.isfinite(gradients(given)[0])


def test_one_view_has_nothing_to_be_compared_with() -> None:
    given = case("patch-grouping")
    given["auxiliary"] = [{"name": "densecl", "weight": 1.0, "hidden": 8, "size": 4}]
    with pytest.raises(ModelError, match="two views of an image"):
        gradients(given)
