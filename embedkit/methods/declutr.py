"""DeCLUTR: spans of long documents, and masked words in the anchors' own pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from embedkit.config.settings import Count
from embedkit.data.schema.contract import Contract
from embedkit.errors import DataError, ModelError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.views.spans import anchor_spans, positive_span

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("declutr")
class DeCLUTR(Method):
    """DeCLUTR (Giorgi et al. 2021, ACL, section 3).

    Of each document `anchors` spans far apart, mostly long, with `positives` spans each that overlap, touch or lie
    inside them, mostly short (`embedkit.views.spans`, in tokens of the model). The raw vectors of an anchor's positives
    are averaged; all other spans of the batch are negatives, those of the same document too, which are the hard ones.
    Beside it the masked-word loss, whose one forward pass of masked anchors also gives their vectors; positives are not
    masked.

    A document needs ``2 x anchors x most`` tokens, 2,048 as published: a shorter one is refused.

    Parameters
    ----------
    anchors, positives : int
        Anchors of a document, positives of an anchor.
    least, most : int
        Tokens of a span.
    rate, weight : float
        Share of an anchor's tokens to guess, and factor of that loss; a weight of 0 leaves anchors whole.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["declutr"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("temperature")
    (['sentences'], 0.05)
    """

    paper: ClassVar[str] = "Giorgi et al. 2021, ACL, DeCLUTR, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"sentences"}))
    objective: ClassVar[dict[str, Any]] = {"name": "ntxent", "temperature": 0.05}

    def __init__(
        self, anchors: Count = 2, positives: Count = 2, least: Count = 32, most: Count = 512,
        rate: Annotated[float, Field(gt=0, lt=1)] = 0.15, weight: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:  # fmt: skip
        self.anchors, self.positives, self.least, self.most = anchors, positives, min(least, most), most
        self.rate, self.weight, self.anchors_a_row = rate, weight, anchors

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def adapt(self, model: Model) -> None:
        from embedkit.formats.transformers.masked_head import masked_head
        from embedkit.models.modules.text import TextEncoder

        if not isinstance(model, TextEncoder) or not model.tokenizer.is_fast:
            raise ModelError(f"this {model.kind} model has no fast tokenizer", remedy="use a transformers encoder")
        if self.weight:
            model.mask_head = masked_head(model)

    def notes_of_rows(self, model: Model, rows: Sequence[Row]) -> list[str]:
        tokens = [len(self._offsets(model, _text(row))) for row in rows]
        needed = 2 * self.anchors * self.most
        short = sum(count < needed for count in tokens)
        line = f"documents of {min(tokens):,} to {max(tokens):,} tokens; declutr needs {needed:,} of each"
        return [f"{line}, {short} of the first {len(tokens)} have fewer" if short else line]

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        draws = [int(random(i).integers(2**62)) for i in range(len(rows))]
        views = {}
        for name, count in (("anchor", self.anchors), ("positive", self.anchors * self.positives)):
            owner = [i for i in range(len(rows)) for _ in range(count)]
            spans = np.asarray([(draw, place) for draw in draws for place in range(count)], np.int64)
            texts = [_text(rows[i]) for i in owner]
            views[name] = View(texts, owner, data={"span": spans.reshape(-1, 2)})
        views["anchor"].settings["masked"] = True
        return views

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        texts, spans = [], {}
        for text, (draw, place) in zip(view.inputs, view.data["span"].tolist(), strict=True):
            if draw not in spans:
                spans[draw] = self._spans(model, text, draw)
            texts.append(spans[draw][name][place])
        return model.prepare(texts, view.prompt)

    def _offsets(self, model: Any, text: str) -> list[tuple[int, int]]:
        """Where each token of a document starts and stops, in characters."""
        settings = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        return list(model.tokenizer(text, **settings)["offset_mapping"])

    def _spans(self, model: Any, text: str, draw: int) -> dict[str, list[str]]:
        """The texts of the anchors of a document, and of their positives."""
        offsets, random = self._offsets(model, text), np.random.default_rng(draw)
        needed = 2 * self.anchors * self.most
        if len(offsets) < needed:
            raise DataError(
                f"the document has {len(offsets)} tokens, {self.anchors} anchors of up to {self.most} need {needed}",
                where=f"document {text[:60]!r}", remedy="leave short documents out, or lower method.most",
            )  # fmt: skip
        limits: Any = {"least": self.least, "most": self.most}
        anchors = anchor_spans(len(offsets), random, anchors=self.anchors, **limits)
        around = [positive_span(len(offsets), a, random, **limits) for a in anchors for _ in range(self.positives)]
        cuts = {"anchor": anchors, "positive": around}
        return {name: [text[offsets[a][0] : offsets[b - 1][1]] for a, b in spans] for name, spans in cuts.items()}

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Of a positive its vector (n, D); of an anchor the sum and number of its masked-word losses too (n, D + 2)."""
        if not (settings.pop("masked", False) and self.weight):
            return model(inputs, **settings)  # type: ignore[no-any-return]
        from embedkit.methods.common.masked_pass import vectors_and_losses

        return vectors_and_losses(model, inputs, self.rate, **settings)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        from embedkit.methods.common.parts import a_row_each

        a_row_each(batch, self.anchors)
        size = outputs["positive"].shape[1]
        mean = outputs["positive"].reshape(-1, self.positives, size).mean(dim=1)
        return {"anchor": outputs["anchor"][:, :size], "positive": mean}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        if not self.weight:
            return {}
        losses, counts = outputs["anchor"][:, -2:].T
        return {"mlm": self.weight * losses[batch.rows].sum() / counts.sum().detach().clamp(min=1.0)}


def _text(row: Row) -> str:
    return " ".join(row["sentences"])
