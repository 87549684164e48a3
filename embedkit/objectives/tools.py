"""Small numerical helpers that every objective shares: checks, normalisation, masked log-sum-exp."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embedkit.errors import NonFiniteError, RecipeError

if TYPE_CHECKING:
    from embedkit.objectives.base import ObjectiveBatch

_CAPACITY: ContextVar[int | None] = ContextVar("_CAPACITY", default=None)


@contextlib.contextmanager
def small_state() -> Iterator[None]:
    """A context in which new objectives store 64 vectors at most, for a trial run that needs no more.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> with small_state():
    ...     build("moco", dim=2).bank.size
    64
    """
    token = _CAPACITY.set(64)
    try:
        yield
    finally:
        _CAPACITY.reset(token)


def capacity(size: int) -> int:
    """How many vectors an objective stores that is asked to store `size`; fewer inside `small_state`.

    >>> capacity(65_536)
    65536
    >>> with small_state():
    ...     capacity(65_536)
    64
    """
    most = _CAPACITY.get()
    return size if most is None else min(size, most)


EPSILON = 1e-8
"""The least that a vector is divided by, so that a zero vector stays zero."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision that a loss is computed in: float64 stays, everything else becomes float32.

    Examples
    --------
    >>> import torch
    >>> compute_dtype(torch.bfloat16), compute_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_finite(embeddings: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinite embeddings.

    Raises
    ------
    NonFiniteError
        Names the embedding and its first bad row.

    Examples
    --------
    >>> import torch
    >>> check_finite({"anchor": torch.tensor([[1.0], [torch.nan]])})
    Traceback (most recent call last):
        ...
    embedkit.errors.NonFiniteError: embeddings['anchor'] row 1: the embedding is NaN or infinite; ...
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
    """The embeddings (N, D) in the precision of the loss; NaN and infinity are refused.

    Examples
    --------
    >>> import torch
    >>> prepare({"anchor": torch.eye(2, dtype=torch.float16)})["anchor"].dtype
    torch.float32
    """
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
        shortest = max(EPSILON, torch.finfo(z.dtype).smallest_normal * torch.finfo(z.dtype).eps)  # float16 has no 1e-8
        length = length.clamp_min(shortest)
        out = z / length
        ctx.save_for_backward(out, length)
        ctx.shortest = shortest
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out, length = ctx.saved_tensors
        # A vector shorter than the bound is only scaled: nothing is taken from its gradient.
        along = torch.linalg.vecdot(grad, out).unsqueeze(-1) * (length > ctx.shortest)
        return torch.addcmul(grad, out, along, value=-1).div_(length)


def unit(z: Tensor) -> Tensor:
    """The rows of `z` (..., D) scaled to unit length; a zero row stays zero and has a finite gradient.

    Examples
    --------
    >>> import torch
    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    return _Unit.apply(z)


def masked_lse(x: Tensor, mask: Tensor | None, dim: int = -1) -> Tensor:
    """Log-sum-exp of `x` over `dim` where `mask` is true; -inf, with zero gradient, where it is true nowhere.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0, 9.0], [1.0, 2.0, 3.0]])
    >>> masked_lse(x, torch.tensor([[True, True, False], [False, False, False]]))
    tensor([0.6931,   -inf])
    """
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
    """log(1 + e^x), exact in fp64 too: torch's own turns linear at 20 by default.

    Examples
    --------
    >>> import torch
    >>> softplus(torch.tensor([0.0, 30.0]))
    tensor([ 0.6931, 30.0000])
    """
    return torch.nn.functional.softplus(x, threshold=40.0)


def grouped_lse(x: Tensor, group: Tensor, groups: int) -> Tensor:
    """Log-sum-exp (groups,) of the entries of `x` (P,) by their number in `group` (P,); -inf for empty groups.

    Examples
    --------
    >>> import torch
    >>> grouped_lse(torch.zeros(3), torch.tensor([0, 0, 2]), groups=3)
    tensor([0.6931,   -inf, 0.0000])
    """
    top = x.new_full((groups,), -torch.inf).scatter_reduce(0, group, x.detach(), "amax")
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    total = x.new_zeros(groups).index_add(0, group, (x - top[group]).exp())
    empty = total == 0
    return torch.where(empty, -torch.inf, total.masked_fill(empty, 1.0).log() + top)


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b); unlike `torch.logaddexp` its gradient is 0, not NaN, where both are -inf.

    Examples
    --------
    >>> import torch
    >>> logaddexp(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([0.6931])
    """
    top = torch.maximum(a.detach(), b.detach())
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    total = (a - top).exp() + (b - top).exp()
    empty = total == 0
    return torch.where(empty, -torch.inf, total.masked_fill(empty, 1.0).log() + top)


def require(holds: bool, setting: str, value: Any, rule: str) -> None:
    """Refuse the `value` of a `setting` unless the `rule`, e.g. "greater than 0", holds.

    Examples
    --------
    >>> require(0.07 > 0, "temperature", 0.07, "greater than 0")
    >>> require(-1 > 0, "temperature", -1, "greater than 0")
    Traceback (most recent call last):
        ...
    embedkit.errors.RecipeError: objective: temperature is -1; it must be greater than 0
    """
    if not holds:
        raise RecipeError(f"{setting} is {value!r}", where="objective", remedy=f"it must be {rule}")


def number(setting: str, value: Any, *, above: float | None = None, least: float | None = None,
           below: float | None = None, most: float | None = None) -> float:  # fmt: skip
    """`value` as a float within the bounds (`above` and `below` exclude the bound); anything else is a RecipeError.

    Examples
    --------
    >>> number("temperature", 1, above=0)
    1.0
    >>> number("temperature", 0, above=0)
    Traceback (most recent call last):
        ...
    embedkit.errors.RecipeError: objective: temperature is 0; it must be a number greater than 0
    """
    rules = [(above, "greater than", lambda v, b: v > b), (least, "at least", lambda v, b: v >= b),
             (below, "less than", lambda v, b: v < b), (most, "at most", lambda v, b: v <= b)]  # fmt: skip
    rule = "a number" + " and".join(f" {text} {bound:g}" for bound, text, _ in rules if bound is not None)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    require(good and all(bound is None or holds(value, bound) for bound, _, holds in rules), setting, value, rule)
    return float(value)


def decay_of(momentum: float | None, batch: ObjectiveBatch) -> float:
    """The decay of an objective's own running mean in a step: its setting, else the guide's, 0.996 where that rests.

    Examples
    --------
    >>> from embedkit.objectives.base import ObjectiveBatch
    >>> batch = ObjectiveBatch.of({"anchor": torch.eye(2)}, guide_decay=0.99)
    >>> decay_of(None, batch), decay_of(0.9, batch)
    (0.99, 0.9)
    """
    if momentum is not None:
        return momentum
    return 0.996 if batch.guide_decay is None else batch.guide_decay


def whole(setting: str, value: Any, *, least: int = 0, most: int | None = None) -> int:
    """`value` as an int within the bounds; anything else is a RecipeError.

    Examples
    --------
    >>> whole("hops", 2, least=1)
    2
    >>> whole("hops", 0, least=1)
    Traceback (most recent call last):
        ...
    embedkit.errors.RecipeError: objective: hops is 0; it must be a whole number of at least 1
    """
    good = isinstance(value, int) and not isinstance(value, bool)
    rule = f"a whole number of at least {least}" + (f" and at most {most}" if most is not None else "")
    require(good and value >= least and (most is None or value <= most), setting, value, rule)
    return int(value)


def choice(setting: str, value: Any, options: tuple[Any, ...]) -> Any:
    """`value` when it is one of `options`; anything else is a RecipeError.

    Examples
    --------
    >>> choice("form", "kl", ("kl", "js"))
    'kl'
    """
    require(value in options, setting, value, "one of " + ", ".join(map(str, options)))
    return value
