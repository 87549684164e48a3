"""Self-distillation of assignments to prototypes: DINO, MSN, PMSN. The patches of iBOT: method `ibot`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.special import xlogy

from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import FURTHER, PAIR, Family, guides, loss_of_batch, loss_of_rows, take
from embedkit.objectives.losses.prototypes.assignment import sinkhorn
from embedkit.objectives.matrix.similarity import views_of
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import capacity, decay_of, number, unit, whole

PAPER = "Caron et al. 2021, ICCV, Emerging Properties in Self-Supervised Vision Transformers, section 3.1"


def distilled(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy (N,) of the students' logits (N, K) / `temperature` from the teacher's probabilities (N, K).

    Examples
    --------
    >>> import torch
    >>> distilled(torch.zeros(1, 2), torch.tensor([[0.9, 0.1]]), temperature=0.1)
    tensor([0.6931])
    """
    return -(teacher * (student / temperature).log_softmax(dim=1)).sum(dim=1)


def sharpened(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """The teacher's probabilities (N, K): softmax of its logits (N, K) less the centre (K,), / `temperature`.

    Examples
    --------
    >>> import torch
    >>> sharpened(torch.tensor([[3.0, 1.0]]), torch.tensor([2.0, 0.0]), temperature=0.04)
    tensor([[0.5000, 0.5000]])
    """
    return ((teacher.detach() - centre) / temperature).softmax(dim=1)


class SelfDistilled(Family):
    """Base class of objectives whose targets are the guide's: every view learns from every other view of the guide.

    The guide, a running mean of the encoder, may embed some of the views only, such as the global crops.

    Examples
    --------
    >>> import torch
    >>> z = {name: torch.eye(2) for name in ("anchor", "positive", "view3")}
    >>> batch = ObjectiveBatch.of(z, guide={"anchor": torch.eye(2)})
    >>> [taught for taught, *_ in SelfDistilled().taught(z, batch)]
    [('anchor', 'positive'), ('anchor', 'view3')]
    """

    requires = frozenset({*PAIR, "guide"})
    accepts = FURTHER

    def taught(
        self, embeddings: dict[str, Tensor], batch: ObjectiveBatch
    ) -> list[tuple[tuple[str, str], Tensor, Tensor]]:
        """Names of teacher's and student's view, the guide's vectors and the embeddings, for each pair of views."""
        take(embeddings, *PAIR)
        names = views_of(embeddings)
        views = dict(zip(names, take(embeddings, *names), strict=True))
        slow = [name for name in names if name in batch.guide] or ["anchor"]
        teachers = dict(zip(slow, guides(batch, *slow, like=views["anchor"]), strict=True))
        return [((t, s), teachers[t], views[s]) for t in slow for s in names if s != t]


@objective(
    "dino", paper=PAPER, family="prototypes", splits=True, cost="V² B K",
    state="centre (K,); the teacher's prototypes (K, D) when there are any",
    slots="softmax of the student's logits, centred and sharpened softmax of the guide's",
)  # fmt: skip
class DINO(SelfDistilled):
    """Cross-entropy of the students' softmax from the teacher's, over all pairs of a teacher's view with another view.

    ``mean over pairs (t, s), t != s, of mean_i -sum_k p_tk log softmax(s / student_temperature)_k``, with
    ``p = softmax((t - centre) / teacher_temperature)``. The centre is a running mean of the teacher's logits over rows
    and its views, and is moved after the step. Embeddings are logits (a head of K outputs), unless the objective has
    `prototypes` of its own: then logits are cosines with them, and the teacher's prototypes follow as a running mean.

    Parameters
    ----------
    prototypes : int
        Prototypes K of the objective; 0 where embeddings are logits already.
    student_temperature, teacher_temperature : float
        Temperatures of both.
    warm_temperature, warm_epochs : float, int
        The teacher's temperature at the start, 0.04 if not given, and the epochs in which it goes to its own in equal
        steps.
    centre_momentum : float
        Share of the old centre.
    momentum : float, optional
        Share of the teacher's old prototypes; the guide's decay in each step if not given. Of `prototypes` only.
    freeze_steps : int
        Steps at the start in which prototypes get no gradient. Of `prototypes` only.
    dim : int or None
        Size of the embeddings; without it the objective can be checked but not evaluated.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> loss = build("dino", dim=2)(z, ObjectiveBatch.of(z, guide=z)).loss  # sharp and right
    >>> bool(loss < 1e-3)
    True
    """

    def __init__(
        self, *, prototypes: int = 0, student_temperature: float = 0.1, teacher_temperature: float = 0.04,
        warm_temperature: float | None = None, warm_epochs: int = 0, centre_momentum: float = 0.9,
        momentum: float | None = None, freeze_steps: int = 0, dim: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        count = capacity(whole("prototypes", prototypes))
        if not count and (freeze_steps or momentum is not None):
            name = "freeze_steps" if freeze_steps else "momentum"
            raise RecipeError("the objective has no prototypes of its own", where=f"objective.{name}",
                              remedy="set objective.prototypes, or leave it out")  # fmt: skip
        self.student_temperature = number("student_temperature", student_temperature, above=0)
        self.teacher_temperature = number("teacher_temperature", teacher_temperature, above=0)
        start_temperature = 0.04 if warm_temperature is None else warm_temperature
        self.warm_temperature = number("warm_temperature", start_temperature, above=0)
        self.warm_epochs, self.freeze_steps = whole("warm_epochs", warm_epochs), whole("freeze_steps", freeze_steps)
        if warm_temperature is not None and not self.warm_epochs:
            raise RecipeError("has no effect without warm_epochs", where="objective.warm_temperature",
                              remedy="set that, or leave it out")  # fmt: skip
        self.centre_momentum = number("centre_momentum", centre_momentum, least=0, below=1)
        self.momentum = None if momentum is None else number("momentum", momentum, least=0, most=1)
        start = unit(torch.randn(count, dim)) if count and dim else None
        self.prototypes = None if start is None else nn.Parameter(start)
        self.register_buffer("teacher_prototypes", None if start is None else start.clone())
        self.register_buffer("centre", torch.zeros(count or dim or 0))

    def temperature(self, epoch: int) -> float:
        """The teacher's temperature in an epoch."""
        if epoch >= self.warm_epochs:
            return self.teacher_temperature
        share = epoch / max(1, self.warm_epochs - 1)
        return self.warm_temperature + share * (self.teacher_temperature - self.warm_temperature)

    def _teacher(self, vectors: Tensor) -> Tensor:
        """The teacher's logits (B, K)."""
        if self.prototypes is None:
            return vectors
        return unit(vectors) @ unit(self.get_buffer("teacher_prototypes").to(vectors.dtype)).T

    def _student(self, vectors: Tensor, step: int) -> Tensor:
        """A student's logits (B, K)."""
        if self.prototypes is None:
            return vectors
        bank = unit(self.prototypes.to(vectors.dtype))
        return unit(vectors) @ (bank.detach() if step < self.freeze_steps else bank).T

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        pairs, rows = self.taught(embeddings, batch), batch.rows
        centre, temperature = self.get_buffer("centre").to(pairs[0][2].dtype), self.temperature(batch.epoch)
        if not len(centre):
            raise RecipeError("the number of logits is not known", where="objective", remedy="build it with dim=")
        teachers, students, total = dict[str, Tensor](), dict[str, Tensor](), pairs[0][2].new_zeros(())
        for (t, s), slow, fast in pairs:
            if t not in teachers:
                teachers[t] = sharpened(self._teacher(slow[rows]), centre, temperature)
            if s not in students:
                students[s] = self._student(fast[rows], batch.step)
            total = total + distilled(students[s], teachers[t], self.student_temperature).sum()
        return loss_of_rows({"distillation": total / (batch.size * len(pairs))})

    @torch.no_grad()
    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Move the centre, then the teacher's prototypes."""
        slow = {t: vectors for (t, _), vectors, _ in self.taught(embeddings, batch)}
        mean = torch.stack([self._teacher(z).mean(dim=0) for z in slow.values()]).mean(dim=0)
        centre = self.get_buffer("centre")
        centre.copy_(self.centre_momentum * centre + (1 - self.centre_momentum) * mean.to(centre.dtype))
        if self.prototypes is not None:
            self.get_buffer("teacher_prototypes").lerp_(self.prototypes, 1 - decay_of(self.momentum, batch))


@objective(
    "pmsn", paper="Assran et al. 2023, ICLR, The Hidden Uniform Cluster Prior (arXiv 2210.07277)", family="prototypes",
    cost="V² B K", state="prototypes (K, D)", exponent=0.25,
    slots="cosines with prototypes, sharpened Sinkhorn targets of the guide's, power law of the mean assignment",
    note="[M] the divergence of the mean assignment from the prior, as in MSN; lightly has the other one",
)  # fmt: skip
@objective(
    "msn", paper="Assran et al. 2022, ECCV, Masked Siamese Networks, eq. 1", family="prototypes",
    cost="V² B K", state="prototypes (K, D)",
    slots="cosines with prototypes, sharpened Sinkhorn targets of the guide's, entropy of the mean assignment",
)  # fmt: skip
class MSN(SelfDistilled):
    """Views are assigned to prototypes as the teacher's view is; on average all prototypes should be used.

    ``mean over pairs of views (t, s) and rows of -sum_k p_tk log q_sk + regularisation * KL(mean q || prior)``, with
    ``q = softmax(cos(z, c) / temperature)``, ``p`` the same of the guide's vectors to the power 1 / sharpening, then
    balanced by `iterations` rounds of Sinkhorn. Prototypes are trained through q alone. The prior of prototype k is
    ``k^-exponent``, normalised: 0 is uniform (MSN), 0.25 a power law (PMSN).

    Parameters
    ----------
    prototypes : int
        How many, K.
    temperature : float
        Of both assignments.
    sharpening : float
        Temperature of the target's probabilities.
    iterations : int
        Rounds of the balance; 0 for none.
    regularisation : float
        Weight of the divergence.
    exponent : float
        Of the prior.
    dim : int or None
        Size of the embeddings; without it the objective can be checked but not evaluated.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> objective = build({"name": "msn", "prototypes": 2}, dim=2)
    >>> objective.prototypes.data = torch.eye(2)
    >>> out = objective(z, ObjectiveBatch.of(z, guide=z))
    >>> bool(out.loss < 1e-3), sorted(out.terms)
    (True, ['distillation', 'prior'])
    """

    def __init__(
        self, *, prototypes: int = 1024, temperature: float = 0.1, sharpening: float = 0.25, iterations: int = 3,
        regularisation: float = 1.0, exponent: float = 0.0, dim: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        count = capacity(whole("prototypes", prototypes, least=2))
        self.temperature = number("temperature", temperature, above=0)
        self.sharpening, self.iterations = number("sharpening", sharpening, above=0), whole("iterations", iterations)
        self.regularisation = number("regularisation", regularisation, least=0)
        self.exponent = number("exponent", exponent, least=0)
        self.prototypes = None if dim is None else nn.Parameter(unit(torch.randn(count, dim)))

    @torch.no_grad()
    def _target(self, scores: Tensor) -> Tensor:
        """Probabilities (B, K) of the teacher's view."""
        log_p = (scores / (self.temperature * self.sharpening)).log_softmax(dim=1)
        return sinkhorn(log_p, 1.0, self.iterations)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``distillation`` and ``prior``; every process evaluates the batch."""
        if self.prototypes is None:
            raise RecipeError("the prototypes' size is not known", where="objective", remedy="build it with dim=")
        pairs = self.taught(embeddings, batch)
        bank = unit(self.prototypes.to(pairs[0][2].dtype))
        targets, students, total = dict[str, Tensor](), dict[str, Tensor](), bank.new_zeros(())
        for (t, s), slow, fast in pairs:
            if t not in targets:
                targets[t] = self._target(unit(slow) @ bank.detach().T)
            if s not in students:
                students[s] = unit(fast) @ bank.T
            total = total + distilled(students[s], targets[t], self.temperature).mean() / len(pairs)
        mean = torch.cat([(z / self.temperature).softmax(dim=1) for z in students.values()]).mean(dim=0)  # (K,)
        prior = torch.arange(1, len(mean) + 1, device=mean.device, dtype=mean.dtype) ** -self.exponent
        gap = (xlogy(mean, mean) - mean * (prior / prior.sum()).log()).sum()
        return loss_of_batch({"distillation": total, "prior": self.regularisation * gap}, batch)
