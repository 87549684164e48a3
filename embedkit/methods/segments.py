"""Segments of a sequence in order, under any objective on documents: predictive coding, cycles, orders, bridges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count
from embedkit.data.schema.contract import Contract
from embedkit.data.vectors.rows import column_of
from embedkit.data.vectors.sequences import Sequences
from embedkit.errors import DataError, ModelError, RecipeError, UserError
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch

_NUMBERS = frozenset({"document_id", "position"})


@methods.add("segments")
class Segments(Method):
    """Every row is a sequence, cut into segments of `length` steps; each is encoded, and the loss sees them in order.

    The loss is an objective on the sentences of documents: here a document is a row, a sentence one of its segments.
    Of a row with more than `most` segments a random run of them is taken; steps behind the last whole segment are left
    out, and a row shorter than a segment is one. A loss that reads "positive" gets the same segments once more, which
    ``augment: {positive: [...]}`` changes. By itself, or beside any method on sequences (``auxiliary``): then the
    segments are those of its anchor, from the first on, as its views have changed it.

    Parameters
    ----------
    loss : str or mapping
        An objective: cpc, aligned-cpc, bidirectional, context, temporal-cycle, order or bridge.
    length, stride : int
        Steps of a segment, and from one to the next; `length` when not given.
    most : int
        Segments of a row.

    Examples
    --------
    >>> rows = [{"anchor": np.arange(7.0)[:, None]}]
    >>> view = Segments(length=2, most=3).views(rows, np.random.default_rng)["anchor"]
    >>> view.inputs.lengths.tolist(), view.owner, view.places.tolist()
    ([2, 2, 2], [0, 0, 0], [[0], [1], [2]])
    """

    paper: ClassVar[str] = "van den Oord et al. 2018 (arXiv 1807.03748), section 2.2, and the losses' own papers"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any] | None] = None

    def __init__(
        self, loss: str | Mapping[str, Any] = "cpc", length: Count = 16,
        stride: Count | None = None, most: Count = 8,
    ) -> None:  # fmt: skip
        from embedkit.objectives import build

        self.length, self.stride, self.most = length, stride or length, most
        self._loss = loss
        try:
            needs = build(loss).requires
        except UserError as error:
            raise RecipeError(error.what, where=f"method.loss: {error.where}", remedy=error.remedy) from error
        if not needs & _NUMBERS or needs - _NUMBERS - {"anchor", "positive"}:
            remedy = "take cpc, aligned-cpc, bidirectional, context, temporal-cycle, order or bridge"
            raise RecipeError(f"{loss!r} reads no order of segments", where="method.loss", remedy=remedy)
        self.names = ("anchor", "positive") if "positive" in needs else ("anchor",)

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(self.names)

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def check_rows(self, rows: Sequence[Row]) -> None:
        if rows and not isinstance(rows[0]["anchor"], np.ndarray):
            return  # what the model reads is checked before
        if all((len(row["anchor"]) - self.length) // self.stride < 1 for row in rows):
            longest = max(len(row["anchor"]) for row in rows)
            what = f"no sequence of the first batch has two segments of {self.length} steps; the longest has {longest}"
            raise DataError(what, where="method.length", remedy=f"set it to {max(1, longest // 4)} or less")

    def adapt(self, model: Model) -> None:
        if model.kind != "sequence":
            raise ModelError(f"a {model.kind} model reads no sequences", where="method segments",
                             remedy="set model: {kind: sequence}, or use the recipe cpc for sentences")  # fmt: skip

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.objectives import build

        return nn.ModuleDict({"loss": build(self._loss, dim=model.training_dim)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        sequences = column_of(rows, "anchor")
        if not isinstance(sequences[0], np.ndarray):  # invented rows
            return Segments.outline(self, rows, random)
        return self._cut(sequences, list(range(len(rows))), random)

    def outline(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return {name: View([row["anchor"] for row in rows], list(range(len(rows)))) for name in self.names}

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        view = views.get("anchor")
        if view is None or not isinstance(view.inputs, Sequences):
            return {}
        return self._cut(view.inputs, view.owner, None)

    def _cut(
        self, sequences: Sequence[Any], owner: Sequence[int], random: Callable[[int], np.random.Generator] | None
    ) -> dict[str, View]:
        pieces: list[np.ndarray] = []
        owners: list[int] = []
        places: list[int] = []
        for row, steps in zip(owner, sequences, strict=True):
            count = max(1, (len(steps) - self.length) // self.stride + 1)
            spare = count - self.most
            first = 0 if random is None or spare < 1 else int(random(row).integers(spare + 1))
            for place in range(min(count, self.most)):
                start = (first + place) * self.stride
                pieces.append(np.asarray(steps[start : start + self.length]))
                owners.append(row)
                places.append(place)
        block = Sequences.of(pieces)
        numbers = np.asarray(places, np.int64)[:, None]
        return {name: View(block, list(owners), places=numbers) for name in self.names}

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        from embedkit.objectives.base import ObjectiveBatch as Batch

        z = {name: outputs[name] for name in self.names}
        owner, position = batch.owner["anchor"], batch.places["anchor"][:, 0]
        place = {"seed": batch.seed, "step": batch.step, "total_steps": batch.total_steps, "epoch": batch.epoch}
        own = Batch.of(z, document_id=owner, position=position, **place)
        return {"segments": parts["loss"](z, own).loss * batch.share}
