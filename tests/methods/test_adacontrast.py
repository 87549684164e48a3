"""AdaContrast: votes of neighbours, terms and negatives against loops; what it needs, and what it saves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from embedkit import objectives
from embedkit.config.recipe import GuideConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.data import RowBatch
from embedkit.errors import ModelError, RecipeError
from embedkit.factory import build
from embedkit.methods import methods
from embedkit.models.base import Model
from embedkit.models.heads.classifier import TargetHead
from embedkit.models.heads.voters import kept_classifier
from embedkit.training import setup
from embedkit.training.batching import decoding
from embedkit.training.loop.guide import Guide
from embedkit.training.parallel.distributed import World
from embedkit.training.starting import _first, start
from embedkit.views.image import prepare_images
from tests.methods.test_image_methods import DUAL, _rows
from tests.training import common

ROWS, CLASSES = 6, ["hat", "shoe", "tie"]
SMALL = {"transform": "small", "hidden": 24, "size": 8, "neighbours": 2, "vectors": 9, "weight": 0.7, "diversity": 0.3}
OBJECTIVE = {"name": "moco", "size": 8, "temperature": 0.07, "direction": {"name": "rows", "keys": "guide"}}


def _step() -> Any:
    torch.manual_seed(2)
    method = methods["adacontrast"](**SMALL)
    method.use_guide(GuideConfig(ema=0.5))
    head = TargetHead(DUAL.towers.dim, 3, "class", CLASSES)
    with mock.patch.object(Model, "classifiers", {"kind": head}):
        step = common.make_step(OBJECTIVE, None, method=method, config=DUAL)
    step.bundle.objective = objectives.build(OBJECTIVE, dim=8, num_rows=64).double()
    step.bundle.objective.begin(frozenset({"group"}), 8)
    step.bundle.guide = Guide(
        GuideConfig(ema=0.5), step.bundle.model, method.followed_parts(step.bundle.parts)
    ).double()
    step.bundle.train()
    return step


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def _softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def test_votes_terms_and_negatives_are_those_of_loops() -> None:
    step = _step()
    bundle = step.bundle
    first = common.step_batch(step, _rows(ROWS))
    weak = next(pool for pool in first.pools if pool.settings.get("still"))
    assert weak.guided
    with torch.no_grad():
        told = bundle.guide.encoder(weak.inputs)
        votes = bundle.guide.parts["classifier"](told).softmax(dim=1).numpy()
    step.gradients(first)
    old_groups, old_keys = step.latest.batch.group.numpy(), step.latest.batch.guide["positive"].numpy()
    step.after_update()
    with torch.no_grad():
        for parameter in bundle.guide.parameters():
            parameter.mul_(1.2)
    bundle.zero_grad()

    random = bundle.objective.bank.get_buffer("vectors").numpy()[ROWS:].copy()  # what the first step did not replace
    result = step.gradients(common.step_batch(step, _rows(ROWS), number=1))
    outputs, batch = step.latest.outputs, step.latest.batch
    own, held = _unit(outputs["view3"].numpy()), _unit(told.numpy())
    labels = []
    for z in own:
        near = np.argsort(-(held @ z))[:2]
        labels.append(int(votes[near].mean(axis=0).argmax()))
    assert batch.group.tolist() == labels

    with torch.no_grad():
        shares = _softmax(bundle.parts["classifier"](outputs["anchor"]).numpy())
    pseudo = -np.mean([np.log(shares[i, label]) for i, label in enumerate(labels)])
    mean = shares.mean(axis=0)
    assert float(result.terms["pseudo"]) == pytest.approx(0.7 * pseudo, rel=1e-9)
    assert float(result.terms["diversity"]) == pytest.approx(0.3 * (mean * np.log(mean)).sum(), rel=1e-9)

    queries, keys = _unit(step.latest.embeddings["anchor"].numpy()), _unit(batch.guide["positive"].numpy())
    losses = []
    for i, q in enumerate(queries):
        other = [k for k, group in zip(_unit(old_keys), old_groups, strict=True) if group != labels[i]]
        logits = np.array([q @ keys[i], *(q @ k for k in [*other, *random])]) / 0.07
        losses.append(np.log(np.exp(logits).sum()) - logits[0])
    contrast = float(result.loss) - float(result.terms["pseudo"]) - float(result.terms["diversity"])
    assert contrast == pytest.approx(np.mean(losses), rel=1e-9)
    assert bundle.parts["classifier"].layers[0].weight.grad.abs().sum() > 0
    assert int(bundle.parts["voters"].filled) == ROWS


def test_the_queue_is_filled_by_a_pass_before_the_first_step() -> None:
    """Against loops: pictures as they are, in their order, through encoder and classifier without their changes."""
    step = _step()
    model, parts, method = step.bundle.model, step.bundle.parts, step.method
    assert method.start_rows == 9
    rows = _rows(ROWS)
    model.eval()
    for batch in (rows[:4], rows[4:]):
        method.learn_start(model, parts, batch)
    assert (int(parts["voters"].filled), int(parts["voters"].pointer)) == (6, 6)
    for place, row in enumerate(rows):
        with torch.no_grad():
            z = model(prepare_images(model, [row["image"].image]))[0].numpy()
        layer = parts["classifier"].layers[0]
        logits = layer.weight.detach().numpy() @ z + layer.bias.detach().numpy()
        assert parts["voters"].vectors[place].numpy() == pytest.approx(_unit(z[None])[0], rel=1e-6)
        assert parts["voters"].votes[place].numpy() == pytest.approx(_softmax(logits[None])[0], rel=1e-6)


def test_the_pass_reads_what_the_queue_holds_and_drops_bad_images(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (40, 40), (40 * number, 9, 9)).save(tmp_path / f"{number}.png")
    (tmp_path / "0.png").write_bytes(b"no image")
    changes = ["data.on_bad_row=quarantine", "data.drop_last=false", "train.batch_size=4", "train.holdout=0"]
    changes += [f"data.train=[{{path: {tmp_path}}}]"]
    recipe = load_recipe("moco", changes, smoke=True)
    method, seen, said = methods["moco"](transform="small"), [], []
    rows, model = setup.open_rows(recipe, method), build(recipe.model, 0)
    for most, counts in ((3, [[3], [2]]), (100, [[4, 1], [3, 2]])):
        method.start_rows = most
        with mock.patch.object(type(method), "learn_start", lambda *a: seen.append([r["image"].image for r in a[3]])):
            seen.clear()
            start(method, model, torch.nn.ModuleDict(), rows, World(), said.append, decoding(recipe, method, model))
        assert [len(batch) for batch in seen] in counts, seen
    assert said == [f"the parts of the method start from up to {n} rows" for n in (3, 6)]


def test_what_it_cannot_go_on_with_is_told() -> None:
    head, number = TargetHead(4, 2, "class", ["a", "b"]), TargetHead(4, 1, "number")
    for kept, name, told in (
        ({}, None, "no classifier is kept"), ({"tone": head, "topic": head}, None, "keeps tone, topic; say which"),
        ({"tone": head}, "tune", "no 'tune'"), ({"size": number}, None, "tells 'number'"),
    ):  # fmt: skip
        with pytest.raises(ModelError) as caught:
            kept_classifier(SimpleNamespace(classifiers=kept), name)
        assert told in caught.value.line()
    name, copy = kept_classifier(SimpleNamespace(classifiers={"tone": head}), None)
    assert name == "tone" and copy is not head
    method = methods["adacontrast"]()
    with pytest.raises(RecipeError, match="lacks the classifier"):
        method.use_guide(GuideConfig(ema=0.9, parts=["projector"]))
    for guide in (None, GuideConfig(ema=0.9, parts=["classifier"])):
        with pytest.raises(RecipeError, match="running mean of the encoder and its projector"):
            methods["adacontrast"]().use_guide(guide)


def test_a_stream_that_begins_again_gives_each_image_once() -> None:
    def batches(epoch: int) -> Iterator[RowBatch]:
        while True:
            for first in (0, 2, 4):
                yield RowBatch([{"image": first}, {"image": first + 1}], [first, first + 1], 2, epoch, 0)

    rows: Any = SimpleNamespace(batches=batches)
    assert [batch.ids for _, batch in _first(rows, 20)] == [[0, 1], [2, 3], [4, 5]]
    assert [batch.ids for _, batch in _first(rows, 3)] == [[0, 1], [2]]
