"""Compression of vectors: shorter ones that are as near to each other as the long ones were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Positive
from embedkit.data.schema.contract import Contract
from embedkit.data.vectors.rows import column_of
from embedkit.errors import RecipeError
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("compress")
class Compress(Method):
    """A student of fewer numbers whose similarities within a batch follow those of the vectors that it reads.

    For each row i of a batch, with cosines s of the student and t of the teacher to all other rows j,

        loss = mean_i KL(softmax_j(t_ij / T) || softmax_j(s_ij / T)),

    the similarity distribution of CompRess (Abbasi Koohpayegani et al. 2020, section 3), whose anchor points are a
    queue; here they are the other rows of the batch. The teacher is the input itself, or the role ``features``: the
    numbers of a larger encoder for the same row.

    Parameters
    ----------
    temperature : float
        T of both distributions.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["compress"](temperature=0.05)
    >>> sorted(method.contract.requires), method.objective
    (['anchor'], None)
    """

    paper: ClassVar[str] = "Abbasi Koohpayegani et al. 2020, NeurIPS, section 3"
    contract: ClassVar[Contract] = Contract(accepts=frozenset({"features"}))
    objective: ClassVar[dict[str, Any] | None] = None

    def __init__(self, temperature: Positive = 0.05) -> None:
        self.temperature = temperature
        self.student = 0

    def adapt(self, model: Model) -> None:
        if model.input_width is None:
            what = f"compress reads vectors, and the model is of kind {model.kind}"
            raise RecipeError(what, where="model.kind", remedy="set model: {kind: feature, feature: {dim: 64}}")
        self.student = model.training_dim

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        data: Mapping[str, Any] = {}
        if rows and "features" in rows[0]:
            data = {"teacher": np.asarray(column_of(rows, "features"), np.float32)}
        return {"anchor": View(column_of(rows, "anchor"), list(range(len(rows))), data=dict(data))}

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Student and teacher of each row side by side, (n, D + W)."""
        import torch

        z = model(inputs, **settings)
        features = inputs.data.get("teacher")
        teacher = inputs.values if features is None else torch.from_numpy(features)
        return torch.cat([z, teacher.to(z)], dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {"anchor": outputs["anchor"][:, : self.student]}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch.nn.functional as F

        teacher = outputs["anchor"][:, self.student :].detach()
        scores = [self._log_shares(z, batch.rows) for z in (embeddings["anchor"], teacher)]
        loss = F.kl_div(scores[0], scores[1], reduction="sum", log_target=True) / batch.size
        return {"similarity": loss}

    def _log_shares(self, z: Tensor, rows: slice) -> Tensor:
        """Log of the share that each other row has in the similarities of these rows, (n, B - 1)."""
        import torch

        unit = torch.nn.functional.normalize(z, dim=1)
        cosines = unit[rows] @ unit.T / self.temperature
        place = torch.arange(len(unit), device=z.device)
        others = place[None] != place[rows, None]
        return cosines[others].view(len(cosines), -1).log_softmax(dim=1)
