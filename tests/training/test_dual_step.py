"""Training of dual encoders: open_clip's losses step by step, and gradients that depend on no chunk and no process."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from embedkit import objectives
from embedkit.config.recipe import GroupConfig, TrainConfig
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View
from embedkit.models import DualEncoder
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.step import Bundle, TrainStep
from embedkit.training.optim.layer_decay import layer_factors
from embedkit.training.optim.optimizer import Optimiser, assign_groups
from embedkit.training.optim.scale import keep_scale, start_scale
from embedkit.training.parallel.distributed import World
from tests.helpers import dual
from tests.training import common

pytest.importorskip("open_clip")
BOUND = 1e-9


class ImagesAndTexts(Method):
    """Ready pixels and one caption a row."""

    contract = Contract(frozenset({"image", "positive"}))

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        places = list(range(len(rows)))
        return {
            "anchor": View([row["image"] for row in rows], places, tower="image"),
            "positive": View([row["positive"] for row in rows], places),
        }


def rows(count: int, step: int = 0) -> list[dict[str, Any]]:
    """Pixels uint8 (3, 32, 32) and captions, a pure function of the arguments."""
    random = np.random.default_rng([step, count])
    words = ["a", "man", "woman", "dog", "cat", "red", "green", "big", "small", "house", "train", "park", "ball"]
    return [
        {
            "image": random.integers(0, 256, (3, 32, 32), dtype=np.uint8),
            "positive": " ".join(random.choice(words, random.integers(2, 9))),
        }
        for _ in range(count)
    ]


def make(
    objective: dict[str, Any], chunking: Chunking | None = None, *, text: str = "clip", patch_dropout: float = 0.0,
    dropout: float | None = None, dtype: torch.dtype = torch.float64, image: str = "open_clip-vit", patch: bool = False,
) -> TrainStep:  # fmt: skip
    """A step over a tiny dual encoder, equal on every process; with `patch` each image has its own shape."""
    model = dual.dual(text, image, **({"dropout": dropout} if dropout is not None else {}))
    if patch:
        model.preprocess = replace(model.preprocess, resize="squash", patch=8)
    if patch_dropout:
        model.image.set_patch_dropout(patch_dropout)
    loss = objectives.build(objective, dim=model.dim)
    bundle = Bundle(model, torch.nn.ModuleDict(), loss).to(dtype)
    bundle.train()
    return TrainStep(bundle, ImagesAndTexts(), World(), chunking or Chunking(), autocast=contextlib.nullcontext)


# --- open_clip ----------------------------------------------------------------------------------------------------


def theirs(model: DualEncoder, scale: float, bias: float | None) -> Any:
    """open_clip's model with the same weights."""
    from open_clip.model import CLIP

    from embedkit.formats.open_clip.text_config import open_clip_text_cfg
    from embedkit.formats.open_clip.writer import text_parts, vision_parts

    cfg, quick = open_clip_text_cfg(model.text)
    vision, visual, _ = vision_parts(model)
    made = CLIP(
        model.dim, vision, {k: v for k, v in cfg.items() if "tokenizer" not in k}, quick_gelu=quick,
        init_logit_scale=math.log(scale), init_logit_bias=bias, output_dict=True,
    )  # fmt: skip
    state = {f"visual.{n}": t for n, t in visual.items()} | text_parts(model, model.text)
    missing, unexpected = made.load_state_dict({n: t.detach().clone() for n, t in state.items()}, strict=False)
    assert not unexpected and {n for n in missing if not n.startswith("logit_")} == set()
    return made.train()


def their_losses(
    made: Any, loss: Any, batches: list[tuple[torch.Tensor, torch.Tensor]], config: TrainConfig
) -> list[float]:
    """Losses of open_clip's model and loss under its own training step: AdamW, groups, clipping, clamp of the scale."""
    named = [(n, p) for n, p in made.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    rest = [p for _, p in named if not any(p is q for q in plain)]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": config.weight_decay}]
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    found = []
    for images, texts in batches:
        adamw.zero_grad()
        output = loss(**made(images, texts), output_dict=True)
        value = sum(output.values())
        value.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), config.max_grad_norm)
        adamw.step()
        with torch.no_grad():
            made.logit_scale.clamp_(0, math.log(100))
        found.append(float(value.detach()))
    return found


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_hundred_steps_have_open_clips_losses(name: str) -> None:
    """Same weights, same batches, same AdamW: the losses of 100 steps agree to 1e-4 in fp32."""
    from open_clip.loss import ClipLoss, SigLipLoss

    torch.manual_seed(0)
    step = make({"name": name}, dtype=torch.float32)
    model = step.bundle.model
    assert isinstance(model, DualEncoder)
    model.text.cleaning = "whitespace"
    config = TrainConfig(max_steps=100, lr=1e-3, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6, schedule="constant")
    scale, bias = (1 / 0.07, None) if name == "clip" else (10.0, -10.0)
    made = theirs(model, scale, bias)
    undecayed = frozenset(f"objective.{n}" for n in step.bundle.objective.no_weight_decay)
    optimiser = Optimiser(step.bundle, assign_groups(step.bundle, config, undecayed), config)
    batches, losses = [], []
    for number in range(100):
        batch = common.step_batch(step, rows(12, number % 8), number)
        images, texts = (pool.inputs for pool in batch.pools)
        ids = torch.zeros(12, model.max_length, dtype=torch.int64)
        for place, row in enumerate(texts.rows()):
            ids[place, : len(row)] = torch.tensor(row)
        batches.append((model.pixels(images), ids))
        losses.append(float(step.gradients(batch).loss))
        optimiser.clip(optimiser.gradient_norm())
        optimiser.step(1.0)
        step.after_update()
    expected = their_losses(made, ClipLoss() if name == "clip" else SigLipLoss(), batches, config)
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    assert losses[-1] < 0.7 * losses[0]  # it learnt something
    keep_scale(step.bundle.objective, model)
    assert model.log_scale == pytest.approx(made.logit_scale.item(), abs=1e-4)
    if bias is not None:
        assert model.bias == pytest.approx(made.logit_bias.item(), abs=1e-3)


# --- exactness ----------------------------------------------------------------------------------------------------


def one(
    objective: dict[str, Any], chunking: Chunking, settings: dict[str, Any]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss share and gradients of one step in this process."""
    step = make(objective, chunking, **settings)
    torch.manual_seed(7)
    data = rows(11)
    for row, image in zip(data, dual.images(11), strict=True) if settings.get("patch") else ():
        row["image"] = np.asarray(image)
    result = step.gradients(common.step_batch(step, data, 3))
    return float(result.loss), common.gradients(step)


@pytest.mark.parametrize("objective", [{"name": "clip"}, {"name": "siglip"}], ids=lambda o: o["name"])
def test_neither_chunks_nor_processes_change_the_gradient(processes: Any, objective: dict[str, Any]) -> None:
    """Patches are dropped by the seed of an image, so that they are the same whatever the chunks and processes."""
    settings = {"patch_dropout": 0.5}
    loss, wanted = one(objective, Chunking(), settings)
    assert float(wanted["objective.scale.log_scale"].abs()) > 1e-6
    if objective["name"] == "siglip":
        assert float(wanted["objective.scale.bias"].abs()) > 1e-6
    assert common.largest_error(one(objective, Chunking(), {})[1], wanted) > 1e-3  # dropping shows
    for chunking in (Chunking(size=3, keep=0), Chunking(size={"image": 2, "text": 5}), Chunking(tokens=40, keep=2)):
        chunked_loss, found = one(objective, chunking, settings)
        assert chunked_loss == pytest.approx(loss, rel=1e-12)
        assert common.largest_error(found, wanted) < BOUND
    for world in (2, 4):
        results = processes(world).run(one, objective, Chunking(size=2, keep=1), settings)
        assert sum(share for share, _ in results) == pytest.approx(loss, rel=1e-12)
        for _, found in results:
            assert common.largest_error(found, wanted) < BOUND


@pytest.mark.parametrize("image", ["naflex", "open_clip-vit"])
def test_images_of_many_shapes_have_the_gradient_of_the_whole_batch(processes: Any, image: str) -> None:
    """NaFlex pads what a chunk holds, another tower runs each shape apart: the gradient depends on neither."""
    settings = {"image": image, "patch": True, **({} if image == "naflex" else {"patch_dropout": 0.5})}
    loss, wanted = one({"name": "clip"}, Chunking(), settings)
    tables = [name for name in wanted if "image" in name and "position" in name]
    assert tables and all(float(wanted[name].abs().max()) > 0 for name in tables)
    assert common.largest_error(one({"name": "clip"}, Chunking(), {**settings, "patch": False})[1], wanted) > 1e-3
    for chunking in (Chunking(size=3, keep=0), Chunking(tokens=40, keep=2)):
        chunked_loss, found = one({"name": "clip"}, chunking, settings)
        assert chunked_loss == pytest.approx(loss, rel=1e-12)
        assert common.largest_error(found, wanted) < BOUND
    results = processes(2).run(one, {"name": "clip"}, Chunking(size=2, keep=1), settings)
    assert sum(share for share, _ in results) == pytest.approx(loss, rel=1e-12)
    for _, found in results:
        assert common.largest_error(found, wanted) < BOUND


def test_dropout_and_dropped_patches_are_replayed() -> None:
    """Chunks computed twice give the gradient of chunks whose graphs were kept, with dropout in the text tower."""
    settings = {"text": "bert", "patch_dropout": 0.5, "dropout": 0.2}
    _, kept = one({"name": "clip"}, Chunking(size=3, keep=100), settings)
    _, replayed = one({"name": "clip"}, Chunking(size=3, keep=0), settings)
    assert common.largest_error(replayed, kept) < BOUND
    step = make({"name": "clip"}, **settings)
    texts = common.step_batch(step, rows(3)).pools[1].inputs
    assert not torch.equal(step.bundle.model(texts), step.bundle.model(texts))  # dropout is on


# --- groups and scale ---------------------------------------------------------------------------------------------


def test_towers_are_frozen_and_slowed_by_pattern() -> None:
    step = make({"name": "clip"})
    groups = [
        GroupConfig(pattern="model.text.*", frozen=True),
        GroupConfig(pattern="model.image.*", lr=1e-3, layer_decay=0.5),
    ]
    config = TrainConfig(max_steps=1, lr=1e-2, groups=groups, max_grad_norm=None, weight_decay=0.1)
    before = {n: p.detach().clone() for n, p in step.bundle.named_parameters()}
    found = assign_groups(step.bundle, config, frozenset({"objective.scale.log_scale"}))
    rates = {name: group.lr for group in found for name in group.names}
    stem = "model.image.encoder"
    assert rates[f"{stem}.proj"] == rates[f"{stem}.ln_post.weight"] == 1e-3
    assert rates[f"{stem}.transformer.resblocks.1.ln_1.weight"] == 0.5e-3
    assert rates[f"{stem}.transformer.resblocks.0.mlp.c_fc.bias"] == 0.25e-3
    assert rates[f"{stem}.conv1.weight"] == rates[f"{stem}.class_embedding"] == 0.125e-3
    assert rates["model.projections.text.layers.0.weight"] == rates["objective.scale.log_scale"] == 1e-2
    assert next(g.weight_decay for g in found if "objective.scale.log_scale" in g.names) == 0.0
    optimiser = Optimiser(step.bundle, found, config)
    step.gradients(common.step_batch(step, rows(6)))
    optimiser.step(1.0)
    moved = {n for n, p in step.bundle.named_parameters() if not torch.equal(p, before[n])}
    assert not any(name.startswith("model.text.") for name in moved)
    assert {f"{stem}.proj", "model.projections.text.layers.0.weight", "objective.scale.log_scale"} <= moved


@pytest.mark.parametrize("image", ["open_clip-resnet", "timm-vit", "timm-convnext", "vit", "siglip"])
def test_layers_of_every_tower_are_found(image: str) -> None:
    tower = dual.image_tower(image)
    names = [f"model.image.{name}" for name, _ in tower.named_parameters()]
    factors = layer_factors(names, 0.5)
    assert max(factors.values()) == 1.0
    assert len(set(factors.values())) >= 4  # embeddings, two layers at least, what is behind them
    first = next(name for name in names if "patch" in name or "conv1" in name or "stem" in name)
    assert factors[first] == min(factors.values())


def test_a_loaded_scale_starts_the_objective_and_is_written_back() -> None:
    model = dual.dual()
    fresh = objectives.build({"name": "siglip"})
    start_scale(fresh, model)
    assert float(fresh.scale.log_scale.exp()) == pytest.approx(10.0)  # the model has none yet
    model.scale, model.bias = 50.0, -3.0
    start_scale(fresh, model)
    assert float(fresh.scale.log_scale.exp()) == pytest.approx(50.0)
    assert float(fresh.scale.bias) == -3.0
    named = objectives.build({"name": "clip", "temperature": 0.1})
    start_scale(named, model, {"temperature"})
    assert float(named.scale.log_scale.exp()) == pytest.approx(10.0)
    model.scale = 500.0
    start_scale(named, model)
    assert float(named.scale.log_scale.exp()) == pytest.approx(100.0)  # clamped
    with torch.no_grad():
        fresh.scale.log_scale.fill_(2.0)
    before = model.hash()
    keep_scale(fresh, model)
    assert (model.scale, model.bias) == (pytest.approx(math.exp(2.0)), -3.0)
    assert model.hash() != before
    start_scale(objectives.build("infonce"), model)  # nothing learnable: nothing happens


def run_recipe(folder: Any, **train: Any) -> dict[str, Any]:
    """Two steps on the built-in shapes from a saved model."""
    return {
        "name": "dual", "method": {"name": "clip", "transform": "none"}, "model": {"kind": "dual", "name": str(folder)},
        "data": {"train": [{"path": "builtin:shapes-train", "limit": 16}]},
        "train": {"max_steps": 2, "batch_size": 8, "lr": 1e-3, "log_every": 1, **train},
    }  # fmt: skip


def test_a_run_goes_on_from_the_scale_of_its_model(tmp_path: Any) -> None:
    from embedkit.formats import load
    from embedkit.training import train

    model = dual.dual("bert")
    model.scale = 50.0
    model.save(tmp_path / "m")
    result = train(run_recipe(tmp_path / "m"), output=tmp_path / "run")
    trained = load(result.output, device="cpu")
    assert isinstance(trained, DualEncoder)
    assert trained.scale is not None and trained.scale != 50.0 and abs(trained.scale - 50.0) < 1.0
    assert trained.hash() != model.hash()


def test_batch_normalisation_is_not_cut_into_chunks(tmp_path: Any) -> None:
    from embedkit.errors import RecipeError
    from embedkit.training import train

    dual.dual("bert", "open_clip-resnet").save(tmp_path / "m")
    recipe = run_recipe(tmp_path / "m", chunk_size=4)
    with pytest.raises(RecipeError, match="batch normalisation sees one chunk at a time"):
        train(recipe, output=tmp_path / "run")
    recipe["model"]["towers"] = {"image": {"freeze_batch_norm": True}}
    assert train(recipe, output=tmp_path / "run2").steps == 2
