"""The gradient cache (GradCache): exact gradients of a batch of any size in the memory of one chunk.

For a loss that is a function of embeddings only, the chain rule splits the backward pass at the embeddings (Gao et
al. 2021, "Scaling deep contrastive learning batch size under memory limited setup", section 3):

1. embed every chunk without a graph, remembering the state of the random generators before each;
2. compute the loss from all embeddings and its gradient with respect to them;
3. embed each chunk again with a graph, from the remembered state so that dropout draws the same masks, and continue
   backward from the cached gradient.

Chunks whose graph is *kept* skip the second forward pass. Keeping all of them is plain training: there is no other
code path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.training.loop.batches import Pool


@dataclass(frozen=True)
class Chunking:
    """How a pool is cut: by number of inputs (one number or one a tower), by tokens, or not at all.

    `keep` chunks, the last ones, hold their activations between the two passes instead of computing them again.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> pool = SimpleNamespace(inputs=SimpleNamespace(costs=np.array([5, 30, 8, 12])), tower="text")
    >>> Chunking(tokens=32).cut(pool)  # four texts, 32 tokens a chunk at most
    [array([1]), array([3, 2, 0])]
    >>> Chunking().whole
    True
    """

    size: int | dict[str, int] | None = None
    tokens: int | None = None
    keep: int = 1

    @property
    def whole(self) -> bool:
        """Whether pools are not cut: plain training."""
        return self.size is None and self.tokens is None

    def cut(self, pool: Pool) -> list[np.ndarray]:
        """Index arrays (int64) of the chunks of a pool; every input is in exactly one."""
        costs = pool.inputs.costs
        count = len(costs)
        size = self.size.get(pool.tower) if isinstance(self.size, dict) else self.size
        if count == 0 or (size is None and self.tokens is None):
            return [np.arange(count)]
        order = np.argsort(-costs, kind="stable")  # near lengths run together
        if size is not None:
            return [order[start : start + size] for start in range(0, count, size)]
        return _by_budget(order, costs, self.tokens or 1)


def _by_budget(order: np.ndarray, costs: np.ndarray, budget: int) -> list[np.ndarray]:
    chunks: list[list[int]] = [[]]
    filled = 0
    for index in order:
        cost = int(costs[index])
        if chunks[-1] and filled + cost > budget:
            chunks.append([])
            filled = 0
        chunks[-1].append(int(index))
        filled += cost
    return [np.asarray(chunk, dtype=np.int64) for chunk in chunks]


@dataclass
class _Chunk:
    pool: int
    index: np.ndarray
    idle: bool = False  # computed so that all processes run equally many passes; its result is not used
    state: RandomState | None = None
    output: Tensor | None = None


class RandomState:
    """State of the torch generators that a forward pass draws from: the CPU's and one device's.

    Examples
    --------
    >>> state = RandomState(torch.device("cpu"))
    >>> first = torch.rand(3)
    >>> state.restore()
    >>> torch.equal(first, torch.rand(3))
    True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Put the generators back to this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


class CachedEmbeddings:
    """Embeddings of one step, made chunk by chunk, with a backward pass that needs one chunk of memory.

    Parameters
    ----------
    encode : callable (Pool, inputs of one chunk) -> Tensor (n, K)
        The forward pass with gradient; called again for chunks that are not kept.
    empty : Tensor (0, D)
        What views yield when no process input is there at all; tells type and device.
    last_backward : callable, optional
        Called right before the last forward or backward pass of the step, for engines that communicate in it.
    passes : callable (int) -> int, optional
        How many chunks every process runs, given how many this one has, for engines that communicate in each pass.
        Missing ones are filled with an input whose result is not used.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> model = build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> pool = Pool(model.prepare(["a cat", "a dog", "a bird"]), [("anchor", 3)], "text", {})
    >>> step = CachedEmbeddings(lambda pool, inputs: model(inputs), [pool], Chunking(size=1), torch.empty(0, 4))
    >>> vectors = step.forward()
    >>> vectors["anchor"].shape, vectors["anchor"].requires_grad
    (torch.Size([3, 4]), False)
    >>> step.backward({"anchor": torch.ones(3, 4)})
    >>> model.embedding.weight.grad is not None
    True
    """

    def __init__(
        self, encode: Callable[[Pool, Any], Tensor], pools: Sequence[Pool], chunking: Chunking, empty: Tensor,
        last_backward: Callable[[], None] | None = None, passes: Callable[[int], int] | None = None,
    ) -> None:  # fmt: skip
        self.encode, self.pools, self.empty, self.device = encode, pools, empty, empty.device
        self._last_backward = last_backward or (lambda: None)
        self._chunks = [_Chunk(p, index) for p, pool in enumerate(pools) for index in chunking.cut(pool) if len(index)]
        if passes is not None and self._chunks:
            missing = passes(len(self._chunks)) - len(self._chunks)
            spare = self._chunks[-1]
            self._chunks[:0] = [_Chunk(spare.pool, spare.index[:1], idle=True) for _ in range(missing)]
        self._graphs = len(self._chunks) if chunking.whole else min(chunking.keep, len(self._chunks))

    def forward(self) -> dict[str, Tensor]:
        """Outputs by view name, (n_name, K) with K of the view's pool, detached."""
        first_kept = len(self._chunks) - self._graphs
        for number, chunk in enumerate(self._chunks):
            has_graph = number >= first_kept
            chunk.state = None if has_graph else RandomState(self.device)
            with torch.set_grad_enabled(has_graph):
                chunk.output = self._run(chunk)
        outputs: dict[str, Tensor] = {}
        for number, pool in enumerate(self.pools):
            outputs.update(self._by_name(pool, [c for c in self._chunks if c.pool == number and not c.idle]))
        for chunk in self._chunks[:first_kept]:
            chunk.output = None
        return outputs

    def _nothing(self) -> Tensor:
        """(0, D) for a pool without inputs, as wide as the other outputs; other processes may know better."""
        outputs = (chunk.output for chunk in self._chunks if chunk.output is not None)
        first = next(outputs, self.empty)
        return first.new_empty(0, first.shape[1])

    def backward(self, gradients: dict[str, Tensor]) -> None:
        """Accumulate parameter gradients from gradients of the embeddings, name -> (n_name, D)."""
        by_pool = [torch.cat([gradients[name] for name, _ in pool.names]) for pool in self.pools]
        with_graph = [chunk for chunk in self._chunks if chunk.output is not None]
        again = [chunk for chunk in self._chunks if chunk.output is None]
        if with_graph:
            if not again:
                self._last_backward()
            # the output of a frozen copy, or of no encoder at all, has no way back
            outputs = {i: c.output for i, c in enumerate(with_graph) if c.output is not None and c.output.requires_grad}
            if outputs:
                torch.autograd.backward(
                    list(outputs.values()), [self._gradient(with_graph[i], by_pool) for i in outputs]
                )
            for chunk in with_graph:
                chunk.output = None
        if not again:
            return
        after = RandomState(self.device)
        for chunk in again:
            if chunk.state is not None:
                chunk.state.restore()
            if chunk is again[-1]:
                self._last_backward()
            output = self._run(chunk)
            if output.requires_grad:
                output.backward(self._gradient(chunk, by_pool))
        after.restore()

    def _run(self, chunk: _Chunk) -> Tensor:
        pool = self.pools[chunk.pool]
        return self.encode(pool, pool.inputs if self._is_pool(chunk) else pool.inputs.select(chunk.index))

    def _is_pool(self, chunk: _Chunk) -> bool:
        """Whether a chunk is its pool, input by input, so that nothing needs to be copied into another order."""
        count = len(self.pools[chunk.pool].inputs)
        return len(chunk.index) == count and bool((chunk.index == np.arange(count)).all())

    def _gradient(self, chunk: _Chunk, by_pool: list[Tensor]) -> Tensor:
        gradient = by_pool[chunk.pool]
        if not self._is_pool(chunk):
            gradient = gradient[torch.as_tensor(chunk.index, device=gradient.device)]
        return torch.zeros_like(gradient) if chunk.idle else gradient

    def _by_name(self, pool: Pool, chunks: list[_Chunk]) -> dict[str, Tensor]:
        outputs = [chunk.output.detach() for chunk in chunks if chunk.output is not None]
        if len(chunks) == 1 and outputs and self._is_pool(chunks[0]):
            whole = outputs[0]
        else:
            rows = torch.cat(outputs) if outputs else self._nothing()
            order = np.concatenate([chunk.index for chunk in chunks] or [np.arange(0)])
            whole = torch.empty_like(rows)
            whole[torch.as_tensor(order, device=rows.device)] = rows  # (n, D) in the order of the pool
        return dict(zip([n for n, _ in pool.names], whole.split([c for _, c in pool.names]), strict=True))
