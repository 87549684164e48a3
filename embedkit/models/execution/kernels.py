"""Operations of an encoder written for real tokens on a CPU: dropout masks and grouped attention.

They compute what torch's own operations compute; only the order of the work differs. On other devices torch's
operations are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from embedkit.models.execution.plan import Plan

# Up to this length two small matrix products beat the fused CPU kernel of torch (measured on AVX2).
LONGEST_PLAIN = 256

REGISTER = 16
"""Numbers of float32 in the widest vector register."""
_HALVES = (torch.bfloat16, torch.float16)


def dropout_mask(shape: tuple[int, ...], p: float) -> Tensor:
    """The mask of a dropout on the CPU, uint8: 0 with probability `p`, else 1.

    torch draws one Mersenne-Twister number per element on one core, which costs more than the products of a small
    encoder's attention. Here torch's generator gives a 64-bit seed (so that its state decides everything: seeds,
    checkpoints and replays work as usual), a counter-free 64-bit generator (SFC64, Doty-Humphrey 2010) gives 16 bits
    per element, and these are compared with a threshold. The threshold is one of the two neighbours of 65536 p,
    drawn so that each element is dropped with probability p exactly. A byte an element is kept for the way back.

    Examples
    --------
    >>> torch.unique(dropout_mask((100, 4), 0.5)).tolist()
    [0, 1]
    """
    seed = int(torch.empty((), dtype=torch.int64).random_())
    source = np.random.SFC64(seed)
    size = int(np.prod(shape))
    words = np.asarray(source.random_raw(size // 4 + 2))
    threshold = int(p * 65536 + float(words[-1] >> np.uint64(11)) * 2.0**-53)
    keep = words.view(np.uint16)[:size] >= threshold
    return torch.from_numpy(keep.view(np.uint8)).view(shape)


def dropout_factor(p: float, dtype: torch.dtype) -> float:
    """What elements that a dropout of rate `p` keeps are multiplied by, 1 / (1 - p) as `dtype` holds it.

    Examples
    --------
    >>> dropout_factor(0.5, torch.float32)
    2.0
    """
    return float(torch.tensor(1.0 / (1.0 - p), dtype=dtype))


class _Masked(torch.autograd.Function):
    """``input * mask * factor``; kept is the mask, a byte an element."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, mask: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.factor = factor
        return torch.mul(input, mask).mul_(factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return torch.mul(grad, mask).mul_(ctx.factor), None, None


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) with quick masks on the CPU; elsewhere `torch.nn.Dropout`.

    Examples
    --------
    >>> torch.unique(Dropout(0.5)(torch.ones(100, 4))).tolist()
    [0.0, 2.0]
    >>> Dropout(0.5).eval()(torch.ones(2)).tolist()
    [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """The input with a share `p` of its elements at zero and the others scaled up; same shape, same dtype."""
        if not self.training or self.p == 0.0:
            return input
        if input.device.type != "cpu" or self.p >= 1.0 or torch.compiler.is_compiling():
            return F.dropout(input, self.p, True)
        masked: Tensor = _Masked.apply(
            input, dropout_mask(tuple(input.shape), self.p), dropout_factor(self.p, input.dtype)
        )
        return masked


def swap_dropout(module: nn.Module) -> None:
    """Put `Dropout` in place of every `torch.nn.Dropout` below `module`; no parameter or name changes.

    Examples
    --------
    >>> layers = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    >>> swap_dropout(layers)
    >>> type(layers[1]) is Dropout, layers[1].p
    (True, 0.1)
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                quick = Dropout(child.p, child.inplace)
                setattr(parent, name, quick.train(child.training))


class GroupedAttention(torch.autograd.Function):
    """Softmax attention within each sequence of a pack, group by group of equal lengths.

    Query, key and value are (T, heads, d), each with any stride over tokens. They are copied once into group order:
    the block of a group is contiguous as (n * heads, l, d), so that every product is one batched matrix product.

    Examples
    --------
    >>> from embedkit.models.execution.plan import Plan
    >>> plan = Plan.of(np.array([2, 3]))
    >>> x = torch.ones(5, 2, 4, requires_grad=True)
    >>> GroupedAttention.apply(x, x, x, None, plan, 0.5, 0.0, None).shape
    torch.Size([5, 2, 4])
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        plan: Plan,
        scale: float,
        dropout: float,
        window: int | None,
        record: bool = False,
    ) -> Any:
        """(T, heads, d) -> (T, heads, d), with `record` also the probabilities behind dropout, group by group, flat."""
        _, heads, size = query.shape
        rows, back = plan.rows(heads, query.device)
        blocks = query.new_empty(3, len(rows), size)
        for block, x in zip(blocks, (query, key, value), strict=True):
            torch.index_select(x.reshape(-1, size), 0, rows, out=block)
        entries = sum(group.count * group.length**2 for group in plan.groups) * heads
        wide = _wide(query.dtype, plan)
        scores = query.new_empty(entries, dtype=wide)
        mask = dropout_mask((entries,), dropout) if dropout > 0.0 else None
        factor = dropout_factor(dropout, wide) if dropout > 0.0 else 1.0
        output = query.new_empty(len(rows), size, dtype=wide)
        weights_of_groups = []
        for group, part, p, m in _walk(plan, scores, mask, heads):
            q, k, v = blocks[:, part].to(wide).unflatten(1, (-1, group.length))
            _scores(p, q, k, scale, score_bias(group.length, bias, window, q))
            weights = p if m is None else torch.mul(p, m).mul_(factor)
            if record:
                weights_of_groups.append(weights.flatten())
            torch.bmm(weights, v, out=output[part].unflatten(0, (-1, group.length)))
        ctx.save_for_backward(blocks, scores, mask)
        ctx.factor = factor
        ctx.plan, ctx.scale, ctx.heads, ctx.bias = plan, scale, heads, None if bias is None else bias.shape
        ctx.set_materialize_grads(False)
        attention = output.to(query.dtype).index_select(0, back).unflatten(0, (-1, heads))
        return (attention, torch.cat(weights_of_groups).to(query.dtype)) if record else attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, of_weights: Tensor | None = None) -> tuple[Tensor | None, ...]:
        """Gradients of query, key, value and bias."""
        blocks, scores, mask = ctx.saved_tensors
        if grad is None:
            grad = blocks.new_zeros(blocks.shape[1] // ctx.heads, ctx.heads, blocks.shape[2])
        rows, back = ctx.plan.rows(ctx.heads, grad.device)
        upstream = grad.reshape(-1, grad.shape[2]).index_select(0, rows)
        outputs = blocks.new_empty(blocks.shape, dtype=scores.dtype)
        for_bias = grad.new_zeros(ctx.bias) if ctx.bias is not None and ctx.needs_input_grad[3] else None
        place = 0
        for group, part, p, m in _walk(ctx.plan, scores, mask, ctx.heads):
            shape = (-1, group.length)
            q, k, v = blocks[:, part].to(p.dtype).unflatten(1, shape)
            for_q, for_k, for_v = outputs[:, part].unflatten(1, shape)
            g = upstream[part].to(p.dtype).unflatten(0, shape)
            weights = p if m is None else torch.mul(p, m).mul_(ctx.factor)
            torch.bmm(weights.transpose(1, 2), g, out=for_v)
            g = torch.bmm(g, v.transpose(1, 2))  # gradient of the probabilities, (n * heads, l, l)
            if of_weights is not None:
                at = place + g.numel()
                g += of_weights[place:at].view(g.shape)
                place = at
            g = softmax_gradient(g if m is None else g.mul_(m).mul_(ctx.factor), p)
            if for_bias is not None:
                for_bias[..., : group.length, : group.length] += g.unflatten(0, (group.count, ctx.heads)).sum(0)
            torch.baddbmm(q, g, k, beta=0, alpha=ctx.scale, out=for_q)
            torch.baddbmm(k, g.transpose(1, 2), q, beta=0, alpha=ctx.scale, out=for_k)
        own = [x.to(grad.dtype).index_select(0, back).unflatten(0, (-1, ctx.heads)) for x in outputs]
        return (*own, for_bias, None, None, None, None, None)


def _wide(dtype: torch.dtype, plan: Plan) -> torch.dtype:
    """The type that attention computes in: float32 for short texts in half precision, whose many small products cost
    more to set up than to multiply, anew for each count and length."""
    return torch.float32 if dtype in _HALVES and plan.longest < 4 * REGISTER else dtype


def score_bias(length: int, bias: Tensor | None, window: int | None, like: Tensor) -> Tensor | None:
    """What is added to scores (.., l, l): a relative position bias, minus infinity beyond a window, both or nothing.

    Examples
    --------
    >>> score_bias(3, None, window=2, like=torch.zeros(1)).tolist()
    [[0.0, 0.0, -inf], [0.0, 0.0, 0.0], [-inf, 0.0, 0.0]]
    """
    mask = None if bias is None else bias[..., :length, :length].to(like.dtype)
    if window is None or length <= window:
        return mask
    place = torch.arange(length, device=like.device)
    far = (place[:, None] - place[None, :]).abs() >= window
    band = torch.zeros(length, length, dtype=like.dtype, device=like.device).masked_fill_(far, -torch.inf)
    return band if mask is None else mask + band


def _scores(p: Tensor, q: Tensor, k: Tensor, scale: float, extra: Tensor | None) -> None:
    """Softmax of the scores into `p` (n * heads, l, l)."""
    torch.baddbmm(p, q, k.transpose(1, 2), beta=0, alpha=scale, out=p)
    if extra is not None:
        heads = extra.shape[1] if extra.dim() == 4 else 1
        p.view(-1, heads, *p.shape[1:]).add_(extra)
    softmax_(p)


def softmax_(x: Tensor) -> Tensor:
    """Softmax over the last axis, in place, same dtype.

    torch's kernel takes rows of fewer than 16 numbers, a vector register, one number at a time (20 times as long; 32 in
    half precision): short texts go through operations on whole tensors instead, half precision through float32.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.kernels import softmax_
    >>> softmax_(torch.tensor([[0.0, 0.0, 0.0, 0.0]]))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    length = x.shape[-1]
    if x.dtype in _HALVES and length < 4 * REGISTER:
        return x.copy_(softmax_(x.float()))
    if length >= REGISTER:
        return torch.softmax(x, -1, out=x)
    x.sub_(x.amax(-1, keepdim=True)).exp_()
    return x.div_(x.sum(-1, keepdim=True))


def softmax_gradient(grad: Tensor, probabilities: Tensor) -> Tensor:
    """Gradient of the scores from that of their softmax `probabilities`; same shape, same dtype.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.kernels import softmax_gradient
    >>> softmax_gradient(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
    tensor([[ 0.2500, -0.2500]])
    """
    length = probabilities.shape[-1]
    if probabilities.dtype in _HALVES and length < 4 * REGISTER:
        return softmax_gradient(grad.float(), probabilities.float()).to(grad.dtype)
    if length >= REGISTER:
        return torch._softmax_backward_data(grad, probabilities, -1, probabilities.dtype)
    weighted = grad * probabilities
    return weighted.sub_(probabilities * weighted.sum(-1, keepdim=True))


def _block(x: Tensor, group: Any) -> Tensor:
    """The tokens of a group, (T, heads, d) -> a view (n, heads, l, d)."""
    part = x[group.start : group.start + group.tokens]
    return part.unflatten(0, (group.count, group.length)).transpose(1, 2)


def _take(x: Tensor, group: Any) -> Tensor:
    return _block(x, group).reshape(-1, group.length, x.shape[2])  # (n * heads, l, d)


def _put(x: Tensor, group: Any, values: Tensor) -> None:
    view = _block(x, group)
    view.copy_(values.view(view.shape))


def _walk(plan: Plan, scores: Tensor, mask: Tensor | None, heads: int) -> Any:
    """For each group: its rows in group order, scores and dropout mask (n * heads, l, l)."""
    at = 0
    for group in plan.groups:
        shape = (group.count * heads, group.length, group.length)
        end = at + group.count * heads * group.length**2
        part = slice(group.start * heads, (group.start + group.tokens) * heads)
        yield group, part, scores[at:end].view(shape), None if mask is None else mask[at:end].view(shape)
        at = end


def grouped_attention(
    flat: tuple[Tensor, ...],
    plan: Plan,
    scale: float,
    dropout: float = 0.0,
    bias: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention of query, key and value (T, heads, d) on a CPU.

    `bias` (1, heads, L, L) is added to the scores, cut to each sequence; a token sees those nearer than `window`. In
    inference mode nothing is kept and long groups go through torch's fused kernel; outside of it one path is taken
    with and without gradients, so that a forward repeated with them is equal bit for bit.

    Examples
    --------
    >>> from embedkit.models.execution.plan import Plan
    >>> plan = Plan.of(np.array([2, 3]))
    >>> x = torch.ones(5, 2, 4)
    >>> grouped_attention((x, x, x), plan, scale=0.5).shape
    torch.Size([5, 2, 4])
    """
    if dropout > 0.0 or not torch.is_inference_mode_enabled():
        return GroupedAttention.apply(*flat, bias, plan, scale, dropout, window)
    output = flat[0].new_empty(flat[0].shape)
    for group in plan.groups:
        extra = score_bias(group.length, bias, window, flat[0])
        if group.length > LONGEST_PLAIN:
            q, k, v = (_block(x, group) for x in flat)
            _put(output, group, F.scaled_dot_product_attention(q, k, v, attn_mask=extra, scale=scale))
            continue
        q, k, v = (_take(x, group) for x in flat)
        p = q.new_empty(len(q), group.length, group.length)
        _scores(p, q, k, scale, extra)
        _put(output, group, torch.bmm(p, v))
    return output
