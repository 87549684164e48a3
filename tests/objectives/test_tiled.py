"""Tiles: the same loss, gradients and state as the dense table, for every member of the kernel that can be tiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embedkit.objectives import ObjectiveBatch, build
from embedkit.objectives.matrix import tiled as machine
from embedkit.objectives.matrix.similarity import Masks, Relation
from embedkit.objectives.matrix.stats import LogWeights, Part, Stat, Table, dense_stats
from embedkit.objectives.registry import presets

ROWS, DIM = 7, 6
OWNER = torch.tensor([0, 0, 1, 3, 3, 3, 5, 6, 6])  # of hard negatives: none for rows 2 and 4
TILED = [name for name, preset in presets.items() if preset.tiled]
NO_HARD = {"nnclr", "neighbour-centroid", "local-group", "cmim"}


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in fp64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def config_of(name: str, **more: Any) -> dict[str, Any]:
    """A small instance of a preset."""
    small = {"size": 16, "hardest": 5, "hidden": 5, "heads": 2, "classes": 9}
    config = {key: value for key, value in small.items() if key in presets[name].settings}
    if name == "mochi":
        config |= {"mixes": 4, "query_mixes": 3}
    if name == "mls":
        config |= {"guide_dim": DIM, "neighbours": 3}
    return {"name": name, **config, **more}


def run(config: dict[str, Any], hard: bool, rows: slice = slice(0, ROWS)) -> dict[str, Tensor]:
    """Loss, gradients and state after a step that follows another."""
    names = ["anchor", "positive", "view3", "negatives"]
    torch.manual_seed(5)
    objective = build(config, dim=DIM, num_rows=20).double()
    found: dict[str, Tensor] = {}
    score = torch.tensor([0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 2.0]) / (4.0 if "score" in objective.limits else 1.0)
    for step in range(2):
        views = {n: normal(ROWS, DIM, seed=10 * step + k) for k, n in enumerate(names[:3])}
        owner = {n: torch.arange(ROWS) for n in views}
        if hard:
            views["negatives"], owner["negatives"] = normal(len(OWNER), DIM, seed=10 * step + 3), OWNER
        batch = ObjectiveBatch.of(
            views, owner=owner, rows=rows if step else slice(0, ROWS), step=step, total_steps=4,
            label=torch.tensor([0, 0, 1, 1, 2, 3, 0]), score=score, document_id=torch.arange(7) // 4,
            position=torch.arange(7) % 4,
            group=torch.tensor([0, 1, 2, 3, 4, 4, 5]), guide={n: normal(len(z), DIM, seed=7) for n, z in views.items()},
        )  # fmt: skip
        leaves = {n: z.requires_grad_() for n, z in views.items()}
        objective.zero_grad()
        output = objective(leaves, batch)
        output.loss.backward()
        objective.after_step({n: z.detach() for n, z in leaves.items()}, batch)
    found["loss"] = output.loss.detach()
    found |= {f"grad {n}": torch.zeros_like(z) if z.grad is None else z.grad for n, z in leaves.items()}
    for n, p in objective.named_parameters():
        found[f"grad {n}"] = torch.zeros_like(p) if p.grad is None else p.grad
    return found | {f"state {n}": b.clone() for n, b in objective.named_buffers()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal up to rounding in fp64."""
    assert one.keys() == other.keys()
    for key, value in other.items():
        torch.testing.assert_close(  # NaN: a score that a queue has not had yet
            one[key], value, rtol=1e-9, atol=1e-11, equal_nan=True, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize(
    ("name", "hard"),
    [(name, hard) for name in TILED for hard in (False, True) if not (hard and name in NO_HARD)],
)
def test_tiles_change_nothing(name: str, hard: bool) -> None:
    dense = run(config_of(name, tile=None), hard)
    for tile in (2, 64):
        assert_same(run(config_of(name, tile=tile), hard), dense)


@pytest.mark.parametrize("name", TILED)
def test_shares_of_rows_add_up_in_tiles(name: str) -> None:
    whole = run(config_of(name), hard=False)
    parts = [run(config_of(name, tile=3), hard=False, rows=rows) for rows in (slice(0, 2), slice(2, 3), slice(3, 7))]
    for key, value in whole.items():
        if key.startswith("state"):
            for part in parts:
                torch.testing.assert_close(part[key], value, rtol=1e-9, atol=1e-11, equal_nan=True, msg=key)
        else:
            torch.testing.assert_close(sum(part[key] for part in parts), value, rtol=1e-9, atol=1e-11, msg=key)


VARIANTS: list[dict[str, Any]] = [
    {"name": "infonce", "temperature": 0.01},  # logits too large for the shared exponential
    {"name": "clip", "temperature": 0.002, "max_scale": None},
    {"name": "hcl", "temperature": 0.02, "beta": 3.0},
    {"name": "siglip", "temperature": 0.01},
    {"name": "infonce", "hard_negative_weight": 0.7},
    {"name": "infonce", "equal_inputs": True, "guide_margin": 0.1},
    {"name": "clip", "guide_margin": -0.2},
    {"name": "table", "direction": "both", "weight": {"name": "exponential", "beta": 0.4, "detach": True}},
    {"name": "table", "direction": "both", "score": {"name": "distance", "gamma": 1.0}, "scale": "learnable"},
    {"name": "table", "score": "halves", "scale": {"name": "learnable", "bias": 0.3}, "negative_weight": 3.0},
    {"name": "table", "score": "dot", "direction": "views", "by": "group", "groups": False, "reducer": "in"},
    {"name": "table", "direction": "views", "by": "label", "smoothing": 0.2, "others": 1.0},
    {"name": "table", "direction": "both", "scale": "per-sample", "reducer": "global", "score": "distance"},
    {"name": "table", "direction": "both", "weight": "hardness", "strength": 2.0, "scale": "learnable"},
    {"name": "table", "weight": "hardness", "score": {"name": "distance", "normalize": False}, "bias": 0.5},
    {"name": "clhaif", "by_score": "all", "direction": "both"},
    {"name": "infonce", "candidates": "batch", "score": {"name": "distance", "normalize": False, "gamma": 1.0}},
    {"name": "gist", "guide_margin": -0.2, "guide_relative_margin": 0.5, "weight": "hardness", "temperature": 0.1},
    {"name": "multi-similarity", "direction": "both", "by": "row", "epsilon": 0.5},
]


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_tiles_change_nothing_for_compositions(config: dict[str, Any]) -> None:
    dense = run({**config, "tile": None}, hard=True)
    for tile in (4, 64):
        assert_same(run({**config, "tile": tile}, hard=True), dense)


def test_both_directions_of_clip_come_from_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    once = machine._tiled
    monkeypatch.setattr(machine, "_tiled", lambda *given: passes.append(given) or once(*given))
    run({"name": "clip", "tile": 3}, hard=False)
    assert [len(columns) for _, _, columns, _ in passes] == [1, 1]  # one for each of two steps, with sums over columns
    passes.clear()
    run({"name": "clip", "tile": 3}, hard=False, rows=slice(0, 3))
    assert len(passes) == 3  # a process with a part of the rows makes a strip for each direction


def test_other_directions_are_not_taken_for_transposes() -> None:
    """Two directions over other vectors (a neighbour against a prediction) need a table each."""
    assert_same(run(config_of("nnclr", tile=64), hard=False), run(config_of("nnclr"), hard=False))


def test_auto_tiles_large_tables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    once = machine._tiled
    monkeypatch.setattr(machine, "_tiled", lambda *given: sizes.append(given[3]) or once(*given))
    run({"name": "infonce"}, hard=False)
    assert not sizes
    monkeypatch.setattr(machine, "AUTO_ENTRIES", 10)
    run({"name": "icon"}, hard=False)
    assert not sizes  # its reducer needs the whole table
    run({"name": "infonce"}, hard=False)
    assert set(sizes) == {machine.AUTO_TILE["cpu"]}


def random_table(draw: torch.Generator, scale: float, per_row: bool) -> Table:
    """A table with every kind of mask and weight, 9 x 11."""
    z = [torch.randn(n, 5, generator=draw, dtype=torch.float64).requires_grad_() for n in (9, 11)]
    ids = [torch.randint(0, k, (n,), generator=draw) for k in (3, 6, 4) for n in (9, 11)]
    masks = Masks(Relation.of(*ids[:2]), Relation.of(torch.arange(9), torch.arange(11)), [Relation.of(*ids[2:4])])
    near = torch.rand(9, generator=draw).double(), torch.ones(11).double()
    weights = LogWeights([(Relation.of(*ids[4:]), 0.8)], near)
    size = torch.full((9, 1) if per_row else (), scale, dtype=torch.float64)
    bias = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    return Table([Part(*z)], size.requires_grad_(), bias, masks, weights)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("scale", [0.5, 40.0, 4000.0])
def test_every_sum_and_its_gradient(scale: float, per_row: bool) -> None:
    wanted = [Stat(kind, over) for over in ("negative", "positive") for kind in ("lse", "sum", "softplus", "count")]
    wanted += [Stat("lse", "negative", 1.7), Stat("lse", "positive", 0.0), Stat("softplus", "positive", -0.5)]
    wanted.append(Stat("expect", "positive"))
    pull = [torch.randn(9, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in range(len(wanted))]
    outcomes = []
    for tile in (None, 1, 4, 50):
        table = random_table(torch.Generator().manual_seed(1), scale, per_row)
        (found,) = [dense_stats(table, wanted)] if tile is None else machine.row_stats([table], wanted, tile)
        total = sum((w * x.masked_fill(torch.isinf(x), 0.0)).sum() for w, x in zip(pull, found, strict=True))
        assert table.bias is not None
        grads = torch.autograd.grad(total, [table.parts[0].left, table.parts[0].right, table.scale, table.bias])
        outcomes.append([*(x.detach() for x in found), *grads])
    for outcome in outcomes[1:]:
        for got, expected in zip(outcome, outcomes[0], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_tiles_of_fp32_are_as_exact_as_fp32() -> None:
    """Many tiles must not lose digits: logits as large as CLIP's cap."""
    views = {n: torch.nn.functional.normalize(normal(300, 16, seed=k)) for k, n in enumerate(("anchor", "positive"))}
    exact = build({"name": "clip", "temperature": 0.01}).double()
    rough = build({"name": "clip", "temperature": 0.01, "tile": 32})
    batch = ObjectiveBatch.of(views)
    expected = exact(views, batch).loss
    found = rough({n: z.float() for n, z in views.items()}, batch).loss
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=0)


def test_no_tensor_is_as_large_as_the_table() -> None:
    """Forward and backward, nothing with more than a small part of N x M entries is made."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        """Remembers the largest tensor any operation returns."""

        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, Tensor):
                    Largest.size = max(Largest.size, tensor.numel())
            return out

    n, tile = 600, 50
    views = {name: normal(n, 4, seed=k).float().requires_grad_() for k, name in enumerate(("anchor", "positive"))}
    batch = ObjectiveBatch.of(views, label=torch.arange(n) % 3, group=torch.arange(n) // 2)
    for name in ("clip", "ntxent", "siglip", "supcon", "hcl", "dcl", "sogclr"):
        Largest.size = 0
        objective = build({"name": name, "tile": tile}, dim=4, num_rows=n)
        with Largest():
            objective(views, batch).loss.backward()
        limit = 8 * n if name == "supcon" else n * n // 36
        assert Largest.size <= max(limit, tile * tile), name
