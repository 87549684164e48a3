"""Exact nearest neighbours of queries in a corpus that need not fit into memory.

The corpus comes in blocks, which are scored tile by tile, as large as the caches hold. Of a few documents in a row only
the largest score is compared with the k-th best of the query so far, and only where it is reached are they looked at.
That is seldom once some blocks have passed, so that the time is that of the matrix product. A candidate is one 64-bit
number: its float32 score, made to sort like an integer, above its preference among equal scores. Ties are therefore
decided exactly, by any rule, at any depth, and the result does not depend on the sizes of the blocks or the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedkit.errors import DataError, NonFiniteError
from embedkit.retrieval.arrays import Array

_NONE = np.iinfo(np.int64).min
_LOW = np.int64(0xFFFFFFFF)
LOWEST = float(np.finfo(np.float32).min)  # a number of Python: numpy would warn of what float32 cannot hold
_SEGMENT = 32
"""Documents in a row whose largest score is compared first."""
_TILE = 2**21
"""Scores of a tile: 8 MiB, which stay in the caches, and which an allocator gives out again without new pages."""


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


@dataclass
class _Group:
    """Queries that are scored together: their rows, their product with documents, and candidates not yet sorted in."""

    rows: slice
    product: Callable[[Any], Any]
    hits: list[tuple[Array, Array, Array]] = field(default_factory=list)
    pending: int = 0


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
        Queries scored at a time.
    device : str
        Where the matrix products run, e.g. "cuda".
    dtype : str
        Type of the products, "fp32" or "bf16": scores are rounded to it. "int8": documents are uint8, queries are
        rounded to 8 bits each by its own largest number, which leaves the order of its scores.

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

        from embedkit.retrieval.products import product

        if k < 1 or size < 1 or size > int(_LOW):
            raise DataError(f"cannot keep {k} of {size} documents")
        if not np.isfinite(queries).all():
            raise NonFiniteError("a query embedding holds NaN or infinity")
        self.k, self.size, self.query_block, self.device = min(k, size), size, query_block, device
        self._queries = np.ascontiguousarray(queries, dtype=np.float32)
        self._largest = float(np.abs(self._queries).max(initial=0.0))
        starts = range(0, len(queries), query_block)
        rows = [slice(start, min(start + query_block, len(queries))) for start in starts]
        self._groups = [_Group(one, product(self._queries[one], dtype, torch.device(device))) for one in rows]
        self._prefer = np.arange(size - 1, -1, -1, dtype=np.int64) if preference is None else preference
        self._best = np.full((len(queries), 2 * self.k + 64), _NONE, dtype=np.int64)  # (Q, room)
        self._fill = np.zeros(len(queries), dtype=np.int64)
        self._least = np.full(len(queries), LOWEST, dtype=np.float32)

    def add(self, start: int, documents: Array) -> None:
        """Score documents (B, D) that stand at `start`.. in the corpus; of a floating type, or uint8 codes."""
        widest = min(self.query_block, max(1, len(self._queries)))
        step = max(_SEGMENT, _TILE // widest // _SEGMENT * _SEGMENT)
        for first in range(0, len(documents), step):
            self._add(start + first, np.array(documents[first : first + step]))  # a copy: a map may be read-only

    def _add(self, start: int, documents: Array) -> None:
        """Score one tile's documents."""
        import torch

        block = torch.from_numpy(documents).to(self.device)
        if block.is_floating_point():
            # checked here, once for all queries: a score that is NaN would fail every comparison in silence
            largest = float(torch.stack(torch.aminmax(block)).abs().max()) * self._largest * block.shape[1]
            if not largest < -LOWEST:
                last = start + len(block) - 1
                raise NonFiniteError(f"documents {start}..{last} hold NaN, infinity or too large numbers")
        for group in self._groups:
            self._keep(group, group.product(block), start)

    def _keep(self, group: _Group, scores: Any, start: int) -> None:
        """Note the scores (B, q) that may be among the best of the group's queries."""
        import torch

        rows = group.rows
        least = torch.from_numpy(self._least[rows]).to(self.device)  # (q,)
        if len(scores) > self.k and (self._least[rows] == LOWEST).any():  # nothing is known yet: let the tile say it
            least = torch.maximum(least, scores.topk(self.k, dim=0).values[-1].float())
        if short := -len(scores) % _SEGMENT:
            scores = torch.nn.functional.pad(scores, (0, 0, 0, short), value=-torch.inf)
        segments = scores.unflatten(0, (-1, _SEGMENT))  # (S, 32, q)
        places = torch.nonzero(segments.amax(dim=1) >= least)  # (h, 2)
        picked = segments[places[:, 0], :, places[:, 1]]  # (h, 32)
        inside = torch.nonzero(picked >= least[places[:, 1], None])  # (n, 2)
        hits = places[inside[:, 0]]
        documents = start + hits[:, 0] * _SEGMENT + inside[:, 1]
        values = picked[inside[:, 0], inside[:, 1]].float()
        group.hits.append((hits[:, 1].cpu().numpy(), documents.cpu().numpy(), values.cpu().numpy()))
        group.pending += len(documents)
        if group.pending > (rows.stop - rows.start) * max(8, self.k // 2) or (self._least[rows] == LOWEST).any():
            self._flush(group)

    def _flush(self, group: _Group) -> None:
        """Take in the candidates that were noted, and learn the score that a document must reach from now on."""
        if not group.pending:
            return
        hits, documents, values = (np.concatenate(part) for part in zip(*group.hits, strict=True))
        group.hits, group.pending = [], 0
        order = np.argsort(hits.astype(np.uint16 if len(self._queries) < 2**16 else np.int64), kind="stable")
        self._push(group.rows, hits[order], (_sortable(values[order]) << 32) | self._prefer[documents[order]])
        self._compress(group.rows)

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

    def _compress(self, rows: slice) -> None:
        """Keep the k best of each row, and learn the score that a document must reach."""
        best = np.partition(self._best[rows], self._best.shape[1] - self.k, axis=1)[:, -self.k :]  # smallest first
        self._best[rows] = _NONE
        self._best[rows, : self.k] = best[:, ::-1]
        self._fill[rows] = (best != _NONE).sum(axis=1)
        full = self._fill[rows] == self.k
        self._least[rows] = np.where(full, _unsortable(best[:, 0] >> 32), LOWEST)

    def _finish(self) -> None:
        for group in self._groups:
            self._flush(group)

    def share(self) -> None:
        """Take in what the other processes of torch.distributed found; each has added its own part of the corpus."""
        import torch
        import torch.distributed as dist

        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        self._finish()
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
        self._finish()
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
