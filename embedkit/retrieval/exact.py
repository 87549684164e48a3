"""Exact nearest neighbours of queries in a corpus that need not fit into memory.

The corpus comes in blocks. The scores of a block go into a buffer that is used again; of every 64 documents only the
largest score is compared with the k-th best of the query so far, and only where it is reached are the 64 looked at.
That is seldom once some blocks have passed, so that the time is that of the matrix product. A candidate is one 64-bit
number: its float32 score, made to sort like an integer, above its preference among equal scores. Ties are therefore
decided exactly, by any rule, at any depth, and the result does not depend on the sizes of the blocks or the processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, NonFiniteError

Array = npt.NDArray[Any]

_NONE = np.iinfo(np.int64).min
_LOW = np.int64(0xFFFFFFFF)
LOWEST = float(np.finfo(np.float32).min)  # a number of Python: numpy would warn of what float32 cannot hold
_SEGMENT = 64


def _sortable(scores: Array) -> Array:
    """int64 numbers that order like float32 `scores`; -0.0 equals 0.0."""
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0)).view(np.int32).astype(np.int64)
    return np.where(bits < 0, bits ^ np.int64(0x7FFFFFFF), bits)


def _unsortable(numbers: Array) -> Array:
    """The float32 scores of `_sortable` numbers."""
    bits = np.where(numbers < 0, numbers ^ np.int64(0x7FFFFFFF), numbers).astype(np.int32)
    return bits.view(np.float32)


def trec_preference(ids: Sequence[str]) -> Array:
    """Preference (N,) among equal scores as trec_eval has it: the id that sorts last, as text, comes first.

    Examples
    --------
    >>> trec_preference(["d9", "d10", "d2"]).tolist()
    [2, 0, 1]
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    preference = np.empty(len(ids), dtype=np.int64)
    preference[order] = np.arange(len(ids))
    return preference


class TopK:
    """The `k` best documents of each query, while the corpus passes by.

    Parameters
    ----------
    queries : array (Q, D), float32
        Scores are inner products; give unit vectors for cosines.
    k : int
        Documents kept for each query.
    size : int
        Documents in the whole corpus.
    preference : int array (size,), optional
        A permutation of 0..size-1: among equal scores the larger comes first. Default: the earlier document.
    query_block : int
        Queries scored at a time; with a block of B documents the scores take ``4 * query_block * B`` bytes.
    device : str
        Where the matrix products run, e.g. "cuda".
    dtype : str
        Type of the products, "fp32" or "bf16": scores are rounded to it.

    Examples
    --------
    >>> best = TopK(np.array([[1.0, 0.0]]), k=2, size=4)
    >>> best.add(0, np.array([[0.5, 0.5], [1.0, 0.0]]))
    >>> best.add(2, np.array([[0.0, 1.0], [0.75, 0.0]]))
    >>> scores, places = best.result()
    >>> scores.tolist(), places.tolist()
    ([[1.0, 0.75]], [[1, 3]])
    """

    def __init__(
        self, queries: Array, k: int, size: int, preference: Array | None = None, *, query_block: int = 1024,
        device: str = "cpu", dtype: str = "fp32",
    ) -> None:  # fmt: skip
        import torch

        if k < 1 or size < 1 or size > int(_LOW):
            raise DataError(f"cannot keep {k} of {size} documents")
        if not np.isfinite(queries).all():
            raise NonFiniteError("a query embedding holds NaN or infinity")
        self.k, self.size, self.query_block, self.device = min(k, size), size, query_block, device
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        self._queries = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).to(device, self._dtype)
        self._largest = float(self._queries.abs().max()) if len(queries) else 0.0
        self._prefer = np.arange(size - 1, -1, -1, dtype=np.int64) if preference is None else preference
        self._best = np.full((len(queries), 2 * self.k + 64), _NONE, dtype=np.int64)  # (Q, room)
        self._fill = np.zeros(len(queries), dtype=np.int64)
        self._least = np.full(len(queries), LOWEST, dtype=np.float32)
        self._buffer = torch.empty(0, 0, dtype=self._dtype)  # (query_block, B rounded up to segments)

    def add(self, start: int, documents: Array) -> None:
        """Score documents (B, D) that stand at `start`.. in the corpus; any floating type."""
        import torch

        block = torch.from_numpy(np.array(documents)).to(self.device).float()  # a copy: a memory map may be read-only
        # checked here, once for all queries: a score that is NaN would fail every comparison in silence
        largest = float(torch.stack(torch.aminmax(block)).abs().max()) * self._largest * block.shape[1]
        if not largest < -LOWEST:
            raise NonFiniteError(f"documents {start}..{start + len(block) - 1} hold NaN, infinity or too large numbers")
        block = block.to(self._dtype)
        low = self._prefer[start : start + len(block)]
        for first in range(0, len(self._queries), self.query_block):
            rows = slice(first, min(first + self.query_block, len(self._queries)))
            scores = self._scores(rows, block)  # (q, B rounded up)
            hits, columns, values = self._above(rows, scores, len(block))
            if len(hits):
                self._push(rows, hits, (_sortable(values) << 32) | low[columns])

    def _scores(self, rows: slice, block: Any) -> Any:
        """Inner products (q, B), in a buffer whose last columns are -inf so that it is made of whole segments."""
        import torch

        width = -(-len(block) // _SEGMENT) * _SEGMENT
        if self._buffer.shape[1] != width:
            shape = (min(self.query_block, len(self._queries)), width)
            self._buffer = torch.empty(shape, device=self.device, dtype=self._dtype)
        scores = self._buffer[: rows.stop - rows.start]
        scores[:, len(block) :] = -torch.inf
        torch.mm(self._queries[rows], block.T, out=scores[:, : len(block)])
        return scores

    def _above(self, rows: slice, scores: Any, size: int) -> tuple[Array, Array, Array]:
        """Rows, columns and values of the scores that may be among the best, sorted by row."""
        import torch

        least = torch.from_numpy(self._least[rows]).to(self.device)[:, None]  # (q, 1)
        if size > self.k and (self._least[rows] == LOWEST).any():  # nothing is known yet: let the block say it
            least = torch.maximum(least, scores.topk(self.k, dim=1).values[:, -1:].float())
        segments = scores.unflatten(1, (-1, _SEGMENT))  # (q, S, 64)
        places = torch.nonzero(segments.amax(dim=2) >= least)  # (h, 2)
        picked = segments[places[:, 0], places[:, 1]]  # (h, 64)
        inside = torch.nonzero(picked >= least[places[:, 0]])  # (n, 2)
        segment_hits = places[inside[:, 0]]
        columns = segment_hits[:, 1] * _SEGMENT + inside[:, 1]
        values = picked[inside[:, 0], inside[:, 1]].float()
        return segment_hits[:, 0].cpu().numpy(), columns.cpu().numpy(), values.cpu().numpy()

    def _push(self, rows: slice, hits: Array, keys: Array) -> None:
        """Take candidates, sorted by their row `hits` within `rows`."""
        counts = np.bincount(hits, minlength=rows.stop - rows.start)
        room = self._best.shape[1]
        if (self._fill[rows] + counts > room).any():
            self._compress(rows)
        crowded = np.flatnonzero(self._fill[rows] + counts > room)
        starts = np.cumsum(counts) - counts
        for row in crowded:  # more ties, or a larger first block, than there is room for
            place = rows.start + row
            both = np.concatenate([self._best[place], keys[starts[row] : starts[row] + counts[row]]])
            self._best[place] = _NONE
            self._best[place, : self.k] = np.partition(both, len(both) - self.k)[-self.k :]
            self._fill[place] = self.k
        if len(crowded):
            rest = ~np.isin(hits, crowded)
            hits, keys = hits[rest], keys[rest]
            counts[crowded] = 0
            starts = np.cumsum(counts) - counts
        inside = np.arange(len(hits)) - starts[hits]  # 0, 1, .. within each row
        self._best[rows.start + hits, self._fill[rows.start + hits] + inside] = keys
        self._fill[rows] += counts
        if (self._least[rows] == LOWEST).any():
            self._compress(rows)

    def _compress(self, rows: slice) -> None:
        """Keep the k best of each row, and learn the score that a document must reach."""
        best = np.partition(self._best[rows], self._best.shape[1] - self.k, axis=1)[:, -self.k :]  # smallest first
        self._best[rows] = _NONE
        self._best[rows, : self.k] = best[:, ::-1]
        self._fill[rows] = (best != _NONE).sum(axis=1)
        full = self._fill[rows] == self.k
        self._least[rows] = np.where(full, _unsortable(best[:, 0] >> 32), LOWEST)

    def share(self) -> None:
        """Take in what the other processes of torch.distributed found; each has added its own part of the corpus."""
        import torch
        import torch.distributed as dist

        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
        own = np.ascontiguousarray(np.sort(self._best, axis=1)[:, -self.k :])
        best = torch.from_numpy(own).to(device)  # (Q, k)
        parts = [torch.empty_like(best) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, best)
        together = torch.cat(parts, dim=1).cpu().numpy()  # (Q, world * k)
        self._best = np.ascontiguousarray(np.sort(together, axis=1)[:, -self.k :])
        self._fill[:] = (self._best != _NONE).sum(axis=1)

    def result(self) -> tuple[Array, Array]:
        """Scores float32 (Q, k) and corpus positions int64 (Q, k), best first; k is at most the corpus size."""
        best = np.sort(self._best, axis=1)[:, ::-1][:, : self.k]
        if (best == _NONE).any():
            raise DataError("fewer documents were added than the corpus has")
        order = np.empty(self.size, dtype=np.int64)
        order[self._prefer] = np.arange(self.size)
        return _unsortable(best >> 32), order[best & _LOW]


def array_blocks(vectors: Array, size: int) -> Iterator[tuple[int, Array]]:
    """``(start, rows)`` of an array, also a memory-mapped one, `size` rows at a time.

    Examples
    --------
    >>> [(start, len(rows)) for start, rows in array_blocks(np.zeros((5, 2)), 2)]
    [(0, 2), (2, 2), (4, 1)]
    """
    for start in range(0, len(vectors), size):
        yield start, vectors[start : start + size]


def exact_top_k(
    queries: Array,
    blocks: Iterable[tuple[int, Array]],
    k: int,
    size: int,
    preference: Array | None = None,
    *,
    shared: bool = False,
    **options: Any,
) -> tuple[Array, Array]:
    """Scores and positions (Q, min(k, size)) of the best documents by inner product; see `TopK`.

    With `shared` the `blocks` of the processes of torch.distributed are parts of one corpus, and all get its result.

    Examples
    --------
    >>> documents = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    >>> scores, places = exact_top_k(np.array([[1.0, 0.0]]), array_blocks(documents, 2), k=2, size=3)
    >>> scores.tolist(), places.tolist()
    ([[1.0, 0.5]], [[1, 0]])
    """
    search = TopK(queries, k, size, preference, **options)
    for start, block in blocks:
        search.add(start, block)
    if shared:
        search.share()
    return search.result()
