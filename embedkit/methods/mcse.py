"""MCSE: SimCSE on text, grounded by a few image-caption pairs in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Fidelity, Positive
from embedkit.data.schema.contract import Contract
from embedkit.errors import DataError
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("mcse")
class MCSE(Method):
    """Multimodal contrastive learning of sentence embeddings (Zhang et al. 2022, NAACL, section 3).

    Rows are sentences, and captions with the *features* of their image: numbers of a frozen image encoder, computed
    before (the paper: torchvision's ResNet-50 without its last layer, 2048 numbers), in a column with the role
    ``features``. Every row gives SimCSE's dropout pair and its InfoNCE. Rows with features add ``weight`` times
    ``L_M = 1/2 [CE(cos(g2(h), v) / t) + CE(cos(g2(h'), v) / t)]``, text to image only, the other images of the batch as
    negatives, v = g3(features). The grounding heads g2 = Linear(d, 256) + Tanh on the *raw* pooled vector and g3 =
    Linear(features, 256) + Tanh are dropped at inference, as is the recipe's train-only tanh head g1.

    Data: one source of sentences and one of captions, with ``data.batches_from: one-source``, so that a batch is all
    text or all pairs. The official code makes every s-th batch one of pairs, here their places in an epoch are random.
    Code and paper differ in one more thing: ``fidelity: code`` takes the mean over the two dropout views, to which the
    published ``weight`` belongs, ``paper`` their sum.

    Parameters
    ----------
    weight : float
        lambda: 0.01 beside wiki text, 0.05 for captions alone.
    size : int
        Numbers of a feature vector.
    shared : int
        Size of the shared space.
    temperature : float
        t.
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["mcse"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'infonce')
    """

    paper: ClassVar[str] = "Zhang et al. 2022, NAACL, section 3"
    contract: ClassVar[Contract] = Contract(accepts=frozenset({"features"}))
    objective: ClassVar[dict[str, Any]] = {"name": "infonce", "temperature": 0.05}

    def __init__(
        self, weight: Positive = 0.01, size: Count = 2048, shared: Count = 256, temperature: Positive = 0.05,
        fidelity: Fidelity = "code",
    ) -> None:  # fmt: skip
        self.size, self.shared, self.temperature = size, shared, temperature
        self.weight = weight * (1.0 if fidelity == "code" else 2.0)

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    @property
    def feature_size(self) -> int:
        return self.size

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return self.provides

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        width = model.hidden_size
        return nn.ModuleDict({"text": nn.Linear(width, self.shared), "image": nn.Linear(self.size, self.shared)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts, owner = [row["anchor"] for row in rows], list(range(len(rows)))
        if "features" not in rows[0]:
            raise DataError("no source has image features", where="data.train",
                            remedy="map a column of numbers to the role features")  # fmt: skip
        pictured = [i for i, row in enumerate(rows) if row["features"] is not None]
        features = [np.asarray(rows[i]["features"], dtype=np.float32) for i in pictured]
        for i, vector in zip(pictured, features, strict=True):
            if vector.shape != (self.size,):
                raise DataError(
                    f"{len(vector)} features of {rows[i]['anchor'][:40]!r}", where="role 'features'",
                    remedy=f"give {self.size} everywhere, or set method.size",
                )  # fmt: skip
        image = View(features, pictured, tower="image", guided=False)
        return {"anchor": View(texts, owner), "positive": View(texts, owner), "image": image}

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        if name != "image":
            return model.prepare(view.inputs, view.prompt)
        import torch

        from embedkit.models.inputs.inputs import Inputs

        count = len(view.inputs)
        features = np.stack(view.inputs) if count else np.zeros((0, self.size), np.float32)
        # one token that nobody reads stands for an image
        return Inputs(torch.zeros(count, dtype=torch.int64), np.arange(count + 1), data={"features": features})

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Of a text the projected and the raw vector (n, D + H), of an image its features (n, size)."""
        import torch

        if "features" in inputs.data:
            return torch.as_tensor(inputs.data["features"], device=inputs.device)
        raw = model.pooled(inputs, **settings)
        return torch.cat([model.project(raw), raw], dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        head: Any = parts["text"]
        return {name: outputs[name][:, : -head.in_features] for name in ("anchor", "positive")}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Grounding of the rows that have an image, this process's share."""
        import torch
        import torch.nn.functional as F

        rows = batch.owner["image"]  # (P,) of the whole batch
        if len(rows) == 0:
            return {}
        heads: Any = parts
        head, other = heads["text"], heads["image"]
        images = F.normalize(torch.tanh(other(outputs["image"].to(other.weight.dtype))), dim=1)
        mine = ((rows >= batch.rows.start) & (rows < batch.rows.stop)).nonzero()[:, 0]
        total = images.sum() * 0.0
        for name in ("anchor", "positive"):
            raw = outputs[name][rows[mine], -head.in_features :]
            texts = F.normalize(torch.tanh(head(raw)), dim=1)
            logits = texts @ images.T / self.temperature  # (n, P)
            total = total + F.cross_entropy(logits, mine, reduction="sum") / (2 * len(rows))
        return {"grounding": self.weight * total}
