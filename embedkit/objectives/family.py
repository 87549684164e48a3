"""Helpers of the objectives beside the similarity matrix kernel: named inputs, guides, masks, shares."""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.errors import NonFiniteError, UserError
from embedkit.objectives.base import LossOutput, NegativeCount, Objective, ObjectiveBatch
from embedkit.objectives.matrix.similarity import VIEWS, views_of
from embedkit.objectives.tools import prepare, unit

PAIR = VIEWS[:2]
"""The names of the two views that every row has."""

FURTHER = frozenset(VIEWS[2:])
"""The names of the views that a row may have besides."""


class Family(Objective):
    """Base class of objectives that are not settings of the similarity matrix kernel.

    Class attributes
    ----------------
    repels : bool
        Whether the positives of the other rows are in-batch negatives of an anchor.

    Examples
    --------
    >>> class InBatch(Family):
    ...     repels = True
    >>> InBatch().negatives(batch_size=8, hard=0, processes=2)
    NegativeCount(in_batch=3, hard=0, other_processes=4, bank=0)
    """

    repels: bool = False

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """In-batch negatives when the objective `repels`, and all hard negatives when it accepts them."""
        if not self.repels:
            return NegativeCount(in_batch=0, hard=0, other_processes=0)
        local = batch_size // max(processes, 1)
        hard_total = hard * batch_size if "negatives" in self.accepts | self.requires else 0
        return NegativeCount(in_batch=max(local - 1, 0), hard=hard_total, other_processes=batch_size - local)


def take(embeddings: dict[str, Tensor], *names: str) -> list[Tensor]:
    """The named embeddings, checked for NaN and infinity, in the precision of the loss.

    Raises
    ------
    UserError
        One of them is missing.
    NonFiniteError
        One of them holds NaN or infinity.

    Examples
    --------
    >>> import torch
    >>> (anchor,) = take({"anchor": torch.eye(2, dtype=torch.bfloat16)}, "anchor")
    >>> anchor.dtype
    torch.float32
    """
    for name in names:
        if name not in embeddings:
            raise UserError(
                f"the objective needs the embedding {name!r} and has {sorted(embeddings)}",
                where="objective",
                remedy="use a method that makes this view, or another objective",
            )
    return list(prepare({name: embeddings[name] for name in names}).values())


def all_views(embeddings: dict[str, Tensor]) -> list[Tensor]:
    """Every embedding with one vector per row: "anchor", "positive", then "view3", "view4", ...

    Examples
    --------
    >>> import torch
    >>> z = {"view3": torch.full((1, 1), 3.0), "anchor": torch.ones(1, 1), "positive": torch.full((1, 1), 2.0)}
    >>> [view.item() for view in all_views(z)]
    [1.0, 2.0, 3.0]
    """
    return take(embeddings, *PAIR, *(name for name in views_of(embeddings) if name not in PAIR))


def any_views(embeddings: dict[str, Tensor]) -> list[Tensor]:
    """The anchors, and every other embedding with one vector per row that there is.

    Examples
    --------
    >>> import torch
    >>> len(any_views({"anchor": torch.eye(2)})), len(any_views({"anchor": torch.eye(2), "view4": torch.eye(2)}))
    (1, 2)
    """
    return take(embeddings, *PAIR[:1], *(name for name in views_of(embeddings) if name not in PAIR[:1]))


def guides(batch: ObjectiveBatch, *names: str, like: Tensor | None = None) -> list[Tensor]:
    """The named embeddings of the guide (a teacher, or the EMA of the encoder), without gradient.

    Parameters
    ----------
    like : Tensor (N, D), optional
        The guide's vectors must have as many columns as this one, and are given its precision.

    Raises
    ------
    UserError
        There is no guide, or its vectors have another size.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> batch = ObjectiveBatch.of(z, guide={"anchor": torch.full((2, 3), 0.5)})
    >>> guides(batch, "anchor")[0].shape
    torch.Size([2, 3])
    """
    for name in names:
        if name not in batch.guide:
            raise UserError(
                f"the objective needs the guide's vectors of {name!r} and has {sorted(batch.guide) or 'no guide'}",
                where="objective",
                remedy="choose a method with a guide: a teacher model or a running mean of the encoder",
            )
        width = batch.guide[name].shape[1]
        if like is not None and width != like.shape[1]:
            raise UserError(
                f"the guide's vectors of {name!r} have {width} columns, the embeddings {like.shape[1]}",
                where="objective",
                remedy="give the model a head of the guide's size; inside matryoshka set cut_guide: true",
            )
    vectors = prepare({f"guide {name}": batch.guide[name].detach() for name in names}).values()
    return [z if like is None else z.to(like.dtype) for z in vectors]


def require_role(value: Tensor | None, role: str) -> Tensor:
    """The values (B,) of a role that the objective cannot do without.

    Raises
    ------
    UserError
        The role is missing.
    NonFiniteError
        It holds NaN or infinity.

    Examples
    --------
    >>> import torch
    >>> require_role(torch.tensor([0.5, 1.0]), "score")
    tensor([0.5000, 1.0000])
    >>> require_role(None, "score")
    Traceback (most recent call last):
        ...
    embedkit.errors.UserError: objective: the objective needs the role 'score'; map a column of the data to 'score'
    """
    if value is None:
        raise UserError(
            f"the objective needs the role {role!r}", where="objective", remedy=f"map a column of the data to {role!r}"
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        row = int((~torch.isfinite(value)).nonzero()[0])
        raise NonFiniteError("the value is NaN or infinite", where=f"role {role!r} row {row}", remedy="fix the data")
    return value


def teacher_scores(batch: ObjectiveBatch, name: str) -> Tensor:
    """A teacher's scores of the candidates `name`, (N_name,), in the order of their embeddings.

    Raises
    ------
    UserError
        The rows have no such scores.
    NonFiniteError
        One of them is NaN or infinite.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> teacher_scores(ObjectiveBatch.of(z, scores={"positive": torch.tensor([0.5, 0.25])}), "positive")
    tensor([0.5000, 0.2500])
    """
    if name not in batch.scores:
        raise UserError(
            f"the objective needs a teacher's scores of {name!r} and has {sorted(batch.scores) or 'none'}",
            where="objective", remedy="map a column of lists to the role scores, or add a guide",
        )  # fmt: skip
    return require_role(batch.scores[name], "scores")


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of `a` with the same row of `b`: (N, D), (N, D) -> (N,).

    Examples
    --------
    >>> import torch
    >>> cosines(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.6000])
    """
    return (unit(a) * unit(b)).sum(dim=-1)


def square_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (N, M) between the rows of two matrices; never below zero.

    Examples
    --------
    >>> import torch
    >>> square_distances(torch.eye(2), torch.tensor([[1.0, 1.0]]))
    tensor([[1.],
            [1.]])
    """
    square = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)[None, :] - 2.0 * a @ b.T
    return square.clamp_min(0.0)


def other_rows(size: int, rows: slice, device: torch.device) -> Tensor:
    """Mask (rows, size) of the in-batch negatives: true where row and column differ.

    Examples
    --------
    >>> import torch
    >>> other_rows(3, slice(0, 2), torch.device("cpu"))
    tensor([[False,  True,  True],
            [ True, False,  True]])
    """
    index = torch.arange(size, device=device)
    return index[rows, None] != index[None, :]


def loss_of_rows(losses: dict[str, Tensor]) -> LossOutput:
    """The loss whose named terms are sums over this process's rows, already divided by the size of the batch.

    Examples
    --------
    >>> import torch
    >>> out = loss_of_rows({"alignment": torch.tensor(0.5), "uniformity": torch.tensor(-2.0)})
    >>> out.loss, sorted(out.terms)
    (tensor(-1.5000), ['alignment', 'uniformity'])
    """
    terms = {name: value.detach() for name, value in losses.items()}
    return LossOutput(loss=torch.stack(list(losses.values())).sum(), terms=terms if len(terms) > 1 else {})


def loss_of_batch(losses: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
    """This process's share of a loss whose named terms every process computed over the whole batch.

    Examples
    --------
    >>> import torch
    >>> batch = ObjectiveBatch.of({"anchor": torch.eye(4)}, rows=slice(0, 2))
    >>> loss_of_batch({"variance": torch.tensor(3.0)}, batch).loss
    tensor(1.5000)
    """
    return loss_of_rows({name: value * batch.share for name, value in losses.items()})
