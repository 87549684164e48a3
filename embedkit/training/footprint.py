"""The memory of a step, from what a few inputs hold for their way back.

Bytes are measured, not derived: whatever the architecture keeps is counted on three small passes, and grows with the
tokens of a chunk and, for attention, with the squares of the lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embedkit.config.recipe import Recipe
from embedkit.errors import RecipeError
from embedkit.models.execution.recompute import Recompute
from embedkit.training.loop.batches import Pool, StepBatch
from embedkit.training.loop.cache import Chunking, RandomState

_PROBE = 8  # inputs of the larger passes
_WORKING = 4  # tensors of the largest size that a layer works with besides what it keeps, on its way back
_HOLES = {"cpu": 0.9, "cuda": 0.15}
"""What an allocator leaves unused between tensors, as a share of the activations (eval/benchmarks/memory.py)."""
AUTO_SHARE = 0.7
"""Of the free memory that `train.chunk_tokens: auto` plans for; the rest is for what other programs do meanwhile."""


@dataclass(frozen=True)
class Kept:
    """Bytes that the forward pass of a chunk holds: fixed, for each token, for each pair of tokens of one input.

    Attributes
    ----------
    largest : float
        Bytes a token of the largest single tensor.

    Examples
    --------
    >>> Kept(fixed=100.0, token=10.0, pair=1.0, largest=4.0).of(np.array([3, 2]))
    163.0
    """

    fixed: float
    token: float
    pair: float
    largest: float

    def of(self, costs: np.ndarray) -> float:
        """Bytes of a chunk of inputs with so many tokens each."""
        tokens, pairs = float(costs.sum()), float((costs.astype(np.float64) ** 2).sum())
        return self.fixed + self.token * tokens + self.pair * pairs

    def working(self, costs: np.ndarray) -> float:
        """Bytes of what is not kept but there for a moment."""
        return _WORKING * self.largest * float(costs.sum())


def measure(
    bundle: Any, method: Any, pool: Pool, device: torch.device, autocast: Callable[[], Any],
    recompute: Recompute | None = None,
) -> Kept:  # fmt: skip
    """What the encoder keeps for inputs like those of a pool; random states stay as they are.

    Examples
    --------
    >>> import contextlib
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> from embedkit.methods import methods
    >>> from types import SimpleNamespace
    >>> model = build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> pool = Pool(model.prepare(["a cat", "a dog"]), [("anchor", 2)], "text", {})
    >>> bundle = SimpleNamespace(model=model, parts=None)
    >>> measure(bundle, methods["pairs"](), pool, torch.device("cpu"), contextlib.nullcontext).token > 0
    True
    """
    recompute = recompute or Recompute(torch.nn.Module())
    weights = {tensor.untyped_storage()._cdata for tensor in bundle.model.state_dict(keep_vars=True).values()}
    random, order = RandomState(device), np.argsort(pool.inputs.costs, kind="stable")
    rows, totals, largest = [], [], 0.0
    for index in (order[:1], order[:_PROBE], order[-_PROBE:]):
        costs, storages = pool.inputs.costs[index].astype(np.float64), dict[int, Any]()
        with recompute.context(storages), autocast():
            output = method.embed(bundle.model, bundle.parts, pool.inputs.select(index).to(device), **pool.settings)
        bytes_each = [storage.nbytes() for key, storage in storages.items() if key not in weights]
        rows.append([1.0, costs.sum(), (costs**2).sum()])
        totals.append(float(sum(bytes_each)))
        largest = max(largest, max(bytes_each, default=0) / costs.sum())
        del output, storages
    random.restore()
    fixed, token, pair = (max(0.0, float(x)) for x in _fit(np.asarray(rows), np.asarray(totals)))
    return Kept(fixed, token, pair, largest)


def _fit(rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The least squares solution whose terms of size zero or less are left out."""
    terms = [0, 1, 2]
    while True:
        scale = np.maximum(rows[:, terms].max(0), 1.0)
        solution = np.linalg.lstsq(rows[:, terms] / scale, sizes, rcond=1e-9)[0] / scale
        if (solution >= 0).all() or len(terms) == 1:
            break
        terms.remove(terms[int(np.argmin(solution * scale))])
    whole = np.zeros(3)
    whole[terms] = solution
    return whole


def activation_bytes(sizes: Sequence[Kept], batch: StepBatch, chunking: Chunking, kind: str) -> float:
    """The most bytes of activations at any moment of a step, holes of the allocator among them.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> pool = SimpleNamespace(inputs=SimpleNamespace(costs=np.array([10, 10])), tower="text")
    >>> one = Kept(0.0, 100.0, 0.0, 0.0)
    >>> batch = SimpleNamespace(pools=[pool])
    >>> activation_bytes([one], batch, Chunking(), "meta"), activation_bytes([one], batch, Chunking(size=1), "meta")
    (2000.0, 1000.0)
    """
    chunks = [(size, pool.inputs.costs[index]) for size, pool in zip(sizes, batch.pools, strict=True)
              for index in chunking.cut(pool)]  # fmt: skip
    chunk_bytes = [size.of(costs) for size, costs in chunks]
    working = max((size.working(costs) for size, costs in chunks), default=0.0)
    together = (
        chunk_bytes if chunking.whole else chunk_bytes[len(chunk_bytes) - chunking.keep :] if chunking.keep else []
    )
    return (max(sum(together), *chunk_bytes) * (1.0 + _HOLES.get(kind, 0.0)) + working) if chunk_bytes else 0.0


def chunking_of(
    recipe: Recipe, sizes: Sequence[Kept], batch: StepBatch, free: float | None, fixed: float, kind: str
) -> Chunking:
    """The chunks of a recipe; where they are "auto", as large as `free` bytes of memory less `fixed` ones take.

    Raises
    ------
    RecipeError
        When the system does not say how much memory is free.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from types import SimpleNamespace
    >>> pool = SimpleNamespace(inputs=SimpleNamespace(costs=np.array([10, 10])), tower="text")
    >>> recipe = load_recipe("quickstart", ["train.chunk_tokens=auto"])
    >>> one = Kept(0.0, 1000.0, 0.0, 0.0)
    >>> chunking_of(recipe, [one], SimpleNamespace(pools=[pool]), 2e6, 1e6, "meta").tokens
    256
    """
    config = recipe.train
    if config.chunk_tokens != "auto":
        return Chunking(config.chunk_size, config.chunk_tokens, config.keep_chunks)
    if free is None:
        raise RecipeError(
            "this system does not say how much memory is free", where="train.chunk_tokens",
            remedy="give a number of tokens",
        )  # fmt: skip
    keep = max(1, config.keep_chunks)
    return Chunking(None, chunk_tokens(sizes, batch, (free * AUTO_SHARE - fixed) / keep, kind), config.keep_chunks)


def recomputes(recipe: Recipe, device: torch.device) -> bool:
    """Whether norms and activations are computed again: on a CPU, unless checkpoints of layers or compiled ones do so.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recomputes(load_recipe("quickstart"), torch.device("cpu"))
    True
    """
    return device.type == "cpu" and not recipe.train.gradient_checkpointing and not recipe.train.compile


def input_bytes(inputs: Any) -> int:
    """Bytes of prepared inputs: token ids or pixels, with what goes with them.

    Examples
    --------
    >>> from embedkit.models.inputs.inputs import Inputs
    >>> input_bytes(Inputs.of([[1, 2, 3]]))  # three ids, two offsets
    40
    """
    names = [name for kind in type(inputs).__mro__ for name in getattr(kind, "__slots__", ())]
    values = [getattr(inputs, name) for name in names] + list(getattr(inputs, "__dict__", {}).values())
    return sum(int(value.nbytes) for value in values if hasattr(value, "nbytes"))


def chunk_tokens(sizes: Sequence[Kept], batch: StepBatch, free: float, kind: str) -> int:
    """The tokens of a chunk that fits into `free` bytes: a multiple of 256, at least the longest input.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> pool = SimpleNamespace(inputs=SimpleNamespace(costs=np.array([10, 10])), tower="text")
    >>> chunk_tokens([Kept(0.0, 1000.0, 0.0, 0.0)], SimpleNamespace(pools=[pool]), free=1e6, kind="meta")
    768
    """
    best = 1 << 30
    for size, pool in zip(sizes, batch.pools, strict=True):
        costs = pool.inputs.costs
        if not len(costs):
            continue
        longest = int(costs.max())
        token = (size.token + size.pair * longest) * (1.0 + _HOLES.get(kind, 0.0)) + _WORKING * size.largest
        fits = int(max(0.0, free - size.fixed) / max(token, 1.0))
        best = min(best, max(longest, fits // 256 * 256, 1))
    return best
