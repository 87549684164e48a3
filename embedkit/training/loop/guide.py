"""A second encoder that sees the same views without gradient: a frozen guide, or a running mean of the model.

Its embeddings reach the objective as ``batch.guide`` under the names of the views: for false-negative masks by margin
(GISTEmbed, Solatorio 2024), distillation targets, and momentum keys (MoCo, He et al. 2020, section 3.2).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from embedkit.config.recipe import GuideConfig
from embedkit.training.loop.cache import Chunking

if TYPE_CHECKING:
    from embedkit.training.loop.batches import Pool, StepBatch


class Guide(nn.Module):
    """The guide of a run.

    With ``ema`` it is a running mean of the model, moved once an optimiser step, saved in checkpoints; it draws its own
    dropout, as the momentum encoder of MoCo does. With ``model`` it is a frozen encoder with its own tokenizer, in
    evaluation mode unless ``dropout`` is set; its weights are not saved.

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

    def __init__(self, config: GuideConfig, model: nn.Module) -> None:
        super().__init__()
        self.decay = config.ema
        if config.ema is not None:
            self.mean: nn.Module | None = copy.deepcopy(model).requires_grad_(False)
            self._frozen: list[Any] = []
        else:
            from embedkit.factory import build

            assert config.model is not None
            self.mean = None
            frozen = build(config.model, 0).requires_grad_(False)
            self._frozen = [frozen.train(config.dropout)]  # in a list: not part of checkpoints

    @property
    def encoder(self) -> Any:
        """The guiding encoder."""
        return self.mean if self.mean is not None else self._frozen[0]

    @property
    def own_inputs(self) -> bool:
        """Whether inputs must be prepared by the guide itself: it has another tokenizer than the model."""
        return self.mean is None

    def place(self, device: torch.device) -> None:
        """Move a frozen guide, which is no registered part, to the device."""
        self.encoder.to(device)

    @torch.no_grad()
    def embed(
        self, batch: StepBatch, chunking: Chunking, autocast: Any, device: torch.device,
        embed: Callable[[Any, Any], Tensor] = lambda encoder, inputs: encoder(inputs),
    ) -> dict[str, Tensor]:  # fmt: skip
        """What `embed` makes of this process's views with the guiding encoder, name -> (n_name, D')."""
        vectors: dict[str, Tensor] = {}
        for pool in batch.guide_pools or [pool for pool in batch.pools if pool.guided]:
            outputs = self._pool(pool, chunking, autocast, device, embed)
            sizes = [count for _, count in pool.names]
            vectors.update(zip([name for name, _ in pool.names], outputs.split(sizes), strict=True))
        return vectors

    def _pool(
        self, pool: Pool, chunking: Chunking, autocast: Any, device: torch.device, embed: Callable[[Any, Any], Tensor]
    ) -> Tensor:  # fmt: skip
        whole: Tensor | None = None
        for index in chunking.cut(pool):
            with autocast():
                part = embed(self.encoder, pool.inputs.select(index).to(device))
            part = part if part.dtype == torch.float64 else part.float()
            whole = part.new_empty(len(pool.inputs), part.shape[1]) if whole is None else whole
            whole[torch.as_tensor(index, device=part.device)] = part
        assert whole is not None
        return whole

    @torch.no_grad()
    def after_update(self, model: nn.Module) -> None:
        """Move the running mean towards the model; buffers are copied."""
        if self.mean is None or self.decay is None:
            return
        now_all = [p.full_tensor() if hasattr(p, "full_tensor") else p.detach() for p in model.parameters()]
        torch._foreach_lerp_(list(self.mean.parameters()), now_all, 1.0 - self.decay)
        for own, now in zip(self.mean.buffers(), model.buffers(), strict=True):
            own.copy_(now)
