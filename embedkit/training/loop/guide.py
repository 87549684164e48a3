"""A second encoder that sees the same views without gradient: a frozen guide, or a running mean of the model.

Its embeddings reach the objective as ``batch.guide`` under the names of the views: for false-negative masks by margin
(GISTEmbed, Solatorio 2024), distillation targets, and momentum keys (MoCo, He et al. 2020, section 3.2).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedkit.config.recipe import GuideConfig
from embedkit.training.loop.cache import Chunking

if TYPE_CHECKING:
    from embedkit.training.loop.batches import Pool, StepBatch


class Guide(nn.Module):
    """The guide of a run.

    With ``ema`` it is a running mean of the model and of `followed` parts of the method, moved once an optimiser step,
    saved in checkpoints; it draws its own dropout, as the momentum encoder of MoCo does. With ``ema_end`` its decay
    goes there from ``ema`` along a half cosine (BYOL, Grill et al. 2020, section 3.2). With ``model`` it is a frozen
    encoder with its own tokenizer, in evaluation mode unless ``dropout`` is set; its weights are not saved. With
    ``models`` it is several of them (RankCSE, Liu et al. 2023, section 3.3, weighs the similarities of two teachers).

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> model = build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> guide = Guide(GuideConfig(ema=0.9), model)
    >>> _ = model.embedding.weight.data.add_(1.0)
    >>> guide.after_update(model)
    >>> round((model.embedding.weight - guide.encoder.embedding.weight).mean().item(), 3)
    0.9
    """

    def __init__(
        self, config: GuideConfig, model: nn.Module, followed: Mapping[str, nn.Module] | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.decay, self.last_decay = config.ema, config.ema_end
        self.parts = nn.ModuleDict()
        if config.ema is not None:
            self.mean: nn.Module | None = copy.deepcopy(model).requires_grad_(False)
            self.parts.update({name: copy.deepcopy(part) for name, part in (followed or {}).items()})
            self.parts.requires_grad_(False)
            self._frozen: list[Any] = []
        else:
            from embedkit.factory import build

            self.mean = None
            teachers = [build(one, 0).requires_grad_(False) for one in config.frozen()]
            self._frozen = [teacher.train(config.dropout) for teacher in teachers]  # in a list: not part of checkpoints
        weights = config.weights or [1.0] * len(self.encoders)
        self._factors = [math.sqrt(weight / sum(weights)) for weight in weights]

    @property
    def encoders(self) -> list[Any]:
        """The guiding encoders: several only where they are frozen."""
        return [self.mean] if self.mean is not None else self._frozen

    @property
    def encoder(self) -> Any:
        """The first guiding encoder."""
        return self.encoders[0]

    @property
    def own_inputs(self) -> list[Any]:
        """The encoders that must prepare inputs themselves, since they have another tokenizer than the model."""
        return self._frozen

    @property
    def training_dim(self) -> int:
        """Size of the guide's vectors, before the method changes them."""
        return int(sum(encoder.training_dim for encoder in self.encoders))

    def place(self, device: torch.device) -> None:
        """Move frozen guides, which are no registered parts, to the device."""
        for encoder in self.encoders:
            encoder.to(device)

    @torch.no_grad()
    def embed(
        self, batch: StepBatch, chunking: Chunking, autocast: Any, device: torch.device,
        embed: Callable[[Any, Any], Tensor] = lambda encoder, inputs: encoder(inputs),
    ) -> dict[str, Tensor]:  # fmt: skip
        """What `embed` makes of this process's views with the guiding encoder, name -> (n_name, D').

        Of several encoders the unit vectors stand side by side, each times the root of its share of the weights: the
        cosine of two such vectors is the weighted mean of the encoders' cosines.
        """
        every: list[dict[str, Tensor]] = []
        shared = [pool for pool in batch.pools if pool.guided]  # the model's own inputs
        pools_of_each = batch.guide_pools or [shared] * len(self.encoders)
        for encoder, pools in zip(self.encoders, pools_of_each, strict=True):
            vectors: dict[str, Tensor] = {}
            for pool in pools:
                outputs = self._pool(encoder, pool, chunking, autocast, device, embed)
                sizes = [count for _, count in pool.names]
                vectors.update(zip([name for name, _ in pool.names], outputs.split(sizes), strict=True))
            every.append(vectors)
        if len(every) == 1:
            return every[0]
        factors = list(zip(every, self._factors, strict=True))
        return {
            name: torch.cat([factor * functional.normalize(own[name], dim=-1) for own, factor in factors], dim=1)
            for name in every[0]
        }

    def _pool(
        self, encoder: Any, pool: Pool, chunking: Chunking, autocast: Any, device: torch.device,
        embed: Callable[[Any, Any], Tensor],
    ) -> Tensor:  # fmt: skip
        whole: Tensor | None = None
        for index in chunking.cut(pool):
            with autocast():
                part = embed(encoder, pool.inputs.select(index).to(device))
            part = part if part.dtype == torch.float64 else part.float()
            whole = part.new_empty(len(pool.inputs), part.shape[1]) if whole is None else whole
            whole[torch.as_tensor(index, device=part.device)] = part
        assert whole is not None
        return whole

    def decay_at(self, progress: float) -> float | None:
        """The decay when this share of the steps is done; None for a guide that does not move.

        >>> from embedkit.training.loop.guide import Guide, GuideConfig
        >>> guide = Guide(GuideConfig(ema=0.9, ema_end=1.0), torch.nn.Linear(1, 1))
        >>> [round(guide.decay_at(share), 3) for share in (0.0, 0.5, 1.0)]
        [0.9, 0.95, 1.0]
        """
        if self.decay is None or self.last_decay is None:
            return self.decay
        return self.last_decay - (self.last_decay - self.decay) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2

    @torch.no_grad()
    def after_update(
        self, model: nn.Module, followed: Mapping[str, nn.Module] | None = None, progress: float = 0.0
    ) -> None:  # fmt: skip
        """Move the running means towards the model and the followed parts; buffers are copied.

        `progress` is the share of the run's steps before this one.
        """
        decay = self.decay_at(progress)
        if self.mean is None or decay is None:
            return
        for mean, module in (
            (self.mean, model),
            *((self.parts[name], part) for name, part in (followed or {}).items()),
        ):
            now_all = [p.full_tensor() if hasattr(p, "full_tensor") else p.detach() for p in module.parameters()]
            if now_all:
                torch._foreach_lerp_(list(mean.parameters()), now_all, 1.0 - decay)
            for own, now in zip(mean.buffers(), module.buffers(), strict=True):
                own.copy_(now)
