"""Noise vectors optimised to be hard negatives, and negatives weighted by a complementary model (DCLR)."""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.objectives.base import LossOutput, NegativeCount, ObjectiveBatch
from embedkit.objectives.family import PAIR, Family, guides, loss_of_rows, other_rows, take
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import EPSILON, choice, masked_lse, number, unit, whole


@objective(
    "dclr", paper="Zhou et al. 2022, ACL, Debiased Contrastive Learning of Unsupervised Sentence Representations",
    family="pairs", splits=True, cost="B (B + Q) D for Q noise vectors, once a step of ascent",
    slots="gradient-ascended noise as negatives, zero weight for negatives that the guide finds similar",
    note="fidelity code is the official code, a binary cross-entropy of softmax probabilities; paper the printed form",
)  # fmt: skip
class DCLR(Family):
    """InfoNCE with noise negatives Z and weights w_ij in {0, 1} by a complementary model, the guide.

    Z starts from a normal distribution, is shared by the batch and moved `ascent` steps along its own gradient, each
    of length `step_size` a vector. w_ij is 0 where the guide's cosine of anchor i and positive j reaches `phi`, the
    diagonal is 1, noise always weighs 1; without a guide all weights are 1.

    ``fidelity: code`` (what made the published numbers): ascent on the cross-entropy over [batch | noise]; a weight
    *multiplies the logit*, so that a suspected false negative counts as orthogonal; the loss is the mean over all
    B (B + Q) cells of the binary cross-entropy of softmax probabilities, positives being 1. The guide's cosine must
    exceed `phi`. ``fidelity: paper``: ascent on ``-log(e^pos / sum over noise)`` with its own temperature; a weight
    takes the candidate out of the denominator, which does not hold the positive.

    Parameters
    ----------
    temperature, noise_temperature : float
        Of the loss, and of the paper's non-uniformity loss.
    phi : float
        Cosine from which a negative is suspected to be false.
    noise : float
        Noise vectors for each row of the batch; 0 for none.
    deviation : float
        Standard deviation of the start.
    ascent : int
        Steps of gradient ascent.
    step_size : float
        Length of a step.
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("dclr")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    9.6052
    """

    requires = frozenset(PAIR)
    accepts = frozenset({"guide"})
    repels = True

    def __init__(
        self, *, temperature: float = 0.05, noise_temperature: float = 0.05, phi: float = 0.9, noise: float = 1.0,
        deviation: float = 1.0, ascent: int = 4, step_size: float = 1e-3, fidelity: str = "code",
    ) -> None:  # fmt: skip
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)
        self.noise_temperature = number("noise_temperature", noise_temperature, above=0)
        self.phi, self.noise = number("phi", phi), number("noise", noise, least=0)
        self.deviation = number("deviation", deviation, above=0)
        self.ascent, self.step_size = whole("ascent", ascent), number("step_size", step_size, least=0)
        self.fidelity = choice("fidelity", fidelity, ("code", "paper"))

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """In-batch negatives, and the noise."""
        count = super().negatives(batch_size, hard, processes)
        return NegativeCount(count.in_batch, count.hard, count.other_processes, bank=int(batch_size * self.noise))

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's anchors against all positives and all noise."""
        anchor, positive = (unit(z) for z in take(embeddings, *PAIR))
        with torch.enable_grad():
            noise = self.noise_vectors(anchor.detach(), positive.detach(), batch)
        mine = anchor[batch.rows]
        pairs, to_noise = mine @ positive.T / self.temperature, mine @ unit(noise).T / self.temperature
        weight = self.weights(batch, pairs)
        rows = torch.arange(len(mine), device=mine.device)
        if self.fidelity == "code":
            logits = torch.cat([pairs * weight, to_noise], dim=1)  # (n, B + Q)
            loss = _cell_losses(logits, rows + batch.rows.start)
            return loss_of_rows({"cells": loss.sum() / (batch.size * logits.shape[1])})
        valid = torch.cat([(weight > 0) & other_rows(batch.size, batch.rows, mine.device),
                             torch.ones_like(to_noise, dtype=torch.bool)], dim=1)  # fmt: skip
        denominator = masked_lse(torch.cat([pairs, to_noise], dim=1), valid)
        denominator = torch.where(valid.any(dim=1), denominator, torch.zeros_like(denominator))
        return loss_of_rows({"ratio": (denominator - pairs[rows, rows + batch.rows.start]).sum() / batch.size})

    def weights(self, batch: ObjectiveBatch, like: Tensor) -> Tensor:
        """Weights (n, B): 0 for likely false negatives, else 1."""
        if not batch.guide:
            return torch.ones_like(like)
        anchor, positive = (unit(z) for z in guides(batch, *PAIR))
        cosine = anchor[batch.rows] @ positive.T
        false_negative = cosine > self.phi if self.fidelity == "code" else cosine >= self.phi
        return (~(false_negative & other_rows(batch.size, batch.rows, like.device))).to(like.dtype)

    def noise_vectors(self, anchor: Tensor, positive: Tensor, batch: ObjectiveBatch) -> Tensor:
        """Noise (Q, D) after gradient ascent, the same on every process, from the unit vectors of the whole batch."""
        draw = batch.generator("noise")
        start = torch.randn(int(len(anchor) * self.noise), anchor.shape[1], generator=draw, dtype=torch.float64)
        noise = (start * self.deviation).to(anchor)
        if not len(noise):
            return noise
        pairs = anchor @ positive.T
        for _ in range(self.ascent):
            noise.requires_grad_()
            to_noise = anchor @ unit(noise).T
            if self.fidelity == "code":
                loss = torch.cat([pairs, to_noise], dim=1).div(self.temperature).logsumexp(dim=1).mean()
            else:
                loss = to_noise.div(self.noise_temperature).logsumexp(dim=1).mean()
            (gradient,) = torch.autograd.grad(loss, noise)
            length = gradient.norm(dim=1, keepdim=True)
            step = torch.where(length > 0, gradient / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)
            noise = noise.detach() + self.step_size * step
        return noise.detach()


def _cell_losses(logits: Tensor, positive: Tensor) -> Tensor:
    """Binary cross-entropy of softmax probabilities by row, (n,): the positive's cell is 1, all others 0."""
    log_p = logits.log_softmax(dim=1)
    # log p is 0 in rounding where p is 1; a cell costs no more than it would with p = 1 - EPSILON
    log_rest = torch.log(-torch.expm1(log_p.clamp(max=-EPSILON)))
    cells = -log_rest
    return cells.scatter(1, positive[:, None], -log_p.gather(1, positive[:, None])).sum(dim=1)
