"""Methods on images: exact gradients however the batch is cut, what is frozen stays, what is dropped is not saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.config.model import ModelConfig
from embedkit.config.recipe import GuideConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.data.images.pictures import load_picture
from embedkit.errors import RecipeError, UserError
from embedkit.methods import methods
from embedkit.methods.base import Method
from embedkit.methods.common.usage import note_views
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.guide import Guide
from embedkit.training.loop.step import TrainStep
from tests.helpers import image_data
from tests.methods import toys
from tests.training import common

DUAL = ModelConfig.model_validate(
    {**image_data.DUAL, "towers": {**image_data.DUAL["towers"], "text": {**image_data.TEXT_TOWER, "dropout": 0.0}}}
)
SETTINGS: dict[str, dict[str, Any]] = {
    "clip": {"captions": 2}, "siglip": {"transform": "weak"}, "lit": {}, "clip-joint": {},
    "simclr": {"transform": "small", "hidden": 24, "size": 8},
    "moco": {"transform": "small", "hidden": 24, "size": 8},
}  # fmt: skip


def _rows(count: int) -> list[dict[str, Any]]:
    """Rows of which two show one image, two say one caption, and some have more than one caption."""
    made = []
    for number, (image, text) in enumerate(image_data.samples(count)):
        texts = [text, f"another caption of {number}"][: 1 + number % 2]
        made.append({"image": load_picture(image), "texts": texts})
    made[1]["image"] = made[0]["image"]
    made[3]["texts"] = [made[2]["texts"][0]]
    return made


def _method(name: str) -> Method:
    method = methods[name](**SETTINGS[name])
    if name == "moco":
        method.use_guide(GuideConfig(ema=0.5))
        note_views(method, {**(method.objective or {}), "size": 32}, method.contract, guide=True)
    return method


def _step(name: str, chunking: Chunking | None = None) -> TrainStep:
    """A step in float64 over the tiny dual encoder, with a guide where the method wants one."""
    from embedkit import objectives
    from embedkit.factory import build

    method = _method(name)
    config = dict(method.objective or {})
    if name == "moco":
        config |= {"size": 32}
    step = common.make_step(config, chunking, method=method, config=DUAL)
    model: Any = build(DUAL, 3).double()
    method.adapt(model)
    torch.manual_seed(5)
    parts = method.parts(model).double()
    objective = objectives.build(config, dim=method.embedding_dim(model), num_rows=64).double()
    bundle = step.bundle
    bundle.model, bundle.parts, bundle.objective = model, parts, objective
    bundle.guide = Guide(GuideConfig(ema=0.5), model, method.followed_parts(parts)) if name == "moco" else None
    bundle.train()
    return step


def _data(name: str) -> list[dict[str, Any]]:
    rows = _rows(12)
    if name == "clip-joint":
        for number in (4, 7, 9):
            rows[number] = {"anchor": f"a sentence, number {number}", "image": None, "texts": None}
    return rows


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_gradients_are_those_of_the_whole_batch(name: str) -> None:
    found = {}
    for label, chunking in (
        ("whole", Chunking()),
        ("chunks", Chunking(size=5, keep=1)),
        ("all", Chunking(size=3, keep=0)),
    ):
        step = _step(name, chunking)
        result = step.gradients(common.step_batch(step, _data(name)))
        found[label] = common.gradients(step)
        assert torch.isfinite(result.loss)
    moved = sum(float(gradient.norm()) > 0 for gradient in found["whole"].values())
    assert moved > 5
    size = sum(float(gradient.norm()) ** 2 for gradient in found["whole"].values()) ** 0.5
    for label in ("chunks", "all"):
        for key, wanted in found["whole"].items():
            # what shifts all vectors alike has no gradient through a batch normalisation but that of rounding
            error = float((found[label][key] - wanted).norm()) / max(float(wanted.norm()), 1e-5 * size)
            assert error < 1e-9, (label, key)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_row_is_drawn_for_by_its_place_alone(name: str) -> None:
    """Two processes make of their halves what one makes of the whole; a dropped row changes nothing for the others."""
    from embedkit.data import RowBatch
    from embedkit.training.loop.batches import prepare

    step, data = _step(name), _data(name)
    whole = common.step_batch(step, data)
    kept = [place for place in range(12) if place != 5]
    part = RowBatch([data[p] for p in kept[6:]], kept[6:], 12, 6, 0, kept[6:])
    half = prepare(part, step.method, step.bundle.model, seed=1, epoch=0)
    for view, made in half.views.items():
        rows = [kept[6:][owner] for owner in made.owner]
        matching = [i for i, owner in enumerate(whole.views[view].owner) if owner in kept[6:]]
        assert rows == [whole.views[view].owner[i] for i in matching]
        for mine, place in zip(made.inputs, matching, strict=True):
            other = whole.views[view].inputs[place]
            assert (mine == other) if isinstance(mine, str) else (mine.seed, mine.key) == (other.seed, other.key)
    images = [pool.inputs.pixels for pool in half.pools if pool.tower == "image"]
    assert all(pixels.dtype == torch.uint8 for pixels in images)


@pytest.mark.parametrize("name", ["lit", "simclr", "moco"])
def test_what_is_frozen_gets_no_gradient(name: str) -> None:
    step = _step(name)
    step.gradients(common.step_batch(step, _data(name)))
    frozen = "image." if name == "lit" else "text."
    for key, parameter in step.bundle.model.named_parameters():
        if key.startswith(frozen):
            assert parameter.grad is None, key
    trained = [k for k, p in step.bundle.model.named_parameters() if p.grad is not None and float(p.grad.norm()) > 0]
    assert trained


def test_moco_keys_come_from_the_means() -> None:
    step = _step("moco")
    guide: Any = step.bundle.guide
    with torch.no_grad():
        for parameter in guide.encoder.parameters():
            parameter.mul_(1.5)
    projector = guide.parts["projector"]
    mean = [p.clone() for p in projector.parameters()]
    step.gradients(common.step_batch(step, _data("moco")))
    assert all(p.grad is None for p in projector.parameters())
    assert step.latest is not None
    keys = step.latest.embeddings["positive"]
    wanted = projector(_guide_vectors(step))
    assert torch.allclose(keys, wanted, atol=1e-12)
    with torch.no_grad():
        for parameter in step.bundle.parts["projector"].parameters():
            parameter.add_(1.0)
    step.after_update()
    queue = step.bundle.objective.bank.get_buffer("vectors")  # type: ignore[union-attr]
    assert torch.allclose(queue[:12].double(), torch.nn.functional.normalize(keys, dim=1), atol=1e-6)
    for before, now, query in zip(
        mean, projector.parameters(), step.bundle.parts["projector"].parameters(), strict=True
    ):
        assert torch.allclose(now, 0.5 * before + 0.5 * query)


def _guide_vectors(step: TrainStep) -> torch.Tensor:
    """What the running mean says of the keys, computed again."""
    batch = common.step_batch(step, _data("moco"))
    pool = next(pool for pool in batch.pools if pool.names[0][0] == "positive")
    encoder: Any = step.bundle.guide.encoder  # type: ignore[union-attr]
    return encoder(pool.inputs).double()  # type: ignore[no-any-return]


def test_the_projector_of_simclr_normalises_over_both_views() -> None:
    step = _step("simclr")
    outputs = {name: torch.randn(6, 16, dtype=torch.float64) for name in ("anchor", "positive")}
    made = step.method.project(outputs, None, step.bundle.parts)  # type: ignore[arg-type]
    linear, norm, _, last = step.bundle.parts["projector"]  # type: ignore[misc]
    hidden = linear(torch.cat([outputs["anchor"], outputs["positive"]]))
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    wanted = last(hidden.relu())
    assert torch.allclose(torch.cat([made["anchor"], made["positive"]]), wanted, atol=1e-10)


def test_captions_are_drawn_evenly_and_without_repeats() -> None:
    from embedkit.methods.clip import chosen_texts

    texts = [f"caption {i}" for i in range(5)]
    counts = np.zeros(5)
    for number in range(1000):
        found = chosen_texts(texts, 2, np.random.Generator(np.random.Philox(key=[number, 0])))
        assert len(set(found)) == 2
        counts[[texts.index(text) for text in found]] += 1
    assert counts.min() > 340 and counts.max() < 460
    assert sorted(chosen_texts(texts, 9, np.random.Generator(np.random.Philox(key=[1, 0])))) == texts


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("clip", {"captions": 0}, "captions is 0"),
        ("clip", {"template": "no place"}, "hold {} once"),
        ("lit", {"cache": "yes"}, "cache is"),
        ("simclr", {"hidden": 0}, "hidden is 0"),
        ("moco", {"transform": "moco", "views": ["moco", "moco"]}, "both transform and views"),
    ],
)
def test_wrong_settings_are_named(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        methods[name](**settings)


def test_encode_reads_images_texts_and_mixed_lists(tmp_path: Path) -> None:
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from embedkit.errors import UserError
    from embedkit.factory import build
    from embedkit.formats import load
    from embedkit.models import encode_file

    model: Any = build(DUAL, 3).eval()
    content = image_data.samples(7)
    image_data.write_csv(tmp_path / "d", content)
    images = model.encode([image for image, _ in content])
    texts = model.encode([text for _, text in content])
    pq.write_table(pa.table({"image": [image for image, _ in content]}), tmp_path / "t.parquet")
    mixed = [{"image": f"files/{n:05d}.png", "text": None} if n % 2 else {"image": None, "text": content[n][1]}
             for n in range(7)]  # fmt: skip
    (tmp_path / "d" / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
    both = np.where(np.arange(7)[:, None] % 2 == 1, images, texts)
    for source, column, wanted in [
        (tmp_path / "d" / "files", None, images), (tmp_path / "d" / "captions.csv", "image", images),
        (tmp_path / "d" / "captions.csv", "caption", texts), (tmp_path / "t.parquet", None, images),
        (tmp_path / "d" / "mixed.jsonl", None, both),
    ]:  # fmt: skip
        done = encode_file(model, source, tmp_path / "o.npy", column=column, block_rows=3, overwrite=True)
        assert done.rows == 7
        np.testing.assert_allclose(np.load(tmp_path / "o.npy"), wanted, atol=1e-6)
    model.save(tmp_path / "model")
    np.testing.assert_allclose(load(tmp_path / "model").encode([content[0][0]]), images[:1], atol=1e-6)
    text_model: Any = build(common.model_config(), 0).eval()
    with pytest.raises(UserError, match="encodes no images"):
        encode_file(text_model, tmp_path / "d" / "files", tmp_path / "p.npy")


def test_a_second_image_is_the_second_view() -> None:
    rows = _rows(4)
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        row["image2"] = other["image"] if row is not rows[2] else None
    made = _method("simclr").views(rows, lambda i: np.random.Generator(np.random.Philox(key=[i, 0])))
    assert [image.key for image in made["anchor"].inputs] == [row["image"].key for row in rows]
    wanted = [rows[1]["image"], rows[2]["image"], rows[2]["image"], rows[0]["image"]]
    assert [image.key for image in made["positive"].inputs] == [picture.key for picture in wanted]
    seeds = {image.seed for view in made.values() for image in view.inputs}
    assert len(seeds) == 8


@pytest.mark.parametrize("name", ["simclr", "moco"])
def test_rows_of_one_group_share_one_draw_where_the_objective_compares_them_so(name: str) -> None:
    """CARE's Gram matrices are of views made by one pair of augmentations: on any process, whatever the place."""
    from embedkit.data import RowBatch
    from embedkit.training.loop.batches import prepare

    step, data = _step(name), [{**row, "group": f"g{place % 3}"} for place, row in enumerate(_data(name))]
    step.method.shares_draws = True
    whole = common.step_batch(step, data)
    part = RowBatch(data[6:], list(range(6, 12)), 12, 6, 0, list(range(6, 12)))
    half = prepare(part, step.method, step.bundle.model, seed=1, epoch=0)
    for view in ("anchor", "positive"):
        seeds = [item.seed for item in whole.views[view].inputs]
        assert len(set(seeds)) == 3
        assert seeds == [seeds[place % 3] for place in range(12)]
        assert [item.seed for item in half.views[view].inputs] == seeds[6:]
    assert whole.views["anchor"].inputs[0].seed != whole.views["positive"].inputs[0].seed
    step.method.shares_draws = False
    assert len({item.seed for item in common.step_batch(step, data).views["anchor"].inputs}) == 12


@pytest.mark.parametrize(("objective", "shared"), [("care", True), ("gram-equivariance", True), ("ntxent", False)])
def test_the_check_of_a_recipe_sees_whether_draws_are_shared(objective: str, shared: bool) -> None:
    from embedkit.config.recipe_io import load_recipe
    from embedkit.training import setup

    assert setup.check(load_recipe("simclr", [f"objective={objective}"])).shares_draws is shared


def test_a_running_mean_guide_of_simclr_has_a_projector_of_its_own() -> None:
    """All4One and BYOL at any size of the projector; the mean starts as a copy and follows."""
    from embedkit import objectives

    method = methods["simclr"](**SETTINGS["simclr"])
    method.use_guide(GuideConfig(ema=0.5))
    step = common.make_step({"name": "byol", "hidden": 6}, None, method=method, config=DUAL)
    model: Any = step.bundle.model
    method.adapt(model)
    parts = method.parts(model).double()
    step.bundle.parts = parts
    step.bundle.objective = objectives.build({"name": "all4one", "hidden": 6, "size": 16}, dim=8).double()
    guide = step.bundle.guide = Guide(GuideConfig(ema=0.5), model, method.followed_parts(parts))
    mean = guide.parts["projector"]
    before = {name: p.clone() for name, p in mean.named_parameters()}
    assert all(torch.equal(p, parts["projector"].state_dict()[name]) for name, p in before.items())
    result = step.gradients(common.step_batch(step, _rows(12)))
    assert torch.isfinite(result.loss)
    assert step.latest is not None
    assert step.latest.batch.guide["anchor"].shape == (12, 8)
    with torch.no_grad():
        for parameter in parts["projector"].parameters():
            parameter += 1.0
    step.after_update()
    for name, p in mean.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.5)


def test_texts_beside_images_alone_are_told_once_until_they_are_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from embedkit.factory import build
    from embedkit.training.loop.run import _note_text_tower

    def told(model: Any) -> int:
        caplog.clear()
        for _ in range(2):
            model.encode([load_picture(image).image for image, _ in image_data.samples(2)])
            model.encode(["a red square"])
        return sum("vectors of texts mean nothing" in record.getMessage() for record in caplog.records)

    model: Any = build(DUAL)
    assert told(model) == 0  # nothing was trained
    methods["simclr"](**SETTINGS["simclr"]).adapt(model)
    _note_text_tower(model)  # the end of that run: its text tower was frozen
    read: Any = embedkit.load(model.save(tmp_path / "images"))
    assert read.untrained_text
    assert told(read) == 1
    _note_text_tower(read)  # the end of a run on captions that began with it
    assert told(embedkit.load(read.save(tmp_path / "captions"))) == 0
    methods["simclr"](**SETTINGS["simclr"]).adapt(read)  # a tower that has met images stays one
    assert not read.untrained_text


OF_IMAGES = [
    name
    for name in methods
    if methods[name](**toys.REQUIRED.get(name, {})).contract.requires == {"image"}
    and name not in ("captioning", "concepts", "coop", "gopro", "image-text-matching", "patch-grouping")
]
"""Methods that read images alone; those that read words of a class, or a text beside, are none."""


@pytest.mark.parametrize("name", OF_IMAGES)
def test_what_reads_images_alone_trains_no_text_tower_and_notes_one_that_has_met_none(name: str) -> None:
    from embedkit.factory import build

    model: Any = build(DUAL)
    methods[name](**toys.REQUIRED.get(name, {})).adapt(model)
    assert model.untrained_text
    assert not any(p.requires_grad for p in [*model.text.parameters(), *model.projections["text"].parameters()])


def test_a_text_tower_that_stood_beside_images_alone_is_told_where_it_is_trained_on(tmp_path: Path) -> None:
    from embedkit.factory import build
    from embedkit.training import setup

    model: Any = build(DUAL)
    model.train_images_alone()
    model.save(tmp_path / "images")
    overrides = [f"model.name={tmp_path / 'images'}", "model.towers=null"]
    lines = {}
    for name in ("clip-finetune", "simclr"):
        recipe = load_recipe(name, overrides, smoke=True)
        checked = setup.check_all(recipe)
        rows, read = setup.open_rows(recipe, checked.method), build(recipe.model)
        checked.method.adapt(read)
        notes = setup.notes_of_model(recipe, checked.method, rows, read, None)
        lines[name] = [line for line in notes if "trained on images alone" in line]
    assert len(lines["clip-finetune"]) == 1 and not lines["simclr"]


def test_heads_on_images_of_their_own_are_no_heads_beside_another_method() -> None:
    from embedkit.methods.common.auxiliary import Auxiliary, WithAuxiliaries

    with pytest.raises(UserError, match=r"auxiliary\.heads\.image: beside a method heads read its views"):
        WithAuxiliaries(methods["clip"](), [Auxiliary(methods["heads"](image=True), "heads", "auxiliary.0")])


@pytest.mark.parametrize("name", ["coop", "gopro", "lit"])
def test_a_loss_of_patches_beside_a_locked_image_tower_is_refused(name: str) -> None:
    from embedkit.methods.common.auxiliary import Auxiliary, WithAuxiliaries

    beside = [Auxiliary(methods["densecl"](), "densecl", "auxiliary.0")]
    with pytest.raises(RecipeError, match=r"auxiliary\.0: reads patches, and the method beside it has none"):
        WithAuxiliaries(methods[name](), beside)
    assert WithAuxiliaries(methods["lit"](cache=False), beside).main.gives_patches
