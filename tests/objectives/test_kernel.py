"""The similarity matrix kernel: building, refusing, composing, counting, edges; formulas are in test_oracles.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from embedkit.config.sections import Component
from embedkit.errors import DataError, NonFiniteError, RecipeError, UserError
from embedkit.objectives import ObjectiveBatch, build
from embedkit.objectives.kernel import TableObjective
from embedkit.objectives.matrix.similarity import NOBODY, Masks, Relation
from embedkit.objectives.parts.slots import DEFAULTS, SLOTS
from embedkit.objectives.registry import presets
from embedkit.objectives.tools import check_finite

MEMBERS = [name for name, preset in presets.items() if preset.family == "table" and name != "kernel-mixture"]


def normal(*shape: int, seed: int = 0, kind: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(kind)


def pairs(size: int = 5, dim: int = 4, kind: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Two views of some rows."""
    points, names = normal(size, dim), ("anchor", "positive")
    return {name: (points + 0.5 * normal(size, dim, seed=k)).to(kind) for k, name in enumerate(names, 1)}


def loss_of(config: Any, views: dict[str, Tensor], **known: Any) -> Tensor:
    """The loss of one process."""
    return build(config, dim=views["anchor"].shape[1], num_rows=99)(views, ObjectiveBatch.of(views, **known)).loss


# ------------------------------------------------------------------------------------------------ building


def test_a_name_a_mapping_and_a_component_build_the_same() -> None:
    views = pairs()
    expected = loss_of("ntxent", views)
    assert loss_of({"name": "ntxent"}, views) == expected
    assert loss_of(Component(name="ntxent"), views) == expected
    assert loss_of({"name": "ntxent", "temperature": 0.3}, views) != expected


def test_a_preset_is_a_composition_of_slots() -> None:
    views = pairs()
    free = {"name": "table", "direction": "views", "scale": {"name": "fixed", "temperature": 0.1}}
    assert loss_of(free, views) == loss_of("ntxent", views)
    decoupled = {"name": "ntxent", "reducer": {"name": "out", "own": 0.0}}
    assert loss_of(decoupled, views) == loss_of("dcl", views)


def test_a_slot_of_a_preset_can_be_replaced() -> None:
    learnt = build({"name": "supcon", "scale": {"name": "learnable", "temperature": 0.2}})
    assert isinstance(learnt, TableObjective)
    assert learnt.choices["scale"] == ("learnable", {"temperature": 0.2})
    assert learnt.choices["reducer"][1]["others"] == 1.0  # what was not replaced stays


def test_a_replaced_part_of_the_same_name_keeps_the_other_settings() -> None:
    built = build({"name": "supcon", "reducer": {"name": "out", "average": "positive"}})
    assert isinstance(built, TableObjective)
    assert built.choices["reducer"][1] == {"others": 1.0, "average": "positive"}


@pytest.mark.parametrize("name", list(presets))
def test_every_preset_says_where_it_comes_from(name: str) -> None:
    preset = presets[name]
    assert len(preset.paper) > 8
    assert preset.family
    assert preset.cost


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_can_be_checked_without_sizes_or_data(name: str) -> None:
    objective = build(name)
    assert objective.requires
    assert not objective.requires & objective.accepts


def test_every_slot_has_a_default_part() -> None:
    assert DEFAULTS.keys() == SLOTS.keys()
    assert all(DEFAULTS[slot] in SLOTS[slot] for slot in SLOTS)


# ------------------------------------------------------------------------------------------------ refusing

REFUSED = [
    ({"name": "ntxnt"}, "did you mean 'ntxent'?"),
    ({"temperature": 0.1}, "give objective.name"),
    ({"name": "ntxent", "temprature": 0.1}, "did you mean 'temperature'?"),
    ({"name": "ntxent", "temperature": 0}, "greater than 0"),
    ({"name": "ntxent", "temperature": -1.0}, "greater than 0"),
    ({"name": "ntxent", "temperature": "warm"}, "a number"),
    ({"name": "ntxent", "temperature": math.nan}, "a number"),
    ({"name": "ntxent", "temperature": True}, "a number"),
    ({"name": "clip", "max_scale": 0.0}, "greater than 0"),
    ({"name": "clip", "min_scale": 200.0}, "at most 100"),
    ({"name": "siglip", "negative_weight": 2.0}, "another reducer"),
    ({"name": "siglip", "weight": "exponential"}, "another reducer"),
    ({"name": "siglip", "prior": "debiased"}, "use prior 'none'"),
    ({"name": "infonce", "negative_weight": 0.0}, "greater than 0"),
    ({"name": "infonce", "others": 2.0}, "at most 1"),
    ({"name": "infonce", "reducer": "outt"}, "did you mean 'out'?"),
    ({"name": "infonce", "reducer": {"own": 1.0}}, "give a name"),
    ({"name": "infonce", "reducer": {"name": "out", "onw": 1.0}}, "did you mean 'own'?"),
    ({"name": "infonce", "direction": "sideways"}, "unknown direction"),
    ({"name": "infonce", "score": "dot", "prior": "debiased"}, "smallest value"),
    ({"name": "aam-ntxent", "score": "dot"}, "needs cosines"),
    ({"name": "moco", "score": "distance"}, "unit vectors"),
    ({"name": "moco", "size": 0}, "at least 1"),
    ({"name": "mochi", "size": 8, "hardest": 9}, "at most 8"),
    ({"name": "ntxent", "scale": "per-sample"}, "reducer 'global'"),
    ({"name": "isogclr", "temperature": 0.9}, "at most 0.7"),
    ({"name": "macl", "alpha": 1.0}, "temperature can reach 0"),
    ({"name": "icon", "tile": 8}, "leave out tile"),
    ({"name": "infonce", "tile": 0}, "at least 1"),
    ({"name": "infonce", "tile": "big"}, "whole number"),
    ({"name": "debiased", "class_prior": 1.0}, "less than 1"),
    ({"name": "icon", "form": "kll"}, "one of"),
    ({"name": "supcon", "by": "colour"}, "one of"),
    ({"name": "icon", "bank": "mixed-queue"}, "use bank 'queue'"),
    ({"name": "icon", "positive": "additive-margin"}, "use positive 'plain'"),
    ({"name": "triplet", "mining": "harder"}, "one of"),
    ({"name": "triplet", "tile": 8}, "leave out tile"),
    ({"name": "triplet", "positive": "simo"}, "use positive 'plain'"),
    ({"name": "triplet", "weight": "exponential"}, "another reducer"),
    ({"name": "triplet", "candidates": "mine"}, "one of"),
    ({"name": "infonce", "direction": "joint"}, "use reducer 'joint'"),
    ({"name": "gte", "bank": "queue"}, "use bank 'none'"),
    ({"name": "gte", "prior": "debiased"}, "use prior 'none'"),
    ({"name": "gist", "guide_relative_margin": "5 %"}, "a number"),
    ({"name": "mochi", "weight": "hardness"}, "use bank 'queue'"),
    ({"name": "clhaif", "smoothing": 0.1}, "left out beside smoothing"),
    ({"name": "clhaif", "by_score": "some"}, "one of"),
    ({"name": "llave", "harder": "hard"}, "one of"),
    ({"name": "circle", "relaxation": 2.0}, "at most 1"),
]


@pytest.mark.parametrize(("config", "told"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_bad_recipe_is_refused_with_a_remedy(config: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        build(config)
    assert told in caught.value.line()
    assert caught.value.remedy
    assert caught.value.where


@pytest.mark.parametrize("name", ["moco", "nnclr", "neighbour-centroid", "hallucinator"])
def test_a_part_that_needs_the_embedding_size_says_so_when_it_is_used(name: str) -> None:
    views = pairs()
    with pytest.raises(RecipeError, match="dim="):
        build(name)(views, ObjectiveBatch.of(views))


@pytest.mark.parametrize("name", ["sogclr", "isogclr"])
def test_state_by_sample_needs_rows_of_known_number(name: str) -> None:
    views = pairs()
    with pytest.raises(RecipeError, match="known size"):
        build(name, num_rows=3)(views, ObjectiveBatch.of(views))


@pytest.mark.parametrize(
    ("config", "role"),
    [("infonce", "positive"), ("supcon", "label"), ("supremix", "score"), ("soft-targets", "guide")],
)
def test_a_missing_role_is_named(config: str, role: str) -> None:
    views = pairs() if role != "positive" else {"anchor": normal(3, 4)}
    with pytest.raises(DataError, match=f"needs '{role}'"):
        loss_of(config, views)


def test_a_bad_embedding_is_named_with_its_row() -> None:
    views = pairs()
    views["positive"][3, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"embeddings\['positive'\] row 3"):
        loss_of("infonce", views)


def test_finite_embeddings_whose_sum_overflows_are_not_refused() -> None:
    check_finite({name: z.abs() * 1e38 for name, z in pairs(kind=torch.float32).items()})


# ------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32(kind: torch.dtype) -> None:
    half = pairs(kind=kind)
    loss = loss_of({"name": "infonce", "temperature": 0.01}, half)
    assert loss.dtype == torch.float32
    exact = loss_of({"name": "infonce", "temperature": 0.01}, {n: z.double() for n, z in half.items()})
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tile", [None, 2])
def test_mixed_precision_around_an_objective_does_not_reach_its_sums(tile: int | None) -> None:
    views = pairs(kind=torch.float32)
    expected = loss_of({"name": "clip", "tile": tile}, views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss_of({"name": "clip", "tile": tile}, views), expected)


@pytest.mark.parametrize("name", ["infonce", "ntxent", "clip", "siglip", "hcl", "dcl", "supcon"])
def test_fp64_stays_fp64(name: str) -> None:
    assert loss_of(name, pairs(), label=torch.tensor([0, 0, 1, 1, 2])).dtype == torch.float64


# ------------------------------------------------------------------------------------------------ parts


def test_the_clip_scale_is_learnt_clamped_and_not_decayed() -> None:
    objective = build({"name": "clip", "max_scale": 20.0})
    assert objective.no_weight_decay == ["scale.log_scale"]
    (parameter,) = objective.parameters()
    with torch.no_grad():
        parameter.fill_(9.0)
    views = pairs(kind=torch.float32)
    objective(views, ObjectiveBatch.of(views)).loss.backward()
    assert parameter.grad is not None  # the clamp is on the parameter: its gradient lives on at the cap
    assert float(parameter.grad) != 0
    objective.after_step(views, ObjectiveBatch.of(views))
    assert float(parameter.detach()) == pytest.approx(math.log(20.0))
    assert float(objective(views, ObjectiveBatch.of(views)).metrics["scale"]) == pytest.approx(20.0)


def test_siglip_exposes_both_parameters() -> None:
    assert build("siglip").no_weight_decay == ["scale.log_scale", "scale.bias"]
    assert build({"name": "matryoshka", "objective": "siglip", "dims": [2]}, dim=4).no_weight_decay == [
        "inner.0.scale.log_scale",
        "inner.0.scale.bias",
    ]


def test_hard_negatives_of_other_rows_repel_and_own_ones_can_weigh_more() -> None:
    views = {**pairs(3), "negatives": normal(4, 4, seed=9)}
    owner = {"anchor": torch.arange(3), "positive": torch.arange(3), "negatives": torch.tensor([0, 0, 2, 2])}
    a, p, n = (torch.nn.functional.normalize(z, dim=1) for z in views.values())
    logits = torch.cat([a @ p.T, a @ n.T], 1) / 0.05
    own = owner["anchor"][:, None] == owner["negatives"][None]
    logits[:, 3:] += 0.7 * own
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(3))
    found = loss_of({"name": "infonce", "hard_negative_weight": 0.7}, views, owner=owner)
    torch.testing.assert_close(found, expected)


def test_both_directions_can_be_added_instead_of_averaged() -> None:
    views = pairs()
    for name, factor in (("clip", 2.0), ("ntxent", 2.0)):
        torch.testing.assert_close(loss_of({"name": name, "combine": "sum"}, views), factor * loss_of(name, views))


def test_groups_are_no_negatives_unless_told() -> None:
    views = pairs(3)
    group = torch.tensor([7, 8, 7])
    alone = loss_of({"name": "infonce", "groups": False}, views, group=group)
    assert loss_of("infonce", views, group=group) < alone
    torch.testing.assert_close(loss_of("infonce", views), alone)


def test_what_the_guide_finds_more_alike_than_the_positive_is_no_negative() -> None:
    views = pairs(3)
    guide = {"anchor": torch.eye(3).double(), "positive": torch.eye(3).double()}
    guide["positive"][0] = torch.tensor([1.0, 1.0, 0.0])
    guide["positive"][1] = guide["anchor"][0]  # rows 0 and 1 find the other's positive more alike than their own
    found = loss_of({"name": "infonce", "guide_margin": 0.0}, views, guide=guide)
    a, p = (torch.nn.functional.normalize(z, dim=1) for z in views.values())
    logits = a @ p.T / 0.05
    scores = guide["anchor"] @ torch.nn.functional.normalize(guide["positive"], dim=1).T
    keep = scores <= scores.diagonal()[:, None]
    assert int((~keep).sum()) == 2
    expected = torch.nn.functional.cross_entropy(logits.masked_fill(~keep, -math.inf), torch.arange(3))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "size", "hard", "processes", "parts"),
    [
        ("infonce", 8, 0, 1, (7, 0, 0, 0)),
        ("infonce", 8, 2, 2, (3, 16, 4, 0)),
        ("clip", 8, 0, 2, (3, 0, 4, 0)),
        ("ntxent", 8, 0, 2, (6, 0, 8, 0)),
        ({"name": "moco", "size": 32}, 8, 0, 2, (0, 0, 0, 32)),
        ({"name": "moco", "size": 32, "bank": {"name": "queue", "in_batch": True}}, 8, 0, 1, (7, 0, 0, 32)),
    ],
)
def test_negatives_are_counted(name: Any, size: int, hard: int, processes: int, parts: tuple[int, ...]) -> None:
    count = build(name).negatives(size, hard, processes)
    assert (count.in_batch, count.hard, count.other_processes, count.bank) == parts
    assert count.total == sum(parts)


def test_a_queue_is_a_ring_of_the_latest_positives() -> None:
    objective = build({"name": "moco", "size": 4, "random_start": False}, dim=4).double()
    seen = []
    for step in range(3):
        views = {name: normal(3, 4, seed=10 * step + k) for k, name in enumerate(("anchor", "positive"))}
        objective.after_step(views, ObjectiveBatch.of(views))
        seen += list(torch.nn.functional.normalize(views["positive"], dim=1))
    state = dict(objective.named_buffers())
    assert int(state["bank.filled"]) == 4
    held = {tuple(row.tolist()) for row in state["bank.vectors"]}
    assert held == {tuple(row.tolist()) for row in torch.stack(seen[-4:])}


def test_a_batch_larger_than_the_queue_leaves_its_end() -> None:
    objective = build({"name": "moco", "size": 2}, dim=4).double()
    views = pairs(5)
    objective.after_step(views, ObjectiveBatch.of(views))
    kept = torch.nn.functional.normalize(views["positive"][-2:], dim=1)
    torch.testing.assert_close(dict(objective.named_buffers())["bank.vectors"].sum(0), kept.sum(0))


@pytest.mark.parametrize("name", ["moco", "nnclr", "sogclr", "isogclr", "mean-shifted"])
def test_state_goes_into_a_checkpoint_and_back(name: str) -> None:
    config = {"name": name, **({"size": 8} if "size" in presets[name].settings else {})}
    one, other = (build(config, dim=4, num_rows=9).double() for _ in range(2))
    views = pairs()
    batch = ObjectiveBatch.of(views)
    one.after_step(views, batch)
    before = build(config, dim=4, num_rows=9).double().state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in one.state_dict().items())
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(views, batch).loss, other(views, batch).loss, rtol=0, atol=0)


def test_a_row_that_comes_twice_in_a_batch_moves_its_state_once() -> None:
    objective = build("isogclr", num_rows=4).double()
    views = pairs(3)
    objective.after_step(views, ObjectiveBatch.of(views, ids=torch.tensor([1, 1, 2])))
    state = dict(objective.named_buffers())
    assert torch.isfinite(state["reducer.log_u"][0]).tolist() == [False, True, True, False]
    assert (state["scale.tau"][0] != state["scale.tau"][0, 0]).tolist() == [False, True, True, False]


# ------------------------------------------------------------------------------------------------ relations


def test_relations_compare_ids_and_know_nobody() -> None:
    left, right = torch.tensor([5, 7, NOBODY, 5]), torch.tensor([7, 5, NOBODY, 9])
    relation = Relation.of(left, right)
    table = relation.tile(slice(0, 4), slice(0, 4))
    assert table is not None
    assert table.nonzero().tolist() == [[0, 1], [1, 0], [3, 1]]
    assert torch.stack(relation.pairs(), 1).tolist() == [[0, 1], [1, 0], [3, 1]]
    assert relation.count().tolist() == [1, 1, 0, 1]
    assert relation.tile(slice(2, 3), slice(0, 4)) is None
    flipped = relation.flip().tile(slice(0, 4), slice(0, 4))
    assert flipped is not None
    assert torch.equal(flipped, table.T)


def test_pairs_and_tiles_of_masks_agree_on_random_ids() -> None:
    draw = torch.Generator().manual_seed(3)
    for _ in range(20):
        left, right = (torch.randint(0, 6, (n,), generator=draw) for n in (9, 11))
        same_left, same_right = torch.arange(9), torch.arange(11)
        masks = Masks(Relation.of(left, right), Relation.of(same_left, same_right))
        positive = (left[:, None] == right) & (same_left[:, None] != same_right)
        tiles = [masks.positives(slice(i, i + 3), slice(0, 11)) for i in range(0, 9, 3)]
        full = torch.cat([torch.zeros(3, 11, dtype=torch.bool) if t is None else t for t in tiles])
        assert torch.equal(full, positive)
        row, column = masks.pairs()
        assert torch.equal(torch.stack([row, column], 1), positive.nonzero())
        negatives = masks.negatives(slice(0, 9), slice(0, 11))
        assert negatives is not None
        assert torch.equal(negatives, (left[:, None] != right) & (same_left[:, None] != same_right))
