"""AdamW whose two means are held in bf16 or in 8 bits.

8 bits: block-wise dynamic quantisation (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization", sections
2.1 and 2.2): each block of 256 numbers is divided by its largest and mapped to 256 codes whose spacing grows with the
number, over seven orders of magnitude. Of the second mean the root is held: it spans as many orders as the first mean,
and a second mean that became zero beside a first one that did not would make a huge update.

Both are rounded at random, up or down with the probability that keeps the expectation: a mean that moves by a
thousandth of itself a step would otherwise never move. The bits are a hash of seed, step, tensor and place,
so that nothing but numbers that are saved anyway decides them, on every device and process alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["fp32", "bf16", "int8"]
BLOCK = 256
SMALLEST = 4096
"""Tensors with fewer numbers (biases, norms) stay in float32: they weigh nothing (Dettmers et al., section 2.3)."""
_SLICE = BLOCK * 2048  # numbers that are in float32 at a time


def dynamic_codes(signed: bool) -> Tensor:
    """The 256 numbers from -1 or 0 to 1 that a code stands for, ascending: fractions of seven powers of ten, the larger
    the finer, zero and one.

    Examples
    --------
    >>> codes = dynamic_codes(signed=True)
    >>> len(codes), float(codes[127]), float(codes[-1]), bool((codes.diff() > 0).all())
    (256, 0.0, 1.0, True)
    """
    parts: list[Tensor] = []
    for exponent in range(7):
        count = 2**exponent if signed else 2 ** (exponent + 1)
        limits = torch.linspace(0.1, 1.0, count + 1, dtype=torch.float64)
        parts.append((limits[:-1] + limits[1:]) / 2 * 10.0 ** (exponent - 6))
    values, zero, one = torch.cat(parts), torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    below = -values.flip(0) if signed else values[:0]
    return torch.cat([below, zero, values, one]).float()


def random_halves(key: int, start: int, count: int, device: torch.device) -> Tensor:
    """16 random bits for each of `count` places from `start` on, int32 in [0, 65536): a hash of key and place.

    The mixer is lowbias32 (Wellons 2018, "Prospecting for hash functions").

    Examples
    --------
    >>> place = torch.device("cpu")
    >>> torch.equal(random_halves(1, 0, 8, place)[3:], random_halves(1, 3, 5, place))
    True
    """
    x = torch.arange(start, start + count, dtype=torch.int32, device=device)
    x.mul_(_signed(0x9E3779B1)).add_(_signed(key))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x.bitwise_xor_((x >> shift).bitwise_and_((1 << (32 - shift)) - 1)).mul_(_signed(factor))
    return (x >> 16).bitwise_and_(0xFFFF)


def _signed(value: int) -> int:
    """The low 32 bits as a signed number."""
    return (value + 2**31) % 2**32 - 2**31


def to_bf16(values: Tensor, random: Tensor) -> Tensor:
    """float32 -> bf16, up or down so that the expectation is the number; `random` is from `random_halves`.

    Examples
    --------
    >>> to_bf16(torch.full((1000,), 1.0 + 2**-9), random_halves(1, 0, 1000, torch.device("cpu"))).unique().tolist()
    [1.0, 1.0078125]
    """
    bits = values.view(torch.int32) + random
    return bits.bitwise_and_(-65536).view(torch.float32).bfloat16()


class Codebook:
    """Block-wise quantisation to 8 bits by 256 codes.

    Examples
    --------
    >>> book = Codebook(signed=True)
    >>> codes, largest = book.encode(torch.tensor([0.0, 3.0, -2.99]), torch.zeros(3, dtype=torch.int32))
    >>> codes.dtype, largest.tolist(), book.decode(codes, largest)[:2].tolist()
    (torch.uint8, [3.0], [0.0, 3.0])
    """

    def __init__(self, signed: bool) -> None:
        self.signed = signed
        self.values = dynamic_codes(signed)
        # the code below a number, by the upper half of its float32, which orders numbers as well as the codes need
        tops = torch.arange(65536, dtype=torch.int32).bitwise_left_shift(16).view(torch.float32)
        below = torch.bucketize(tops.nan_to_num(0.0), self.values, right=True) - 1
        self.below = below.clamp(0, 254).int()

    def encode(self, values: Tensor, random: Tensor) -> tuple[Tensor, Tensor]:
        """Codes uint8 (n,) and the largest magnitude of each block, float32 (ceil(n / 256),), of `values` (n,)."""
        device, count = values.device, len(values)
        blocks = torch.nn.functional.pad(values, (0, -count % BLOCK)).view(-1, BLOCK)
        largest = blocks.abs().amax(1)
        scaled = (blocks / largest.clamp_min(1e-38)[:, None]).view(-1)[:count]
        table, below = self.values.to(device), self.below.to(device)
        low = below[(scaled.view(torch.int32) >> 16).bitwise_and_(0xFFFF)]
        bottom, top = table[low], table[low + 1]
        up = (scaled - bottom) > (top - bottom) * (random.float() + 0.5) * 2.0**-16
        if not self.signed:
            up |= (scaled > 0) & (low == 0)  # never zero of what is not
        return low.add_(up.int()).to(torch.uint8), largest

    def decode(self, codes: Tensor, largest: Tensor) -> Tensor:
        """float32 (n,) of what `encode` gave."""
        values = self.values.to(codes.device)[codes.int()]
        rows = torch.nn.functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
        return rows.mul_(largest[:, None]).view(-1)[: len(values)]


class CompactAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019) whose means take 2 bytes or 1 byte a number each.

    Parameters
    ----------
    groups : list of dict
        As of `torch.optim.AdamW`.
    kind : str
        "bf16" or "int8".
    seed : int
        What the rounding is drawn from, with step, tensor and place.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(8192))
    >>> adamw = CompactAdamW([{"params": [weight]}], "int8", seed=0, lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    >>> weight.grad = torch.ones(8192)
    >>> adamw.step()
    >>> round(weight[0].item(), 6), adamw.state[weight]["exp_avg"].dtype
    (0.9, torch.uint8)
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], kind: Kind, seed: int, *, lr: float, betas: tuple[float, float],
        eps: float,
    ) -> None:  # fmt: skip
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.kind, self.seed = kind, seed
        self._books = {"exp_avg": Codebook(signed=True), "exp_avg_sq": Codebook(signed=False)}
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = first_moments(parameter, kind)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                number += 1
                if parameter.grad is not None:
                    self._update(parameter, group, number)

    def _update(self, parameter: Tensor, group: dict[str, Any], number: int) -> None:
        state = self.state[parameter]
        state["step"] += 1
        step, (first, second) = int(state["step"]), group["betas"]
        weight, gradient = parameter.view(-1), parameter.grad.reshape(-1).float()  # type: ignore[union-attr]
        root, rate = (1.0 - second**step) ** 0.5, group["lr"] / (1.0 - first**step)
        for start in range(0, len(weight), _SLICE):
            part = slice(start, min(start + _SLICE, len(weight)))
            mean = self._read(state, "exp_avg", part)
            square = self._read(state, "exp_avg_sq", part)
            g = gradient[part]
            mean.lerp_(g, 1.0 - first)
            square.mul_(second).addcmul_(g, g, value=1.0 - second)
            update = mean / (square.sqrt().div_(root).add_(group["eps"]))
            weight[part].mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update.mul_(rate).to(weight.dtype))
            key = (self.seed * 0x85EBCA6B + step * 0xC2B2AE35 + number * 0x27D4EB2F) & 0xFFFFFFFF
            for place, (name, values) in enumerate((("exp_avg", mean), ("exp_avg_sq", square))):
                self._write(state, name, part, values, key + place * 0x165667B1)

    def _read(self, state: dict[str, Tensor], name: str, part: slice) -> Tensor:
        slot = state[name].view(-1)[part]
        if slot.dtype != torch.uint8:
            return slot.float() if slot.dtype == torch.bfloat16 else slot
        values = self._books[name].decode(slot, state[f"{name}_scale"][_blocks(part)])
        return values.square_() if name == "exp_avg_sq" else values

    def _write(self, state: dict[str, Tensor], name: str, part: slice, values: Tensor, key: int) -> None:
        slot = state[name].view(-1)[part]
        if slot.dtype == torch.float32:
            return  # changed in place
        random = random_halves(key, part.start, len(values), values.device)
        if slot.dtype == torch.bfloat16:
            slot.copy_(to_bf16(values, random))
            return
        codes, largest = self._books[name].encode(values.sqrt() if name == "exp_avg_sq" else values, random)
        slot.copy_(codes)
        state[f"{name}_scale"][_blocks(part)] = largest


def _blocks(part: slice) -> slice:
    return slice(part.start // BLOCK, -(-part.stop // BLOCK))


def first_moments(parameter: Tensor, kind: Kind) -> dict[str, Tensor]:
    """The state of a parameter before its first step, by the names that checkpoints have.

    Examples
    --------
    >>> {name: tuple(value.shape) for name, value in first_moments(torch.ones(100, 100), "int8").items()}
    {'step': (), 'exp_avg': (100, 100), 'exp_avg_scale': (40,), 'exp_avg_sq': (100, 100), 'exp_avg_sq_scale': (40,)}
    """
    # the fused update counts on the device; here the count is read on the CPU
    place = parameter.device if kind == "fp32" and parameter.device.type != "cpu" else "cpu"
    state = {"step": torch.zeros((), dtype=torch.float32, device=place)}
    large = parameter.numel() >= SMALLEST
    for name in ("exp_avg", "exp_avg_sq"):
        if kind == "fp32":
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        else:
            slot = {"bf16": torch.bfloat16, "int8": torch.uint8}[kind] if large else torch.float32
            state[name] = torch.zeros(parameter.shape, dtype=slot, device=parameter.device)
        if state[name].dtype == torch.uint8:
            state[name].fill_(127 if name == "exp_avg" else 0)  # the codes of zero
            state[f"{name}_scale"] = torch.zeros(-(-parameter.numel() // BLOCK), device=parameter.device)
    return state


def moment_bytes(parameters: Iterable[Tensor], kind: Kind) -> int:
    """Bytes of both means of all parameters.

    Examples
    --------
    >>> [moment_bytes([torch.ones(64, 64)], kind) for kind in ("fp32", "bf16", "int8")]
    [32768, 16384, 8320]
    """
    total = 0
    for parameter in parameters:
        count = parameter.numel()
        if kind == "fp32" or count < SMALLEST:
            total += 2 * count * (parameter.element_size() if kind == "fp32" else 4)
        else:
            total += 4 * count if kind == "bf16" else 2 * (count + 4 * -(-count // BLOCK))
    return total
