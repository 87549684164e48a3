"""CSR: sparse codes of an encoder's vectors, by a TopK autoencoder with a contrast on the codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, NotNegative
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.pairs import role_views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("csr")
class CSR(Method):
    """Contrastive sparse representation (Wen et al. 2025, ICML).

    The encoder's vector x (d) becomes a code z of ``expansion * d`` latents of which the `k` largest are kept
    (`embedkit.models.heads.sparse_code.SparseCode`; saved with the model, so that `encode` gives codes). The loss is
    ``MSE(x, x'_k) + wide * MSE(x, x'_4k) + dead * NMSE(x'_aux, x - sg(x'_k) + sg(b_pre))``, each the mean over the
    views, beside the objective on the codes. x'_aux is rebuilt from the `k_aux` largest of the latents that were in no
    4k code for more than `dead_after` steps; NMSE is divided by the variance of its target over the batch. In the
    official code each of about three forward passes of a step advances that count, to 30.

    Rows without a positive are their own: the contrast then only pushes codes of different texts apart.

    Parameters
    ----------
    k, k_aux : int
        Latents of a code, and of the auxiliary one.
    expansion : int
        Latents for each number of the encoder's vector.
    wide, dead : float
        Weights of the losses of the 4k code and of the dead latents.
    dead_after : int
        Steps without activity after which a latent is dead.
    train_encoder : bool
        Whether the encoder is trained too; frozen it reads texts as `encode` does, without dropout.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["csr"]()
    >>> sorted(method.contract.requires), method.objective["terms"][0]["name"]
    (['anchor'], 'ntxent')
    """

    paper: ClassVar[str] = "Wen et al. 2025, ICML, Beyond Matryoshka (arXiv 2503.01776), section 3"
    contract: ClassVar[Contract] = Contract(frozenset({"anchor"}), frozenset({"positive", "negatives", "label"}))
    objective: ClassVar[dict[str, Any]] = {
        "name": "sum", "terms": [{"name": "ntxent", "temperature": 0.2, "weight": 0.1}],
    }  # fmt: skip
    takes_parts: ClassVar[bool] = False

    def __init__(
        self, k: Count = 32, k_aux: Count = 1024, expansion: Count = 4, wide: NotNegative = 1 / 8,
        dead: NotNegative = 1 / 32, dead_after: Count = 10, train_encoder: bool = False,
    ) -> None:  # fmt: skip
        self.k, self.k_aux, self.expansion, self.wide, self.dead = k, k_aux, expansion, wide, dead
        self.dead_after, self.train_encoder = dead_after, train_encoder

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def adapt(self, model: Model) -> None:
        from embedkit.models.heads.sparse_code import SparseCode, sparse_code_of
        from embedkit.models.modules.text import TextEncoder

        if not isinstance(model, TextEncoder):
            raise ModelError(f"a {model.kind} model takes no layer of codes", remedy="use a transformers encoder")
        if self.train_encoder and any(layer.train_only for layer in model.layers):
            raise ModelError("it has layers of training only, whose vectors `encode` does not give",
                             where="method.train_encoder", remedy="leave it out, or model.head")  # fmt: skip
        own = sparse_code_of(model)
        if own is None:
            own = SparseCode(model.dim, self.expansion * model.dim, self.k)
            model.dense.append(own)
        elif len(own.latent_bias) != self.expansion * len(own.pre_bias):
            raise ModelError(f"the model's code has {len(own.latent_bias)} latents", where="method.expansion",
                             remedy=f"give {len(own.latent_bias) // len(own.pre_bias)}")  # fmt: skip
        own.k = self.k
        if not self.train_encoder:
            model.requires_grad_(False)
            own.requires_grad_(True)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return role_views(rows)

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Of each text the 4k code, squared errors of both codes, x'_aux and its target: (n, expansion d + 2 + 2 d)."""
        import torch

        from embedkit.models.heads.sparse_code import largest, sparse_code_of, vectors_before

        layer: Any = sparse_code_of(model)
        x = vectors_before(layer, model, inputs, not self.train_encoder, **settings)
        latents = layer.latents(x)
        wide = largest(latents, 4 * self.k)
        near = layer.rebuild(largest(wide, self.k))
        errors = torch.stack([(x - one).square().mean(dim=1) for one in (near, layer.rebuild(wide))], dim=1)
        aux = layer.rebuild(largest(latents * layer.dead(self.dead_after), self.k_aux))
        return torch.cat([wide, errors, aux, x - near.detach() + layer.pre_bias.detach()], dim=1)

    def _cut(self, output: Tensor) -> tuple[Tensor, ...]:
        dim = (output.shape[1] - 2) // (self.expansion + 2)
        return output.split([self.expansion * dim, 2, dim, dim], dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        from embedkit.models.heads.sparse_code import largest

        codes = {name: largest(self._cut(z)[0], self.k) for name, z in outputs.items()}
        if "positive" not in codes:
            codes["positive"] = codes["anchor"]
            batch.owner["positive"], batch.keys["positive"] = batch.owner["anchor"], batch.keys["anchor"]
        return codes

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.models.heads.sparse_code import relative_error

        losses = []
        for _, errors, aux, target in (self._cut(z) for z in outputs.values() if len(z)):
            losses.append(torch.cat([errors.mean(dim=0), relative_error(aux, target)[None]]))
        near, wide, dead = torch.stack(losses).mean(dim=0) * batch.share
        return {"rebuilt": near, "rebuilt_wide": self.wide * wide, "rebuilt_dead": self.dead * dead}

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        import torch

        from embedkit.models.heads.sparse_code import sparse_code_of

        layer: Any = sparse_code_of(model)
        layer.count(torch.cat([self._cut(z)[0] for z in outputs.values()]))
