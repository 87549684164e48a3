"""From rows to what a step computes: views, tokenised inputs pooled by tower, and the labels of the batch."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_64_intdigest

from embedkit.data.vectors.rows import column_of
from embedkit.data.vectors.sequences import Sequences
from embedkit.data.vectors.values import Vectors
from embedkit.errors import DataError
from embedkit.methods.base import Method, View, prepare_view
from embedkit.models.augment.counter_rng import seeds_of
from embedkit.models.inputs.images import ImageInputs
from embedkit.views.mixing import USE as MIX

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from embedkit.data import RowBatch
    from embedkit.data.images.decoding import Skipped
    from embedkit.models import Inputs, Model

_PIECE = 16  # images that one thread makes pixels of at a time


@dataclass
class Pool:
    """Inputs of one tower with equal settings and size: they share forward passes, whatever view they belong to.

    Attributes
    ----------
    inputs : Inputs
        Ragged inputs of all views in `names`, one after the other.
    names : list of (str, int)
        View name and number of its inputs, in order.
    guided : bool
        Whether a guide embeds it too.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> model = build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> pool = Pool(model.prepare(["a cat", "a dog"]), [("anchor", 1), ("positive", 1)], "text", {})
    >>> len(pool.inputs), pool.names
    (2, [('anchor', 1), ('positive', 1)])
    """

    inputs: Inputs
    names: list[tuple[str, int]]
    tower: str
    settings: dict[str, Any]
    guided: bool = True


@dataclass
class StepBatch:
    """This process's part of one batch, ready for the device.

    Attributes
    ----------
    owner, keys, lengths : dict of str to LongTensor (n_name,)
        For each input of a view: its row in the whole batch, a 64-bit hash of the input, and its tokens.
    ids : LongTensor (rows,)
        Stable ids of this process's rows.
    labels : dict of str to Tensor (rows,)
        Of "score", "label", "group", "document_id", "position", those that the rows have.
    scores : dict of str to Tensor (n_name,)
        A teacher's scores of "positive" and "negatives", aligned with the inputs of these views; empty without any.
    places : dict of str to LongTensor (n_name, k)
        The whole numbers that a view gives its inputs; views without any are not there.
    targets : dict of str to Tensor (rows, ...)
        What `Method.targets` says of the rows.
    offset, size, epoch, step : int
        First row of this process, rows of the whole batch, and the position in the data: epoch and step within it.
    number, seed : int
        Optimiser steps of the run before this one, and the run's seed.
    guide_pools : list of list of Pool
        The same views prepared by each guide with another tokenizer; empty when there is none.
    turn : int
        Which optimiser step on this batch it is.
    bad_rows : list of Skipped
        Rows of this process's part that were dropped because they are bad. `offset` and `size` still count them.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.data import RowBatch
    >>> from embedkit.factory import build
    >>> from embedkit.methods import methods
    >>> model = build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> rows = RowBatch([{"anchor": "a cat"}, {"anchor": "a dog"}], ids=[10, 11], size=2, offset=0, step=0)
    >>> batch = prepare(rows, methods["simcse-unsup"](), model, seed=1, epoch=0)
    >>> batch.owner["positive"], batch.ids, batch.tokens
    (tensor([0, 1]), tensor([10, 11]), 12)
    """

    pools: list[Pool]
    views: dict[str, View]
    owner: dict[str, Tensor]
    keys: dict[str, Tensor]
    lengths: dict[str, Tensor]
    ids: Tensor
    labels: dict[str, Tensor]
    offset: int
    size: int
    epoch: int
    step: int
    number: int
    seed: int
    scores: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)
    guide_pools: list[list[Pool]] = field(default_factory=list)
    bad_rows: list[Skipped] = field(default_factory=list)
    places: dict[str, Tensor] = field(default_factory=dict)
    turn: int = 0

    @property
    def tokens(self) -> int:
        """Tokens (or image patches) that go through an encoder."""
        return int(sum(pool.inputs.costs.sum() for pool in self.pools))


def prepare(
    batch: RowBatch, method: Method, model: Model, *, seed: int, epoch: int, guides: Sequence[Model] = (),
    number: int | None = None, threads: ThreadPoolExecutor | None = None,
) -> StepBatch:  # fmt: skip
    """The views of a batch's rows, tokenised, with their labels: pure, so that background threads can make them.

    What a method draws at random for a row depends on (seed, epoch, step, place of the row in the whole batch) only.
    `number` counts the optimiser steps before this one; the step within the epoch when it is not given. Images are made
    into pixels by `threads`, if there are any.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.data import RowBatch
    >>> from embedkit.factory import build
    >>> from embedkit.methods import methods
    >>> model = build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> rows = RowBatch([{"anchor": "a cat", "positive": "a kitten"}], ids=[10], size=1, offset=0, step=0)
    >>> batch = prepare(rows, methods["pairs"](), model, seed=1, epoch=0)
    >>> batch.pools[0].names, batch.views["positive"].inputs
    ([('anchor', 1), ('positive', 1)], ['a kitten'])
    """

    groups = _groups(batch, method.row_groups)
    places = _places(groups, batch.places) if method.shares_draws else batch.places

    steps = batch.step if number is None else number

    def random(row: int) -> np.random.Generator:
        if row < 0:  # of the whole batch
            return np.random.default_rng([seed, steps, zlib.crc32(MIX.encode()), 0])
        return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[batch.step, places[row], 0, 0]))

    if not batch.rows:
        raise DataError(
            f"a batch of {batch.size} rows leaves a process without one", where="train.batch_size",
            remedy="set data.drop_last: true, or use fewer processes",
        )  # fmt: skip
    views = method.views(batch.rows, random)
    prepared = {name: _prepared(method, model, name, view, (seed, epoch, batch.step), places, threads)
                for name, view in views.items()}  # fmt: skip
    guided = {name: view for name, view in views.items() if view.guided}
    return StepBatch(
        pools=_pools(views, prepared),
        views=views,
        owner={name: torch.as_tensor(view.owner, dtype=torch.int64) + batch.offset for name, view in views.items()},
        keys={name: _keys(view.inputs) for name, view in views.items()},
        lengths={name: torch.from_numpy(inputs.costs.astype(np.int64)) for name, inputs in prepared.items()},
        ids=torch.as_tensor(batch.ids, dtype=torch.int64),
        labels=_labels(batch.rows, batch.places, groups if method.row_groups is not None else None),
        scores=_scores(batch.rows),
        targets={name: torch.from_numpy(values) for name, values in method.targets(batch.rows).items()},
        offset=batch.offset,
        size=batch.size,
        epoch=epoch,
        step=batch.step,
        number=steps,
        seed=seed,
        guide_pools=[_pools(guided, {n: prepare_view(guide, v) for n, v in guided.items()}) for guide in guides],
        bad_rows=batch.bad_rows,
        places={
            name: torch.as_tensor(view.places, dtype=torch.int64)
            for name, view in views.items() if view.places is not None
        },
    )  # fmt: skip


def _prepared(
    method: Method, model: Model, name: str, view: View, key: tuple[int, ...], places: Sequence[int],
    threads: ThreadPoolExecutor | None,
) -> Inputs:  # fmt: skip
    """The inputs of a view with their seeds and data."""
    if threads is not None and view.tower == "image" and len(view.inputs) > _PIECE and not _are_vectors(view.inputs):
        starts = range(0, len(view.inputs), _PIECE)
        pieces = [replace(view, inputs=view.inputs[s : s + _PIECE], owner=view.owner[s : s + _PIECE]) for s in starts]
        parts = list(threads.map(lambda piece: method.prepare(model, name, piece), pieces))
        inputs = type(parts[0]).concat(parts)
    else:
        inputs = method.prepare(model, name, view)
    if not hasattr(inputs, "data"):  # of another tower: nothing is drawn on its tokens
        return inputs
    owner = np.asarray(view.owner, dtype=np.int64)
    first = np.searchsorted(owner, owner)  # of the inputs of the same row; owners do not decrease
    seeds = seeds_of(key, name, np.asarray(places, dtype=np.int64)[owner], np.arange(len(owner)) - first)
    return inputs.replace(seeds=seeds, **view.data)


def _are_vectors(inputs: Sequence[Any]) -> bool:
    """Whether inputs are vectors, which need no work: a modality of vectors may be called image."""
    return isinstance(inputs, Vectors) or (isinstance(inputs[0], np.ndarray) and inputs[0].ndim == 1)


def _pools(views: dict[str, View], prepared: dict[str, Inputs]) -> list[Pool]:
    grouped: dict[tuple[str, str, bool, tuple[int, int] | None], list[str]] = {}
    for name, view in views.items():
        own = prepared[name]
        size = own.size if isinstance(own, ImageInputs) else None
        kind = (view.tower, repr(sorted(view.settings.items())), view.guided, size)
        grouped.setdefault(kind, []).append(name)
    pools = []
    for (tower, _, guided, _), names in grouped.items():
        parts = [prepared[name] for name in names]
        inputs = parts[0] if len(parts) == 1 else type(parts[0]).concat(parts)
        sizes = [(name, len(views[name].inputs)) for name in names]
        pools.append(Pool(inputs, sizes, tower, views[names[0]].settings, guided))
    return pools


def _labels(rows: Sequence[Any], places: Sequence[int], groups: Sequence[str] | None) -> dict[str, Tensor]:
    """Score, label, group and place in a document of rows whose sources have them; a row without is like no other.
    `groups` are those of the batch, in place of the rows' own."""
    labels: dict[str, Tensor] = {}
    if rows and "score" in rows[0]:
        scores = [math.nan if score is None else score for score in column_of(rows, "score")]
        labels["score"] = torch.tensor(scores, dtype=torch.float32)
    numbers: dict[str, Callable[[Any], int]] = {"label": int, "group": _number, "document_id": _number, "position": int}
    for name, number in numbers.items():
        if rows and name in rows[0]:
            values = column_of(rows, name)
            own = [-1 - i if value is None else number(value) for i, value in zip(places, values, strict=True)]
            labels[name] = torch.tensor(own, dtype=torch.int64)
    if groups is not None:
        labels["group"] = torch.tensor([_number(group) for group in groups], dtype=torch.int64)
    return labels


def _number(name: int | str) -> int:
    return _key(str(name))


def _scores(rows: Sequence[Any]) -> dict[str, Tensor]:
    """A teacher's scores of positives and of hard negatives, from rows whose list starts with the positive's."""
    if not rows or "scores" not in rows[0]:
        return {}
    lists = [row["scores"] for row in rows]
    for row, scores in zip(rows, lists, strict=True):
        count = 1 + len(row.get("negatives", ()))
        if scores is None or len(scores) != count:
            text, there = str(row.get("anchor"))[:40], 0 if scores is None else len(scores)
            raise DataError(
                f"{there} scores for {count} candidates of {text!r}", where="role 'scores'",
                remedy="give a list: the positive's score first, then one for each negative",
            )  # fmt: skip
    positive = torch.tensor([scores[0] for scores in lists], dtype=torch.float32)
    negatives = torch.tensor([score for scores in lists for score in scores[1:]], dtype=torch.float32)
    return {"positive": positive, **({"negatives": negatives} if "negatives" in rows[0] else {})}


def _groups(batch: RowBatch, count: int | None) -> list[Any]:
    """The group of each row: that of the data, or one of `count` equal parts of the batch."""
    if count is None:
        there = bool(batch.rows) and "group" in batch.rows[0]
        return list(column_of(batch.rows, "group")) if there else [None] * len(batch.rows)
    return [f"part {place * count // batch.size} of the batch" for place in batch.places]


def _places(groups: Sequence[Any], places: Sequence[int]) -> list[int]:
    """For each row the number that its random draws depend on: rows of one group, on any process, have the same."""
    return [place if group is None else _key(f"group {group}") for place, group in zip(places, groups, strict=True)]


def _keys(inputs: Sequence[Any]) -> Tensor:
    """The hash of each input, int64 (n,)."""
    if isinstance(inputs, Vectors | Sequences):
        return torch.from_numpy(inputs.keys)
    return torch.as_tensor([_key(value) for value in inputs], dtype=torch.int64)


def _key(value: Any) -> int:
    """A 63-bit hash of an input; equal inputs have equal keys on every process and in every run."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else _image_bytes(value)
    return xxh3_64_intdigest(data) >> 1


def _image_bytes(value: Any) -> bytes:
    key = getattr(value, "key", value)
    return key if isinstance(key, bytes) else key.tobytes()  # type: ignore[no-any-return]
