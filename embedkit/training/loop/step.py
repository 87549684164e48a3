"""One optimiser step up to the gradients: embed, gather, loss, and the way back.

Everything a step needs to be exact for any number of chunks and processes is in `TrainStep.gradients`, top to bottom.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.methods.base import Method
from embedkit.models.base import Model
from embedkit.models.execution.recompute import Recompute
from embedkit.models.inputs.inputs import Inputs
from embedkit.objectives.base import LossOutput, Objective, ObjectiveBatch
from embedkit.objectives.compose.mixed_pairs import evaluated
from embedkit.training.loop.batches import Pool, StepBatch
from embedkit.training.loop.cache import CachedEmbeddings, Chunking
from embedkit.training.loop.guide import Guide
from embedkit.training.parallel.distributed import World


class Bundle(nn.Module):
    """All that is trained and saved in a run: the model, the method's parts, the objective, and a guide that follows.

    Its state dict has keys ``model.*``, ``parts.*``, ``objective.*``, ``guide.*``; parameter groups match these names.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build as build_model
    >>> from embedkit.objectives import build
    >>> model = build_model(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> list(Bundle(model, nn.ModuleDict(), build("clip")).state_dict())
    ['model.embedding.weight', 'objective.scale.log_scale']
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

    Examples
    --------
    >>> result = StepResult(torch.tensor(2.5), terms={"mlm": torch.tensor(0.5)})
    >>> result.loss, list(result.terms)
    (tensor(2.5000), ['mlm'])
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def after(self, earlier: StepResult | None) -> StepResult:
        """This step as one with an earlier one on the same batch: losses are summed."""
        if earlier is None:
            return self
        terms = {name: value + earlier.terms.get(name, 0) for name, value in self.terms.items()}
        return StepResult(self.loss + earlier.loss, {**earlier.terms, **terms}, {**earlier.metrics, **self.metrics})


@dataclass(frozen=True)
class Latest:
    """The gathered batch of the current step, without gradient: encoder outputs, embeddings, and what is known.

    Examples
    --------
    >>> z = torch.ones(2, 4)
    >>> latest = Latest({"anchor": z}, {"anchor": z}, ObjectiveBatch.of({"anchor": z}))
    >>> latest.batch.size
    2
    """

    outputs: dict[str, Tensor]
    embeddings: dict[str, Tensor]
    batch: ObjectiveBatch


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
    asked_to_stop : callable () -> bool
        Whether this process was asked to end the run; `stop` then is True on all processes after the step.
    recompute : Recompute, optional
        Computes outputs of norms and activations again instead of keeping them.

    Attributes
    ----------
    latest : Latest or None
        The batch of the current step, from before its loss until its update.

    Examples
    --------
    >>> import contextlib
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.data import RowBatch
    >>> from embedkit.factory import build as build_model
    >>> from embedkit.methods import methods
    >>> from embedkit.objectives import build
    >>> from embedkit.training.loop.batches import prepare
    >>> model = build_model(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> bundle, method = Bundle(model, nn.ModuleDict(), build("infonce")), methods["simcse-unsup"]()
    >>> step = TrainStep(bundle, method, World(), Chunking(size=1), autocast=contextlib.nullcontext)
    >>> rows = RowBatch([{"anchor": "a cat"}, {"anchor": "a dog"}], ids=[0, 1], size=2, offset=0, step=0)
    >>> result = step.gradients(prepare(rows, method, model, seed=1, epoch=0))
    >>> bool(result.loss > 0), model.embedding.weight.grad is not None
    (True, True)
    """

    def __init__(
        self, bundle: Bundle, method: Method, world: World, chunking: Chunking, *,
        autocast: Callable[[], Any], loss_scale: Callable[[], float] = lambda: 1.0,
        defer_sync: Callable[[bool], None] | None = None, total_steps: int = 1, equal_passes: bool = False,
        asked_to_stop: Callable[[], bool] = lambda: False,
        recompute: Recompute | None = None,
    ) -> None:  # fmt: skip
        self.recompute = recompute
        self.bundle, self.method, self.world, self.chunking = bundle, method, world, chunking
        self.autocast, self.loss_scale, self.total_steps = autocast, loss_scale, total_steps
        self._defer_sync = defer_sync or (lambda deferred: None)
        self._passes = (lambda own: max(world.counts(own))) if equal_passes else None
        self._stop_request, self.stop = asked_to_stop, False
        self.latest: Latest | None = None
        self._guide_parcel: dict[str, Tensor] = {}

    def gradients(self, batch: StepBatch) -> StepResult:
        """Forward and backward of one batch: parameter gradients are summed over processes when this returns."""
        self.latest = None
        self._defer_sync(True)
        chunks = self._cached(batch)
        local, counts = self._aligned(chunks.forward())  # name -> (n_name, K), this process

        own = {name: self._leaf(z) for name, z in local.items()}
        owner = {name: rows.to(self.world.device) - batch.offset for name, rows in batch.owner.items()}
        parcel, counts = self._counted(self.method.exchange(own, owner, self.bundle.parts), own, counts)
        whole = {name: self._leaf(self.world.gather(z.detach(), counts[name])) for name, z in parcel.items()}
        whole_batch = self._objective_batch(batch, counts)
        whole_batch.own = own
        if self.bundle.guide is not None:
            whole_batch.guide_parts = self.method.with_means(self.bundle.parts, dict(self.bundle.guide.parts.items()))
        whole_batch.own_guide, whole_batch.guide = self._guide(batch, counts, owner, whole_batch.guide_parts)
        if self.bundle.guide is not None:
            with torch.no_grad():
                whole_batch.guide = self.method.project_guide(whole_batch.guide, whole_batch, self.bundle.guide.parts)
        projected = self.method.project(whole, whole_batch, self.bundle.parts)
        whole_batch.guide_parcel = self._guide_parcel
        vectors = {name: z if z is whole.get(name) else self._leaf(z) for name, z in projected.items()}
        self.latest = Latest(_detached(whole), _detached(vectors), whole_batch)

        output: LossOutput = evaluated(self.bundle.objective, vectors, whole_batch)
        terms = self.method.terms(whole, vectors, whole_batch, self.bundle.parts)
        scale = self.loss_scale()
        loss = output.loss + sum(terms.values())
        if loss.requires_grad:
            _backward(loss, scale)
        extra = self._local_terms(batch, vectors, whole_batch, counts, scale)

        self._through_projection(whole, projected, vectors)
        self._through_exchange(whole, parcel, counts)
        chunks.backward({name: _gradient(own[name]).to(local[name].dtype) for name in local})
        self.world.sum_gradients(self.bundle.parameters())
        logged = {**output.terms, **_detached(terms), **extra}
        return StepResult(loss.detach() + sum(extra.values()), logged, output.metrics)

    def after_update(self) -> None:
        """Advance the state of objective, method and guide, once an optimiser step."""
        if self.bundle.guide is not None:
            steps = 0 if self.latest is None else self.latest.batch.step
            self.bundle.guide.after_update(
                self.bundle.model, self.method.followed_parts(self.bundle.parts), self._progress(steps)
            )
        if self.latest is not None:
            outputs, embeddings, whole_batch = self.latest.outputs, self.latest.embeddings, self.latest.batch
            with torch.no_grad():
                self.bundle.objective.after_step(embeddings, whole_batch)
                self.method.after_step(outputs, embeddings, whole_batch, self.bundle.model, self.bundle.parts)
            self.latest = None

    def _progress(self, steps: int) -> float:
        """The share of the run that so many steps are."""
        return steps / max(1, self.total_steps)

    def _aligned(self, local: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
        """Outputs, and the number of rows that each process has of them.

        A process without an input of a view takes the width and type of its output from those that have one.
        """
        mine = [number for z in local.values() for number in (len(z), z.shape[1], _TYPES.index(z.dtype))]
        every = self.world.tables(mine)
        counts = {name: [row[3 * i] for row in every] for i, name in enumerate(local)}
        outputs = {}
        for i, (name, z) in enumerate(local.items()):
            rows, width, kind = max(row[3 * i : 3 * i + 3] for row in every) if len(z) == 0 else (len(z), 0, 0)
            empty = len(z) == 0 and rows > 0
            outputs[name] = z.new_empty(0, width, dtype=_TYPES[kind]) if empty else z
        return outputs, counts

    def _counted(
        self, parcel: dict[str, Tensor], own: dict[str, Tensor], counts: dict[str, list[int]]
    ) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
        """What is exchanged, and the number of rows that each process has of it and of its own outputs."""
        if all(z is own.get(name) for name, z in parcel.items()):
            return parcel, counts
        parcel, sizes = self._aligned(parcel)
        return parcel, {**counts, **sizes}

    def _through_exchange(
        self, whole: dict[str, Tensor], parcel: dict[str, Tensor], counts: dict[str, list[int]]
    ) -> None:  # fmt: skip
        """Carry the gradients of what was gathered back to this process's own outputs."""
        names = [name for name, z in parcel.items() if z.requires_grad]
        gradients = [self.world.own_sum(_gradient(whole[name]), counts[name]) for name in parcel]
        by_name = dict(zip(parcel, gradients, strict=True))
        if names:
            torch.autograd.backward([parcel[name] for name in names], [by_name[name] for name in names])

    def _cached(self, batch: StepBatch) -> CachedEmbeddings:
        def encode(pool: Pool, inputs: Any) -> Tensor:
            with self.autocast(), self.recompute.context() if self.recompute else contextlib.nullcontext():
                return self.method.embed(
                    self.bundle.model, self.bundle.parts, inputs.to(self.world.device), **pool.settings
                )

        weight = next(self.bundle.model.parameters())
        empty = torch.empty(0, self.bundle.model.training_dim, dtype=weight.dtype, device=self.world.device)
        return CachedEmbeddings(
            encode, batch.pools, self.chunking, empty, lambda: self._defer_sync(False), self._passes
        )

    def _guide(
        self, batch: StepBatch, counts: dict[str, list[int]], owner: dict[str, Tensor], parts: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # fmt: skip
        """What the guide makes of this process's inputs, and its vectors of views, gathered; all that was exchanged is
        `_guide_parcel`."""
        guide = self.bundle.guide
        if guide is None:
            return {}, {}

        def embed(encoder: Any, inputs: Any) -> Tensor:
            return self.method.embed_guide(encoder, parts, inputs)

        own = guide.embed(batch, self.chunking, self.autocast, self.world.device, embed)
        with torch.no_grad():
            parcel, counts = self._counted(self.method.exchange(own, owner, parts, guide=True), own, counts)
        self._guide_parcel = {name: self.world.gather(z, counts[name]) for name, z in parcel.items()}
        return own, {name: z for name, z in self._guide_parcel.items() if name in batch.owner}

    @staticmethod
    def _leaf(tensor: Tensor) -> Tensor:
        """A detached copy that wants a gradient, in at least float32."""
        wide = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
        return wide.requires_grad_()

    def _objective_batch(self, batch: StepBatch, counts: dict[str, list[int]]) -> ObjectiveBatch:
        device, gather = self.world.device, self.world.gather
        # bad rows are dropped already, by each process on its own
        rows, stops = zip(*self.world.tables([len(batch.ids), self._stop_request()]), strict=True)
        self.stop = any(stops)
        offset, guide = sum(rows[: self.world.rank]), self.bundle.guide
        labels = {name: gather(values.to(device), rows) for name, values in batch.labels.items()}
        of_inputs = {
            name: gather(
                torch.cat([
                    torch.stack([owner - batch.offset + offset, batch.keys[name], batch.lengths[name]], dim=1),
                    batch.places.get(name, owner.new_zeros(len(owner), 0)),
                ], dim=1).to(device),
                counts[name],
            )
            for name, owner in batch.owner.items()
        }  # each (N_name, 3 + k)  # fmt: skip
        return ObjectiveBatch(
            size=sum(rows),
            rows=slice(offset, offset + len(batch.ids)),
            owner={name: values[:, 0] for name, values in of_inputs.items()},
            keys={name: values[:, 1] for name, values in of_inputs.items()},
            lengths={name: values[:, 2] for name, values in of_inputs.items()},
            ids=gather(batch.ids.to(device), rows),
            score=labels.get("score"),
            label=labels.get("label"),
            group=labels.get("group"),
            document_id=labels.get("document_id"),
            position=labels.get("position"),
            places={name: of_inputs[name][:, 3:] for name in batch.places},
            scores={name: gather(values.to(device), counts[name]) for name, values in batch.scores.items()},
            step=batch.number,
            total_steps=self.total_steps,
            epoch=batch.epoch,
            seed=batch.seed,
            turn=batch.turn,
            guide_decay=None if guide is None else guide.decay_at(self._progress(batch.number)),
            targets={name: gather(values.to(device), rows) for name, values in batch.targets.items()},
            texts=self._texts(batch, {name: values[:, 2] for name, values in of_inputs.items()}, counts),
        )

    def _texts(
        self, batch: StepBatch, lengths: dict[str, Tensor], counts: dict[str, list[int]]
    ) -> dict[str, Inputs]:  # fmt: skip
        """The tokens of the whole batch, of the views that the method shares."""
        shared = self.method.shared_texts
        own = {name: inputs for _, name, inputs in _by_view(batch.pools) if name in shared} if shared else {}
        texts = {}
        for name in sorted(shared & lengths.keys()):
            every = lengths[name].cpu()
            longest = int(every.max())
            rows = own[name].padded(longest, 0).ids if name in own else torch.zeros(0, dtype=torch.int64)
            ids = self.world.gather(rows.view(-1, longest).to(self.world.device), counts[name])
            there = torch.arange(longest)[None] < every[:, None]
            offsets = np.concatenate([[0], np.cumsum(every.numpy())])
            texts[name] = Inputs(ids[there.to(ids.device)], offsets)
        return texts

    def _local_terms(
        self, batch: StepBatch, vectors: dict[str, Tensor], whole_batch: ObjectiveBatch, counts: dict[str, list[int]],
        scale: float,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Losses of this process's own rows, chunk by chunk, into the gradients of `seen`; detached sums by name."""
        sums: dict[str, Tensor] = {}
        if type(self.method).local_terms is Method.local_terms:
            return sums
        for pool, name, inputs in _by_view(batch.pools):
            if name not in vectors:
                continue
            first = sum(counts[name][: self.world.rank])  # of this process's inputs among all
            for index in self.chunking.cut(Pool(inputs, [(name, len(inputs))], pool.tower, pool.settings)):
                chunk = inputs.select(index).to(self.world.device)
                places = torch.as_tensor(index + first, device=self.world.device)
                here = replace(whole_batch, chunk=places)
                with self.autocast():
                    terms = self.method.local_terms(
                        name, vectors[name][places], chunk, here, self.bundle.model, self.bundle.parts
                    )
                if terms:
                    _backward(sum(terms.values()), scale)  # type: ignore[arg-type]
                for term, value in terms.items():
                    sums[term] = sums.get(term, 0) + value.detach()
        return sums

    @staticmethod
    def _through_projection(whole: dict[str, Tensor], projected: dict[str, Tensor], vectors: dict[str, Tensor]) -> None:
        """Carry the gradients of the projected embeddings back to the gathered outputs and to the parts."""
        names = [name for name, z in projected.items() if z.requires_grad and z is not whole.get(name)]
        if names:
            torch.autograd.backward([projected[n] for n in names], [_gradient(vectors[n]) for n in names])


_TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def _by_view(pools: list[Pool]) -> Iterator[tuple[Pool, str, Any]]:
    """Pool, name and inputs of every view that has some here."""
    for pool in pools:
        start = 0
        for name, count in pool.names:
            if count:
                yield pool, name, pool.inputs.select(np.arange(start, start + count))
            start += count


def _backward(loss: Tensor, scale: float) -> None:
    """The way back of ``loss * scale``. A loss that is not finite makes all its gradients NaN, and so those that
    processes sum: each of them sees it, with no exchange of its own and without waiting for the device."""
    (loss * (scale + 0.0 * loss.detach())).backward()


def _detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _gradient(tensor: Tensor) -> Tensor:
    """The gradient of a leaf, zeros where nothing reached it."""
    return tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
