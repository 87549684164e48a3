"""From rows to what a step computes: views, tokenised inputs pooled by tower, and the labels of the batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import DataError
from embedkit.methods.base import Method, View

if TYPE_CHECKING:
    from embedkit.data import RowBatch
    from embedkit.models import Inputs, Model


@dataclass
class Pool:
    """Inputs of one tower with equal settings: they share forward passes, whatever view they belong to.

    Attributes
    ----------
    inputs : Inputs
        Ragged inputs of all views in `names`, one after the other.
    names : list of (str, int)
        View name and number of its inputs, in order.
    """

    inputs: Inputs
    names: list[tuple[str, int]]
    tower: str
    settings: dict[str, Any]


@dataclass
class StepBatch:
    """This process's part of one batch, ready for the device.

    Attributes
    ----------
    owner, keys : dict of str to LongTensor (n_name,)
        For each input of a view: its row in the whole batch, and a 64-bit hash of the input.
    ids : LongTensor (rows,)
        Stable ids of this process's rows.
    labels : dict of str to Tensor (rows,)
        Of "score", "label", "group", those that the rows have.
    offset, size, epoch, step : int
        First row of this process, rows of the whole batch, and the position in the run.
    guide_pools : list of Pool
        The same views prepared by a guide with another tokenizer; empty when there is none.
    """

    pools: list[Pool]
    views: dict[str, View]
    owner: dict[str, Tensor]
    keys: dict[str, Tensor]
    ids: Tensor
    labels: dict[str, Tensor]
    offset: int
    size: int
    epoch: int
    step: int
    guide_pools: list[Pool] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens (or image patches) that go through an encoder."""
        return int(sum(pool.inputs.costs.sum() for pool in self.pools))


def prepare(
    batch: RowBatch, method: Method, model: Model, *, seed: int, epoch: int, guide: Model | None = None
) -> StepBatch:
    """Make the views of a batch's rows and tokenise them. Pure; safe to run in a background thread.

    What a method draws at random for a row depends on (seed, epoch, step, place of the row in the whole batch) only.
    """

    def random(row: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[batch.step, batch.offset + row, 0, 0]))

    if not batch.rows:
        raise DataError(
            f"a batch of {batch.size} rows leaves a process without one", where="train.batch_size",
            remedy="set data.drop_last: true, or use fewer processes",
        )  # fmt: skip
    views = method.views(batch.rows, random)
    return StepBatch(
        pools=_pools(views, model),
        views=views,
        owner={name: torch.as_tensor(view.owner, dtype=torch.int64) + batch.offset for name, view in views.items()},
        keys={name: torch.as_tensor([_key(x) for x in view.inputs], dtype=torch.int64) for name, view in views.items()},
        ids=torch.as_tensor(batch.ids, dtype=torch.int64),
        labels=_labels(batch.rows, batch.offset),
        offset=batch.offset,
        size=batch.size,
        epoch=epoch,
        step=batch.step,
        guide_pools=[] if guide is None else _pools(views, guide),
    )


def _pools(views: dict[str, View], model: Model) -> list[Pool]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, view in views.items():
        grouped.setdefault((view.tower, repr(sorted(view.settings.items()))), []).append(name)
    pools = []
    for (tower, _), names in grouped.items():
        prepared = [model.prepare(views[name].inputs, views[name].prompt) for name in names]
        inputs = prepared[0] if len(prepared) == 1 else type(prepared[0]).concat(prepared)
        sizes = [(name, len(views[name].inputs)) for name in names]
        pools.append(Pool(inputs, sizes, tower, views[names[0]].settings))
    return pools


def _labels(rows: Sequence[Any], offset: int) -> dict[str, Tensor]:
    """Score, label and group of rows whose sources have them; a row without one is like no other row."""
    labels: dict[str, Tensor] = {}
    if rows and "score" in rows[0]:
        scores = [math.nan if row["score"] is None else row["score"] for row in rows]
        labels["score"] = torch.tensor(scores, dtype=torch.float32)
    for name, number in (("label", int), ("group", lambda group: _key(str(group)))):
        if rows and name in rows[0]:
            own = [-1 - offset - i if row[name] is None else number(row[name]) for i, row in enumerate(rows)]
            labels[name] = torch.tensor(own, dtype=torch.int64)
    return labels


def _key(value: Any) -> int:
    """A 63-bit hash of an input; equal inputs have equal keys on every process and in every run."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else _image_bytes(value)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def _image_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else value.tobytes()
