"""What the tests of objectives share: random batches, cases, and the way a loss and its gradients are read.

A `Case` ties one preset, with settings, to inputs and to an oracle. Oracles get every array by name: embeddings as in
the batch, trained parameters as ``objective.named_parameters()`` calls them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.objectives import build
from embedkit.objectives.base import Objective, ObjectiveBatch
from embedkit.training.parallel.distributed import World

Arrays = Mapping[str, np.ndarray]


@dataclass
class Facts:
    """What an oracle may know besides vectors and parameters: roles of the batch, guide vectors, position.

    `history` holds the inputs of all earlier steps, from which an oracle makes state itself; `initial` the buffers at
    the start, `state` the buffers now.
    """

    size: int
    owner: dict[str, np.ndarray]
    keys: dict[str, np.ndarray]
    ids: np.ndarray
    score: np.ndarray | None = None
    label: np.ndarray | None = None
    group: np.ndarray | None = None
    document_id: np.ndarray | None = None
    position: np.ndarray | None = None
    guide: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    initial: dict[str, np.ndarray] = field(default_factory=dict)
    history: list[Draw] = field(default_factory=list)
    step: int = 0
    total_steps: int = 1
    epoch: int = 0


@dataclass
class Draw:
    """Random inputs: vectors by name, and the keyword arguments of the batch as numpy arrays."""

    vectors: dict[str, np.ndarray]
    known: dict[str, Any] = field(default_factory=dict)

    def batch(self, **more: Any) -> ObjectiveBatch:
        """The batch of one process."""
        known = {name: tensors(value) for name, value in {**self.known, **more}.items()}
        return ObjectiveBatch.of(tensors(self.vectors), **known)


Oracle = Callable[[Arrays, Arrays, Facts], float]


@dataclass(frozen=True)
class Case:
    """One preset with settings, inputs and oracle.

    Attributes
    ----------
    name : str
        The preset.
    oracle : callable
        ``oracle(values, fixed, facts) -> loss``. What the formula takes without gradient is read from `fixed`.
    settings : dict
        Differ from the preset's defaults.
    draw : callable
        ``draw(rng, step) -> Draw``: inputs of one step.
    variant : str
        Tells cases of one preset apart.
    warm : int
        Steps taken before the loss is compared, so that there is state.
    rows : int or None
        ``num_rows`` for `build`.
    peek : callable or None
        ``peek(objective, draw) -> dict of arrays`` added to the facts' state: numbers that an objective drew at random.
    gradient : callable or None
        ``gradient(values, facts) -> dict of arrays``, for an objective whose gradient is not that of its loss.
    exempt : tuple of str
        What holds for other objectives and not for this one, said at the first case of a preset: ``"order"`` (the loss
        stays when rows change places; not where random numbers belong to places), ``"length"`` (it stays when all
        vectors grow), ``"slope"`` (the gradient is that of the loss; not where a gradient is stopped).
    """

    name: str
    oracle: Oracle
    settings: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[np.random.Generator, int], Draw] = lambda rng, step: views(rng)
    variant: str = ""
    warm: int = 0
    rows: int | None = None
    peek: Callable[[Objective, Draw], dict[str, np.ndarray]] | None = None
    gradient: Callable[[Arrays, Facts], dict[str, np.ndarray]] | None = None
    exempt: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Name of the test."""
        return f"{self.name}-{self.variant}" if self.variant else self.name

    def config(self, **more: Any) -> dict[str, Any]:
        """What `build` is given."""
        return {"name": self.name, **self.settings, **more}

    def steps(self) -> list[Draw]:
        """Inputs of the steps before, and last those that are compared; the same at every call."""
        rng = np.random.default_rng(7)
        draws = [self.draw(rng, step) for step in range(self.warm + 1)]
        for step, draw in enumerate(draws):
            draw.known = {"step": step, "total_steps": 10, **draw.known}
        return draws

    def build(self, **more: Any) -> Objective:
        """The objective in fp64, its parameters moved off their starting point by a fixed noise."""
        dim = self.steps()[0].vectors["anchor"].shape[1]
        torch.manual_seed(0)
        objective = build(self.config(**more), dim=dim, num_rows=self.rows).double()
        noise = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in objective.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
        return objective


def tensors(value: Any) -> Any:
    """numpy arrays as tensors, inside dicts too; anything else unchanged."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {name: tensors(entry) for name, entry in value.items()}
    return value


def arrays(value: Any) -> Any:
    """Tensors as numpy arrays, inside dicts too; anything else unchanged."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy().copy()
    if isinstance(value, dict):
        return {name: arrays(entry) for name, entry in value.items()}
    return value


def views(
    rng: np.random.Generator,
    count: int = 2,
    size: int = 5,
    dim: int = 4,
    *,
    hard: list[int] | None = None,
    **known: Any,
) -> Draw:
    """`count` views of `size` rows: the same point plus noise, so that pairs are closer than strangers.

    `hard` gives the number of hard negatives of each row.
    """
    points = rng.normal(size=(size, dim))
    names = ["anchor", "positive", *(f"view{k}" for k in range(3, count + 1))][:count]
    vectors = {name: points + 0.6 * rng.normal(size=(size, dim)) for name in names}
    if hard is not None:
        owner = np.repeat(np.arange(size), hard)
        vectors["negatives"] = points[owner] + rng.normal(size=(len(owner), dim))
        every = {name: np.arange(size) for name in names} | {"negatives": owner}
        known = {"owner": every, **known}
    return Draw(vectors, known)


def only(draw: Draw, rows: int) -> Draw:
    """The first rows of a batch with all that belongs to them."""
    owner = {name: o.numpy() for name, o in draw.batch().owner.items()}
    known = {}
    for name, value in draw.known.items():
        if name in ("owner", "guide", "keys", "scores"):
            known[name] = {key: entry[owner[key] < rows] for key, entry in value.items()}
        else:
            known[name] = value[:rows] if isinstance(value, np.ndarray) else value
    return Draw({name: z[owner[name] < rows] for name, z in draw.vectors.items()}, known)


@dataclass
class Result:
    """A loss with its gradients by name of embedding or parameter, and the state after the step."""

    loss: float
    grads: dict[str, np.ndarray]
    terms: dict[str, float]
    state: dict[str, np.ndarray]


def evaluate(objective: Objective, draw: Draw, advance: bool = True, **more: Any) -> Result:
    """Loss and gradients of one batch, and, when `advance` is set, the state after the step."""
    leaves = {name: z.requires_grad_() for name, z in tensors(draw.vectors).items()}
    batch = draw.batch(**more)
    objective.zero_grad()
    output = objective(leaves, batch)
    output.loss.backward()
    grads = {name: z.grad if z.grad is not None else torch.zeros_like(z) for name, z in leaves.items()}
    for name, parameter in objective.named_parameters():
        grads[name] = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    if advance:
        objective.after_step({name: z.detach() for name, z in leaves.items()}, batch)
    terms = {name: float(term) for name, term in output.terms.items()}
    return Result(float(output.loss.detach()), arrays(grads), terms, arrays(dict(objective.state_dict())))


_WARM: dict[str, Objective] = {}
_START: dict[str, dict[str, np.ndarray]] = {}


def warmed(case: Case) -> tuple[Objective, Draw]:
    """The objective after the case's first steps, and the inputs of the step that is compared.

    A copy of one that is made once, because many tests ask for the same.
    """
    *before, last = case.steps()
    if case.id not in _WARM:
        _WARM[case.id] = case.build()
        _START[case.id] = arrays(dict(_WARM[case.id].named_buffers()))
        for draw in before:
            evaluate(_WARM[case.id], draw)
        _WARM[case.id].zero_grad()
    return copy.deepcopy(_WARM[case.id]), last


def facts(case: Case, objective: Objective, draw: Draw) -> Facts:
    """What the oracle may know at this point of the run."""
    batch = draw.batch()
    state = arrays(dict(objective.named_buffers()))
    if case.peek is not None:
        state |= case.peek(objective, draw)
    names = ("owner", "keys", "ids", "score", "label", "group", "document_id", "position", "guide", "scores")
    roles = {name: arrays(getattr(batch, name)) for name in names}
    known = {"state": state, "initial": _START[case.id], "history": case.steps()[:-1]}
    place = {"step": batch.step, "total_steps": batch.total_steps, "epoch": batch.epoch}
    return Facts(batch.size, **roles, **known, **place)


def values(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """Vectors and parameters by name: what an oracle is a function of."""
    return {**arrays(draw.vectors), **arrays(dict(objective.named_parameters()))}


def slope(oracle: Oracle, at: Arrays, known: Facts, direction: Arrays, step: float = 1e-4) -> float:
    """Derivative of the oracle along `direction`: central differences at two steps, extrapolated (error O(step^4))."""

    def difference(h: float) -> float:
        ahead = {name: x + h * direction.get(name, 0.0) for name, x in at.items()}
        behind = {name: x - h * direction.get(name, 0.0) for name, x in at.items()}
        return (oracle(ahead, at, known) - oracle(behind, at, known)) / (2 * h)

    return (4 * difference(step / 2) - difference(step)) / 3


def share_of(draw: Draw, world: World) -> tuple[slice, dict[str, Tensor], dict[str, list[int]]]:
    """This process's rows, its own vectors, and how many vectors of each name every process has."""
    batch = draw.batch()
    bounds = [rank * batch.size // world.size for rank in range(world.size + 1)]
    rows = slice(bounds[world.rank], bounds[world.rank + 1])
    own, counts = {}, {}
    for name, z in tensors(draw.vectors).items():
        owner = batch.owner[name]
        own[name] = z[(owner >= rows.start) & (owner < rows.stop)]
        counts[name] = [int(((owner >= a) & (owner < b)).sum()) for a, b in pairwise(bounds)]
    return rows, own, counts


def shared_step(objective: Objective, draw: Draw, world: World, lr: float) -> Result:
    """One optimiser step as in the trainer: gather leaves, backward of the own share, sum gradients, after_step.

    Gradients of embeddings are those of this process's rows.
    """
    rows, own, counts = share_of(draw, world)
    leaves = {name: world.gather(z, counts[name]).requires_grad_() for name, z in own.items()}
    batch = draw.batch(rows=rows)
    objective.zero_grad()
    output = objective(leaves, batch)
    output.loss.backward()
    grads = {}
    for name, z in leaves.items():
        grads[name] = world.own_sum(z.grad if z.grad is not None else torch.zeros_like(z), counts[name])
    world.sum_gradients(objective.parameters())
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            grads[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            parameter -= lr * grads[name]
    objective.after_step({name: z.detach() for name, z in leaves.items()}, batch)
    summed = world.sum(torch.stack([output.loss.detach(), *(term.double() for term in output.terms.values())]))
    terms = dict(zip(output.terms, summed[1:].tolist(), strict=True))
    terms |= {f"metric {name}": float(value) for name, value in output.metrics.items()}
    return Result(float(summed[0]), arrays(grads), terms, arrays(dict(objective.state_dict())))


def train(case: Case, config: dict[str, Any], rows: int | None = None, lr: float = 0.01) -> list[Result]:
    """All steps of a case, or of its first rows, in whatever processes there are.

    The random state of each process is its own: nothing may depend on it.
    """
    world = World()
    objective = case.build(**config)
    torch.manual_seed(1000 + world.rank)
    draws = case.steps() if rows is None else [only(draw, rows) for draw in case.steps()]
    return [shared_step(objective, draw, world, lr) for draw in draws]


def train_by_id(identity: str, config: dict[str, Any], rows: int | None = None) -> list[Result]:
    """`train` for other processes: a case is found by its id."""
    from tests.objectives.cases import CASES

    return train(next(case for case in CASES if case.id == identity), config, rows)
