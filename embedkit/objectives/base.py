"""The contract between the trainer and every objective.

An objective knows no model, no file and no process group. It is called with the embeddings of the *whole* batch (all
processes, already gathered, each a leaf that wants a gradient) and returns this process's *share* of the loss: the
sum of the shares over all processes is the loss of the batch. The trainer then sums gradients over processes. So a
gradient does not depend on how many processes computed it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass
class ObjectiveBatch:
    """Everything about a batch that an objective may read besides its embeddings. All tensors cover the whole batch.

    Attributes
    ----------
    size : int
        Rows B of the batch over all processes.
    rows : slice
        The rows whose anchors this process evaluates; ``slice(0, B)`` when there is one process.
    owner : dict of str to LongTensor
        For each name in the embeddings, shape (N_name,): the row that each vector belongs to. ``arange(B)`` for names
        with one vector a row; "negatives" may have any number of vectors per row.
    keys : dict of str to LongTensor
        Like `owner`: a 64-bit hash of the input text or image, so that equal inputs have equal keys.
    ids : LongTensor (B,)
        Stable index of the row in the training data, for state by sample.
    score, label, group : Tensor (B,) or None
        Float similarity, integer class, integer group id of a row.
    document_id, position : LongTensor (B,) or None
        The document that a row is a sentence of, as an integer, and the place of the sentence in it.
    scores : dict of str to Tensor
        A teacher's score of each candidate of a row's anchor, aligned with the embeddings of the same name: "positive"
        (B,), and "negatives" (N_negatives,) where there are any. Empty when the data have none.
    guide : dict of str to Tensor
        Embeddings by a guide or teacher model under the same names (no gradient); empty when there is none.
    step, total_steps, epoch : int
        Position in the run: optimiser steps before this one, their total, and the epoch.
    lengths : dict of str to LongTensor
        Like `owner`: tokens of the input.
    seed : int
        The run's seed.
    places : dict of str to LongTensor (N_name, k)
        Like `owner`: whole numbers that a view gives its inputs (`embedkit.views.View.places`), where it does.
    targets : dict of str to Tensor (B, ...)
        What the method says of each row besides, see `Method.targets`.
    turn : int
        Which optimiser step on this batch it is, where there are several (`Method.turns`).
    own : dict of str to Tensor (n_name, K)
        This process's own outputs, before any exchange (`Method.exchange`), for terms of single rows. They want a
        gradient.
    own_guide : dict of str to Tensor (n_name, K)
        The same of the guide, without gradient.
    mix : (LongTensor (B,), float) or None
        The row that each row is mixed with, and the share of its own, see `embedkit.objectives.compose.mixed_pairs`.
    guide_parcel : dict of str to Tensor
        All that the guide's exchange gave, gathered; `guide` has the names of views.
    guide_parts : mapping of str to module
        The method's parts with the running means of those that the guide follows (`Method.with_means`); empty without.
    texts : dict of str to Inputs
        The tokens of all texts of the views that the method shares (`Method.shared_texts`).
    guide_decay : float or None
        Where the guide is a running mean: its decay in this step's update.
    choices : dict of str to Tensor
        What a method's `terms` note of the whole batch for its `local_terms`.
    chunk : LongTensor (n,) or None
        For `local_terms`: the places of its inputs among all of their view.
    """

    size: int
    rows: slice
    owner: dict[str, Tensor]
    keys: dict[str, Tensor]
    ids: Tensor
    score: Tensor | None = None
    label: Tensor | None = None
    group: Tensor | None = None
    document_id: Tensor | None = None
    position: Tensor | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)
    guide: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    total_steps: int = 1
    epoch: int = 0
    lengths: dict[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    places: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)
    turn: int = 0
    own: dict[str, Tensor] = field(default_factory=dict)
    own_guide: dict[str, Tensor] = field(default_factory=dict)
    mix: tuple[Tensor, float] | None = None
    guide_parcel: dict[str, Tensor] = field(default_factory=dict)
    guide_parts: Mapping[str, Any] = field(default_factory=dict)
    guide_decay: float | None = None
    texts: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, Tensor] = field(default_factory=dict)
    chunk: Tensor | None = None

    def random(self, use: str, *places: int) -> np.random.Generator:
        """Random numbers for one `use`: the same on every process, and after a resume.

        They depend only on the seed of the run, the step, `use` and `places` (non-negative).
        """
        return np.random.default_rng([self.seed, self.step, zlib.crc32(use.encode()), len(places), *places])

    def generator(self, use: str, *places: int) -> torch.Generator:
        """A torch generator, on the CPU, with the guarantees of `random`."""
        return torch.Generator().manual_seed(int(self.random(use, *places).integers(2**63)))

    @property
    def share(self) -> float:
        """Fraction of the rows that this process evaluates; what a loss that cannot be split is multiplied by."""
        return (self.rows.stop - self.rows.start) / self.size

    @classmethod
    def of(cls, embeddings: dict[str, Tensor], **fields: Any) -> ObjectiveBatch:
        """The batch of one process without metadata: every name has one vector a row, or "negatives" k a row.

        Negatives are row-major: vectors ``i*k .. i*k+k-1`` belong to row i. For tests and for use outside the trainer.

        Examples
        --------
        >>> import torch
        >>> from embedkit.objectives.base import ObjectiveBatch
        >>> batch = ObjectiveBatch.of({"anchor": torch.eye(2), "positive": torch.eye(2)}, label=torch.tensor([0, 1]))
        >>> batch.size, batch.owner["positive"].tolist()
        (2, [0, 1])
        """
        size = next(len(z) for name, z in embeddings.items() if name != "negatives")
        device = next(iter(embeddings.values())).device
        owner = {n: torch.arange(len(z), device=device) // max(1, len(z) // size) for n, z in embeddings.items()}
        start, keys = 0, {}
        for name, z in embeddings.items():
            keys[name] = torch.arange(start, start + len(z), device=device)
            start += len(z)
        plain: dict[str, Any] = {
            "size": size, "rows": slice(0, size), "owner": owner, "keys": keys,
            "ids": torch.arange(size, device=device),
        }  # fmt: skip
        return cls(**{**plain, **fields})


@dataclass
class LossOutput:
    """The loss of a batch, and what is logged beside it.

    Attributes
    ----------
    loss : Tensor ()
        This process's share of the loss; carries the gradient.
    terms : dict of str to Tensor ()
        Detached shares of the named parts of the loss, logged separately (summed over processes).
    metrics : dict of str to Tensor ()
        Detached figures that are equal on every process, e.g. ``scale``.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> out = build({"name": "siglip", "temperature": 0.5})(z, ObjectiveBatch.of(z))
    >>> out.loss.shape, sorted(out.metrics)
    (torch.Size([]), ['bias', 'scale'])
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class NegativeCount:
    """Number of candidates that repel one anchor, by where they come from."""

    in_batch: int
    hard: int
    other_processes: int
    bank: int = 0

    @property
    def total(self) -> int:
        """All negatives: the columns of the similarity matrix less the positives.

        >>> from embedkit.objectives.base import NegativeCount
        >>> NegativeCount(in_batch=7, hard=8, other_processes=0).total
        15
        """
        return self.in_batch + self.hard + self.other_processes + self.bank


class Memory(nn.Module):
    """Base class of modules that store vectors between steps, such as a queue of negatives.

    Their buffers must exist before the first step and before a checkpoint is read.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> queue = build({"name": "moco", "size": 4}, dim=2).bank
    >>> queue.make_room(frozenset({"label"}), guide_dim=None)
    >>> queue.get_buffer("label").shape
    torch.Size([4])
    """

    least_rows: int = 1
    """Rows that a batch must have for the state to come about."""

    def make_room(self, roles: frozenset[str], guide_dim: int | None) -> None:
        """Register the buffers for these roles of the rows, and for guide vectors of this size."""

    def remark(self) -> str | None:
        """What is worth saying of the state at the end of a run; None for nothing."""
        return None


class Objective(nn.Module):
    """Base class of all objectives; parameters and buffers are trained, saved and resumed with the model.

    Class attributes
    ----------------
    requires : frozenset of str
        Names and roles that the batch must have, from "anchor", "positive", "negatives", "score", "scores", "label",
        "group", "document_id", "position" and "guide".
    accepts : frozenset of str
        Names that are used when the batch has them.
    any_of : tuple of frozenset of str
        Sets of which the batch must have one member at least, such as a teacher's vectors or its scores.
    any_width : bool
        Whether views may have vectors of different sizes.
    shares_draws : bool
        Whether the rows of one group must share the random draw of their augmentation.
    limits : mapping
        Lowest and highest sensible value of a role; checked when the data is opened.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import LossOutput, Objective, ObjectiveBatch
    >>> class Distance(Objective):
    ...     def forward(self, embeddings, batch):
    ...         gap = (embeddings["anchor"] - embeddings["positive"])[batch.rows]
    ...         return LossOutput(gap.square().sum() / batch.size)
    >>> z = {"anchor": torch.eye(2), "positive": torch.zeros(2, 2)}
    >>> Distance()(z, ObjectiveBatch.of(z)).loss
    tensor(1.)
    """

    requires: frozenset[str] = frozenset({"anchor", "positive"})
    accepts: frozenset[str] = frozenset()
    any_of: tuple[frozenset[str], ...] = ()
    any_width: bool = False
    shares_draws: bool = False
    limits: Mapping[str, tuple[float, float]] = {}

    @property
    def no_weight_decay(self) -> list[str]:
        """Names of the parameters without weight decay: those that a module lists in its attribute `undecayed`."""
        return [f"{prefix}.{name}".lstrip(".") for prefix, module in self.named_modules()
                for name in getattr(module, "undecayed", ()) if getattr(module, name, None) is not None]  # fmt: skip

    def begin(self, roles: frozenset[str], guide_dim: int | None = None) -> None:
        """Allocate state that depends on the data: called once, before the first step and before a resume."""
        for part in self.modules():
            if isinstance(part, Memory):
                part.make_room(roles, guide_dim)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """This process's share of the loss. Embeddings: name -> (N_name, D), not normalised, the whole batch."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update state (queue, running means, prototypes): once per optimiser step, the same on every process."""

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """Number of negatives of an anchor when `batch_size` rows (all processes) carry `hard` hard ones each."""
        raise TypeError(f"{type(self).__name__} does not define negatives")


class NoObjective(Objective):
    """An objective that is always zero, for methods whose own terms are the whole loss (masked language modelling).

    Examples
    --------
    >>> import torch
    >>> NoObjective()({}, ObjectiveBatch.of({"anchor": torch.eye(2)})).loss
    tensor(0.)
    """

    requires = frozenset()

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """A loss of zero."""
        return LossOutput(torch.zeros(()))

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """No negatives."""
        return NegativeCount(0, 0, 0)
