"""Methods on documents against restatements: bridges, distances, spans, two encoders, criteria of discourse."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from embedkit import objectives
from embedkit.errors import DataError, RecipeError
from embedkit.factory import build
from embedkit.formats import load
from embedkit.methods import methods
from embedkit.methods.base import Method
from embedkit.models.modules.masked import hide_tokens
from embedkit.objectives.base import NoObjective
from embedkit.objectives.losses.sequences import bridge_loss, distance_loss
from embedkit.training import train
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.step import Bundle, TrainStep
from embedkit.training.parallel.distributed import World
from tests.training import common, runs

F64 = torch.float64


def step_of(method: Method, **config: Any) -> TrainStep:
    model = build(common.model_config(0.0, **config), 3).double()
    method.adapt(model)
    torch.manual_seed(5)
    loss = NoObjective() if method.objective is None else objectives.build(method.objective, dim=model.training_dim)
    bundle = Bundle(model, method.parts(model).double(), loss.double()).double()
    bundle.train()
    return TrainStep(bundle, method, World(), Chunking(size=2), autocast=contextlib.nullcontext)


def documents(count: int, least: int = 3) -> list[dict[str, Any]]:
    return [{"sentences": common.texts(least + i % 4, i)} for i in range(count)]


def outputs(step: TrainStep, rows: list[dict[str, Any]]) -> tuple[dict[str, Tensor], Any]:
    """Vectors of every view's inputs one by one, and the views."""
    batch = common.step_batch(step, rows)
    model = step.bundle.model
    return {n: torch.cat([model(model.prepare([x])) for x in v.inputs]) for n, v in batch.views.items()}, batch


# Time Control

Z = torch.randn(3, 4, 5, dtype=F64, generator=torch.Generator().manual_seed(1))
TIMES = torch.tensor([[0, 2, 5], [1, 3, 4], [6, 7, 9], [0, 1, 2]])


@pytest.mark.parametrize("outside", ["mask", "clamp", "keep"])
def test_the_bridge_is_the_formula(outside: str) -> None:
    start, middle, end = Z
    losses = []
    for i in range(4):
        logits = {}
        for j in range(4):
            (t0, _, last), t = TIMES[j].tolist(), TIMES[i, 1].item()
            share = (t - t0) / (last - t0)
            spread = (t - t0) * (last - t) / (last - t0)
            gap = middle[i] - (1 - share) * start[j] - share * end[j]
            inside = t0 < t < last
            if inside or outside != "mask":
                spread = max(spread, 0.0) if outside == "clamp" else spread
                logits[j] = -float(gap @ gap) / (2 * spread + 1e-6)
        top = max(logits.values())
        total = math.log(sum(math.exp(x - top) for x in logits.values()) + 1e-6 * math.exp(-top)) + top
        losses.append(total - logits[i])
    halves = [bridge_loss(start, middle, end, TIMES, rows, outside) for rows in (slice(0, 1), slice(1, 4))]
    assert float(sum(halves)) == pytest.approx(sum(losses), rel=1e-12)
    assert float(halves[0]) == pytest.approx(losses[0], rel=1e-12)


def test_the_instant_of_another_document_rewards_distance_in_the_code_alone() -> None:
    start, middle, end = Z[:, :2] * 30  # the instant of the first triple is outside the bridge of the second
    times = torch.tensor([[0, 1, 4], [5, 6, 9]])
    middle = torch.stack([0.75 * start[0] + 0.25 * end[0], 0.75 * start[1] + 0.25 * end[1]])  # both on their bridges
    masked, clamped, kept = (float(bridge_loss(start, middle, end, times, slice(0, 2), o)) for o in
                             ("mask", "clamp", "keep"))  # fmt: skip
    assert masked == pytest.approx(0.0, abs=1e-5)
    assert clamped == pytest.approx(0.0, abs=1e-5)
    assert kept > 100


@pytest.mark.parametrize("pin", [1.0, 0.5, 0.0])
def test_time_control_adds_bridge_and_pins(pin: float) -> None:
    step, rows = step_of(methods["time-control"](pin=pin)), documents(6)
    result = step.gradients(common.step_batch(step, rows))
    z, batch = outputs(step, rows)
    times = np.stack([batch.views[n].places[:, 0] for n in ("start", "middle", "end")], axis=1)
    counts = [len(row["sentences"]) for row in rows]
    for i, (t0, t, last) in enumerate(times):
        assert 0 <= t0 < t < last < counts[i]
        texts = [batch.views[n].inputs[i] for n in ("start", "middle", "end")]
        assert texts == [rows[i]["sentences"][k] for k in (t0, t, last)]
    wanted = bridge_loss(z["start"], z["middle"], z["end"], torch.as_tensor(times), slice(0, 6)) / 6
    firsts = [float((z["start"][i].detach() ** 2).mean()) for i in range(6) if times[i, 0] == 0]
    lasts = [float(((z["end"][i].detach() - 1) ** 2).mean()) for i in range(6) if times[i, 2] == counts[i] - 1]
    assert firsts
    assert lasts
    pins = sum(firsts) / len(firsts) + sum(lasts) / len(lasts)
    assert float(result.loss) == pytest.approx(float(wanted) + pin * pins, rel=1e-9)


# CONPONO


@pytest.mark.parametrize("choices", [None, 5, 4])
def test_distances_are_told_by_a_map_each(choices: int | None) -> None:
    rng = torch.Generator().manual_seed(2)
    anchors, targets = torch.randn(3, 4, dtype=F64, generator=rng), torch.randn(7, 4, dtype=F64, generator=rng)
    maps = torch.randn(4, 4, 4, dtype=F64, generator=rng)
    owner, offset = torch.tensor([0, 0, 1, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 1, 2, 2, 3])
    losses = []
    for n in range(7):
        first = owner.tolist().index(int(owner[n]))
        among = [(first + m) % 7 for m in range(7 if choices is None else choices)]
        scores = torch.stack([targets[m] @ maps[offset[n]] @ anchors[owner[n]] for m in among])
        losses.append(float(scores.logsumexp(0) - scores[among.index(n)]))
    found = [float(distance_loss(anchors, targets, owner, offset, maps, rows, choices)) for rows in
             (slice(0, 1), slice(1, 3))]  # fmt: skip
    assert found == pytest.approx([sum(losses[:2]), sum(losses[2:])], rel=1e-12)


def test_conpono_draws_a_segment_and_those_around_it() -> None:
    step, rows = step_of(methods["conpono"](reach=2, choices=4, length=2)), documents(5, least=4)
    result = step.gradients(common.step_batch(step, rows))
    z, batch = outputs(step, rows)
    targets, numbers = batch.views["targets"], []
    for i, row in enumerate(rows):
        segments = [" ".join(row["sentences"][k : k + 2]) for k in range(0, len(row["sentences"]), 2)]
        place = segments.index(batch.views["anchor"].inputs[i])
        own = [k for k in (-2, -1, 1, 2) if 0 <= place + k < len(segments)]
        mine = [n for n, row_of in enumerate(targets.owner) if row_of == i]
        assert [targets.inputs[n] for n in mine] == [segments[place + k] for k in own]
        assert targets.places[mine, 0].tolist() == own
        numbers += [{-2: 0, -1: 1, 1: 2, 2: 3}[k] for k in own]
    maps = step.bundle.parts["distances"]["maps"]
    wanted = distance_loss(z["anchor"], z["targets"], torch.tensor(targets.owner), torch.tensor(numbers), maps,
                           slice(0, 5), 4) / len(numbers)  # fmt: skip
    assert float(result.loss) == pytest.approx(float(wanted), rel=1e-9)
    with pytest.raises(RecipeError, match="3 choices are fewer than the 4 targets"):
        methods["conpono"](reach=2, choices=3)


# Quick-Thoughts


@pytest.mark.parametrize("fidelity", ["code", "paper"])
def test_two_encoders_with_weights_of_their_own(fidelity: str) -> None:
    step = step_of(methods["quick-thoughts"](fidelity=fidelity))
    with torch.no_grad():
        for parameter in step.bundle.parts.parameters():
            parameter *= 1.1
    rows = [{"anchor": t, "document_id": i // 4, "position": i % 4} for i, t in enumerate(common.texts(7))]
    result = step.gradients(common.step_batch(step, rows))
    f, g = (torch.cat([m(m.prepare([row["anchor"]])) for row in rows])
            for m in (step.bundle.model, step.bundle.parts["context"]))  # fmt: skip
    scores = f @ g.T
    scores.fill_diagonal_(0.0 if fidelity == "code" else -torch.inf)
    log_q, losses = scores.log_softmax(1), []
    for i in range(7):
        near = [j for j in (i - 1, i + 1) if 0 <= j < 7 and j // 4 == i // 4]
        losses.append(-float(sum(log_q[i, j] for j in near)) / len(near))
    assert float(result.loss) == pytest.approx(sum(losses) / 7, rel=1e-9)
    grads = [p.grad for p in step.bundle.parts["context"].parameters() if p.grad is not None]  # type: ignore[union-attr]
    assert sum(float(grad.abs().sum()) for grad in grads) > 0


def test_the_vector_is_that_of_both_encoders(tmp_path: Path) -> None:
    """The saved folder gives f beside g; the first alone where that is asked for."""
    texts = ["a bird sings", "the old house"]
    for encoders in ("both", "first"):
        out = tmp_path / encoders
        changes = [f"method={{name: quick-thoughts, encoders: {encoders}}}", "train.max_steps=2", "train.save_every=2"]
        model = load(train("quick-thoughts", changes, output=out, smoke=True).output)
        weights = runs.checkpoint(out, 2, "weights")
        members = model.models if encoders == "both" else [model]
        for place, member in zip(("model", "parts.context"), members, strict=False):
            for name, value in member.state_dict().items():
                assert torch.equal(value.cpu(), weights[f"{place}.{name}"]), name
        side_by_side = np.concatenate([member.encode(texts) for member in members], axis=1)
        np.testing.assert_allclose(model.encode(texts), side_by_side, atol=1e-6)
        assert side_by_side.shape == (2, len(members) * members[0].dim)


# DeCLUTR

SMALL = {"least": 2, "most": 5, "anchors": 2, "positives": 2}


def test_spans_are_cut_from_the_tokens_of_the_document() -> None:
    method: Any = methods["declutr"](**SMALL)
    step, rows = step_of(method), documents(4, least=8)
    views = method.views(rows, np.random.default_rng)
    tokenizer: Any = step.bundle.model.tokenizer

    def tokens_of(text: str) -> str:
        return " ".join(tokenizer.tokenize(text))

    words = {
        name: [tokens_of(tokenizer.decode(ids[1:-1])) for ids in method.prepare(step.bundle.model, name, view).rows()]
        for name, view in views.items()
    }
    for i, row in enumerate(rows):
        whole = tokens_of(" ".join(row["sentences"]))
        anchors = [words["anchor"][n] for n, owner in enumerate(views["anchor"].owner) if owner == i]
        positives = [words["positive"][n] for n, owner in enumerate(views["positive"].owner) if owner == i]
        assert (len(anchors), len(positives)) == (2, 4)
        assert all(2 <= len(span.split()) <= 5 and span in whole for span in anchors + positives)


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_declutr_is_contrast_of_spans_and_words_of_the_anchors_own_pass(weight: float) -> None:
    method: Any = methods["declutr"](**SMALL, weight=weight, rate=0.4)
    step, rows = step_of(method), documents(3, least=8)
    batch = common.step_batch(step, rows)
    result = step.gradients(batch)
    model: Any = step.bundle.model
    inputs = {name: pool.inputs for pool in batch.pools for name, _ in pool.names}
    losses, vectors = [], []
    for i in range(len(inputs["anchor"])):
        one = inputs["anchor"].select([i])
        hidden = hide_tokens(one, model.tokenizer, 0.4)
        ids = hidden.inputs.ids if weight else one.ids
        states = model.encoder(input_ids=ids[None]).last_hidden_state[0]
        vectors.append(states.mean(0))
        logits = model.mask_head(states, model.encoder.get_input_embeddings().weight) if weight else None
        losses += [F.cross_entropy(logits[k], one.ids[k]) for k in np.flatnonzero(hidden.targets)] if weight else []
    raw = [model.encoder(input_ids=inputs["positive"].select([i]).ids[None]).last_hidden_state[0].mean(0)
           for i in range(len(inputs["positive"]))]  # fmt: skip
    means = [(raw[2 * i] + raw[2 * i + 1]) / 2 for i in range(6)]
    z = F.normalize(torch.stack([*vectors, *means]), dim=1)
    scores = (z @ z.T / 0.05).fill_diagonal_(-torch.inf)
    contrast = F.cross_entropy(scores, torch.arange(12).roll(6))  # 2 x (3 documents x 2 anchors)
    wanted = float(contrast) + (weight * float(torch.stack(losses).mean()) if weight else 0.0)
    assert float(result.loss) == pytest.approx(wanted, rel=1e-9)


def test_short_documents_are_told_at_the_start_and_refused() -> None:
    method: Any = methods["declutr"](least=4, most=10)
    step, rows = step_of(method), [{"sentences": ["the cat sleeps"]}, {"sentences": ["the red bird sings"] * 12}]
    [note] = method.notes_of_rows(step.bundle.model, rows)
    tokenizer: Any = step.bundle.model.tokenizer
    few, many = (len(tokenizer.tokenize(" ".join(row["sentences"]))) for row in rows)
    assert few < 40 < many
    assert note == f"documents of {few} to {many} tokens; declutr needs 40 of each, 1 of the first 2 have fewer"
    wanted = f"document 'the cat sleeps': the document has {few} tokens, 2 anchors of up to 10 need 40"
    with pytest.raises(DataError, match=wanted):
        common.step_batch(step, rows)


# Discourse


def test_the_criteria_of_discourse() -> None:
    method: Any = methods["discourse"](neighbours=1.0, place=0.5, level=2.0, title=0.25, places=3, hidden=7)
    step = step_of(method)
    rows = [{**row, "label": None if i == 2 else i % 3, "positive": None if i == 1 else "the old song"}
            for i, row in enumerate(documents(6))]  # fmt: skip
    result = step.gradients(common.step_batch(step, rows))
    z, batch = outputs(step, rows)
    parts, tokenizer = step.bundle.parts, step.bundle.model.tokenizer  # type: ignore[union-attr]
    found: dict[str, list[float]] = {name: [] for name in ("previous", "next", "place", "level", "title")}

    def words(name: str, i: int, text: str) -> None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found[name].append(-float(parts[name](z["anchor"][i]).log_softmax(0)[ids].mean()))

    def number(name: str, i: int, value: int) -> None:
        found[name].append(-float(parts[name](z["anchor"][i]).log_softmax(0)[value]))

    for i, row in enumerate(rows):
        draw = np.random.Generator(np.random.Philox(key=[1, 0], counter=[0, i, 0, 0]))
        place = int(draw.integers(len(row["sentences"])))
        assert batch.views["anchor"].inputs[i] == row["sentences"][place]
        if place:
            words("previous", i, row["sentences"][place - 1])
        if place + 1 < len(row["sentences"]):
            words("next", i, row["sentences"][place + 1])
        number("place", i, min(place, 2))
        if row["label"] is not None:
            number("level", i, row["label"])
        if row["positive"]:
            words("title", i, row["positive"])
    assert len(found["level"]) == 5
    weights = {"previous": 1.0, "next": 1.0, "place": 0.5, "level": 2.0, "title": 0.25}
    wanted = {name: weights[name] * sum(values) / len(values) for name, values in found.items()}
    assert {name: float(term) for name, term in result.terms.items()} == pytest.approx(wanted, rel=1e-6)
    assert float(result.loss) == pytest.approx(sum(wanted.values()), rel=1e-6)
    with pytest.raises(RecipeError, match="nothing is predicted"):
        methods["discourse"](neighbours=0.0, place=0.0, level=0.0, title=0.0)
