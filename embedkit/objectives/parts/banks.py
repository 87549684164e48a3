"""Slot `bank`: candidates from earlier steps, or synthesised from others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from embedkit.errors import RecipeError
from embedkit.objectives.base import Memory, ObjectiveBatch
from embedkit.objectives.matrix.problem import Extra, Problem
from embedkit.objectives.matrix.similarity import NOBODY, Relation, Side, score_ids
from embedkit.objectives.parts.slots import part
from embedkit.objectives.tools import capacity, compute_dtype, number, unit, whole

Embeddings = Mapping[str, Tensor]

_ROLES = ("label", "group", "score")
"""Roles of a row that a queue keeps beside its vector."""


class Bank(Memory):
    """Base class of banks. The base stores nothing, and negatives come from the batch.

    Examples
    --------
    >>> bank = Bank()
    >>> bank.length, bank.in_batch
    (0, True)
    """

    in_batch = True
    """Whether the other rows of the batch are negatives too."""
    size = 0
    makes_extras = False
    """Whether it makes candidates for single anchors."""
    requires: frozenset[str] = frozenset()
    keeps_guides = False
    """Whether something reads the guide's vectors of what is kept; set by the objective that has the bank."""
    keeps_roles = True
    """Whether labels, groups and scores of rows are kept beside their vectors."""
    clusters_rows = False
    """Whether it gives both sides the id ``cluster`` of their rows."""
    cosine_only = False
    """Whether the score must be the cosine."""

    @property
    def length(self) -> int:
        """Number of vectors that the bank holds now."""
        return 0

    def count(self, rows: int) -> int:
        """Candidates of an anchor that come from the bank when it is full and the batch has `rows`."""
        return self.size

    def side(self, like: Side) -> Side | None:
        """The bank's vectors, in the type of `like`; None when there are none."""
        return None

    def candidates(self, left: Side, right: Side, embeddings: Embeddings, batch: ObjectiveBatch) -> Side | None:
        """Candidates of all anchors beside those of the batch; None when there are none."""
        return self.side(left)

    def drop(self, left: Side, right: Side) -> list[Relation]:
        """Pairs that are no negatives."""
        return []

    def penalties(self, problem: Problem) -> dict[str, Tensor]:
        """Further losses of each anchor of this process, (n,) by name."""
        return {}

    def metrics(self, embeddings: Embeddings, batch: ObjectiveBatch) -> dict[str, Tensor]:
        """Figures for the log, equal on every process."""
        return {}

    def extras(self, problem: Problem) -> list[Extra]:
        """Further candidates of single anchors."""
        return []

    def band(self, problem: Problem, bank: slice) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest score (n,) that a negative may have; the bank's vectors are the columns `bank`."""
        return None

    def after_step(self, embeddings: Embeddings, batch: ObjectiveBatch, keys: Side) -> None:
        """Update state; `keys` are the positives of the whole batch."""


@part("bank", "none")
class NoBank(Bank):
    """In-batch and hard negatives only.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> build({"name": "table", "bank": "none"}).negatives(batch_size=8, hard=0, processes=1)
    NegativeCount(in_batch=7, hard=0, other_processes=0, bank=0)
    """


@part("bank", "queue")
class Queue(Bank):
    """The unit vectors of the last `size` positives (He et al. 2020, MoCo): they repel, the batch does not.

    It starts with random unit vectors when `random_start` is set, else empty. With `in_batch` the other
    rows of the batch repel as well (a cross-batch memory). The label, group and score of a row travel with its vector,
    so that a vector of the queue attracts, repels or is left out as one of the batch is; so do the guide's vectors
    where the target or the mask reads them (of size `guide_dim`, that of the guide when not given).

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> queue = Queue(size=3, random_start=False, dim=2)
    >>> queue.after_step(z, ObjectiveBatch.of(z), Side(z["positive"], {}))
    >>> queue.length, queue.side(Side(z["anchor"], {})).z
    (2, tensor([[1., 0.],
            [0., 1.]]))
    """

    cosine_only = True

    def __init__(self, size: int = 65_536, in_batch: bool = False, random_start: bool = True,
                 guide_dim: int | None = None, dim: int | None = None) -> None:  # fmt: skip
        super().__init__()
        self.size, self.in_batch = capacity(whole("size", size, least=1)), bool(in_batch)
        guide = 0 if guide_dim is None else whole("guide_dim", guide_dim, least=1)
        # Drawn with a generator of its own, so that the start is the same on every process.
        draw = torch.Generator().manual_seed(size)
        start = torch.randn(self.size if dim else 0, dim or 0, generator=draw)
        self.register_buffer("vectors", unit(start))
        self.register_buffer("guides", self._random_guides(guide))
        self.register_buffer("keys", torch.full((self.size,), -1, dtype=torch.long))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.tensor(self.size if random_start else 0))

    def _random_guides(self, width: int) -> Tensor:
        draw = torch.Generator().manual_seed(self.size)
        torch.randn(self.get_buffer("vectors").shape, generator=draw)  # these numbers are the vectors'
        return unit(torch.randn(self.size if width else 0, width, generator=draw))

    def make_room(self, roles: frozenset[str], guide_dim: int | None) -> None:
        """Register buffers for the roles that travel with the vectors, and for guide vectors where they are read."""
        vectors = self.get_buffer("vectors")
        for role in sorted(roles & set(_ROLES)) if self.keeps_roles else []:
            if role not in dict(self.named_buffers(recurse=False)):
                empty, kind = (NOBODY, torch.long) if role != "score" else (torch.nan, vectors.dtype)
                self.register_buffer(role, torch.full((self.size,), empty, dtype=kind, device=vectors.device))
        if self.keeps_guides and guide_dim is not None and not len(self.get_buffer("guides")):
            self.register_buffer("guides", self._random_guides(guide_dim).to(vectors))

    @property
    def length(self) -> int:
        """Number of vectors that the queue holds now."""
        return int(self.get_buffer("filled"))

    def side(self, like: Side) -> Side | None:
        """The queue's vectors, with the input, label, group and score of each; a random one has none of them."""
        vectors = self.get_buffer("vectors")
        if not len(vectors):
            raise RecipeError("the queue does not know the size of the embeddings", where="objective.bank",
                              remedy="give build(..., dim=)")  # fmt: skip
        length = self.length
        guides = self.get_buffer("guides")
        guide = guides[:length].to(like.z.dtype) if len(guides) else None
        buffers = dict(self.named_buffers(recurse=False))
        ids = {"key": self.get_buffer("keys")[:length]}
        ids |= {role: buffers[role][:length] for role in ("label", "group") if role in buffers}
        score = buffers["score"][:length].to(like.z.dtype) if "score" in buffers else None
        if score is not None:
            ids["score"] = score_ids(score)
        return Side(vectors[:length].to(like.z.dtype), ids, guide, score)

    @torch.no_grad()
    def after_step(self, embeddings: Embeddings, batch: ObjectiveBatch, keys: Side) -> None:
        """Replace the oldest vectors by the newest positives."""
        vectors, start = self.get_buffer("vectors"), int(self.get_buffer("pointer"))
        keys = keys.take(slice(max(0, len(keys) - self.size), None))
        self.make_room(frozenset(role for role in _ROLES if getattr(batch, role) is not None),
                       None if keys.guide is None else keys.guide.shape[1])  # fmt: skip
        buffers = dict(self.named_buffers(recurse=False))
        place = (start + torch.arange(len(keys), device=vectors.device)) % self.size
        vectors[place] = unit(keys.z.to(compute_dtype(keys.z.dtype))).to(vectors.dtype)
        self.get_buffer("keys")[place] = keys.id("key")
        for role in set(_ROLES) & buffers.keys():
            value = keys.score if role == "score" else keys.id(role)
            if value is not None:
                buffers[role][place] = value.to(buffers[role].dtype)
        if len(self.get_buffer("guides")) and keys.guide is not None:
            self.get_buffer("guides")[place] = keys.guide.to(self.get_buffer("guides").dtype)
        self.get_buffer("pointer").fill_((start + len(keys)) % self.size)
        self.get_buffer("filled").clamp_(min=min(self.size, int(self.get_buffer("filled")) + len(keys)))


@part("bank", "filtered-queue")
class FilteredQueue(Queue):
    """A queue of which only the `hardest` vectors repel an anchor, among those with a score of at most `ceiling`.

    MoCo with enhanced negative sampling (arXiv 2501.16360). Formula not verified: a reconstruction [R] from the
    abstract. The filter starts after the `warmup` share of the run.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> losses = [build({"name": "moco-filtered", "size": 8, "hardest": hardest}, dim=2)(z, ObjectiveBatch.of(z)).loss
    ...           for hardest in (8, 1)]
    >>> losses[0] > losses[1] > 0  # fewer negatives, a smaller loss
    tensor(True)
    """

    def __init__(self, size: int = 65_536, hardest: int = 1024, ceiling: float = 0.9, warmup: float = 0.0,
                 random_start: bool = True, dim: int | None = None) -> None:  # fmt: skip
        super().__init__(size, False, random_start, None, dim)
        self.hardest = whole("hardest", hardest, least=1, most=size)
        self.ceiling = number("ceiling", ceiling)
        self.warmup = number("warmup", warmup, least=0, most=1)

    @torch.no_grad()
    def band(self, problem: Problem, bank: slice) -> tuple[Tensor, Tensor] | None:
        """Lowest score, half way between those of the last of the hardest and of the next, and the ceiling."""
        if problem.batch.step < self.warmup * problem.batch.total_steps:
            return None
        features, vectors = problem.my_parts[0].left, problem.my_parts[0].right[bank]
        if not len(vectors):
            return None
        low = []
        for block in features.split(1024):
            scores = block @ vectors.T
            scores = scores.masked_fill(scores > self.ceiling, -torch.inf)
            best = scores.topk(min(self.hardest + 1, len(vectors)), dim=1).values
            # Half way to the next, so that rounding cannot drop the last; where there is no next, all are kept.
            low.append(best[:, -2:].mean(1) if best.shape[1] > self.hardest else best[:, -1] - 1)
        least = torch.cat(low) if low else features.new_zeros(0)
        return least, torch.full_like(least, self.ceiling)


@part("bank", "mixed-queue")
class MixedQueue(Queue):
    """A queue, and negatives mixed from it (Kalantidis et al. 2020, MoCHi; constants from memory [M]).

    For every anchor, from its `hardest` queue vectors n: `mixes` vectors unit(a n_i + (1-a) n_j), a ~ U(0, 1), and
    `query_mixes` vectors unit(b q + (1-b) n_j), b ~ U(0, 0.5), none with a gradient. Mixing starts after the `warmup`
    share of the run.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> losses = [build({"name": "mochi", "size": 8, "hardest": 4, "mixes": mixes}, dim=2)(z, ObjectiveBatch.of(z)).loss
    ...           for mixes in (0, 16)]
    >>> losses[0] < losses[1]  # synthetic hard negatives raise the loss
    tensor(True)
    """

    makes_extras = True

    def __init__(self, size: int = 65_536, hardest: int = 1024, mixes: int = 1024, query_mixes: int = 128,
                 warmup: float = 0.0, random_start: bool = True, dim: int | None = None) -> None:  # fmt: skip
        super().__init__(size, False, random_start, None, dim)
        self.hardest = whole("hardest", hardest, least=1, most=size)
        self.mixes, self.query_mixes = whole("mixes", mixes), whole("query_mixes", query_mixes)
        self.warmup = number("warmup", warmup, least=0, most=1)

    def extras(self, problem: Problem) -> list[Extra]:
        """Scores of the mixtures, (n, mixes + query_mixes)."""
        total = self.mixes + self.query_mixes
        if not total or problem.batch.step < self.warmup * problem.batch.total_steps:
            return []
        every, vectors = len(problem.whole), problem.my_parts[0].right[len(problem.right) - self.length :].detach()
        top = min(self.hardest, len(vectors))
        if not top:
            return []
        generator = problem.batch.generator("mixed-queue", problem.place)
        # Drawn for all anchors of the batch, then cut to this process's: the same numbers for any number of processes.
        first, second = (torch.randint(top, (every, total), generator=generator) for _ in range(2))
        share = torch.rand(every, total, generator=generator)
        share[:, self.mixes :] *= 0.5
        device = vectors.device
        first, second, share = (t[problem.mine].to(device) for t in (first, second, share))
        blocks = []
        anchors = problem.my_parts[0].left
        for at in range(0, len(anchors), 64):
            a = anchors[at : at + 64]
            hard = (a.detach() @ vectors.T).topk(top, dim=1).indices
            one = vectors[hard.gather(1, first[at : at + 64])]
            one[:, self.mixes :] = a.detach()[:, None]
            two = vectors[hard.gather(1, second[at : at + 64])]
            weight = share[at : at + 64, :, None].to(a.dtype)
            mixtures = unit(weight * one + (1 - weight) * two)
            blocks.append(torch.einsum("nd,nkd->nk", a, mixtures))
        return [Extra(torch.cat(blocks))] if blocks else []
