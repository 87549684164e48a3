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
    """

    chains: ClassVar[Mapping[str, Chain]] = {}

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        """The method's views, changed. Chains draw from streams far from those that the method itself draws from."""
        made = super().views(rows, random)
        for name in self.chains:
            if name not in made:
                known = ", ".join(sorted(made))
                raise RecipeError(f"there is no view {name!r}", where="method.augment", remedy=f"views here: {known}")
        streams = [np.random.Generator(jumped(random(i))) for i in range(len(rows))]
        found = {}
        for name, view in made.items():
            chain = self.chains.get(name)
            if chain is not None and chain.splits and not self.takes_parts:
                raise RecipeError("the method reads whole texts, they cannot be cut", where=f"method.augment.{name}")
            if chain is not None and chain.splits and view.owner != list(range(len(rows))):
                raise RecipeError(f"view {name!r} has not one text a row, it cannot be cut", where="method.augment")
            found[name] = view if chain is None else chain.apply(view, streams)
        return found

    def embed(self, model: Any, parts: Any, inputs: Any, **settings: Any) -> Tensor:
        """The method's own, with the adversarial perturbation first where one is asked for."""
        epsilon = settings.pop("adversarial", None)
        if epsilon is None or len(inputs) == 0:
            return super().embed(model, parts, inputs, **settings)
        from embedkit.views.encoder import adversary

        def embed(edit: Any) -> Tensor:
            return super(Augmenting, self).embed(model, parts, inputs, edit=edit, **settings)

        return embed(adversary(embed, inputs, epsilon))

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: Any) -> dict[str, Tensor]:
        """Composes the parts of a row, then the method's own."""
        outputs = dict(outputs)
        for name, chain in self.chains.items():
            if chain.splits:
                outputs[name] = compose(name, outputs[name], batch)
        return super().project(outputs, batch, parts)


def compose(name: str, z: Tensor, batch: ObjectiveBatch) -> Tensor:
    """Mean of the vectors (N, D) of each row, (B, D); what the batch knows of the name becomes that of the rows.

    A guide's vectors are averaged too. Rows are equal inputs of one another where all their parts are.
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
    """
    if not isinstance(config, Mapping):
        raise RecipeError("augment is no mapping", where="method.augment",
                          remedy="write {positive: [{name: word-deletion, rate: 0.1}]}")  # fmt: skip
    chains = {name: Chain.of(steps, f"method.augment.{name}") for name, steps in config.items()}
    return type(f"Augmented{cls.__name__}", (Augmenting, cls), {"chains": chains, "__doc__": cls.__doc__})


def jumped(random: np.random.Generator) -> Any:
    """A bit generator 2^128 numbers further on."""
    return random.bit_generator.jumped()  # type: ignore[attr-defined]
