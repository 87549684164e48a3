"""Losses of single methods: noise as negatives (DCLR), queues of the other view (SCT), layers of a teacher (SG-OPT)."""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, NegativeCount, ObjectiveBatch
from embedkit.objectives.family import PAIR, Family, guides, loss_of_rows, other_rows, take
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import (
    EPSILON,
    capacity,
    choice,
    compute_dtype,
    logaddexp,
    masked_lse,
    number,
    require,
    unit,
    whole,
)


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


@objective(
    "sct", paper="Limkonchotiwat et al. 2023, TACL, An Efficient Self-Supervised Cross-View Training, eq. 2",
    family="pairs", splits=True, cost="B (B + Q) D", state="two queues of Q reference vectors",
    slots="KL of one view's online distribution from the other's reference distribution, over the other's queue",
)  # fmt: skip
class SCT(Family):
    """``KL(SR(r_1, D_1, reference) || SR(o_2, D_1, online)) + KL(SR(r_2, D_2, reference) || SR(o_1, D_2, online))``.

    o are the embeddings, r the guide's (the encoder itself without gradient and projector, or a teacher), both unit
    vectors; SR(z, D, t) = softmax(z D' / t); D_v is the queue of view v with the batch's own r_v behind it. After a
    step the newest r_v replace the oldest vectors; the queues start with random unit vectors.

    Parameters
    ----------
    reference_temperature, online_temperature : float
        Of the target distribution and of the learned one.
    size : int
        Q, vectors of each queue.
    fidelity : str
        "code" adds the two terms, "paper" takes their mean.
    dim : int or None
        Size of the embeddings, which the guide must share.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> _ = torch.manual_seed(0)
    >>> loss = build({"name": "sct", "size": 2}, dim=2, num_rows=2)(z, ObjectiveBatch.of(z, guide=z)).loss
    >>> round(loss.item(), 4)
    40.225
    """

    requires = frozenset({*PAIR, "guide"})
    repels = True

    def __init__(
        self, *, reference_temperature: float = 0.04, online_temperature: float = 0.05, size: int = 65_536,
        fidelity: str = "code", dim: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.reference_temperature = number("reference_temperature", reference_temperature, above=0)
        self.online_temperature = number("online_temperature", online_temperature, above=0)
        self.size = capacity(whole("size", size, least=1))
        self.factor = {"code": 1.0, "paper": 0.5}[choice("fidelity", fidelity, ("code", "paper"))]
        # Drawn with a generator of its own, so that the start is the same on every process.
        draw = torch.Generator().manual_seed(self.size)
        start = unit(torch.randn(2, self.size if dim else 0, dim or 0, generator=draw))
        self.register_buffer("queue", start)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """In-batch negatives, and a queue."""
        count = super().negatives(batch_size, hard, processes)
        return NegativeCount(count.in_batch, count.hard, count.other_processes, bank=self.size)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        online = [unit(z) for z in take(embeddings, *PAIR)]
        reference = [unit(z) for z in guides(batch, *PAIR, like=online[0])]
        queue = self.get_buffer("queue")
        require(queue.shape[2] > 0, "dim", None, "given: build(..., dim=) must know the size of the embeddings")
        if queue.shape[2] != online[0].shape[1]:
            raise RecipeError(
                f"the queues hold {queue.shape[2]} columns, the embeddings {online[0].shape[1]}", where="objective",
                remedy="the projector must give vectors of the encoder's size",
            )  # fmt: skip
        total = []
        for view in (0, 1):
            bank = torch.cat([queue[view].to(online[0].dtype), reference[view]])  # (Q + B, D)
            target = (reference[view][batch.rows] @ bank.T / self.reference_temperature).log_softmax(dim=1)
            prediction = (online[1 - view][batch.rows] @ bank.T / self.online_temperature).log_softmax(dim=1)
            total.append((target.exp() * (target - prediction)).sum())
        return loss_of_rows({f"view{v + 1}": self.factor * part / batch.size for v, part in enumerate(total)})

    @torch.no_grad()
    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Replace the oldest vectors of the queues by the newest reference vectors."""
        queue, start = self.get_buffer("queue"), int(self.get_buffer("pointer"))
        newest = [unit(z.to(compute_dtype(z.dtype)))[-self.size :] for z in guides(batch, *PAIR)]
        place = (start + torch.arange(len(newest[0]), device=queue.device)) % self.size
        for view in (0, 1):
            queue[view, place] = newest[view].to(queue.dtype)
        self.get_buffer("pointer").fill_((start + len(newest[0])) % self.size)


@objective(
    "sg-opt", paper="Kim, Yoo and Lee 2021, ACL, Self-Guided Contrastive Learning, eq. 6 (SG-OPT)",
    family="pairs", splits=True, cost="L B² D for L layers",
    slots="one positive of several a row at a time, against all layers of the other rows",
)  # fmt: skip
class SelfGuided(Family):
    """Contrast of an anchor c_i with several positives h_i1 .. h_iL of its row, one for each layer of a teacher.

    ``L_ik = -log( phi(c_i, h_ik) / ( phi(c_i, h_ik) + sum over m != i, n of phi(c_i, h_mn) ) )``, phi = e^(cos / tau),
    and the loss is the mean over i and k: the other layers of one's own row are neither positive nor negative. With one
    layer it is InfoNCE.

    The embedding "positive" (B, L D) holds the L vectors of a row one behind the other, D being the anchor's size.

    Parameters
    ----------
    temperature : float
        tau.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("sg-opt")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    100.0
    """

    any_width = True
    requires = frozenset(PAIR)

    def __init__(self, *, temperature: float = 0.01) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """The other rows, each counted once, whatever the number of layers."""
        local = batch_size // max(processes, 1)
        return NegativeCount(in_batch=max(local - 1, 0), hard=0, other_processes=batch_size - local)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's anchors against the layers of all rows."""
        anchor, layers = take(embeddings, *PAIR)
        width = anchor.shape[1]
        if layers.shape[1] % width:
            raise RecipeError(f"positives have {layers.shape[1]} columns, the anchor {width}", where="objective sg-opt",
                              remedy="a positive must be whole vectors of the anchor's size")  # fmt: skip
        mine, layers = unit(anchor[batch.rows]), unit(layers.unflatten(1, (-1, width)))  # (n, D), (B, L, D)
        logits = torch.einsum("nd,bld->nbl", mine, layers) / self.temperature
        other = other_rows(batch.size, batch.rows, logits.device)  # (n, B)
        negative = masked_lse(logits.flatten(1), other[..., None].expand_as(logits).flatten(1))  # (n,)
        index = torch.arange(len(mine), device=logits.device)
        own = logits[index, index + batch.rows.start]  # (n, L)
        losses = logaddexp(own, negative[:, None].expand_as(own)) - own
        return loss_of_rows({"layers": losses.sum() / (batch.size * own.shape[1])})
