"""The gradient of a step depends neither on chunks nor on processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from embedkit.training.loop.cache import CachedEmbeddings, Chunking
from embedkit.training.parallel.distributed import World
from tests.training import common

OBJECTIVES = [
    {"name": "infonce", "temperature": 0.05, "hard_negative_weight": 0.3},
    {"name": "clip"},
    {"name": "siglip"},
    {"name": "cosent"},
]
CHUNKINGS = [
    Chunking(),
    Chunking(size=1, keep=0),
    Chunking(size=5, keep=1),
    Chunking(tokens=40, keep=2),
    Chunking(size=100),
]
BOUND = 1e-9


def _one(objective: dict[str, Any], chunking: Chunking, count: int = 12) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss share, gradients and number of all-reduces of one step in this process."""
    step = common.make_step(objective, chunking)
    calls: list[int] = []
    step.world.on_all_reduce.append(lambda flat: calls.append(flat.numel()))
    result = step.gradients(common.step_batch(step, common.rows(count)))
    return float(result.loss), common.gradients(step), len(calls)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o["name"])
@pytest.mark.parametrize("chunking", CHUNKINGS[1:], ids=str)
def test_chunks_do_not_change_the_gradient(objective: dict[str, Any], chunking: Chunking) -> None:
    loss, wanted, _ = _one(objective, Chunking())
    cached_loss, found, _ = _one(objective, chunking)
    assert cached_loss == pytest.approx(loss, rel=1e-12)
    assert common.largest_error(found, wanted) < BOUND
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-4  # there is a gradient to compare


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o["name"])
@pytest.mark.parametrize("chunking", [Chunking(), Chunking(size=3, keep=1)], ids=["whole", "chunked"])
def test_processes_do_not_change_the_gradient(
    processes: Any, objective: dict[str, Any], chunking: Chunking, world: int
) -> None:
    count = 13  # does not divide evenly
    loss, wanted, _ = _one(objective, Chunking(), count)
    results = processes(world).run(_one, objective, chunking, count)
    assert sum(share for share, _, _ in results) == pytest.approx(loss, rel=1e-12)
    for _, found, reduces in results:
        assert common.largest_error(found, wanted) < BOUND
        assert reduces == 1  # one all-reduce of parameter gradients an optimiser step, whatever the chunks


def test_all_reduce_is_one_collective_however_many_parameters(processes: Any) -> None:
    assert processes(2).run(_counted_all_reduces) == [1, 1]


def _counted_all_reduces() -> int:
    import torch.distributed as dist

    real, calls = dist.all_reduce, []
    step = common.make_step({"name": "infonce", "temperature": 0.05}, Chunking(size=2, keep=0))
    batch = common.step_batch(step, common.rows(8))
    dist.all_reduce = lambda tensor, *a, **k: (calls.append(tensor.numel()), real(tensor, *a, **k))[1]
    try:
        step.gradients(batch)
    finally:
        dist.all_reduce = real
    return len(calls)


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 4, "dropout": 0.1}}], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_second_forward_repeats_the_first_bit_for_bit(changes: dict[str, Any], checkpointing: bool) -> None:
    step = common.make_step(
        "infonce", Chunking(size=3, keep=0), dtype=torch.float32, config=common.model_config(0.1, **changes)
    )
    if checkpointing:
        step.bundle.model.gradient_checkpointing_enable()
    batch = common.step_batch(step, common.rows(8))
    outputs: list[torch.Tensor] = []

    def encode(pool: Any, inputs: Any) -> torch.Tensor:
        found = step.bundle.model(inputs)
        outputs.append(found.detach().clone())
        return found

    torch.manual_seed(0)
    cached = CachedEmbeddings(encode, batch.pools, step.chunking, torch.empty(0, 32))
    embeddings = cached.forward()
    cached.backward({name: torch.randn_like(z) for name, z in embeddings.items()})
    half = len(outputs) // 2
    assert half > 2
    assert all(torch.equal(a, b) for a, b in zip(outputs[:half], outputs[half:], strict=True))
    assert not torch.equal(*[step.bundle.model(batch.pools[0].inputs.select([0])) for _ in range(2)])  # dropout is on


def test_dropout_stream_goes_on_as_if_nothing_was_replayed() -> None:
    step = common.make_step("infonce", Chunking(size=3, keep=0), dtype=torch.float32, config=common.model_config(0.1))
    batch = common.step_batch(step, common.rows(6))
    cached = CachedEmbeddings(
        lambda pool, inputs: step.bundle.model(inputs), batch.pools, step.chunking, torch.empty(0, 32)
    )
    torch.manual_seed(0)
    embeddings = cached.forward()
    expected = torch.rand(3)
    torch.manual_seed(0)
    embeddings = cached.forward()
    cached.backward({name: torch.ones_like(z) for name, z in embeddings.items()})
    assert torch.equal(torch.rand(3), expected)


def test_chunks_hold_every_input_once_and_keep_the_budget() -> None:
    step = common.make_step("infonce")
    pool = common.step_batch(step, common.rows(20)).pools[0]
    costs = pool.inputs.costs
    for chunking in (Chunking(size=7), Chunking(tokens=30), Chunking(tokens=1), Chunking()):
        chunks = chunking.cut(pool)
        assert sorted(i for chunk in chunks for i in chunk) == list(range(len(costs)))
        if chunking.size is not None:
            assert max(len(chunk) for chunk in chunks) <= 7
        if chunking.tokens is not None:
            assert all(len(chunk) == 1 or costs[chunk].sum() <= chunking.tokens for chunk in chunks)


def test_own_sum_is_the_transpose_of_gather(processes: Any) -> None:
    counts = [3, 0, 2, 1]
    results = processes(4).run(_round_trip, counts)
    gathered = [g for g, _ in results]
    assert all(torch.equal(g, gathered[0]) for g in gathered)
    weights = sum(rank + 1 for rank in range(4))
    assert torch.equal(torch.cat([own for _, own in results]), gathered[0] * weights)


def _round_trip(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    world = World()
    mine = torch.arange(counts[world.rank] * 2.0).view(-1, 2) + 10 * world.rank
    gathered = world.gather(mine, counts)
    return gathered, world.own_sum(gathered * (world.rank + 1), counts)


def test_a_process_without_negatives_takes_part(processes: Any) -> None:
    data = [{k: v for k, v in row.items() if k in ("anchor", "positive")} | {"negatives": []} for row in common.rows(6)]
    for row in data[3:]:
        row["negatives"] = ["a red bird", "the old house"]
    wanted = _ragged(data)
    for found in processes(2).run(_ragged, data):
        assert common.largest_error(found, wanted) < BOUND


def _ragged(data: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    step = common.make_step("infonce", Chunking(size=2))
    step.gradients(common.step_batch(step, data))
    return common.gradients(step)
