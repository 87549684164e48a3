"""Pairs with scores, a hinge on the hardest candidate, and distillation from a teacher.

A teacher's vectors arrive in ``batch.guide`` under the names of the embeddings they belong to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.errors import DataError, UserError
from embedkit.objectives.base import LossOutput, NegativeCount, ObjectiveBatch
from embedkit.objectives.family import (
    FURTHER,
    PAIR,
    Family,
    cosines,
    guides,
    loss_of_batch,
    loss_of_rows,
    other_rows,
    require_role,
    take,
    teacher_scores,
)
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import (
    choice,
    grouped_lse,
    logaddexp,
    masked_lse,
    number,
    require,
    softplus,
    unit,
    whole,
)


def ordered_pairs(similarity: Tensor, score: Tensor) -> Tensor:
    """``log(1 + sum exp(similarity_i - similarity_j))`` over all pairs of rows with ``score_i < score_j``.

    Zero when no two scores differ. Su 2022, "CoSENT", the loss formula.

    Parameters
    ----------
    similarity, score : Tensor (B,)
        The model's similarities, already scaled, and the scores of the data.

    Examples
    --------
    >>> import torch
    >>> ordered_pairs(torch.tensor([0.0, 2.0]), torch.tensor([0.1, 0.9]))  # in the right order
    tensor(0.1269)
    >>> ordered_pairs(torch.tensor([2.0, 0.0]), torch.tensor([0.1, 0.9]))
    tensor(2.1269)
    """
    gaps = similarity[:, None] - similarity[None, :]  # (B, B)
    wrong = masked_lse(gaps.flatten(), (score[:, None] < score[None, :]).flatten())
    # torch's softplus leaves out what is below e^-20 of its argument, this does not.
    return logaddexp(wrong, torch.zeros_like(wrong))


@objective(
    "cosent", paper="Su 2022, kexue.fm/archives/8847, CoSENT", family="pairs", cost="B D + B²",
    slots="order of all pairs of rows by score, log of one plus the sum of exponentials",
)  # fmt: skip
class CoSENT(Family):
    """The cosine of a row with a higher score should exceed that of a row with a lower one.

    ``log(1 + sum exp(scale * (cos_i - cos_j)))`` over rows with ``score_i < score_j``; only the order of scores counts.

    Parameters
    ----------
    scale : float
        Inverse temperature.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("cosent")(z, ObjectiveBatch.of(z, score=torch.tensor([1.0, 0.0]))).loss
    >>> round(loss.item(), 4)
    0.6931
    """

    requires = frozenset({"anchor", "positive", "score"})

    def __init__(self, *, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = number("scale", scale, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss over all pairs of rows of the whole batch."""
        score = require_role(batch.score, "score")
        similarity = self.scale * cosines(*take(embeddings, *PAIR))
        return loss_of_batch({"order": ordered_pairs(similarity, score)}, batch)


@objective(
    "angle", paper="Li and Li 2024, ACL, AnglE-optimized Text Embeddings", family="pairs", cost="B D + B²",
    slots="order of all pairs of rows by score, difference of angles in complex space",
    note="The angle term alone; the paper adds cosent and infonce, which `sum` does.",
)  # fmt: skip
class AnglE(Family):
    """CoSENT on the angle between two vectors in complex space.

    The first half of a vector is the real part, the second half the imaginary part. The similarity is the absolute
    value of the sum of the real and imaginary parts of the quotients ``a_k / b_k * |b|² / (|a| |b|)``, that is of
    ``cos(a, b) + cos(a, i b)``; it has no vanishing gradient where the cosine is close to one.

    Parameters
    ----------
    scale : float
        Inverse temperature.
    dim : int or None
        Size of the embeddings, which must be even.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("angle")(z, ObjectiveBatch.of(z, score=torch.tensor([1.0, 0.0]))).loss
    >>> round(loss.item(), 4)
    0.6931
    """

    requires = frozenset({"anchor", "positive", "score"})

    def __init__(self, *, scale: float = 20.0, dim: int | None = None) -> None:
        super().__init__()
        self.scale = number("scale", scale, above=0)
        if dim is not None:
            require(dim % 2 == 0, "dim", dim, "even: half of the columns are the imaginary part")

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss over all pairs of rows of the whole batch."""
        score = require_role(batch.score, "score")
        a, b = (unit(z) for z in take(embeddings, *PAIR))
        require(a.shape[1] % 2 == 0, "dim", a.shape[1], "even: half of the columns are the imaginary part")
        real, imaginary = b.chunk(2, dim=1)  # (B, D / 2) each
        rotation = torch.cat([-imaginary, real], dim=1)  # (B, D): b times the imaginary unit
        similarity = self.scale * ((a * b).sum(dim=1) + (a * rotation).sum(dim=1)).abs()
        return loss_of_batch({"order": ordered_pairs(similarity, score)}, batch)


@objective(
    "cosine-mse", paper="Reimers and Gurevych 2019, EMNLP, Sentence-BERT, section 3", family="pairs", splits=True,
    cost="B D", slots="square of cosine less score",
)  # fmt: skip
class CosineMSE(Family):
    """``mean_i (cos_i - score_i)²``; scores must be cosines, between -1 and 1.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("cosine-mse")(z, ObjectiveBatch.of(z, score=torch.tensor([1.0, 0.0]))).loss
    >>> round(loss.item(), 4)
    0.5
    """

    requires = frozenset({"anchor", "positive", "score"})
    limits = {"score": (-1.0, 1.0)}  # noqa: RUF012 - read only

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        a, b = take(embeddings, *PAIR)
        score = require_role(batch.score, "score").to(a.dtype)
        beyond = score.abs() > 1
        if bool(beyond.any()):
            row = int(beyond.nonzero()[0])
            raise DataError(
                f"score {float(score[row]):g} is not a cosine", where=f"role 'score' row {row}",
                remedy="scale the scores to [-1, 1], or use cosent, which reads only their order",
            )  # fmt: skip
        rows = batch.rows
        return loss_of_rows({"square": (cosines(a[rows], b[rows]) - score[rows]).square().sum() / batch.size})


@objective(
    "energy-hinge", paper="Jiang et al. 2022, Findings of EMNLP, PromCSE", family="pairs", splits=True,
    slots="hinge on the hardest candidate",
)  # fmt: skip
class EnergyHinge(Family):
    """``mean_i max(0, margin + max(cosines with candidates) - cos(anchor_i, positive_i))``.

    Candidates of an anchor are the positives of the other rows and every hard negative of the whole batch, its own
    included. An anchor without candidates counts as zero. PromCSE adds it with weight 10 to InfoNCE (use `sum`).

    Parameters
    ----------
    margin : float
        Least difference of the cosines.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("energy-hinge")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    1.2
    """

    accepts = frozenset({"negatives"})
    repels = True

    def __init__(self, *, margin: float = 0.2) -> None:
        super().__init__()
        self.margin = number("margin", margin, least=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's anchors."""
        a, b = (unit(z) for z in take(embeddings, *PAIR))
        rows = batch.rows
        table = (a[rows] @ b.T).masked_fill(~other_rows(len(b), rows, b.device), -torch.inf)  # (rows, B)
        if len(embeddings.get("negatives", ())):
            table = torch.cat([table, a[rows] @ unit(take(embeddings, "negatives")[0]).T], dim=1)  # (rows, B + N)
        hinge = torch.relu(self.margin + table.amax(dim=1) - (a[rows] * b[rows]).sum(dim=1))
        return loss_of_rows({"hinge": hinge.sum() / batch.size})


@objective(
    "distill-kl", paper="Limkonchotiwat et al. 2023, TACL, SCT, eq. 2 (rows of similarities)", family="pairs",
    splits=True, slots="soft targets by a teacher's similarities, softmax",
)  # fmt: skip
class DistillKL(Family):
    """Kullback-Leibler divergence of the teacher's similarity rows to the student's.

    ``mean_i KL(softmax(cos(teacher) / teacher_temperature) || softmax(cos(student) / temperature))`` over a row of
    candidates: all positives, and all hard negatives where there are any. The teacher's vectors come from the guide,
    under the same names and of any size.

    Rows with the role ``scores``, a teacher's score of the positive and of each hard negative (a cross-encoder's, say),
    are compared over their own candidates: ``KL(softmax(scores / teacher_temperature) || softmax(s / temperature))``,
    times ``temperature²`` (Hinton et al. 2015, section 2), with s the student's similarities.

    Parameters
    ----------
    temperature, teacher_temperature : float
        The student's and the teacher's.
    symmetric : bool
        Average with the rows of the positives over the anchors; not with scores.
    similarity : str
        "cosine" or "dot", of the student and of the teacher's vectors.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("distill-kl")(z, ObjectiveBatch.of(z, guide={n: x.flip(1) for n, x in z.items()})).loss
    >>> round(loss.item(), 4)
    0.0
    """

    accepts = frozenset({"negatives", "guide", "scores"})
    any_of = (frozenset({"guide", "scores"}),)

    def __init__(
        self, *, temperature: float = 0.05, teacher_temperature: float = 0.05, symmetric: bool = False,
        similarity: str = "cosine",
    ) -> None:  # fmt: skip
        super().__init__()
        self.similarity = choice("similarity", similarity, ("cosine", "dot"))
        self.temperature = number("temperature", temperature, above=0)
        self.teacher_temperature = number("teacher_temperature", teacher_temperature, above=0)
        self.symmetric = choice("symmetric", symmetric, (True, False))

    def _divergence(self, student: list[Tensor], teacher: list[Tensor], batch: ObjectiveBatch) -> Tensor:
        """Sum of the divergences of this process's rows, divided by B. First of each list: anchors, then candidates."""
        form = unit if self.similarity == "cosine" else torch.Tensor.contiguous
        a, t = (form(side[0])[batch.rows] for side in (student, teacher))
        logits = a @ form(torch.cat(student[1:])).T / self.temperature  # (rows, M)
        target = t @ form(torch.cat(teacher[1:])).T / self.teacher_temperature  # (rows, M)
        log_target = target.to(logits.dtype).log_softmax(dim=1)
        return (log_target.exp() * (log_target - logits.log_softmax(dim=1))).sum() / batch.size

    def _by_scores(self, embeddings: dict[str, Tensor], names: tuple[str, ...], batch: ObjectiveBatch) -> Tensor:
        """Sum of the divergences of this process's rows from the teacher's scores of their own candidates, over B."""
        require(not self.symmetric, "symmetric", True, "false where rows have a teacher's scores")
        form = unit if self.similarity == "cosine" else torch.Tensor.contiguous
        anchors = form(take(embeddings, "anchor")[0])
        candidates = torch.cat([form(z) for z in take(embeddings, *names)])
        owner = torch.cat([batch.owner[name] for name in names])
        student = (anchors[owner] * candidates).sum(dim=1) / self.temperature  # (M,)
        teacher = torch.cat([teacher_scores(batch, name) for name in names]).to(student.dtype)
        log_q, log_p = (
            logits - grouped_lse(logits, owner, batch.size)[owner]
            for logits in (student, teacher / self.teacher_temperature)
        )
        mine = (owner >= batch.rows.start) & (owner < batch.rows.stop)
        return torch.where(mine, log_p.exp() * (log_p - log_q), 0.0).sum() * self.temperature**2 / batch.size

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's anchors, and with `symmetric` of its positives."""
        names = (*PAIR, "negatives") if len(embeddings.get("negatives", ())) else PAIR
        if batch.scores:
            return loss_of_rows({"anchor": self._by_scores(embeddings, names[1:], batch)})
        student, teacher = take(embeddings, *names), guides(batch, *names)
        if not self.symmetric:
            return loss_of_rows({"anchor": self._divergence(student, teacher, batch)})
        back = self._divergence([student[1], student[0]], [teacher[1], teacher[0]], batch)
        return loss_of_rows({"anchor": self._divergence(student, teacher, batch) / 2, "positive": back / 2})


@objective(
    "margin-mse", paper="Hofstätter et al. 2020, arXiv 2010.02666, section 3", family="pairs", splits=True,
    cost="N D for N negatives", slots="square of the student's less the teacher's margin",
)  # fmt: skip
class MarginMSE(Family):
    """``mean ((s(a, p) - s(a, n)) - teacher margin)²`` over all hard negatives of the batch.

    The teacher's margin comes from its scores of the positive and of each negative (role "scores", one list per row),
    else from the guide's vectors, else from the role "score": the margin of the row to each of its negatives. A
    batch without negatives counts as zero.

    Parameters
    ----------
    similarity : str
        "dot" or "cosine", of student and teacher.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0), "negatives": torch.ones(2, 2)}
    >>> objective = build("margin-mse")
    >>> loss = objective(z, ObjectiveBatch.of(z, scores={n: torch.tensor([1.0, 0.0]) for n in z if n != "anchor"})).loss
    >>> round(loss.item(), 4)
    1.0
    """

    requires = frozenset({"anchor", "positive", "negatives"})
    accepts = frozenset({"score", "scores", "guide"})
    any_of = (frozenset({"score", "scores", "guide"}),)

    def __init__(self, *, similarity: str = "dot") -> None:
        super().__init__()
        self.similarity = choice("similarity", similarity, ("dot", "cosine"))

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """Only the row's own hard negatives."""
        return NegativeCount(in_batch=0, hard=hard, other_processes=0)

    def _margins(self, vectors: list[Tensor], owner: Tensor) -> Tensor:
        """Similarity with the positive less that with the negative, for each negative (N,)."""
        a, p, n = (unit(z) for z in vectors) if self.similarity == "cosine" else vectors
        return (a * p).sum(dim=1)[owner] - (a[owner] * n).sum(dim=1)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of the negatives of this process's rows."""
        names = (*PAIR, "negatives")
        student, owner = take(embeddings, *names), batch.owner["negatives"]
        margins = self._margins(student, owner)  # (N,)
        if batch.scores:
            positive, negative = (teacher_scores(batch, name) for name in ("positive", "negatives"))
            target = (positive[owner] - negative).to(margins.dtype)
        elif batch.guide:
            target = self._margins(guides(batch, *names), owner).to(margins.dtype)
        else:
            target = require_role(batch.score, "score").to(margins.dtype)[owner]
        mine = (owner >= batch.rows.start) & (owner < batch.rows.stop)
        square = torch.where(mine, (margins - target).square(), 0.0)
        return loss_of_rows({"square": square.sum() / max(len(owner), 1)})


@objective(
    "embedding-mse", paper="Reimers and Gurevych 2020, EMNLP, Making Monolingual Sentence Embeddings Multilingual, "
    "eq. 1", family="pairs", splits=True, cost="B D", slots="square distance to the teacher's vectors",
)  # fmt: skip
class EmbeddingMSE(Family):
    """Mean square of embedding less teacher's vector, over all columns and all vectors that the guide has too.

    Parameters
    ----------
    normalize : bool
        Compare directions: scale both to length one first.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("embedding-mse")(z, ObjectiveBatch.of(z, guide=z)).loss
    >>> round(loss.item(), 4)
    0.0
    """

    requires = frozenset({"guide"})
    accepts = FURTHER | {"anchor", "positive", "negatives"}

    def __init__(self, *, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = choice("normalize", normalize, (True, False))

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of the vectors of this process's rows."""
        names = [name for name in embeddings if name in batch.guide]
        if not names:
            raise UserError(
                f"no embedding of {sorted(embeddings)} has a vector by the guide", where="objective",
                remedy="choose a method with a teacher",
            )  # fmt: skip
        total, count = [], 0
        for name, z in zip(names, take(embeddings, *names), strict=True):
            (target,) = guides(batch, name, like=z)
            if self.normalize:
                z, target = unit(z), unit(target)
            owner = batch.owner[name]
            mine = (owner >= batch.rows.start) & (owner < batch.rows.stop)
            total.append(torch.where(mine, (z - target).square().sum(dim=1), 0.0).sum())
            count += z.numel()
        return loss_of_rows({"square": torch.stack(total).sum() / max(count, 1)})


@objective(
    "contrastive-tension", paper="Carlsson et al. 2021, ICLR, Semantic Re-tuning with Contrastive Tension",
    family="pairs", slots="binary cross-entropy of dot products, of each row with itself and with some others",
    cost="K B D", note="the sum over all pairs; in-batch form: clip",
)  # fmt: skip
class ContrastiveTension(Family):
    """``sum softplus(-a_i p_i) + sum softplus(a_i p_j)``: the dot product says whether two texts are the same.

    Of the other rows each anchor meets `negatives`, drawn anew in each step; a row with the same text counts as the
    same. Vectors are not scaled to length one.

    Parameters
    ----------
    negatives : int
        K, others for each anchor; all of them where the batch has fewer.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> loss = build("contrastive-tension")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)  # 2 log(1 + 1/e) + 2 log 2
    2.0128
    """

    requires = frozenset({"anchor", "positive"})

    def __init__(self, *, negatives: int = 7) -> None:
        super().__init__()
        self.count = whole("negatives", negatives, least=1)

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """The others that an anchor meets, from wherever they come."""
        return NegativeCount(in_batch=min(self.count, max(batch_size - 1, 0)), hard=0, other_processes=0)

    def others(self, batch: ObjectiveBatch) -> Tensor:
        """The rows that each row meets, int64 (B, K): those behind it in a random order."""
        order = torch.randperm(batch.size, generator=batch.generator("contrastive-tension"))
        place = torch.empty_like(order)
        place[order] = torch.arange(batch.size)
        behind = torch.arange(1, min(self.count, batch.size - 1) + 1)
        return order[(place[:, None] + behind[None, :]) % batch.size]

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The sum over the pairs of this process's anchors."""
        anchor, positive = take(embeddings, *PAIR)
        others = self.others(batch).to(anchor.device)[batch.rows]  # (b, K)
        own, keys = anchor[batch.rows], batch.keys["positive"]
        same = (own * positive[batch.rows]).sum(dim=1)
        met = (own[:, None] * positive[others]).sum(dim=2)
        equal = keys[others] == keys[batch.rows, None]
        return loss_of_rows({
            "same": softplus(-same).sum(), "others": softplus(torch.where(equal, -met, met)).sum(),
        })  # fmt: skip
