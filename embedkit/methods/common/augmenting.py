"""Views on top of any method: the key ``augment`` of a recipe's method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.errors import RecipeError
from embedkit.methods.base import Method, Row, View
from embedkit.views.base import Chain

if TYPE_CHECKING:
    from torch import Tensor

    from embedkit.objectives.base import ObjectiveBatch


class Augmenting(Method):
    """A method whose views go through chains, by name; to be put in front of a method class (see `augmented`).

    A view that a chain cuts into parts gets one vector a row: the mean of the parts' vectors, as they leave
    the method's `embed`.

    Examples
    --------
    >>> from embedkit.methods.simcse import SimCSEUnsupervised
    >>> method = augmented(SimCSEUnsupervised, {"positive": [{"name": "word-deletion", "rate": 0.5}]})()
    >>> views = method.views([{"anchor": "a small red car"}], np.random.default_rng)
    >>> {name: view.inputs for name, view in views.items()}
    {'anchor': ['a small red car'], 'positive': ['small red car']}
    """

    chains: ClassVar[Mapping[str, Chain]] = {}

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        """The method's views, changed. Chains draw from streams far from those that the method itself draws from."""
        plain = super().views(rows, random)
        self.check_chains(plain, len(rows))
        streams = [np.random.Generator(_jumped(random(i))) for i in range(len(rows))]
        return {
            name: self.chains[name].apply(view, streams) if name in self.chains else view
            for name, view in plain.items()
        }

    def outline(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        """The method's views before the chains, which may look texts up; that each chain has a view is checked."""
        plain = super().views(rows, random)
        self.check_chains(plain, len(rows))
        return plain

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse steps that the inputs of the rows cannot go through: of words for vectors, of time for texts."""
        super().check_rows(rows)
        for name, chain in self.chains.items():
            for row in rows[:1]:
                cell = row.get(name, row.get("anchor"))
                fault = chain.fault_of(cell[0] if isinstance(cell, list) and cell else cell)
                if fault is not None:
                    remedy = "leave it out; docs/views.md says what each changes"
                    raise RecipeError(fault, where=f"the views of {name!r}", remedy=remedy)

    def check_chains(self, views: Mapping[str, View], rows: int) -> None:
        """Refuse chains without a view, and those that cut texts which must stay whole."""
        for name, chain in self.chains.items():
            if name not in views:
                names = ", ".join(sorted(views))
                raise RecipeError(f"there is no view {name!r}", where="method.augment", remedy=f"views here: {names}")
            if chain.splits and not self.takes_parts:
                raise RecipeError(
                    "the method reads whole texts, they cannot be cut", where=f"method.augment.{name}",
                    remedy="leave out the view that cuts, or use method views",
                )  # fmt: skip
            if chain.splits and views[name].owner != list(range(rows)):
                raise RecipeError(
                    f"view {name!r} has not one text a row, it cannot be cut", where=f"method.augment.{name}",
                    remedy="cut the anchor or the positive",
                )  # fmt: skip

    def embed(self, model: Any, parts: Any, inputs: Any, **settings: Any) -> Tensor:
        """The method's own, with the adversarial perturbation first where one is asked for."""
        search = settings.pop("adversarial", None)
        if search is None or len(inputs) == 0:
            return super().embed(model, parts, inputs, **settings)
        from embedkit.views.encoder import adversary

        def embed(edit: Any) -> Tensor:
            return super(Augmenting, self).embed(model, parts, inputs, edit=edit, **settings)

        search = search if isinstance(search, dict) else {"epsilon": search}
        return embed(adversary(embed, inputs, **search))

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: Any) -> dict[str, Tensor]:
        """The method's own projection, of the mean of the parts of each row that a chain has cut."""
        outputs = dict(outputs)
        for name, chain in self.chains.items():
            if chain.splits:
                outputs[name] = compose(name, outputs[name], batch)
        return super().project(outputs, batch, parts)


def compose(name: str, z: Tensor, batch: ObjectiveBatch) -> Tensor:
    """Mean of the vectors (N, D) of each row, (B, D); what the batch knows of the name becomes that of the rows.

    A guide's vectors are averaged too. Rows are equal inputs of one another where all their parts are.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives.base import ObjectiveBatch
    >>> parts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])  # row 0 was cut into two
    >>> owner = {"anchor": torch.tensor([0, 1]), "positive": torch.tensor([0, 0, 1])}
    >>> batch = ObjectiveBatch.of({"anchor": torch.zeros(2, 2), "positive": parts}, owner=owner)
    >>> compose("positive", parts, batch)
    tensor([[0.5000, 0.5000],
            [2.0000, 2.0000]])
    """
    import torch

    owner = batch.owner[name].contiguous()
    counts = torch.bincount(owner, minlength=batch.size)
    start = torch.searchsorted(owner, torch.arange(batch.size, device=owner.device))

    def mean(x: Tensor) -> Tensor:
        return x.new_zeros(batch.size, x.shape[1]).index_add(0, owner, x) / counts[:, None].to(x.dtype)

    place = torch.arange(len(owner), device=owner.device) - start[owner]
    keys = batch.keys[name] * (2 * place + 1)  # as 64-bit numbers, of which sums and products wrap around
    batch.keys[name] = torch.zeros_like(counts).index_add(0, owner, keys)
    if name in batch.guide:
        batch.guide[name] = mean(batch.guide[name])
    if name in batch.lengths:
        batch.lengths[name] = torch.zeros_like(counts).index_add(0, owner, batch.lengths[name])
    batch.owner[name] = torch.arange(batch.size, device=owner.device)
    return mean(z)


def augmented(cls: type[Method], config: Mapping[str, Any]) -> type[Method]:
    """A method class whose views go through chains, from ``{view name: list of steps}``.

    Raises
    ------
    UserError, RecipeError
        An unknown view step or setting.

    Examples
    --------
    >>> from embedkit.methods.simcse import SimCSEUnsupervised
    >>> augmented(SimCSEUnsupervised, {"positive": ["token-shuffle"]}).__name__
    'AugmentedSimCSEUnsupervised'
    >>> augmented(SimCSEUnsupervised, {"positive": ["token-shufle"]})
    Traceback (most recent call last):
    embedkit.errors.UserError: unknown view 'token-shufle'; did you mean 'token-shuffle'?
    """
    if not isinstance(config, Mapping):
        raise RecipeError("augment is no mapping", where="method.augment",
                          remedy="write {positive: [{name: word-deletion, rate: 0.1}]}")  # fmt: skip
    if issubclass(cls, Augmenting):
        raise RecipeError(
            "the method has chains of its own", where="method.augment",
            remedy="write the steps under method.anchor, method.positive or method.more",
        )  # fmt: skip
    chains = {name: Chain.of(steps, f"method.augment.{name}") for name, steps in config.items()}
    return type(f"Augmented{cls.__name__}", (Augmenting, cls), {"chains": chains, "__doc__": cls.__doc__})


def _jumped(random: np.random.Generator) -> Any:
    """A bit generator 2^128 numbers further on."""
    return random.bit_generator.jumped()  # type: ignore[attr-defined]
