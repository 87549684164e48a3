"""Sums over the rows of similarity matrices by tiles: the matrix is never in memory as a whole, forward or backward.

Forward, every tile of logits is computed once, and each sum accumulates over the tiles of a row; where the second
matrix is the transpose of the first (both directions of CLIP), its sums accumulate over the columns of the same tiles.
Backward, the tiles are computed again and their gradient goes into the features. Memory is that of the features, some
vectors, and a few tiles. Sums have the type of the logits, fp32 or fp64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from embedkit.objectives.matrix.similarity import Relation
from embedkit.objectives.matrix.stats import Stat, Table, dense_stats
from embedkit.objectives.matrix.whole import keeps_exponentials, whole_lse
from embedkit.objectives.tools import softplus

AUTO_ENTRIES = 2**21
"""Tables with more entries than this are tiled: from there on tiles are no slower, and smaller."""
AUTO_TILE = {"cpu": 1024, "other": 4096}
"""Rows and columns of a tile by kind of device: as large as stays in a processor's cache, or as fills a GPU."""


def row_stats(tables: Sequence[Table], stats: Sequence[Stat], tile: int | str | None) -> list[list[Tensor]]:
    """Each stat (n,) of the rows of each similarity matrix, by tiles of `tile` rows and columns (None: all at once).

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives.matrix.similarity import Masks
    >>> from embedkit.objectives.matrix.stats import Part
    >>> eye, ids = torch.eye(3), torch.arange(3)
    >>> masks = Masks(Relation.of(ids, ids), Relation.of(ids, ids + 3))
    >>> table = Table([Part(eye, eye)], torch.tensor(10.0), None, masks)
    >>> row_stats([table], [Stat("lse", "negative")], tile=2)
    [[tensor([0.6931, 0.6931, 0.6931])]]
    """
    if not stats:
        return [[] for _ in tables]
    sizes = [_tile_size(table, tile) for table in tables]
    if len(tables) == 2 and _is_transpose(*tables):
        if sizes[0] is not None:
            sums = _tiled(tables[0], stats, stats, sizes[0])
            return [sums[: len(stats)], sums[len(stats) :]]
        if keeps_exponentials(tables[0], stats) and _is_small(tables[0], stats):
            return [[sums] for sums in whole_lse(tables[0], stats[0], columns=True)]
    return [_row_stats(table, stats, size) for table, size in zip(tables, sizes, strict=True)]


def _row_stats(table: Table, stats: Sequence[Stat], size: int | None) -> list[Tensor]:
    if size is not None:
        return _tiled(table, stats, [], size)
    return whole_lse(table, stats[0]) if keeps_exponentials(table, stats) else dense_stats(table, stats)


def _tile_size(table: Table, tile: int | str | None) -> int | None:
    """Rows and columns of a tile, None for all of the matrix at once."""
    if tile is None or isinstance(tile, int):
        return tile
    n, m = table.shape
    if n * m <= AUTO_ENTRIES:
        return None
    return AUTO_TILE["cpu" if table.parts[0].left.device.type == "cpu" else "other"]


def _is_transpose(one: Table, two: Table) -> bool:
    """Whether the second table is the first one seen from the other side, masks and all."""
    same = len(one.parts) == len(two.parts) and all(
        p.left is q.right and p.right is q.left for p, q in zip(one.parts, two.parts, strict=True)
    )
    mutual = isinstance(one.masks.positive, Relation) and isinstance(two.masks.positive, Relation)
    plain = one.scale.dim() == 0 and not (one.band or two.band or one.masks.guide or two.masks.guide)
    alone = not (one.weights or two.weights)
    return same and mutual and plain and alone


def _tiled(table: Table, rows: Sequence[Stat], columns: Sequence[Stat], size: int) -> list[Tensor]:
    """Sums over rows, then sums over columns."""
    work = _Work(replace(table, scale=table.scale.detach()), tuple(rows), tuple(columns), size)
    features = [z for p in table.parts for z in (p.left, p.right)]
    return list(_Sums.apply(work, table.scale, table.bias, *features))


@dataclass
class _Work:
    """One evaluation by tiles. `features` are those of `table`, detached, as autograd hands them over."""

    table: Table
    rows: tuple[Stat, ...]
    columns: tuple[Stat, ...]
    size: int
    features: list[Tensor] = field(default_factory=list)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    strip: tuple[int, Tensor] | None = None

    def release(self) -> None:
        """Free everything that autograd does not keep."""
        self.features, self.strip = [], None
        self.buffers.clear()

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Every tile that can hold a pair of one of the stats, by rows."""
        n, m = self.table.shape
        only_negatives = all(stat.over == "negative" for stat in self.rows + self.columns)
        for i in range(0, n, self.size):
            rows = slice(i, min(n, i + self.size))
            for j in range(0, m, self.size):
                columns = slice(j, min(m, j + self.size))
                if not only_negatives or self.table.masks.repels(rows, columns):
                    yield rows, columns

    @property
    def linear(self) -> bool:
        """Whether logits are scaled dot products, so that anchors can be scaled instead."""
        return len(self.table.parts) == 1 and self.table.parts[0].function.identity

    def scale(self, rows: slice) -> Tensor:
        """Scale of some anchors, () or (rows, 1)."""
        return self.table.scale if self.table.scale.dim() == 0 else self.table.scale[rows]

    def scaled_anchors(self, rows: slice) -> Tensor:
        """Anchors times scale, cached for the tiles of the same rows."""
        if self.strip is None or self.strip[0] != rows.start:
            self.strip = rows.start, self.features[0][rows] * self.scale(rows)
        return self.strip[1]

    def logits(self, rows: slice, columns: slice) -> tuple[Tensor, list[Tensor]]:
        """Logits of a tile in a buffer that the next tile overwrites, and the dot products if a function needs them."""
        t, dots = self.table, list[Tensor]()
        if self.linear:
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            logits = torch.mm(self.scaled_anchors(rows), self.features[1][columns].T, out=self.buffer("logits", shape))
        else:
            dots = [self.features[2 * k][rows] @ self.features[2 * k + 1][columns].T for k in range(len(t.parts))]
            values = [p.function.value(s) for p, s in zip(t.parts, dots, strict=True)]
            logits = sum(values[1:], values[0]) * self.scale(rows)
        return (logits if t.bias is None else logits.add_(t.bias)), dots

    def buffer(self, name: str, shape: tuple[int, int]) -> Tensor:
        """A tile's memory, reused for the next one."""
        like = self.features[0]
        if name not in self.buffers:
            n, m = self.table.shape
            self.buffers[name] = like.new_empty(min(self.size, n) * min(self.size, m))
        return self.buffers[name][: shape[0] * shape[1]].view(shape)

    def tile_masks(self, rows: slice, columns: slice, logits: Tensor) -> tuple[dict[str, Tensor | None], Tensor | None]:
        """Masks of a tile by kind of pair (None: all), and log weights of negatives (None: all 0)."""
        kinds = {stat.over for stat in self.rows + self.columns}
        masks: dict[str, Tensor | None] = {}
        if "negative" in kinds:
            masks["negative"] = self.table.negatives(rows, columns)
        if "positive" in kinds:
            positive = self.table.masks.positives(rows, columns)
            masks["positive"] = self.features[0].new_zeros(1, 1, dtype=torch.bool) if positive is None else positive
        return masks, self.table.log_weights(rows, columns, logits)


def _is_small(table: Table, stats: Sequence[Stat]) -> bool:
    """Whether the exponentials of all logits, and sums of them, are known to be finite, from the features' lengths."""
    if len(table.parts) != 1 or not table.parts[0].function.identity or min(table.shape) == 0:
        return False
    if table.weights:
        return False
    features = [z.detach() for z in (table.parts[0].left, table.parts[0].right)]
    longest = [torch.linalg.vector_norm(z, dim=1).max() for z in features]
    bias = 0.0 if table.bias is None else float(table.bias.detach().abs())
    bound = float(longest[0] * longest[1] * table.scale.detach().abs().max()) + bias
    limit = 300.0 if features[0].dtype == torch.float64 else 60.0
    return bound * max((1.0, *(abs(s.factor) for s in stats))) <= limit


class _Running:
    """One sum over rows (`dim` 1) or columns (`dim` 0), accumulated over tiles.

    A log-sum-exp is a maximum and a sum relative to it. When the logits are known to be small the maximum is 0, so
    that rows and columns share one exponential.
    """

    def __init__(self, stat: Stat, dim: int, length: int, like: Tensor, small: bool) -> None:
        self.stat, self.dim, self.small = stat, dim, small
        self.total = like.new_zeros(length)
        self.top = None if small or stat.kind not in ("lse", "expect") else like.new_full((length,), -torch.inf)
        self.moment = like.new_zeros(length) if stat.kind == "expect" else None

    def add(self, part: slice, x: Tensor, exp: Tensor | None, logits: Tensor, mask: Tensor | None) -> None:
        """A tile: `x` is factor · logits + log weight with -inf where masked, `exp` its exponential when small."""
        if self.stat.kind == "count":
            self.total[part] += x.shape[self.dim] if mask is None else mask.expand_as(x).sum(self.dim)
        elif self.stat.kind in ("lse", "expect"):
            if self.top is not None:
                exp = self._rescale(part, x)
            assert exp is not None
            self.total[part] += exp.sum(self.dim)
            if self.moment is not None:
                self.moment[part] += (exp * logits).sum(self.dim)
        else:
            values = logits if self.stat.kind == "sum" else softplus(logits * self.stat.factor)
            self.total[part] += (values if mask is None else values * mask).sum(self.dim)

    def _rescale(self, part: slice, x: Tensor) -> Tensor:
        assert self.top is not None
        old = self.top[part]
        new = torch.maximum(old, x.amax(self.dim))
        shift = torch.where(torch.isfinite(new), new, torch.zeros_like(new))
        shrink = (old - shift).exp()
        self.total[part] *= shrink
        if self.moment is not None:
            self.moment[part] *= shrink
        self.top[part] = new
        return (x - shift.unsqueeze(self.dim)).exp()

    def result(self) -> Tensor:
        """The finished sum."""
        if self.stat.kind == "lse":
            return self.total.log() if self.top is None else self.total.log() + self.top.clamp_min(-1e38)
        if self.moment is not None:
            return self.moment / self.total.where(self.total > 0, torch.ones_like(self.total))
        return self.total


class _Sums(torch.autograd.Function):
    """The sums of a `_Work`; gradients for scale, bias and features."""

    @staticmethod
    def forward(ctx: Any, work: _Work, scale: Tensor, bias: Tensor | None, *features: Tensor) -> tuple[Tensor, ...]:
        work.features = [z.detach() for z in features]
        n, m = work.table.shape
        small = _is_small(work.table, work.rows + work.columns)
        runs = [_Running(s, 1, n, features[0], small) for s in work.rows]
        runs += [_Running(s, 0, m, features[0], small) for s in work.columns]
        for rows, columns in work.tiles():
            logits, _ = work.logits(rows, columns)
            masks, extra = work.tile_masks(rows, columns, logits)
            _pass(runs, (columns, rows), logits, masks, extra, small)
        work.release()
        results = tuple(run.result() for run in runs)
        ctx.work, ctx.small = work, small
        ctx.save_for_backward(scale, bias, *features, *results)
        no_gradient = [
            r for r, s in zip(results, work.rows + work.columns, strict=True) if s.kind in ("count", "expect")
        ]
        ctx.mark_non_differentiable(*no_gradient)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        work, parts = ctx.work, len(ctx.work.table.parts)
        scale, bias, *rest = ctx.saved_tensors
        work.features = [z.detach() for z in rest[: 2 * parts]]
        results = rest[2 * parts :]
        out = [torch.zeros_like(z) for z in work.features]
        d_scale, d_bias = torch.zeros_like(scale), None if bias is None else torch.zeros_like(bias)
        pulls = _pulls(work, results, grads, ctx.small)
        for rows, columns in work.tiles():
            logits, dots = work.logits(rows, columns)
            masks, extra = work.tile_masks(rows, columns, logits)
            d_logits = _gradient(work, pulls, (rows, columns), logits, masks, extra)
            if d_bias is not None:
                d_bias += d_logits.sum()
            _into_features(work, (rows, columns), d_logits, dots, out, d_scale)
        if work.linear:
            _unscale(work, out[0], d_scale)
        work.release()
        return None, d_scale, d_bias, *out


def _pass(runs: Sequence[_Running], parts: tuple[slice, slice], logits: Tensor, masks: dict[str, Tensor | None],
          extra: Tensor | None, small: bool) -> None:  # fmt: skip
    """Add a tile to all running sums; exponentials of the same pairs and factor are computed once."""
    exponents = {(run.stat.over, run.stat.factor) for run in runs if run.stat.kind in ("lse", "expect")}
    alone = len(exponents) == 1 and all(run.stat.kind in ("lse", "count") for run in runs)
    exponentials: dict[tuple[str, float], tuple[Tensor, Tensor | None]] = {}
    for run in runs:
        key, mask = (run.stat.over, run.stat.factor), masks[run.stat.over]
        if run.stat.kind in ("lse", "expect") and key not in exponentials:
            exponentials[key] = _exponent(run.stat, logits, mask, extra, small, alone)
        x, exp = exponentials.get(key, (logits, None))
        run.add(parts[run.dim], x, exp, logits, mask)


def _exponent(stat: Stat, logits: Tensor, mask: Tensor | None, extra: Tensor | None, small: bool,
              alone: bool) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """factor · logits + log weight, and its exponential when safe; in place when nobody else reads the logits."""
    x = logits if stat.factor == 1 else logits * stat.factor
    if extra is not None and stat.over == "negative":
        x = x + extra
    if small:
        exp = x.exp_() if alone or x is not logits else x.exp()
        return x, exp if mask is None else exp.mul_(mask)
    return (x if mask is None else x.masked_fill(~mask, -torch.inf)), None


@dataclass
class _Pull:
    """The gradient of one sum by the logits: grad · d sum / d l, by rows (`dim` 1) or columns (`dim` 0).

    For a log-sum-exp that is factor · grad · exp(x - result): `weight` holds the first two, and, when logits are small,
    exp(-result) too, so that rows and columns share exp(x).
    """

    stat: Stat
    dim: int
    weight: Tensor
    shift: Tensor | None


def _pulls(work: _Work, results: Sequence[Tensor], grads: Sequence[Tensor | None], small: bool) -> list[_Pull]:
    pulls = []
    dims = [1] * len(work.rows) + [0] * len(work.columns)
    for stat, dim, result, grad in zip(work.rows + work.columns, dims, results, grads, strict=True):
        if stat.kind in ("count", "expect") or grad is None:
            continue
        weight, shift = grad * (1.0 if stat.kind == "sum" else stat.factor), None
        if stat.kind == "lse":
            # A sum over nothing is -inf; it has no gradient.
            shift = torch.where(torch.isneginf(result), torch.zeros_like(result), result)
            weight = weight.masked_fill(torch.isneginf(result), 0.0)
            if small:
                weight, shift = weight * (-shift).exp(), None
        pulls.append(_Pull(stat, dim, weight, shift))
    return pulls


def _gradient(work: _Work, pulls: Sequence[_Pull], tile: tuple[slice, slice], logits: Tensor,
              masks: dict[str, Tensor | None], extra: Tensor | None) -> Tensor:  # fmt: skip
    """d loss / d logits of a tile."""
    total: Tensor | None = None
    groups: dict[tuple[str, str, float, bool], list[_Pull]] = {}
    for pull in pulls:
        s = pull.stat
        groups.setdefault((s.kind, s.over, s.factor, pull.shift is None), []).append(pull)
    for (kind, over, factor, together), members in groups.items():
        mask = masks[over]
        x = logits if factor == 1 else logits * factor
        if kind == "lse" and extra is not None and over == "negative":
            x = x + extra
        for group in [members] if together else [[pull] for pull in members]:
            weight = _outer(group, tile, work)
            if kind == "lse":
                shift = group[0].shift
                if shift is None:
                    slope = x.exp_() if len(groups) == 1 or x is not logits else x.exp()
                else:
                    slope = (x - _along(shift, group[0].dim, tile)).exp_()
                more = slope.mul_(weight) if mask is None else slope.masked_fill_(~mask, 0.0).mul_(weight)
            else:
                more = weight * (x.sigmoid() if kind == "softplus" else torch.ones_like(x))
                more = more if mask is None else more.masked_fill(~mask, 0.0)
            total = more if total is None else total.add_(more)
    return torch.zeros_like(logits) if total is None else total


def _along(values: Tensor, dim: int, tile: tuple[slice, slice]) -> Tensor:
    return values[tile[0], None] if dim == 1 else values[None, tile[1]]


def _outer(group: Sequence[_Pull], tile: tuple[slice, slice], work: _Work) -> Tensor:
    """Weights of a group of pulls added up: a column, a row, or a tile."""
    total: dict[int, Tensor] = {}
    for pull in group:
        more = _along(pull.weight, pull.dim, tile)
        total[pull.dim] = total[pull.dim] + more if pull.dim in total else more
    if len(total) == 1:
        return next(iter(total.values()))
    shape = (total[1].shape[0], total[0].shape[1])
    return torch.add(total[1], total[0], out=work.buffer("outer", shape))


def _into_features(work: _Work, tile: tuple[slice, slice], d_logits: Tensor, dots: Sequence[Tensor],
                   out: Sequence[Tensor], d_scale: Tensor) -> None:  # fmt: skip
    """Add a tile's gradient to those of the features, and of the scale where it is applied to scores."""
    rows, columns = tile
    t = work.table
    if work.linear:
        out[0][rows].addmm_(d_logits, work.features[1][columns])
        out[1][columns].addmm_(d_logits.T, work.scaled_anchors(rows))
        return
    scale = work.scale(rows)
    for k, (p, s) in enumerate(zip(t.parts, dots, strict=True)):
        score = d_logits * p.function.value(s)
        if t.scale.dim() == 0:
            d_scale += score.sum()
        else:
            d_scale[rows] += score.sum(1, keepdim=True)
        d_dot = d_logits * scale * p.function.slope(s)
        out[2 * k][rows].addmm_(d_dot, work.features[2 * k + 1][columns])
        out[2 * k + 1][columns].addmm_(d_dot.T, work.features[2 * k][rows])


def _unscale(work: _Work, out: Tensor, d_scale: Tensor) -> None:
    """From the gradient of scaled anchors, in place, that of anchors; adds that of the scale. A strip at a time."""
    for at in range(0, len(out), work.size):
        rows = slice(at, min(len(out), at + work.size))
        along = torch.linalg.vecdot(out[rows], work.features[0][rows])
        if d_scale.dim() == 0:
            d_scale += along.sum()
        else:
            d_scale[rows] += along[:, None]
        out[rows] *= work.scale(rows)
