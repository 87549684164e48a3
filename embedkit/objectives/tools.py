"""Small numerical helpers that every objective shares: checks, normalisation, masked log-sum-exp."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from embedkit.errors import NonFiniteError, RecipeError

_CAPACITY: ContextVar[int | None] = ContextVar("_CAPACITY", default=None)


@contextlib.contextmanager
def small_state() -> Iterator[None]:
    """Objectives built inside keep 64 vectors at most, for a trial that needs no more."""
    token = _CAPACITY.set(64)
    try:
        yield
    finally:
        _CAPACITY.reset(token)


def capacity(size: int) -> int:
    """How many vectors an objective keeps that is asked to keep `size`.

    >>> kept(65_536)
    65536
    >>> with small_state():
    ...     kept(65_536)
    64
    """
    most = _CAPACITY.get()
    return size if most is None else min(size, most)


EPSILON = 1e-8
"""The least that a vector is divided by, so that a zero vector stays zero."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type a loss is computed in: float64 stays, everything else becomes float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_finite(embeddings: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinite embeddings.

    Raises
    ------
    NonFiniteError
        Names the embedding and its first bad row.
    """
    for name, z in embeddings.items():
        # One reduction per tensor; the row is searched for only when something is wrong.
        if not bool(torch.isfinite(z.detach().sum())) and not bool(torch.isfinite(z.detach()).all()):
            row = int((~torch.isfinite(z.detach()).all(-1)).nonzero()[0])
            raise NonFiniteError(
                "the embedding is NaN or infinite",
                where=f"embeddings[{name!r}] row {row}",
                remedy="lower the learning rate or the loss scale, or look at that input",
            )


def prepare(embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check that all embeddings (N, D) are finite and cast them to the type the loss is computed in."""
    check_finite(embeddings)
    return {name: z.to(compute_dtype(z.dtype)) for name, z in embeddings.items()}


class _Unit(torch.autograd.Function):
    """Division by length that keeps its output only, and makes no further tensor of its size on the way back."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        if z.numel() and not bool(torch.isfinite(length).all()):
            # Squares of very long vectors overflow; NaN and infinity themselves were refused before.
            top = z.abs().amax(-1, keepdim=True).clamp_min(1.0)
            length = torch.linalg.vector_norm(z / top, dim=-1, keepdim=True) * top
        length = length.clamp_min(EPSILON)
        out = z / length
        ctx.save_for_backward(out, length)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out, length = ctx.saved_tensors
        # A vector shorter than EPSILON is only scaled: nothing is taken from its gradient.
        along = torch.linalg.vecdot(grad, out).unsqueeze(-1) * (length > EPSILON)
        return torch.addcmul(grad, out, along, value=-1).div_(length)


def unit(z: Tensor) -> Tensor:
    """Rows of `z` (..., D) divided by their length; a zero row stays zero and has a finite gradient."""
    return _Unit.apply(z)


def masked_lse(x: Tensor, mask: Tensor | None, dim: int = -1) -> Tensor:
    """Log of the sum of exp(x) over `dim` where `mask` is true; -inf, with zero gradient, where it is true nowhere."""
    if x.shape[dim] == 0:
        return x.sum(dim) - torch.inf
    if mask is not None:
        x = x.masked_fill(~mask, -torch.inf)
    top = x.detach().amax(dim, keepdim=True)
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    total = (x - top).exp().sum(dim)
    empty = total == 0
    return torch.where(empty, -torch.inf, total.masked_fill(empty, 1.0).log() + top.squeeze(dim))


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), exact in fp64 too: torch's own becomes linear at 20 unless told otherwise."""
    return torch.nn.functional.softplus(x, threshold=40.0)


def grouped_lse(x: Tensor, group: Tensor, groups: int) -> Tensor:
    """Log-sum-exp of the entries of `x` (P,) with the same number in `group` (P,), (groups,); -inf for empty groups."""
    top = x.new_full((groups,), -torch.inf).scatter_reduce(0, group, x.detach(), "amax")
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    total = x.new_zeros(groups).index_add(0, group, (x - top[group]).exp())
    empty = total == 0
    return torch.where(empty, -torch.inf, total.masked_fill(empty, 1.0).log() + top)


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b); unlike `torch.logaddexp` its gradient is 0, not NaN, where both are -inf."""
    top = torch.maximum(a.detach(), b.detach())
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    total = (a - top).exp() + (b - top).exp()
    empty = total == 0
    return torch.where(empty, -torch.inf, total.masked_fill(empty, 1.0).log() + top)


def require(holds: bool, setting: str, value: Any, rule: str) -> None:
    """Refuse the `value` of a `setting` unless the `rule` (for example "greater than 0") holds."""
    if not holds:
        raise RecipeError(f"{setting} is {value!r}", where="objective", remedy=f"it must be {rule}")


def number(setting: str, value: Any, *, above: float | None = None, least: float | None = None,
           below: float | None = None, most: float | None = None) -> float:  # fmt: skip
    """`value` as a float inside the bounds (`above` and `below` exclude the bound), or a RecipeError."""
    rules = [(above, "greater than", lambda v, b: v > b), (least, "at least", lambda v, b: v >= b),
             (below, "less than", lambda v, b: v < b), (most, "at most", lambda v, b: v <= b)]  # fmt: skip
    rule = "a number" + " and".join(f" {text} {bound:g}" for bound, text, _ in rules if bound is not None)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    require(good and all(bound is None or holds(value, bound) for bound, _, holds in rules), setting, value, rule)
    return float(value)


def whole(setting: str, value: Any, *, least: int = 0, most: int | None = None) -> int:
    """`value` as an int inside the bounds, or a RecipeError."""
    good = isinstance(value, int) and not isinstance(value, bool)
    rule = f"a whole number of at least {least}" + (f" and at most {most}" if most is not None else "")
    require(good and value >= least and (most is None or value <= most), setting, value, rule)
    return int(value)


def choice(setting: str, value: Any, options: tuple[Any, ...]) -> Any:
    """`value` when it is one of `known`, or a RecipeError."""
    require(value in options, setting, value, "one of " + ", ".join(map(str, options)))
    return value
