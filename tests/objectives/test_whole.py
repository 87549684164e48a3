"""Log-sum-exps of a whole matrix, whose exponentials are kept: equal to autograd's through a plain statement."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from embedkit.objectives import ObjectiveBatch, build
from embedkit.objectives.matrix import tiled
from embedkit.objectives.matrix.similarity import Masks, Relation
from embedkit.objectives.matrix.stats import LogWeights, Part, Stat, Table
from embedkit.objectives.matrix.whole import keeps_exponentials, whole_lse

N, M = 5, 7


def leaves(scale: float, each: bool) -> tuple[Tensor, ...]:
    """Features, scale (one, or one a row) and bias that want gradients."""
    draws = torch.Generator().manual_seed(int(scale))
    left, right = (torch.randn(n, 3, dtype=torch.float64, generator=draws) for n in (N, M))
    scales = torch.full((N, 1) if each else (), scale, dtype=torch.float64)
    return tuple(t.requires_grad_() for t in (left, right, scales, torch.tensor(0.3, dtype=torch.float64)))


def table_of(left: Tensor, right: Tensor, scale: Tensor, bias: Tensor) -> Table:
    """Row 2 has no negative at all; candidate 0 is its own positive; related pairs weigh more."""
    rows = torch.arange(N)
    candidate = torch.arange(M)
    masks = Masks(Relation.of(rows, candidate), Relation.of(rows + 50, candidate + 100))
    masks.drop.append(Relation.of(torch.where(rows == 2, 9, -5 - rows), torch.full((M,), 9)))
    weights = LogWeights([(Relation.of(rows, candidate - 1), 0.5)])
    return Table([Part(left, right)], scale, bias, masks, weights)


def plain(table: Table, stat: Stat) -> tuple[Tensor, Tensor]:
    """Log-sum-exps of rows and columns by loops over what is no positive and not dropped."""
    logits = stat.factor * (table.scale * (table.parts[0].left @ table.parts[0].right.T) + table.bias)
    there = torch.ones(N, M, dtype=torch.bool)
    for i in range(N):
        there[i, i] = False
        if i + 1 < M and table.weights.related:
            logits = logits + 0.5 * torch.zeros(N, M, dtype=logits.dtype).index_put(
                (torch.tensor(i), torch.tensor(i + 1)), torch.tensor(1.0, dtype=logits.dtype)
            )
    there[2] = False
    exps = logits.exp() * there
    rows, columns = exps.sum(1), exps.sum(0)
    return torch.where(rows == 0, -torch.inf, rows.clamp_min(1e-300).log()), columns.log()


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_rows_equal_a_plain_statement(scale: float, factor: float, each: bool) -> None:
    given, stat, weight = leaves(scale, each), Stat("lse", "negative", factor), torch.arange(1.0, N + 1).double()
    (found,) = whole_lse(table_of(*given), stat)
    expected, _ = plain(table_of(*given), stat)
    assert found[2] == -torch.inf
    torch.testing.assert_close(found, expected)
    inside = torch.arange(N) != 2
    ours = torch.autograd.grad((found * weight)[inside].sum(), given)
    theirs = torch.autograd.grad((expected[inside] * weight[inside]).sum(), given)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)


def test_rows_and_columns_share_a_matrix() -> None:
    given, stat = leaves(3.0, False), Stat("lse", "negative")
    table = table_of(*given)
    table.weights.related.clear()
    rows, columns = whole_lse(table, stat, columns=True)
    expected = plain(table, stat)
    inside = torch.arange(N) != 2
    for parts in ((1, 0), (0, 1), (1, 1)):
        ours = torch.autograd.grad(
            parts[0] * rows[inside].sum() + parts[1] * (columns**2).sum(), given, retain_graph=True
        )
        theirs = torch.autograd.grad(
            parts[0] * expected[0][inside].sum() + parts[1] * (expected[1] ** 2).sum(), given, retain_graph=True
        )
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, two)


def test_logits_beyond_what_an_exponential_holds() -> None:
    left, right = torch.eye(3) * 40, torch.eye(3) * 40
    masks = Masks(Relation.of(torch.arange(3), torch.arange(3)), Relation.of(torch.arange(3), torch.arange(3) + 3))
    (found,) = whole_lse(Table([Part(left, right + 20)], torch.tensor(1.0), None, masks), Stat("lse", "negative"))
    torch.testing.assert_close(found, torch.tensor([800.0, 800.0, 800.0]) + torch.tensor(2.0).log())


def test_what_it_does_not_make() -> None:
    table = table_of(*leaves(1.0, False))
    lse, count = Stat("lse", "negative"), Stat("count", "negative")
    assert keeps_exponentials(table, [lse])
    assert not keeps_exponentials(table, [lse, count])
    assert not keeps_exponentials(table, [count])
    empty = Table([Part(torch.zeros(2, 3), torch.zeros(0, 3))], table.scale, None, table.masks)
    assert not keeps_exponentials(empty, [lse])


@pytest.mark.parametrize(("temperature", "passes"), [(0.07, 1), (0.01, 2)])
def test_both_directions_of_clip_share_one_matrix_where_that_is_safe(
    temperature: float, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    once = tiled.whole_lse
    monkeypatch.setattr(tiled, "whole_lse", lambda *a, **k: calls.append(a) or once(*a, **k))
    views = {name: torch.randn(4, 6, generator=torch.Generator().manual_seed(n)) for n, name in enumerate("ab")}
    views = {"anchor": views["a"], "positive": views["b"]}
    loss = build({"name": "clip", "temperature": temperature})(views, ObjectiveBatch.of(views)).loss
    logits = torch.nn.functional.normalize(views["anchor"]) @ torch.nn.functional.normalize(views["positive"]).T
    logits, target = logits / temperature, torch.arange(4)
    cross = torch.nn.functional.cross_entropy
    torch.testing.assert_close(loss, (cross(logits, target) + cross(logits.T, target)) / 2)
    assert len(calls) == passes
