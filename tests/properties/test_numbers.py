"""Ways to compute that must not differ: packed and padded encoders, tiled and dense similarity matrices."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.models.execution.plan import Plan
from embedkit.models.inputs.inputs import Inputs
from embedkit.objectives.matrix import tiled
from embedkit.objectives.matrix.similarity import NOBODY, Masks, Relation
from embedkit.objectives.matrix.stats import LogWeights, Part, Stat, Table, dense_stats
from tests.helpers import tiny

SEQUENCES = st.lists(st.lists(st.integers(5, 60), min_size=1, max_size=12), min_size=1, max_size=7)


@cache
def _encoder(family: str) -> Any:
    return tiny.text_encoder(family)


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5", "distilbert", "roberta"])
@settings(max_examples=25)
@given(rows=SEQUENCES)
def test_packed_is_padded(family: str, rows: list[list[int]]) -> None:
    model, inputs = _encoder(family), Inputs.of(rows)
    with torch.no_grad():
        padded, packed = model(inputs, packing="padded"), model(inputs, packing="auto")
    torch.testing.assert_close(packed, padded, atol=2e-5, rtol=1e-4)


@given(rows=SEQUENCES, data=st.data())
def test_inputs_are_taken_apart_and_put_together(rows: list[list[int]], data: st.DataObject) -> None:
    inputs = Inputs.of(rows)
    assert inputs.rows() == rows and inputs.costs.tolist() == [len(row) for row in rows]
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    assert inputs.select(np.array(chosen, dtype=np.int64)).rows() == [rows[i] for i in chosen]
    cut = data.draw(st.integers(0, len(rows)))
    order = list(range(len(rows)))
    parts = [inputs.select(np.array(part, dtype=np.int64)) for part in (order[:cut], order[cut:]) if part]
    assert Inputs.concat(parts).rows() == rows


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_a_plan_holds_every_token_once(lengths: list[int]) -> None:
    plan = Plan.of(np.array(lengths))
    assert sorted(plan.order.tolist()) == list(range(len(lengths)))
    assert plan.order[plan.inverse()].tolist() == list(range(len(lengths)))
    assert plan.lengths.tolist() == sorted(lengths) == [lengths[i] for i in plan.order]
    covered = [token for group in plan.groups for token in range(group.start, group.start + group.tokens)]
    assert covered == list(range(sum(lengths)))
    assert all(a.length < b.length for a, b in pairwise(plan.groups))
    assert plan.places().tolist() == [place for length in sorted(lengths) for place in range(length)]


STATS = [Stat(kind, over) for over in ("negative", "positive") for kind in ("lse", "sum", "softplus", "count")]
STATS += [Stat("lse", "negative", 1.7), Stat("lse", "positive", 0.0), Stat("expect", "positive")]


def _relation(draw: st.DataObject, n: int, m: int, groups: int) -> Relation:
    ids = st.integers(0, groups) | st.just(int(NOBODY))
    left, right = (torch.tensor(draw.draw(st.lists(ids, min_size=k, max_size=k))) for k in (n, m))
    return Relation.of(left, right)


def _table(draw: st.DataObject) -> Table:
    """A table of any size with any masks, weights, scale, guide and band."""
    n, m, d = draw.draw(st.tuples(st.integers(1, 12), st.integers(1, 14), st.integers(1, 4)))
    random = torch.Generator().manual_seed(draw.draw(st.integers(0, 2**20)))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    parts = [
        Part(normal(n, d).requires_grad_(), normal(m, d).requires_grad_()) for _ in range(draw.draw(st.integers(1, 2)))
    ]
    guide = (normal(n, d), normal(m, d), normal(n)) if draw.draw(st.booleans()) else None
    masks = Masks(
        _relation(draw, n, m, 4), _relation(draw, n, m, 8), [_relation(draw, n, m, 3)] * draw.draw(st.integers(0, 1)),
        [_relation(draw, n, m, 1)] * draw.draw(st.integers(0, 1)), guide, draw.draw(st.booleans()),
    )  # fmt: skip
    near = (normal(n), normal(m)) if draw.draw(st.booleans()) else None
    weights = LogWeights([(_relation(draw, n, m, 2), 0.7)] * draw.draw(st.integers(0, 1)), near)
    size = draw.draw(st.sampled_from([0.5, 20.0, 2000.0]))
    scale = torch.full((n, 1) if draw.draw(st.booleans()) else (), size, dtype=torch.float64).requires_grad_()
    bias = torch.tensor(0.3, dtype=torch.float64, requires_grad=True) if draw.draw(st.booleans()) else None
    return Table(parts, scale, bias, masks, weights)


@settings(max_examples=150)
@given(draw=st.data(), tile=st.integers(1, 16))
def test_tiled_is_dense(draw: st.DataObject, tile: int) -> None:
    table = _table(draw)
    leaves = [leaf for part in table.parts for leaf in (part.left, part.right)] + [table.scale]
    leaves += [] if table.bias is None else [table.bias]
    pull = torch.randn(len(STATS), table.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outcomes = []
    for found in (dense_stats(table, STATS), tiled.row_stats([table], STATS, tile)[0]):
        total = sum((w * x.masked_fill(torch.isinf(x), 0.0)).sum() for w, x in zip(pull, found, strict=True))
        grads = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)
        outcomes.append([x.detach() for x in found] + [torch.zeros(()) if g is None else g for g in grads])
    for dense, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(other.broadcast_to(dense.shape), dense, rtol=1e-8, atol=1e-8)
