"""Time Control: the vectors of a document's sentences as points of a Brownian bridge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.objectives.base import ObjectiveBatch

NAMES = ("start", "middle", "end")


@methods.add("time-control")
class TimeControl(Method):
    """Time Control (Wang et al. 2022, ICLR, sections 3.1 and 3.2): the encoder, without the language model.

    Of each document three sentences in order, at t0 < t < T: T is drawn, then two places before it. The middle one is
    to lie near the bridge between the others, ``N((1 - a) z_0 + a z_T, s)`` with ``a = (t - t0) / (T - t0)`` and
    ``s = (t - t0) (T - t) / (T - t0)``, nearer than to the bridges of the other triples of the batch (see
    `embedkit.objectives.losses.sequences.bridge_loss`). Two pins: ``|z_0|²`` where t0 is the first sentence, and the
    square distance of ``z_T`` from ones where T is the last one, means over the numbers of a vector.

    The time of a triple may lie outside the bridge of another one. The official code takes the negative variance as it
    is, which rewards distance: ``outside: keep``. Here such bridges are left out. Data: documents of three sentences
    or more.

    Parameters
    ----------
    outside : str
        "mask", "clamp" or "keep".
    pin : float
        Factor of the pins.

    Examples
    --------
    >>> views = TimeControl().views([{"sentences": ["One.", "Two.", "Three."]}], np.random.default_rng)
    >>> {name: (view.inputs, view.places.tolist()) for name, view in views.items()}
    {'start': (['One.'], [[0, 3]]), 'middle': (['Two.'], [[1, 3]]), 'end': (['Three.'], [[2, 3]])}
    """

    paper: ClassVar[str] = "Wang et al. 2022, ICLR, Language modeling via stochastic processes, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"sentences"}), limits={"sentences": (3, math.inf)})
    objective: ClassVar[dict[str, Any] | None] = None

    def __init__(
        self, outside: Literal["mask", "clamp", "keep"] = "mask", pin: Annotated[float, Field(ge=0)] = 1.0
    ) -> None:
        self.outside, self.pin = outside, pin

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(NAMES)

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        documents = [row["sentences"] for row in rows]
        times = np.asarray([_times(len(d), random(i)) for i, d in enumerate(documents)], np.int64).reshape(-1, 3)
        counts = np.asarray([len(d) for d in documents], np.int64)
        return {
            name: View(
                [d[place] for d, place in zip(documents, times[:, k].tolist(), strict=True)], list(range(len(rows))),
                places=np.stack([times[:, k], counts], axis=1),
            )
            for k, name in enumerate(NAMES)
        }  # fmt: skip

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.objectives.losses.sequences import bridge_loss

        start, middle, end = (outputs[name] for name in NAMES)
        times = torch.stack([batch.places[name][:, 0] for name in NAMES], dim=1)
        bridge = bridge_loss(start, middle, end, times, batch.rows, self.outside) / batch.size
        is_first, is_last = times[:, 0] == 0, times[:, 2] == batch.places["end"][:, 1] - 1
        pins = _pin(start, is_first, batch.rows) + _pin(end - 1.0, is_last, batch.rows)
        return {"bridge": bridge, **({"pin": self.pin * pins} if self.pin else {})}


def _times(count: int, random: np.random.Generator) -> tuple[int, int, int]:
    """t0 < t < T among `count` sentences."""
    last = int(random.integers(2, count))
    first, instant = sorted(random.choice(last, size=2, replace=False).tolist())
    return first, instant, last


def _pin(gap: Tensor, choice: Tensor, rows: slice) -> Tensor:
    """This process's share of the mean square of `gap` (B, D) over the rows of `choice`."""
    squares = gap.square().mean(dim=1) * choice
    return squares[rows].sum() / choice.sum().clamp(min=1)
