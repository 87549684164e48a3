"""Slots `scale` and `positive`: from scores to logits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from embedkit.errors import RecipeError
from embedkit.objectives.matrix.problem import Problem
from embedkit.objectives.matrix.stats import pair_scores
from embedkit.objectives.parts.slots import part
from embedkit.objectives.tools import number

Bounds = tuple[Tensor, Tensor | None]


class Scale(nn.Module):
    """Base class of scales, fixed or learnable: logits are ``scale · score + bias``.

    Examples
    --------
    >>> import torch
    >>> class Ten(Scale):
    ...     def forward(self, problem):
    ...         return torch.tensor(10.0), None
    >>> Ten()(None), Ten().factor()
    ((tensor(10.), None), 1.0)
    """

    per_row = False
    """Whether the scale differs between anchors."""

    def forward(self, problem: Problem) -> Bounds:
        """Scale () or (n, 1), and bias () or None, in the precision of the scores."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def factor(self) -> float:
        """The factor of each anchor's loss."""
        return 1.0

    def after_step(self) -> None:
        """Clamp parameters to their bounds."""

    def advance(self, problem: Problem, slope: Tensor) -> None:
        """Update temperatures by row, given the slope (n,) of the loss by temperature without this part's own term."""

    def metrics(self) -> dict[str, Tensor]:
        """Figures to log."""
        return {}


@part("scale", "fixed")
class Fixed(Scale):
    """l = s / temperature + bias. With `base_temperature` the loss is multiplied by temperature / base_temperature.

    SupCon (Khosla et al. 2020) uses 0.07; 1 gives the "times temperature" of global contrastive losses and 0.5 the
    "times 2 temperature" of MoCo v3.

    Parameters
    ----------
    temperature : float
        Scores are divided by it: lower is stricter with hard negatives.
    bias : float
        Added to every logit.

    Examples
    --------
    >>> Fixed(temperature=0.1, base_temperature=0.05).factor()
    2.0
    """

    def __init__(self, temperature: float = 0.05, bias: float = 0.0, base_temperature: float | None = None) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)
        self.bias = number("bias", bias)
        self.base = None if base_temperature is None else number("base_temperature", base_temperature, above=0)

    def forward(self, problem: Problem) -> Bounds:
        """The constant 1 / temperature."""
        z = problem.whole.z
        return z.new_tensor(1.0 / self.temperature), z.new_tensor(self.bias) if self.bias else None

    def factor(self) -> float:
        """temperature / base_temperature."""
        return 1.0 if self.base is None else self.temperature / self.base


@part("scale", "learnable")
class Learnable(Scale):
    """l = exp(log_scale) · s + bias, both learned, as in CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023).

    `log_scale` starts at -log(temperature). It is clamped to at most log(`max_scale`) after each step and not in the
    forward pass, so that its gradient never vanishes. Neither parameter should be decayed.

    Parameters
    ----------
    temperature : float
        At the start.
    min_scale : float
        Lower bound of the scale.
    bias : float or None
        Added to every logit, and learned; None has none.

    Examples
    --------
    >>> Learnable(temperature=0.05).metrics()["scale"].round()
    tensor(20.)
    """

    undecayed = ("log_scale", "bias")

    def __init__(self, temperature: float = 0.07, max_scale: float | None = 100.0, min_scale: float = 0.01,
                 bias: float | None = None) -> None:  # fmt: skip
        super().__init__()
        number("temperature", temperature, above=0)
        self.max_scale = None if max_scale is None else number("max_scale", max_scale, above=0)
        self.min_scale = number("min_scale", min_scale, above=0, most=self.max_scale)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(number("bias", bias)))
        self.after_step()

    def forward(self, problem: Problem) -> Bounds:
        """The scale exp(log_scale), and the bias."""
        kind = problem.whole.z.dtype
        return self.log_scale.to(kind).exp(), None if self.bias is None else self.bias.to(kind)

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp `log_scale`."""
        top = math.inf if self.max_scale is None else math.log(self.max_scale)
        self.log_scale.clamp_(math.log(self.min_scale), top)

    def metrics(self) -> dict[str, Tensor]:
        """The scale, and the bias when there is one."""
        metrics = {"scale": self.log_scale.detach().exp()}
        return metrics if self.bias is None else {**metrics, "bias": self.bias.detach()}


@part("scale", "aligned")
class Aligned(Scale):
    """Temperature that grows as positives align: temperature · (1 + alpha · (A - offset)), A the mean positive score.

    MACL (Huang et al., ICML 2023); A is taken over the whole batch, without gradient.

    Parameters
    ----------
    temperature : float
        Where the positives are as near as `offset`.
    alpha : float
        How much it grows with their mean score.
    offset : float
        Mean score at which it is as given.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> build({"name": "table", "scale": "aligned", "temperature": 0.5})(z, ObjectiveBatch.of(z)).loss
    tensor(0.4571)
    """

    def __init__(self, temperature: float = 0.1, alpha: float = 0.5, offset: float = 0.0) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)
        self.alpha, self.offset = number("alpha", alpha, least=0), number("offset", offset, least=-1, most=1)
        lowest = 1 + self.alpha * (-1 - self.offset)
        if lowest <= 0:
            raise RecipeError(f"with alpha {alpha} and offset {offset} the temperature can reach 0",
                              where="objective", remedy="alpha · (1 + offset) must be below 1")  # fmt: skip

    def forward(self, problem: Problem) -> Bounds:
        """1 / temperature."""
        scores = problem.all_scores
        align = scores.mean() if len(scores) else scores.new_zeros(())
        return 1 / (self.temperature * (1 + self.alpha * (align - self.offset))), None


@part("scale", "per-sample")
class PerSample(Scale):
    """A temperature for every training row, learned by its own gradient (iSogCLR, Qiu et al., arXiv 2305.11965).

    The gradient log u + rho - E_w[l] is smoothed with `momentum`, clipped to ± `clip`, and moves the temperature by
    `tau_lr` inside [tau_min, tau_max]. State: temperature and smoothed gradient by row, one set for each direction.

    Parameters
    ----------
    temperature : float
        Of every row at the start.
    rho : float
        Strength of the pull that keeps temperatures from falling.
    tau_min, tau_max : float
        Bounds of the temperatures.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> objective = build({"name": "isogclr", "temperature": 0.5}, num_rows=2)
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective.after_step(z, ObjectiveBatch.of(z))
    >>> objective.scale.tau[0]
    tensor([0.4999, 0.4999])
    """

    per_row = True

    def __init__(self, temperature: float = 0.1, rho: float = 0.3, tau_lr: float = 0.01, momentum: float = 0.9,
                 tau_min: float = 0.05, tau_max: float = 0.7, clip: float = 3.0,
                 num_rows: int | None = None) -> None:  # fmt: skip
        super().__init__()
        self.low, self.high = number("tau_min", tau_min, above=0), number("tau_max", tau_max, least=tau_min)
        start = number("temperature", temperature, least=self.low, most=self.high)
        self.rho, self.rate = number("rho", rho, least=0), number("tau_lr", tau_lr, above=0)
        self.momentum, self.clip = number("momentum", momentum, least=0, below=1), number("clip", clip, above=0)
        self.register_buffer("tau", torch.full((2, num_rows or 0), start))
        self.register_buffer("slope", torch.zeros(2, num_rows or 0))

    def _ids(self, problem: Problem) -> Tensor:
        return sample_ids(problem, self.get_buffer("tau").shape[1])

    def forward(self, problem: Problem) -> Bounds:
        """1 / temperature of each anchor's row, (n, 1)."""
        tau = self.get_buffer("tau")[problem.place, self._ids(problem)]
        return 1 / tau.to(problem.whole.z.dtype)[:, None], None

    @torch.no_grad()
    def advance(self, problem: Problem, slope: Tensor) -> None:
        """One step of gradient descent on the temperatures of the rows in this batch."""
        tau, old = self.get_buffer("tau")[problem.place], self.get_buffer("slope")[problem.place]
        ids, mean = mean_by_sample(self._ids(problem), slope + self.rho)
        smooth = self.momentum * old[ids] + (1 - self.momentum) * mean.clamp(-self.clip, self.clip).to(old.dtype)
        old[ids] = smooth
        tau[ids] = (tau[ids] - self.rate * smooth).clamp(self.low, self.high)


def mean_by_sample(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Each id once, and the mean of its values.

    Examples
    --------
    >>> import torch
    >>> mean_by_sample(torch.tensor([3, 3, 5]), torch.tensor([1.0, 3.0, 4.0]))
    (tensor([3, 5]), tensor([2., 4.]))
    """
    single, place = torch.unique(ids, return_inverse=True)
    total = values.new_zeros(len(single)).index_add(0, place, values)
    return single, total / torch.bincount(place, minlength=len(single))


def sample_ids(problem: Problem, rows: int) -> Tensor:
    """The training row of each anchor of this process, (n,); a row beyond the state's `rows` is refused.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> build("isogclr", num_rows=2)(z, ObjectiveBatch.of(z, ids=torch.tensor([0, 7])))
    Traceback (most recent call last):
        ...
    embedkit.errors.RecipeError: objective: there is state for 2 rows and row 7 came; ...
    """
    ids = problem.batch.ids[problem.left.id("row")]
    if len(ids) and int(ids.max()) >= rows:
        raise RecipeError(f"there is state for {rows} rows and row {int(ids.max())} came", where="objective",
                          remedy="use data of known size, which is not streamed")  # fmt: skip
    return ids


class Positive(nn.Module):
    """Base class of margins and weights on positive pairs. The base leaves their scores as they are.

    Examples
    --------
    >>> import torch
    >>> Positive()(None, {"scores": torch.tensor([0.9])})
    (tensor([0.9000]), None)
    """

    plain = True
    cosine_only = False

    def forward(self, problem: Problem, pairs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Scores (P,) of positive pairs after the margin, and weights (P,) of their logits or None.

        `pairs` holds "row", "column", "scores" (P,) and "scale" () or (P,).
        """
        return pairs["scores"], None


@part("positive", "plain")
class Plain(Positive):
    """Positive scores as they are: no margin.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> build({"name": "table", "positive": "plain", "temperature": 1.0})(z, ObjectiveBatch.of(z)).loss
    tensor(0.5178)
    """


class _Margin(Positive):
    plain = False

    def __init__(self, margin: float, warmup: float, most: float) -> None:
        super().__init__()
        self.margin = number("margin", margin, least=0, most=most)
        self.warmup = number("warmup", warmup, least=0, most=1)

    def now(self, problem: Problem) -> float:
        """The margin at this step: it rises along half a cosine during the `warmup` share of the run."""
        progress = problem.batch.step / max(1, problem.batch.total_steps)
        if progress >= self.warmup:
            return self.margin
        return self.margin * (1 - (math.cos(math.pi * progress / self.warmup) + 1) / 2)


@part("positive", "additive-margin")
class AdditiveMargin(_Margin):
    """Positive scores less `margin`; equal to weighing every negative by e^(margin · scale).

    Parameters
    ----------
    warmup : float
        Share of the run over which the margin grows from 0.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "table", "positive": "additive-margin", "margin": 0.2, "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(0.6031)
    """

    def __init__(self, margin: float = 0.1, warmup: float = 0.0) -> None:
        super().__init__(margin, warmup, 2.0)

    def forward(self, problem: Problem, pairs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The scores less the margin."""
        return pairs["scores"] - self.now(problem), None


@part("positive", "simo")
class Simo(Positive):
    """Additive margin temperature · log(`as_many` / n): the n negatives of an anchor weigh like `as_many`.

    SIMO (sslsv); n counts the anchor's own negatives in the batch and the bank.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "table", "positive": "simo", "as_many": 4, "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(1.3072)
    """

    plain = False

    def __init__(self, as_many: int = 65_536) -> None:
        super().__init__()
        self.as_many = number("as_many", as_many, above=0)

    def forward(self, problem: Problem, pairs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The scores less log(as_many / n) / scale."""
        count = max(1, len(problem.right) - 1 - (problem.right is problem.whole))
        return pairs["scores"] - math.log(self.as_many / count) / pairs["scale"], None


@part("positive", "angular-margin")
class AngularMargin(_Margin):
    """cos(θ + margin) for positives; s - margin · sin(π - margin) beyond θ = π - margin.

    Parameters
    ----------
    margin : float
        In radians.
    warmup : float
        Share of the run over which the margin grows from 0.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "table", "positive": "angular-margin", "margin": 0.2, "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(0.5543)
    """

    cosine_only = True

    def __init__(self, margin: float = 0.1, warmup: float = 0.0) -> None:
        super().__init__(margin, warmup, math.pi)

    def forward(self, problem: Problem, pairs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The cosine of the angle plus the margin."""
        s, m = pairs["scores"], self.now(problem)
        inside = s.clamp(-1 + 1e-7, 1 - 1e-7)
        wide = inside * math.cos(m) - (1 - inside * inside).sqrt() * math.sin(m)
        return torch.where(s > math.cos(math.pi - m), wide, s - m * math.sin(math.pi - m)), None


@part("positive", "von-mises")
class VonMises(Positive):
    """Positive logits weigh 2 - B · softmax over the batch of s / sigma: hard positives more, mean 1 (DCLW).

    Parameters
    ----------
    sigma : float
        Temperature of that softmax.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> build({"name": "table", "positive": "von-mises", "temperature": 1.0})(z, ObjectiveBatch.of(z)).loss
    tensor(0.5938)
    """

    plain = False

    def __init__(self, sigma: float = 0.5, detach: bool = True) -> None:
        super().__init__()
        self.sigma, self.detach = number("sigma", sigma, above=0), bool(detach)

    def forward(self, problem: Problem, pairs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The scores, and their weights; the softmax runs over all pairs between the same two views."""
        row, column = problem.all_pairs
        scores = problem.all_scores if self.detach else pair_scores(problem.parts, row, column)
        own = pairs["scores"].detach() if self.detach else pairs["scores"]
        between = problem.whole.id("view") * 64 + 1
        kind = between[row] + problem.right.id("view")[column]
        mine = between[problem.mine][pairs["row"]] + problem.right.id("view")[pairs["column"]]
        kinds, place = torch.unique(torch.cat([kind, mine]), return_inverse=True)
        place, mine_place = place[: len(kind)], place[len(kind) :]
        every = (scores / self.sigma).exp()
        total = every.new_zeros(len(kinds)).index_add(0, place, every)
        count = torch.bincount(place, minlength=len(kinds)).to(every.dtype)
        return pairs["scores"], 2 - (count / total)[mine_place] * (own / self.sigma).exp()
