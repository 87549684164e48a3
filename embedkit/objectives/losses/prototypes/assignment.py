"""Assignment to learned prototypes (SwAV), and centroids kept between steps (ClusterNS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedkit.config.settings import refuse_idle
from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import FURTHER, PAIR, Family, all_views, loss_of_rows, take
from embedkit.objectives.kernel import table_preset
from embedkit.objectives.matrix.problem import Problem
from embedkit.objectives.matrix.similarity import NOBODY, Relation, Side
from embedkit.objectives.matrix.stats import pair_scores
from embedkit.objectives.parts.banks import Bank, Embeddings
from embedkit.objectives.parts.slots import part
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import capacity, choice, number, prepare, require, unit, whole


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignment of N vectors to K prototypes that uses all prototypes equally.

    Cuturi 2013; Caron et al. 2020, section 3.1. Computed on logarithms, so that no epsilon overflows.

    Parameters
    ----------
    scores : Tensor (N, K)
        Similarities.
    epsilon : float
        Entropic regularisation: smaller is sharper.
    iterations : int
        Rounds of normalising prototypes, then vectors.

    Returns
    -------
    Tensor (N, K)
        Rows sum to one; columns sum to about N / K.

    Examples
    --------
    >>> import torch
    >>> sinkhorn(torch.tensor([[0.9, 0.1], [0.8, 0.7]]), epsilon=0.5, iterations=20)
    tensor([[0.6682, 0.3318],
            [0.3318, 0.6682]])
    """
    plan = scores / epsilon
    for _ in range(iterations):
        plan = plan - plan.logsumexp(dim=0, keepdim=True)
        plan = plan - plan.logsumexp(dim=1, keepdim=True)
    return plan.exp()


@objective(
    "swav", paper="Caron et al. 2020, NeurIPS, SwAV, section 3.1", family="prototypes", splits=True,
    slots="cosine with learned prototypes, Sinkhorn codes of the other view, softmax", cost="B K D",
    state="prototypes (K, D); queue (2, L, D) when asked for",
)  # fmt: skip
class SwAV(Family):
    """Swapped prediction: the code of one view, a balanced assignment to prototypes, from the other views.

    Codes are made of "anchor" and "positive" without gradient, predictions by every other view:
    ``-sum_k code_k log softmax(cos(z, c_k) / temperature)``, averaged over rows and over the 2 (V - 1) pairs.
    Prototypes are scaled to length one where they are used and after every step; the gradient is taken through the
    scaling, so that it has no part along the prototype.

    Parameters
    ----------
    prototypes : int
        How many, K.
    temperature : float
        Of the prediction.
    epsilon, iterations : float, int
        Regularisation and rounds of the assignment.
    freeze_steps : int
        Steps at the start in which prototypes get no gradient.
    queue : int
        Earlier embeddings of each of the two views that take part in the assignment; zero for none. Small batches need
        it.
    queue_from : int
        Epoch from which the queue is filled; it is used once it is full.
    dim : int or None
        Size of the embeddings; without it the objective can be checked but not evaluated.
    num_rows : int or None
        Rows of the training data, of which there must be at least as many as prototypes.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> _ = torch.manual_seed(0)
    >>> loss = build({"name": "swav", "prototypes": 2}, dim=2, num_rows=2)(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    11.9534
    """

    accepts = FURTHER

    def __init__(
        self,
        *,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        freeze_steps: int = 313,
        queue: int = 0,
        queue_from: int = 15,
        dim: int | None = None,
        num_rows: int | None = None,
    ) -> None:
        super().__init__()
        count = whole("prototypes", prototypes, least=2)
        if num_rows is not None:
            require(count <= num_rows, "prototypes", prototypes, f"at most the {num_rows} rows of the training data")
        self.temperature = number("temperature", temperature, above=0)
        self.epsilon = number("epsilon", epsilon, above=0)
        self.iterations = whole("iterations", iterations, least=1)
        self.freeze_steps = whole("freeze_steps", freeze_steps)
        self.queue_from = whole("queue_from", queue_from)
        length = whole("queue", queue)
        refuse_idle(SwAV, {} if length else {"queue_from": queue_from}, "objective", "queue")
        self.prototypes = None if dim is None else nn.Parameter(unit(torch.randn(capacity(count), dim)))
        self.queue: Tensor
        self.filled: Tensor
        self.register_buffer("queue", torch.zeros(2, length, dim or 0))  # newest first, unit vectors
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))  # vectors in the queue, of each view

    def _codes(self, scores: Tensor, earlier: Tensor, bank: Tensor) -> Tensor:
        """Codes (B, K) of the batch from its scores (B, K), with the queue (L, D) when it is full."""
        scores = scores.detach()
        if len(earlier) and int(self.filled) == len(earlier):
            scores = torch.cat([scores, earlier.to(bank.dtype) @ bank.detach().T])  # (B + L, K)
        return sinkhorn(scores, self.epsilon, self.iterations)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The prediction loss of this process's rows; every process computes the codes of the whole batch."""
        if self.prototypes is None:
            raise RecipeError("the prototypes' size is not known", where="objective", remedy="build it with dim=")
        views = [unit(z) for z in all_views(embeddings)]
        bank = unit(self.prototypes.to(views[0].dtype))  # (K, D)
        if batch.step < self.freeze_steps:
            bank = bank.detach()
        scores = [z @ bank.T for z in views]  # V times (B, K)
        rows, total = batch.rows, views[0].new_zeros(())
        for source in range(2):
            code = self._codes(scores[source], self.queue[source], bank)[: batch.size][rows]
            for view, logits in enumerate(scores):
                if view != source:
                    total = total - (code * (logits[rows] / self.temperature).log_softmax(dim=1)).sum()
        return loss_of_rows({"prediction": total / (batch.size * 2 * (len(views) - 1))})

    @torch.no_grad()
    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Scale the prototypes to length one and put the batch into the queue."""
        if self.prototypes is not None:
            self.prototypes.copy_(unit(self.prototypes))
        length = self.queue.shape[1]
        if length and batch.epoch >= self.queue_from:
            newest = torch.stack([unit(z) for z in take(embeddings, *PAIR)]).to(self.queue.dtype)  # (2, B, D)
            self.queue.copy_(torch.cat([newest, self.queue], dim=1)[:, :length])
            self.filled.fill_(min(int(self.filled) + newest.shape[1], length))


def spread_start(anchors: Tensor, positives: Tensor, count: int, first: int) -> Tensor:
    """Rows (count,) that are far from one another: each is the one least like the last, of those not taken yet.

    Row j is compared by its positive, as in ClusterNS: cos(anchor of the last, positive of j).

    Parameters
    ----------
    anchors, positives : Tensor (B, D)
        Unit vectors.
    count : int
        How many rows, B at most.
    first : int
        The row to begin with.

    Examples
    --------
    >>> z = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2], [-1.0, 0.1], [0.0, 1.0]]))
    >>> spread_start(z, z, count=3, first=0)
    tensor([0, 2, 1])
    """
    out = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    rows = [first]
    for _ in range(count - 1):
        out[rows[-1]] = True
        scores = (positives @ anchors[rows[-1]]).masked_fill(out, torch.inf)
        rows.append(int(scores.argmin()))
    return torch.tensor(rows, device=anchors.device)


@part("bank", "centroids")
class Centroids(Bank):
    """Online clusters of the anchors: the second nearest centroid of every row of the batch repels all anchors.

    ClusterNS (Deng et al. 2023; read in the official code). There are no clusters until the mean of all cosines of
    anchors with positives falls to `start_cosine`; then `clusters` rows of that batch become centroids
    (`spread_start`). In each later step anchors go to the nearest centroid by cosine, centroids move
    ``c <- (1 - rate) c + rate * sum of its anchors`` (those without anchors stay), and the second nearest centroid of
    every anchor, without gradient, is a candidate of the whole batch. Equal on every process. The figures
    ``batch_cosine`` and ``clusters_from`` (-1: not yet) are logged, and a run that never came to clusters says so.

    The rows of one cluster stay negatives of each other, as in the release; `drop_same` leaves them out, and
    ``by: cluster`` of the slot `target` makes them positives. Images take it as texts do, ``{name: ntxent, bank:
    centroids}``. `margin_weight` adds the bidirectional margin loss: the
    mean over anchors i and positives j of ``relu(d + alpha) + relu(-d - beta)``, ``d = cos(a_i, p_j) - cos(a_i, p_i)``
    for rows of one cluster and 0 for others, which add the constant ``relu(alpha) + relu(-beta)``.

    Parameters
    ----------
    clusters : int
        Centroids K; the batch must have as many rows.
    start_cosine, rate : float
        When clusters begin, and how far centroids move.
    update : str
        "sum" of a cluster's anchors, as in the release, whose length grows with the cluster; or their "mean".
    hard : bool
        Whether the second nearest centroids are candidates.
    drop_same : bool
        Whether rows of one cluster are no negatives of each other.
    margin_weight, alpha, beta : float
        Weight and bounds of the bidirectional margin loss.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(4), "positive": torch.eye(4)}
    >>> objective, batch = build({"name": "clusterns", "clusters": 2}, dim=4), ObjectiveBatch.of(z)
    >>> before = objective(z, batch)
    >>> objective.after_step(z, batch)  # the mean cosine, 1/4, is below 0.4: clusters begin
    >>> bool(objective(z, batch).loss > before.loss), before.metrics["clusters_from"]
    (True, tensor(-1.))
    """

    cosine_only = True
    clusters_rows = True

    def __init__(self, clusters: int = 128, start_cosine: float = 0.4, rate: float = 1e-3, update: str = "sum",
                 hard: bool = True, drop_same: bool = False, margin_weight: float = 0.0, alpha: float = 0.0,
                 beta: float = 0.3, dim: int | None = None) -> None:  # fmt: skip
        super().__init__()
        self.clusters = capacity(whole("clusters", clusters, least=2))
        self.start_cosine = number("start_cosine", start_cosine, least=-1, most=1)
        self.rate = number("rate", rate, above=0, most=1)
        self.update = choice("update", update, ("sum", "mean"))
        self.hard, self.drop_same = bool(hard), bool(drop_same)
        self.margin_weight = number("margin_weight", margin_weight, least=0)
        self.alpha, self.beta = number("alpha", alpha, least=0), number("beta", beta, least=0)
        self.size, self.least_rows = self.clusters if self.hard else 0, self.clusters
        self.register_buffer("centroids", torch.zeros(self.clusters if dim else 0, dim or 0))
        self.register_buffer("started", torch.tensor(-1))

    @property
    def begun(self) -> bool:
        """Whether there are clusters."""
        return int(self.get_buffer("started")) >= 0

    @torch.no_grad()
    def refreshed(self, anchors: Tensor) -> Tensor:
        """The centroids (K, D) after a step with these anchors (B, D), which need not have length one."""
        old = self.get_buffer("centroids").to(anchors.dtype)
        nearest = (unit(anchors) @ unit(old).T).argmax(1)
        member = torch.nn.functional.one_hot(nearest, len(old)).to(anchors.dtype)  # (B, K)
        total, count = member.T @ anchors, member.sum(0)[:, None]
        there = count > 0
        new = total if self.update == "sum" else total / count.clamp_min(1)
        return torch.where(there, (1 - self.rate) * old + self.rate * new, old)

    @torch.no_grad()
    def candidates(self, left: Side, right: Side, embeddings: Embeddings, batch: ObjectiveBatch) -> Side | None:
        """The second nearest centroid of the row of each anchor; both sides learn the cluster of their rows."""
        if not len(self.get_buffer("centroids")):
            raise RecipeError("the centroids do not know the size of the embeddings", where="objective.bank",
                              remedy="give build(..., dim=)")  # fmt: skip
        labels = torch.arange(batch.size, device=left.z.device)  # before the start each row is its own cluster
        second = None
        if self.begun:
            centroids = self.refreshed(embeddings["anchor"].detach())
            near = (unit(embeddings["anchor"].detach()) @ unit(centroids).T).topk(2, dim=1).indices
            labels, second = near[:, 0], unit(centroids)[near[:, 1]]
        for side in (left, right):
            row = side.id("row")
            inside = (row >= 0) & (side.id("hard") < 0)
            side.ids["cluster"] = torch.where(inside, labels[row.clamp_min(0)], torch.full_like(row, NOBODY))
        return None if second is None or not self.hard else Side(second[left.id("row")], {})

    def drop(self, left: Side, right: Side) -> list[Relation]:
        """Pairs of one cluster, where they are to be left out."""
        return [Relation.of(left.id("cluster"), right.id("cluster"))] if self.drop_same else []

    def penalties(self, problem: Problem) -> dict[str, Tensor]:
        """The bidirectional margin loss of each anchor, (n,), where it has a weight and clusters have begun."""
        if not self.margin_weight or not self.begun:
            return {}
        mine, right = slice(None) if isinstance(problem.mine, slice) else problem.mine, problem.right
        own = problem.masks.share(mine).positive.pairs()
        same_row = right.id("row")[own[1]] == problem.left.id("row")[own[0]]  # of several positives, those of the row
        row, column = own[0][same_row], own[1][same_row]
        n = len(problem.left)
        count = torch.bincount(row, minlength=n).clamp_min(1)
        score = pair_scores(problem.my_parts, row, column)
        reference = score.new_zeros(n).index_add(0, row, score) / count.to(score.dtype)
        same = Relation.of(problem.left.id("cluster"), right.id("cluster"))
        row, column = same.pairs()
        gap = pair_scores(problem.my_parts, row, column) - reference[row]
        terms = torch.relu(gap + self.alpha) + torch.relu(-gap - self.beta)
        width = int((right.id("cluster") != NOBODY).sum())
        others = (width - torch.bincount(row, minlength=n)).to(score.dtype) * self.alpha  # relu(-beta) is 0
        return {"margin": self.margin_weight * (score.new_zeros(n).index_add(0, row, terms) + others) / width}

    @torch.no_grad()
    def metrics(self, embeddings: Embeddings, batch: ObjectiveBatch) -> dict[str, Tensor]:
        """The mean cosine of all anchors with all positives, and the step from which there are clusters."""
        cosine = unit(embeddings["anchor"]).mean(0) @ unit(embeddings["positive"]).mean(0)
        return {"batch_cosine": cosine.detach(), "clusters_from": self.get_buffer("started").float()}

    @torch.no_grad()
    def after_step(self, embeddings: Embeddings, batch: ObjectiveBatch, keys: Side) -> None:
        """Move the centroids, or make them where the batch is spread enough."""
        z = prepare({name: embeddings[name] for name in ("anchor", "positive")})
        centroids = self.get_buffer("centroids")
        if self.begun:
            centroids.copy_(self.refreshed(z["anchor"]))
        elif batch.size >= self.clusters and float(self.metrics(z, batch)["batch_cosine"]) <= self.start_cosine:
            first = int(batch.random("centroids").integers(batch.size))
            rows = spread_start(unit(z["anchor"]), unit(z["positive"]), self.clusters, first)
            centroids.copy_(z["anchor"][rows])
            self.get_buffer("started").fill_(batch.step)

    def remark(self) -> str | None:
        """A line for the end of a run in which the start rule never fired."""
        if self.begun:
            return None
        return (
            f"no clusters were made: the mean cosine of a batch of {self.clusters} rows or more (batch_cosine) never "
            f"fell to {self.start_cosine:g} (start_cosine), so the run had no negatives from centroids"
        )


table_preset("clusterns", paper="Deng et al. 2023, Findings of ACL, Clustering-Aware Negative Sampling for "
             "Unsupervised Sentence Representation", bank="centroids", state="K centroids", cost="B (B + K) D",
             note="false negatives stay in the denominator, as in the authors' code")  # fmt: skip
