"""Which inputs an objective reads, by experiment: a small random batch, and what changes when an input does.

Nothing is declared twice: an input that changes neither the loss, nor a gradient, nor the loss of the next step has no
effect, whatever the objective is made of. Where an objective cannot work with what a method and its data give, the
batch is refused here, before any model is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from embedkit.errors import RecipeError, UserError
from embedkit.objectives.base import Objective, ObjectiveBatch
from embedkit.objectives.matrix.similarity import VIEWS
from embedkit.objectives.tools import small_state

ROLES = frozenset({"score", "scores", "label", "group", "document_id", "position"})
"""Roles of rows that reach an objective as numbers, not as embeddings."""

WIDTHS = (16, 768, 4096, 5040, 8192)
"""Embedding sizes to try in turn where the model's is not known: some settings need a larger one, some one that so many
parts divide, as 5040 is by all numbers to 10."""

_WIDEST = 256
"""Larger vectors are tried at sizes near this one, equal ones at equal sizes: the time may grow with their square."""

_ROWS = 100_000

NEGATIVES = 2
"""Hard negatives of each row of the random batch."""


@dataclass(frozen=True)
class Situation:
    """The inputs that a method and its data give an objective.

    Attributes
    ----------
    names : frozenset of str
        Embeddings: "anchor", "positive", "negatives", further views.
    roles : frozenset of str
        Of `ROLES`, those that rows have.
    guided : frozenset of str
        Embeddings that a guide has vectors of.
    widths : mapping
        Name -> size of its vectors in units of the embeddings' size, where it is not 1.
    sizes : mapping
        Name -> size of its vectors, where it is known and may differ from the others'.
    dim, guide_dim : int, optional
        Size of the embeddings and of the guide's vectors, where they are known.

    Examples
    --------
    >>> from embedkit.objectives.probe import Situation, effects
    >>> pairs = Situation(frozenset({"anchor", "positive"}), frozenset({"label", "score"}))
    >>> sorted(effects({"name": "supcon"}, pairs))
    ['label']
    """

    names: frozenset[str]
    roles: frozenset[str] = frozenset()
    guided: frozenset[str] = frozenset()
    widths: Mapping[str, int] = field(default_factory=dict)
    dim: int | None = None
    guide_dim: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Inputs:
    vectors: dict[str, Tensor]
    batch: ObjectiveBatch
    dim: int


def trial_run(
    config: object, situation: Situation, build: Callable[..., Objective] | None = None
) -> tuple[Objective, int]:
    """The objective, and the embedding size at which it works in this situation; raises what `effects` raises.

    Examples
    --------
    >>> objective, dim = trial_run("infonce", Situation(frozenset({"anchor", "positive"})))
    >>> type(objective).__name__, dim
    ('TableObjective', 16)
    """
    objective, inputs = _trial(config, situation, build)
    return objective, situation.dim or inputs.dim


def _trial(
    config: object, situation: Situation, build: Callable[..., Objective] | None = None
) -> tuple[Objective, _Inputs]:
    """The objective and a batch on which it works; errors speak of the sizes that the situation has."""
    try:
        return _trial_at(config, _narrow(situation), build or _build())
    except UserError:
        return _trial_at(config, situation, build or _build())


def _trial_at(config: object, situation: Situation, build: Callable[..., Objective]) -> tuple[Objective, _Inputs]:
    with torch.random.fork_rng(devices=[]), small_state():
        objective, dim = _smallest_fit(config, situation, build)
        objective.begin(situation.roles, (situation.guide_dim or dim) if situation.guided else None)
        _check_widths(objective, situation.widths)
        inputs = _inputs(objective, situation, dim)
        _outcome(objective, inputs)
        return objective, inputs


def _narrow(situation: Situation) -> Situation:
    """The same situation with large vectors near `_WIDEST`."""
    sizes = {situation.dim, situation.guide_dim, *situation.sizes.values()} - {None}
    large = sorted(size for size in sizes if size is not None and size > _WIDEST)
    size_of = {size: _WIDEST + 16 * place for place, size in enumerate(large, 1)}
    return replace(
        situation,
        dim=size_of.get(situation.dim or 0, situation.dim),
        guide_dim=size_of.get(situation.guide_dim or 0, situation.guide_dim),
        sizes={name: size_of.get(size, size) for name, size in situation.sizes.items()},
    )


def _build() -> Callable[..., Objective]:
    from embedkit.objectives.registry import build

    return build


def effects(config: object, situation: Situation, build: Callable[..., Objective] | None = None) -> frozenset[str]:
    """The situation's roles, further views, names of `sizes`, "negatives" and "guide" that change what the objective
    computes.

    Parameters
    ----------
    config : mapping or str
        The objective, as `embedkit.objectives.build` takes it.
    situation : Situation
        What it would be given.
    build : callable, optional
        Makes the objective of ``(config, dim=, num_rows=)``; `embedkit.objectives.build` by default.

    Raises
    ------
    UserError
        The objective cannot work in this situation; the message is the one that the first batch would give.

    Examples
    --------
    >>> pairs = Situation(frozenset({"anchor", "positive"}), frozenset({"label", "score"}))
    >>> sorted(effects({"name": "supcon"}, pairs)), sorted(effects("infonce", pairs))
    (['label'], [])
    """
    objective, inputs = _trial(config, situation, build)
    with torch.random.fork_rng(devices=[]):
        plain = _outcome(objective, inputs)
        fields = (
            situation.roles | (situation.names - ({*VIEWS[:2]} - {*situation.sizes}))
            | ({"guide"} if situation.guided else set())
        )  # fmt: skip
        return frozenset(name for name in fields if _matters(objective, inputs, name, plain))


def guided_and_trained(config: object, situation: Situation) -> tuple[frozenset[str], frozenset[str]]:
    """Names whose guide's vectors matter to the objective, and names whose embeddings get a gradient from it.

    Examples
    --------
    >>> names = frozenset({"anchor", "positive"})
    >>> byol = guided_and_trained({"name": "byol", "hidden": 4}, Situation(names, guided=names))
    >>> [sorted(found) for found in byol]
    [['anchor', 'positive'], ['anchor', 'positive']]
    """
    objective, inputs = _trial(config, situation)
    with torch.random.fork_rng(devices=[]):
        plain = _outcome(objective, inputs)
        read = set()
        for name in situation.guided:
            other = replace(inputs.batch, guide={**inputs.batch.guide, name: inputs.batch.guide[name].flip(0) + 0.1})
            figures = _figures(objective, replace(inputs, batch=other))
            if not all(_equal(a, b) for a, b in zip(plain, figures, strict=True)):
                read.add(name)
        trial = copy.deepcopy(objective).train()
        torch.manual_seed(0)
        leaves = {name: z.clone().requires_grad_() for name, z in inputs.vectors.items()}
        loss = trial(leaves, replace(inputs.batch, guide=dict(inputs.batch.guide))).loss
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        pulled_on = (name for name, g in zip(leaves, gradients, strict=True) if g is not None and bool(g.any()))
        return frozenset(read), frozenset(pulled_on)


def _smallest_fit(config: object, situation: Situation, build: Callable[..., Objective]) -> tuple[Objective, int]:
    """The objective for the smallest size of embeddings that its settings allow."""
    sizes = WIDTHS if situation.dim is None else (situation.dim,)
    for dim in sizes[:-1]:
        torch.manual_seed(0)
        try:
            return build(config, dim=dim, num_rows=_ROWS).float(), dim
        except RecipeError:
            continue
    torch.manual_seed(0)
    return build(config, dim=sizes[-1], num_rows=_ROWS).float(), sizes[-1]


def _check_widths(objective: Objective, widths: Mapping[str, int]) -> None:
    """Refuse views of different sizes where the objective compares them with each other."""
    if len({widths.get(name, 1) for name in (*widths, "anchor")}) > 1 and not objective.any_width:
        raise RecipeError(
            "the objective compares views whose vectors have different sizes", where="objective",
            remedy="leave out objective: the method has its own",
        )  # fmt: skip


def _inputs(objective: Objective, situation: Situation, dim: int, seed: int = 0) -> _Inputs:
    """Random vectors, close to one another within a row, and values of every role."""
    draw = torch.Generator().manual_seed(seed)
    size = dim + 8 if dim == WIDTHS[0] else 24
    centres = {dim: torch.randn(size, dim, generator=draw)}
    vectors, owner = {}, {}
    for name in sorted(situation.names):
        rows = torch.arange(size) if name != "negatives" else torch.arange(size).repeat_interleave(NEGATIVES)
        columns = situation.sizes.get(name, dim)
        if columns not in centres:
            centres[columns] = torch.randn(size, columns, generator=draw)
        noise = torch.randn(len(rows), columns, generator=draw)
        vectors[name] = (centres[columns][rows] + 0.5 * noise).repeat(1, situation.widths.get(name, 1))
        owner[name] = rows
    batch = ObjectiveBatch.of(vectors, owner=owner, step=999_999, total_steps=1_000_000, epoch=1_000_000)
    low, high = _limits(objective, "score")
    classes = max(1, int(min(4, _limits(objective, "label")[1] + 1)))
    numbers = {
        "score": low + (high - low) * (torch.arange(size) % 5) / 4,
        "label": torch.arange(size) % classes,
        "group": torch.arange(size) // 2,
        "document_id": torch.arange(size) // 5,
        "position": torch.arange(size) % 5,
    }
    for role in situation.roles & numbers.keys():
        setattr(batch, role, numbers[role])
    if "scores" in situation.roles:
        batch.scores = {name: torch.randn(len(owner[name]), generator=draw) for name in ("positive", "negatives")
                        if name in owner}  # fmt: skip
        if "positive" in batch.scores:  # which an objective of `score` may read in its place
            batch.scores["positive"] = low + (high - low) * batch.scores["positive"].sigmoid()
    width = situation.guide_dim or dim
    for name in sorted(situation.guided & situation.names):
        # some of a row's candidates are nearer than its positive, some are the same: thresholds of a guide are crossed
        columns = situation.sizes.get(name, width)
        noise = 0.4 * torch.randn(len(owner[name]), columns, generator=draw)
        batch.guide[name] = torch.randn(size // 4 + 1, columns, generator=draw)[owner[name] % (size // 4 + 1)] + noise
    return _Inputs(vectors, batch, dim)


def _limits(objective: Objective, role: str) -> tuple[float, float]:
    bounds = [part.limits[role] for part in objective.modules() if isinstance(part, Objective) and role in part.limits]
    return max((low for low, _ in bounds), default=0.0), min((high for _, high in bounds), default=5.0)


def _outcome(objective: Objective, inputs: _Inputs) -> list[Tensor]:
    """Loss, gradients, and the loss of the same batch after one step; the objective itself is not changed."""
    return list(_figures(objective, inputs))


def _figures(objective: Objective, inputs: _Inputs) -> Iterator[Tensor]:
    """What `_outcome` lists, one after another."""
    trial = copy.deepcopy(objective).train()
    for step in range(2 if any(True for _ in trial.buffers()) else 1):
        torch.manual_seed(step)
        leaves = {name: z.clone().requires_grad_() for name, z in inputs.vectors.items()}
        batch = replace(
            inputs.batch, guide=dict(inputs.batch.guide), owner=dict(inputs.batch.owner), keys=dict(inputs.batch.keys)
        )
        loss = trial(leaves, batch).loss
        yield loss.detach()
        if step == 0 and loss.requires_grad:
            variables = [*leaves.values(), *(p for p in trial.parameters() if p.requires_grad)]
            gradients = torch.autograd.grad(loss, variables, allow_unused=True)
            yield from (torch.zeros(()) if g is None else g for g in gradients)
        with torch.no_grad():
            trial.after_step({name: z.detach() for name, z in leaves.items()}, batch)


def _matters(objective: Objective, inputs: _Inputs, name: str, plain: list[Tensor]) -> bool:
    return any(
        not all(_equal(a, b) for a, b in zip(plain, _figures(objective, other), strict=True))
        for other in _variations(inputs, name)
    )


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one.nan_to_num(), two.nan_to_num())


def _variations(inputs: _Inputs, name: str) -> Iterator[_Inputs]:
    """The same inputs with one of them changed, in several ways."""
    batch = inputs.batch
    if name in inputs.vectors:
        yield replace(inputs, vectors={**inputs.vectors, name: inputs.vectors[name].flip(1) + 0.1})
        if name in batch.guide:  # of which the guide's vector alone is read
            yield replace(inputs, batch=replace(batch, guide={**batch.guide, name: batch.guide[name].flip(0) + 0.1}))
    elif name == "guide":
        flip = {key: z.flip(0) + 0.1 for key, z in batch.guide.items()}
        yield replace(inputs, batch=replace(batch, guide=flip))
        yield replace(inputs, batch=replace(batch, guide={k: torch.ones_like(z) for k, z in batch.guide.items()}))
    elif name == "scores":
        yield replace(inputs, batch=replace(batch, scores={k: z.flip(0) for k, z in batch.scores.items()}))
    elif name == "group":
        yield replace(inputs, batch=replace(batch, group=torch.arange(batch.size)))
    else:
        value = getattr(batch, name)
        yield replace(inputs, batch=replace(batch, **{name: value.flip(0)}))
        yield replace(inputs, batch=replace(batch, **{name: value.sort().values}))
