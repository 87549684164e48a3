"""One optimiser step up to the gradients: embed, gather, loss, and the way back.

Everything a step needs to be exact for any number of chunks and processes is in `TrainStep.gradients`, top to bottom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from embedkit.methods.base import Method
from embedkit.models.base import Model
from embedkit.objectives.base import LossOutput, Objective, ObjectiveBatch
from embedkit.training.batches import Pool, StepBatch
from embedkit.training.cache import CachedEmbeddings, Chunking
from embedkit.training.distributed import World
from embedkit.training.guide import Guide


class Bundle(nn.Module):
    """All that is trained and saved in a run: the model, the method's parts, the objective, and a guide that follows.

    Its state dict has keys ``model.*``, ``parts.*``, ``objective.*``, ``guide.*``; parameter groups match these names.
    """

    def __init__(self, model: Model, parts: nn.ModuleDict, objective: Objective, guide: Guide | None = None) -> None:
        super().__init__()
        self.model: Model = model
        self.parts: nn.ModuleDict = parts
        self.objective: Objective = objective
        self.guide: Guide | None = guide


@dataclass
class StepResult:
    """What a step says of itself; tensors stay on the device until they are logged.

    Attributes
    ----------
    loss : Tensor ()
        This process's share of the loss.
    terms, metrics : dict of str to Tensor ()
        As in `LossOutput`; terms are shares too.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)


class TrainStep:
    """Computes the exact gradient of a batch into the parameters of a bundle.

    Parameters
    ----------
    autocast : callable
        Makes the context of the encoder's forward pass (mixed precision).
    loss_scale : callable
        The factor that fp16 multiplies the loss with; 1 otherwise. Cached gradients already carry it.
    defer_sync : callable (bool), optional
        Tells a sharding engine whether to communicate in the coming backward passes.
    equal_passes : bool
        Whether all processes must run equally many forward passes, because they communicate in each.
    """

    def __init__(
        self, bundle: Bundle, method: Method, world: World, chunking: Chunking, *,
        autocast: Callable[[], Any], loss_scale: Callable[[], float] = lambda: 1.0,
        defer_sync: Callable[[bool], None] | None = None, total_steps: int = 1, equal_passes: bool = False,
    ) -> None:  # fmt: skip
        self.bundle, self.method, self.world, self.chunking = bundle, method, world, chunking
        self.autocast, self.loss_scale, self.total_steps = autocast, loss_scale, total_steps
        self._defer_sync = defer_sync or (lambda deferred: None)
        self._passes = (lambda own: max(world.counts(own))) if equal_passes else None
        self._seen: tuple[dict[str, Tensor], ObjectiveBatch] | None = None

    def gradients(self, batch: StepBatch) -> StepResult:
        """Forward and backward of one batch: parameter gradients are summed over processes when this returns."""
        self._defer_sync(True)
        cached = self._cached(batch)
        local = cached.forward()  # name -> (n_name, D), this process

        counts = {name: self.world.counts(len(z)) for name, z in local.items()}
        whole = {name: self._leaf(self.world.gather(z, counts[name])) for name, z in local.items()}
        known = self._objective_batch(batch, counts)
        known.guide = self._guide(batch, counts)
        projected = self.method.project(whole, self.bundle.parts)
        seen = {name: self._leaf(z) for name, z in projected.items()}

        output: LossOutput = self.bundle.objective(seen, known)
        scale = self.loss_scale()
        if output.loss.requires_grad:
            (output.loss * scale).backward()
        extra = self._local_losses(batch, seen, counts, scale)

        self._through_projection(whole, projected, seen)
        own = {name: self.world.own_sum(_gradient(whole[name]), counts[name]) for name in local}
        cached.backward({name: own[name].to(local[name].dtype) for name in local})
        self.world.sum_gradients(self.bundle.parameters())
        self._seen = ({name: z.detach() for name, z in seen.items()}, known)
        terms = {**output.terms, **extra}
        return StepResult(output.loss.detach() + sum(extra.values()), terms, output.metrics)

    def after_update(self) -> None:
        """Advance the objective's state and the guide, once an optimiser step."""
        if self.bundle.guide is not None:
            self.bundle.guide.after_update(self.bundle.model)
        if self._seen is not None:
            with torch.no_grad():
                self.bundle.objective.after_step(*self._seen)
            self._seen = None

    def _cached(self, batch: StepBatch) -> CachedEmbeddings:
        def encode(pool: Pool, inputs: Any) -> Tensor:
            with self.autocast():
                return self.bundle.model(inputs.to(self.world.device), **pool.settings)

        weight = next(self.bundle.model.parameters())
        empty = torch.empty(0, self.bundle.model.training_dim, dtype=weight.dtype, device=self.world.device)
        return CachedEmbeddings(
            encode, batch.pools, self.chunking, empty, lambda: self._defer_sync(False), self._passes
        )

    def _guide(self, batch: StepBatch, counts: dict[str, list[int]]) -> dict[str, Tensor]:
        if self.bundle.guide is None:
            return {}
        own = self.bundle.guide.embed(batch, self.chunking, self.autocast, self.world.device)
        return {name: self.world.gather(z, counts[name]) for name, z in own.items()}

    @staticmethod
    def _leaf(tensor: Tensor) -> Tensor:
        """A detached copy that wants a gradient, in at least float32."""
        wide = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
        return wide.requires_grad_()

    def _objective_batch(self, batch: StepBatch, counts: dict[str, list[int]]) -> ObjectiveBatch:
        device, gather = self.world.device, self.world.gather
        rows = self.world.counts(len(batch.ids))
        labels = {name: gather(values.to(device), rows) for name, values in batch.labels.items()}
        return ObjectiveBatch(
            size=batch.size,
            rows=slice(batch.offset, batch.offset + len(batch.ids)),
            owner={name: gather(owner.to(device), counts[name]) for name, owner in batch.owner.items()},
            keys={name: gather(key.to(device), counts[name]) for name, key in batch.keys.items()},
            ids=gather(batch.ids.to(device), rows),
            score=labels.get("score"),
            label=labels.get("label"),
            group=labels.get("group"),
            step=batch.step,
            total_steps=self.total_steps,
            epoch=batch.epoch,
        )

    def _local_losses(
        self, batch: StepBatch, seen: dict[str, Tensor], counts: dict[str, list[int]], scale: float
    ) -> dict[str, Tensor]:
        """Losses of this process's own rows, chunk by chunk, into the gradients of `seen`; detached sums by view."""
        found: dict[str, Tensor] = {}
        size = self.chunking.size if isinstance(self.chunking.size, int) else None
        for name, view in batch.views.items():
            start, total = sum(counts[name][: self.world.rank]), sum(counts[name])
            step = size or max(1, len(view.inputs))
            for first in range(0, len(view.inputs), step):
                inputs = view.inputs[first : first + step]
                embeddings = seen[name][start + first : start + first + len(inputs)]
                loss = self.method.local_loss(name, embeddings, inputs, self.bundle.parts)
                if loss is None:
                    break
                share = loss / total
                (share * scale).backward()
                found[f"{name}_local"] = found.get(f"{name}_local", torch.zeros_like(share.detach())) + share.detach()
        return found

    @staticmethod
    def _through_projection(whole: dict[str, Tensor], projected: dict[str, Tensor], seen: dict[str, Tensor]) -> None:
        """Carry the gradients of the projected embeddings back to the gathered ones and to the parts."""
        moved = [name for name in projected if projected[name].requires_grad and projected[name] is not whole.get(name)]
        for name in projected:
            if name not in moved and name in whole:
                whole[name].grad = seen[name].grad
        if moved:
            torch.autograd.backward([projected[n] for n in moved], [_gradient(seen[n]) for n in moved])


def _gradient(tensor: Tensor) -> Tensor:
    """The gradient of a leaf, zeros where nothing reached it."""
    return tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
