"""SG-OPT: the layers of a frozen copy of BERT guide its own [CLS] vector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Fidelity, NotNegative
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("sg-opt")
class SelfGuided(Method):
    """Self-guided contrastive learning (Kim, Yoo and Lee 2021, ACL, section 3, "SG-OPT").

    No augmentation. BERT is copied: the copy is frozen, the original is trained, its embedding layer excepted. Anchor
    of a sentence is the trained model's vector ([CLS]); its positives are the pooled token states of *every* layer of
    the copy, the embedding layer included. Both pass one head, Linear(d, 4096) - GELU - Linear(4096, 4096) - GELU,
    which is dropped at inference. The objective ``sg-opt`` contrasts an anchor with one layer of its own sentence at a
    time and all layers of the other sentences; ``regulariser`` x the *sum* of squared differences of all parameters
    from the copy's is added.

    Where code and paper differ, ``fidelity: code`` (what made the numbers) takes the mean of the tokens of a layer and
    leaves dropout on in the copy, which the training loop puts back into training mode; ``paper`` takes their maximum
    and runs the copy without dropout. Not imitated: the official early stop, which counts every evaluation lower than
    the one before. Published numbers train on all sentences of STS-B, those of dev and test included (unlabelled).

    Parameters
    ----------
    regulariser : float
        lambda of the squared distance from the start.
    hidden : int
        Size of the head's layers.
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["sg-opt"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'sg-opt')
    """

    paper: ClassVar[str] = "Kim, Yoo and Lee 2021, ACL, section 3"
    widths: ClassVar[Mapping[str, int]] = {"positive": 3}  # one vector a layer; how many, the model says
    takes_parts: ClassVar[bool] = False
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any]] = {"name": "sg-opt", "temperature": 0.01}

    def __init__(self, regulariser: NotNegative = 0.1, hidden: Count = 4096, fidelity: Fidelity = "code") -> None:
        self.regulariser, self.hidden, self.fidelity = regulariser, hidden, fidelity

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def adapt(self, model: Model) -> None:
        _embeddings(model).requires_grad_(False)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        head = nn.Sequential(
            nn.Linear(model.training_dim, self.hidden), nn.GELU(), nn.Linear(self.hidden, self.hidden), nn.GELU()
        )
        for layer in (head[0], head[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return nn.ModuleDict({"copy": copy.deepcopy(model).requires_grad_(False), "head": head})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts, owner = [row["anchor"] for row in rows], list(range(len(rows)))
        return {"anchor": View(texts, owner), "positive": View(texts, owner, settings={"layers": True}, guided=False)}

    def embed(
        self, model: Any, parts: nn.ModuleDict, inputs: Any, layers: bool = False, **settings: Any
    ) -> Tensor:  # fmt: skip
        """The trained model's vectors (n, D), or with `layers` the copy's pooled layers (n, (L + 1) H)."""
        if not layers:
            return model(inputs, **settings)
        import torch

        pool = "mean" if self.fidelity == "code" else "max"
        with torch.no_grad():
            settings = {"dropout": None if self.fidelity == "code" else 0.0, **settings}
            return _pooled_layers(parts["copy"], inputs, pool, **settings)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        """The head, on each layer by itself: (B, D) -> (B, P), (B, (L + 1) D) -> (B, (L + 1) P)."""
        anchor, layers = outputs["anchor"], outputs["positive"]
        head = parts["head"]
        return {"anchor": head(anchor), "positive": head(layers.unflatten(1, (-1, anchor.shape[1]))).flatten(1)}

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """The regulariser, a part of it with every chunk of anchors so that all of them add up to it."""
        if name != "anchor" or self.regulariser == 0:
            return {}
        start: Any = parts["copy"]
        share = len(inputs) / len(batch.owner["anchor"])
        return {"regulariser": self.regulariser * share * _squared_distance(model.encoder, start.encoder)}


def _pooled_layers(model: Any, inputs: Any, pool: str, **settings: Any) -> Tensor:
    """Mean or maximum of the token states of each text in every layer, the embedding layer first: (n, (L + 1) H).

    `settings` are those of `TextEncoder.token_states`.
    """
    import torch

    layers = tuple(range(model.encoder.config.num_hidden_layers + 1))
    states = model.token_states(inputs, layers, **settings)
    pools = []
    for layer in layers:
        blocks = states.layers[layer].split([group.tokens for group in states.plan.groups])
        shaped = [b.view(g.count, g.length, -1) for b, g in zip(blocks, states.plan.groups, strict=True)]
        pools.append(torch.cat([b.mean(1) if pool == "mean" else b.amax(1) for b in shaped]))  # (n, H)
    inverse = torch.from_numpy(states.plan.inverse()).to(pools[0].device)
    return torch.cat(pools, dim=1).index_select(0, inverse)


def _squared_distance(module: nn.Module, start: nn.Module) -> Tensor:
    """Sum of the squared differences of all trained parameters of a module from those it started with."""
    import torch

    pairs = zip(module.parameters(), start.parameters(), strict=True)
    return torch.stack([(now - then.detach()).square().sum() for now, then in pairs if now.requires_grad]).sum()


def _embeddings(model: Model) -> nn.Module:
    encoder = model.backbone
    layer = getattr(encoder, "embeddings", None)
    if encoder is None or layer is None:
        raise ModelError(f"a {model.kind} model has no layers to be guided by", remedy="use a BERT-like text encoder")
    return layer
