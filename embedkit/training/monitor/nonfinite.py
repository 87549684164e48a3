"""The end of a run whose numbers are no longer finite: before the update, with the step and the rows, nothing lost."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embedkit.errors import DiskError, NonFiniteError
from embedkit.system.disk import write_durably
from embedkit.training.loop.batches import StepBatch
from embedkit.training.loop.step import TrainStep
from embedkit.training.parallel.distributed import World
from embedkit.training.state.checkpoint import CheckpointStore

_SHOWN = 8


class FiniteGuard:
    """Refuses what is not finite and says where it came from.

    All processes see the same gathered embeddings and the same summed gradients, so they refuse together; the ids of
    the whole batch are known to each of them without another exchange. The main process lists the rows in
    ``nonfinite-step-N.json`` in the run's folder: ``step``, ``epoch``, ``what``, ``loss``, ``ids`` and ``rows`` (file
    and row) of the batch, ``bad`` (view -> ids of the rows whose vector is not finite), ``weights`` (names that are not
    finite).

    Parameters
    ----------
    folder : Path
        The run's.
    store : CheckpointStore
        Where the last good checkpoint is looked up.
    where : callable
        Row id -> file and row.
    record : callable
        Adds a row to the log: that of the step that ended the run, with its figures as they were.

    Examples
    --------
    >>> store = CheckpointStore(Path("run/checkpoints"))
    >>> guard = FiniteGuard(Path("run"), World(), store, None, where=str, record=print)
    >>> module = nn.Linear(2, 1)
    >>> guard.check_weights(7, module)
    >>> _ = module.bias.data.fill_(float("nan"))
    >>> guard.check_weights(8, module)
    Traceback (most recent call last):
    embedkit.errors.NonFiniteError: run: step 8 left weights that are not finite (bias); ...
    """

    def __init__(
        self, folder: Path, world: World, store: CheckpointStore, step: TrainStep, where: Callable[[int], str],
        record: Callable[[dict[str, Any]], None],
    ) -> None:  # fmt: skip
        self._folder, self._world, self._store, self._step, self._where = folder, world, store, step, where
        self._first = torch.zeros((), dtype=torch.int64, device=world.device)
        self._recent: list[tuple[int, StepBatch, Tensor]] = []
        self._record = record

    @contextlib.contextmanager
    def named(self, step: int, batch: StepBatch) -> Iterator[None]:
        """A context whose `NonFiniteError` says at which step, and with which rows, an embedding was not finite."""
        try:
            yield
        except NonFiniteError as error:
            raise self._error(step, batch, self._ids(batch), error.what, "weights are unchanged", error) from error

    def refuse(self, step: int, batch: StepBatch, loss: Tensor) -> NonFiniteError:
        """The error for a loss or gradient that is not finite; call it on every process. `loss` is a share."""
        what = f"the {_kind(loss := self._world.sum(loss))} is not finite"
        return self._error(step, batch, self._ids(batch), what, "weights are unchanged", loss=float(loss))

    def skipped(self, step: int, batch: StepBatch, bad: Tensor) -> None:
        """Remember a step whose update was left out on the device if `bad`; nothing waits for the device."""
        self._first = torch.where((self._first == 0) & bad, step, self._first)
        self._recent.append((step, batch, self._ids(batch)))

    def check(self) -> None:
        """Raise for the first update that was left out since the last check."""
        first = int(self._first) if self._recent else 0
        hits = [recent for recent in self._recent if recent[0] == first]
        self._recent = []
        for step, batch, ids in hits:
            raise self._error(step, batch, ids, "the gradient is not finite", "that update was left out")

    def check_weights(self, step: int, module: nn.Module) -> None:
        """Refuse to keep weights that an update has made NaN or infinite; before a checkpoint, on every process."""
        bad = bad_weights(module)
        if self._world.any(bool(bad)):
            raise NonFiniteError(
                f"step {step} left weights that are not finite ({_few(bad) or 'on another process'}); they are not "
                f"saved, {self._last_good()}",
                where=str(self._folder), remedy="lower train.lr or train.max_grad_norm, and start anew",
            )  # fmt: skip

    @contextlib.contextmanager
    def evaluating(self, step: int) -> Iterator[None]:
        """A context whose `NonFiniteError` says after which step it came, and where to resume the run."""
        try:
            yield
        except NonFiniteError as error:
            raise NonFiniteError(
                f"evaluation after step {step}: {error.what}; {self._last_good()}", where=error.where,
                remedy=error.remedy or "the model has collapsed or diverged: lower train.lr",
            ) from error  # fmt: skip

    def _ids(self, batch: StepBatch) -> Tensor:
        """Row ids of the whole batch, on the device; of this process's part when it did not come to the exchange."""
        return batch.ids if self._step.latest is None else self._step.latest.batch.ids

    def _last_good(self) -> str:
        good, _ = self._store.newest()
        return "there is no checkpoint yet" if good is None else f"the last good checkpoint is step {good.step}"

    def _error(
        self, step: int, batch: StepBatch, ids: Tensor, what: str, after: str, cause: NonFiniteError | None = None,
        loss: float | None = None,
    ) -> NonFiniteError:  # fmt: skip
        rows = ids.tolist()
        bad = self._bad_rows() if cause is not None else {}
        weights = bad_weights(self._step.bundle)
        message = f"{what} at step {step}, rows {_few([str(i) for i in rows])}"
        message += f" (loss {loss:.4g})" if loss is not None else ""
        if bad:
            message += (
                f"; its own are rows {_few(sorted({str(i) for ids_of_view in bad.values() for i in ids_of_view}))}"
            )
        if weights:
            message += f"; weights that are not finite: {_few(weights)}"
        document = {
            "step": step, "epoch": batch.epoch, "what": what, "loss": None if loss is None else str(loss), "ids": rows,
            "bad": bad, "weights": weights,
        }  # fmt: skip
        file = self._list_rows(step, document)
        self._record({"step": step, "loss": math.nan if loss is None else loss, "gradient_norm": math.nan})
        remedy = "take a model whose weights are finite" if weights else "lower train.lr, look at these rows"
        where = str(self._folder) if cause is None or cause.where is None else f"{self._folder}: {cause.where}"
        return NonFiniteError(f"{message}; {after}, {self._last_good()}", where=where, remedy=f"{remedy} ({file})")

    def _list_rows(self, step: int, document: dict[str, Any]) -> str:
        name = f"nonfinite-step-{step}.json"
        if self._world.is_main:
            rows = [self._where(row) for row in document["ids"]]
            try:
                data = json.dumps({**document, "rows": rows}, indent=1) + "\n"
                write_durably(self._folder / name, data.encode())
            except DiskError as error:  # a full disk must not hide what ended the run
                return f"not listed in {name}: {error.what}"
        return f"listed in {name}"

    def _bad_rows(self) -> dict[str, list[int]]:
        """Ids of the rows whose vector is not finite, by view."""
        if self._step.latest is None:
            return {}
        latest, rows = self._step.latest, dict[str, list[int]]()
        for name, z in {**latest.outputs, **latest.embeddings}.items():
            bad = (~torch.isfinite(z).flatten(1).all(-1)).nonzero().squeeze(1)
            owner = latest.batch.owner.get(name)
            if len(bad) and owner is not None and len(owner) == len(z):
                rows[name] = sorted(set(latest.batch.ids[owner[bad]].tolist()))
        return rows


def bad_weights(module: nn.Module) -> list[str]:
    """Names of the parameters that hold NaN or infinity; of sharded ones this process's part is looked at.

    Examples
    --------
    >>> module = nn.Linear(2, 1)
    >>> _ = module.bias.data.fill_(float("nan"))
    >>> bad_weights(module)
    ['bias']
    """
    tensors = [(n, p.to_local() if hasattr(p, "to_local") else p.detach()) for n, p in module.named_parameters()]
    good = [torch.isfinite(value).all() for _, value in tensors]  # one number a tensor, fetched together
    return [n for (n, _), fine in zip(tensors, torch.stack(good).tolist() if good else [], strict=True) if not fine]


def _kind(loss: Tensor) -> str:
    return "gradient" if bool(torch.isfinite(loss)) else "loss"


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
