"""What is watched in a run: collapse, a scale at its bound, a loss at chance, no gradient, batches short of negatives.

Everything is measured from what a step has made anyway, at log steps only; the count of negatives, which every step
needs, stays on the device until then. So a guard costs a few small operations, and never a wait of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from embedkit.config.recipe import TrainConfig
from embedkit.errors import UserError
from embedkit.objectives.base import Memory, Objective, ObjectiveBatch
from embedkit.objectives.kernel import TableObjective
from embedkit.objectives.parts.scales import Learnable
from embedkit.training.loop.step import Latest
from embedkit.training.parallel.distributed import World


class GuardError(UserError):
    """Something that is watched has been bad for long, and ``train.guards`` is "stop".

    Examples
    --------
    >>> print(GuardError("the gradient is exactly zero", where="train.guards", remedy="check the scores"))
    train.guards: the gradient is exactly zero; check the scores
    """


COLLAPSED = 0.99
"""Mean cosine of different inputs above which a view has collapsed."""

AT_CHANCE = 0.01
"""Relative distance of the loss to that of equal scores below which nothing is told apart."""

AT_BOUND = 1e-4
"""Relative distance of a scale to a bound below which it stands there."""

LINES = 3
"""Log lines in a row at which something must be bad."""

_ROWS = 4096
_FIGURES = ("collapse", "chance", "idle")


@dataclass
class _Watch:
    """What must hold at several log lines in a row, over `patience` steps, until it is reported; then once."""

    patience: int
    since: int | None = None
    lines: int = 0
    mute: bool = False

    def holds(self, now: bool, step: int) -> bool:
        """Whether it is to be reported at this log step."""
        if not now or self.mute:
            self.since, self.lines = None, 0
            return False
        self.since, self.lines = step if self.since is None else self.since, self.lines + 1
        self.mute = self.lines >= LINES and step - self.since >= self.patience
        return self.mute


class Negatives:
    """Counts the different inputs that can repel an anchor, and the batches that have fewer of them than planned.

    Planned are a whole batch of different positives, and for every row as many hard negatives as any row has; ragged
    negatives, equal inputs, dropped rows and a short last batch leave fewer. Nothing here waits for the device.

    Parameters
    ----------
    batch_size : int
        Rows of a whole batch.
    hard : int
        Most hard negatives of a row; of a stream, whose rows are not known, the most seen so far in any batch.

    Examples
    --------
    >>> negatives = Negatives(batch_size=3, hard=0, device=torch.device("cpu"))
    >>> z = torch.zeros(3, 2)
    >>> keys = {"anchor": torch.tensor([1, 2, 3]), "positive": torch.tensor([4, 5, 5])}  # two positives are equal
    >>> negatives.add(ObjectiveBatch.of({"anchor": z, "positive": z}, keys=keys))
    >>> negatives.planned, negatives.figures()
    (2, {'negatives': 1.0, 'short_batches': 1.0})
    """

    def __init__(self, batch_size: int, hard: int, device: torch.device) -> None:
        self._size, self._hard = batch_size, hard
        self._line, self._whole = torch.zeros(2, device=device), torch.zeros(2, device=device)
        self._line_steps, self.steps = 0, 0

    def add(self, batch: ObjectiveBatch) -> None:
        """Count a step."""
        names = [name for name in ("positive", "negatives") if name in batch.keys]
        if "positive" not in names:
            return
        hard = len(batch.keys["negatives"]) if "negatives" in names else 0
        self._hard = max(self._hard, -(-hard // max(1, batch.size)))
        keys = torch.cat([batch.keys[name] for name in names]).sort().values
        different = (keys[1:] != keys[:-1]).sum()  # different inputs, less the anchor's own
        self._line += torch.stack([different, different < self.planned])
        self._line_steps += 1

    @property
    def planned(self) -> int:
        """Negatives of an anchor in a batch that lacks nothing."""
        return self._size * (1 + self._hard) - 1

    def figures(self) -> dict[str, float]:
        """Mean negatives of an anchor and batches with fewer than planned, since the last log line."""
        if not self._line_steps:
            return {}
        total, short = self._line.tolist()
        steps, self._line_steps = self._line_steps, 0
        self.steps += steps
        self._whole += self._line
        self._line = torch.zeros_like(self._line)
        return {"negatives": total / steps, "short_batches": short}

    def line(self) -> str | None:
        """What is worth saying at the end; None when no batch was short."""
        total, short = self._whole.tolist()
        if not short:
            return None
        return (
            f"{short:,.0f} of {self.steps:,} batches had fewer different negatives than the {self.planned:,} planned "
            f"({total / self.steps:,.2f} on average): equal inputs, rows with fewer hard negatives, or short batches"
        )


class Guards:
    """Watches a run and warns once of each thing, with its figures, or ends the run: ``train.guards``.

    Parameters
    ----------
    total : int
        Steps of the run; something must last a twentieth of it, 100 steps at least, and longer than the warm-up.
    hard : int
        Most hard negatives of a row, as far as it is known.
    say : callable
        Shows a line.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> config = TrainConfig(max_steps=1000, warmup=0)
    >>> guards = Guards(config, build("infonce"), World(), total=1000, hard=0, say=print)
    >>> for step in (100, 200, 300):
    ...     guards.check(step, {"loss": 1.0, "mean_cosine": 0.999})
    warning: the vectors of a view have collapsed: mean cosine 0.9990 between different inputs, ...
    """

    def __init__(
        self, config: TrainConfig, objective: Objective, world: World, total: int, hard: int,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._config, self._objective, self._world, self._say = config, objective, world, say
        warmup = config.warmup if config.warmup >= 1 else config.warmup * total
        self._patience = max(100, total // 20, math.ceil(warmup))
        self._watches: dict[str, _Watch] = {}
        repels = objective.negatives(max(2, config.batch_size), hard, 1).total > 0
        self.negatives = Negatives(config.batch_size, hard, world.device) if repels else None
        self._started_at_bound = {name for name, _, _ in scales_at_bound(objective)}
        self._collapsed = ""

    def step(self, latest: Latest | None, at_log: bool) -> dict[str, Tensor]:
        """Figures for the log, on the device, at log steps; called between the gradients and the update of a step."""
        if self._config.guards == "off" or latest is None:
            return {}
        if self.negatives is not None:
            self.negatives.add(latest.batch)
        if not at_log:
            return {}
        cosines = mean_cosines(latest)
        return {"mean_cosine": torch.stack(list(cosines.values())).amax()} if cosines else {}

    def figures(self) -> dict[str, float]:
        """Further figures of a log line."""
        return {} if self.negatives is None or self._config.guards == "off" else self.negatives.figures()

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """Look at the figures of a log line; on every process.

        Raises
        ------
        GuardError
            With ``train.guards: stop``, when something has lasted for long.
        """
        if self._config.guards == "off":
            return
        for name, problem in self._found(figures):
            watch = self._watches.setdefault(name, _Watch(self._patience))
            since = watch.since or step
            if watch.holds(problem is not None, step):
                what, remedy = problem or ("", "")
                line = f"{what} at every log line from step {since} to step {step}"
                if self._config.guards == "stop":
                    raise GuardError(line, where="train.guards", remedy=remedy)
                self._say(f"warning: {line}; {remedy}")

    def _found(self, figures: Mapping[str, float]) -> list[tuple[str, tuple[str, str] | None]]:
        """What is watched, and what to say and to do where it is bad now."""
        cosine, loss = figures.get("mean_cosine", 0.0), figures["loss"]
        collapsed = f"the vectors of a view have collapsed: mean cosine {cosine:.4f} between different inputs,"
        chance = chance_loss(self._objective, figures)
        stuck = chance is not None and abs(loss - chance) < AT_CHANCE * chance
        idle = figures.get("gradient_norm") == 0.0
        entries = [
            ("collapse", (collapsed, COLLAPSE_REMEDY) if cosine > COLLAPSED else None),
            ("chance", (f"the loss is that of equal scores ({loss:.4f}, ln of the candidates is {chance:.4f}),",
                        CHANCE_REMEDY) if stuck else None),
            ("idle", ("the gradient is exactly zero, nothing is learned,", IDLE_REMEDY) if idle else None),
        ]  # fmt: skip
        now = {name: (value, word) for name, value, word in scales_at_bound(self._objective)}
        for name in dict.fromkeys([*now, *(n for n in self._watches if n not in _FIGURES)]):
            if name not in self._started_at_bound:  # a model that was trained to the bound stays there
                value, word = now.get(name, (0.0, ""))
                text = f"the scale is at its {word} bound of {value:g}", SCALE_REMEDY
                entries.append((name, text if name in now else None))
        return entries

    def finish(self) -> None:
        """Say at the end what was counted, and what the objective's state has to say."""
        for part in self._objective.modules():
            remark = part.remark() if isinstance(part, Memory) else None
            if remark is not None and self._config.guards != "off":
                self._say(f"warning: {remark}")
        line = None if self.negatives is None or self._config.guards == "off" else self.negatives.line()
        if line is not None:
            self._say(line)


COLLAPSE_REMEDY = "lower train.lr, or choose an objective with negatives"
CHANCE_REMEDY = "check the columns (are the pairs related?) and train.lr; a collapsed encoder gives this too"
IDLE_REMEDY = "check that scores, labels and texts are not all equal, and train.groups"
SCALE_REMEDY = "widen objective.max_scale or min_scale, or train the scale with a lower rate (train.groups)"


def chance_loss(objective: Objective, figures: Mapping[str, float]) -> float | None:
    """The loss () of an objective that gives all candidates the same score, with the negatives of a log line.

    None for an objective whose loss is no ratio of candidates, and where no negatives were counted.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> round(chance_loss(build("infonce"), {"negatives": 63}), 3)  # ln 64
    4.159
    >>> chance_loss(build("vicreg"), {"negatives": 63}) is None
    True
    """
    ratio = isinstance(objective, TableObjective) and objective.reducer.ratio
    if not ratio or not figures.get("negatives", 0.0) > 0:
        return None
    return math.log(1 + figures["negatives"])


def scale_bounds(objective: Objective) -> list[tuple[str, float, float, str]]:
    """Name, value now, bound, and "upper" or "lower", for each bound of the learnable scales.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> [(name, round(now, 2), bound, word) for name, now, bound, word in scale_bounds(build("clip"))]
    [('scale', 14.29, 100.0, 'upper'), ('scale', 14.29, 0.01, 'lower')]
    """
    return [
        (name or "scale", math.exp(float(part.log_scale.detach())), bound, word)
        for name, part in objective.named_modules() if isinstance(part, Learnable)
        for bound, word in ((part.max_scale, "upper"), (part.min_scale, "lower")) if bound is not None
    ]  # fmt: skip


def scales_at_bound(objective: Objective) -> list[tuple[str, float, str]]:
    """Name, bound, and "upper" or "lower", of the learnable scales that stand at a bound.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> scales_at_bound(build({"name": "clip", "temperature": 0.01})), scales_at_bound(build("clip"))
    ([('scale', 100.0, 'upper')], [])
    """
    bounds = scale_bounds(objective)
    return [(name, bound, word) for name, now, bound, word in bounds if abs(now - bound) <= AT_BOUND * bound]


@torch.no_grad()
def mean_cosines(latest: Latest) -> dict[str, Tensor]:
    """Mean cosine () between the vectors of different inputs of each view, of 4,096 rows at most.

    (|Σ u|² - n) / (n (n - 1)) for unit vectors u, so no table is made. Equal inputs count once: their vectors must be
    equal. Vectors of length 0 count as one direction. Views with fewer than eight different inputs are left out.

    Examples
    --------
    >>> z = torch.eye(10)
    >>> mean_cosines(Latest({}, {"anchor": z}, ObjectiveBatch.of({"anchor": z})))
    {'anchor': tensor(0.)}
    """
    cosines = {}
    for name, z in latest.embeddings.items():
        keys = latest.batch.keys.get(name)
        if name == "negatives" or keys is None or len(keys) != len(z) or z.dim() != 2:
            continue
        once = z[:_ROWS].float()[_first_of_each(keys[:_ROWS])]  # (n, D)
        n = len(once)
        if n < 8:
            continue
        length = torch.linalg.vector_norm(once, dim=1, keepdim=True)
        nowhere = torch.zeros_like(once[:1])
        nowhere[0, 0] = 1.0
        unit = torch.where(length > 0, once / length.clamp_min(1e-30), nowhere)
        cosines[name] = (unit.sum(0).square().sum() - n) / (n * (n - 1))
    return cosines


def _first_of_each(keys: Tensor) -> Tensor:
    """Places of the first occurrence of each key."""
    single, place = torch.unique(keys, return_inverse=True)
    first = torch.full((len(single),), len(keys), device=keys.device)
    return first.scatter_reduce_(0, place, torch.arange(len(keys), device=keys.device), "amin")
