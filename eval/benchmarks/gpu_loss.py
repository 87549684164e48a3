"""Section (c) of gpu.py: CLIP's loss, forward and backward, over N pairs: time and memory by tiles and as a whole.

Products are fp32, and TF32 where the device has it; the difference that TF32 makes has a row. Operations are counted
as eight N N D: one product forward, one again and two for the gradients backward.
"""

from __future__ import annotations

import torch
from gpu_common import (
    Section,
    Size,
    forget_peak,
    fp32_products,
    free_bytes,
    matrix_rate,
    missing,
    peak_mib,
    timed,
)
from torch import Tensor

SCALE = 1 / 0.07
DENSE_BYTES = 5 * 4
"""Bytes of an entry of the similarity matrix while the loss of the whole is computed: logits of both directions, their
exponentials and gradients."""


def pairs(rows: int, dim: int, device: torch.device) -> list[Tensor]:
    """Two views of random points, unit length, that want gradients."""
    draw = torch.Generator(device).manual_seed(0)
    points = torch.randn(rows, dim, device=device, generator=draw)
    views = []
    for _ in range(2):
        view = torch.randn(rows, dim, device=device, generator=draw).add_(points)
        views.append(view.div_(view.norm(dim=1, keepdim=True)).requires_grad_())
    return views


class OneLoss:
    """The loss of one way over some views; `value` is that of the last call."""

    def __init__(self, way: str, device: torch.device, tile: int | str) -> None:
        self.way, self.value = way, 0.0
        if way == "open_clip":
            from open_clip.loss import ClipLoss

            self.loss = ClipLoss()
            self.scale = torch.tensor(SCALE, device=device, requires_grad=True)
            return
        from embedkit.objectives import build

        settings = {"name": "clip", "temperature": 1 / SCALE, "tile": None if way == "whole" else tile}
        self.loss = build(settings).to(device)

    def run(self, views: list[Tensor]) -> None:
        """Forward and backward."""
        from embedkit.objectives import ObjectiveBatch

        for view in views:
            view.grad = None
        if self.way == "open_clip":
            value = self.loss(*views, self.scale)
        else:
            named = dict(zip(("anchor", "positive"), views, strict=True))
            value = self.loss(named, ObjectiveBatch.of(named)).loss
        value.backward()
        self.value = float(value.detach())


def one(
    size: Size, device: torch.device, section: Section, way: str, products: str, rows: int, predicted: float,
    known: dict[int, float],
) -> float:  # fmt: skip
    """Seconds of a loss at N rows, and its row; 0 where it is skipped. `known` are fp32 values by N."""
    what = f"{way}, {products}, {rows} rows"
    reason = section.budget.too_long(predicted)
    needed = DENSE_BYTES * rows * rows
    if reason is None and way != "tiles" and needed > 0.9 * free_bytes(device):
        reason = f"the similarity matrix and its gradients need about {needed / 2**30:.0f} GiB"
    if reason is not None:
        section.skip(what, reason)
        return 0.0
    seconds = 0.0
    with section.attempt(what), fp32_products("high" if products == "tf32" else "highest"):
        loss = OneLoss(way, device, size.loss_tile)
        loss.run(pairs(min(rows, 1024), size.loss_dim, device))  # warm
        rate = matrix_rate(size, device, torch.float32)
        views = pairs(rows, size.loss_dim, device)
        forget_peak(device)
        seconds = timed(device, lambda: loss.run(views))
        if products == "fp32" and way == "tiles":
            known[rows] = loss.value
        if products == "tf32" and rows in known:
            what = "difference of the loss by TF32 from that by fp32"
            section.put("tf32", what=what, rows=rows, difference=abs(loss.value - known[rows]))
        section.put(
            way, products, rows, way=way, products=products, rows=rows, dim=size.loss_dim, seconds=seconds,
            loss=loss.value, share_of_matrix_rate=8.0 * rows * rows * size.loss_dim / seconds / rate,
            memory_mib=peak_mib(device), features_mib=4 * 4 * rows * size.loss_dim / 2**20,
        )  # fmt: skip
    return seconds


def loss(size: Size, device: torch.device, section: Section) -> None:
    """Section (c): every way at the smallest N, then larger ones while there is time; fp32 tiles, the slowest, last."""
    ways = [("tiles", "fp32"), ("whole", "fp32")]
    reason = missing("open_clip", "open_clip")
    if reason is not None:
        section.skip("open_clip's ClipLoss", reason)
    else:
        ways.append(("open_clip", "fp32"))
    if device.type == "cuda":
        ways.insert(1, ("tiles", "tf32"))
    else:
        section.skip("tf32", "a CPU has no TF32")
    known: dict[int, float] = {}
    last: dict[tuple[str, str], tuple[int, float]] = {}
    order = [(way, rows) for rows in size.loss_rows for way in ways]
    order.sort(key=lambda entry: entry[1] > size.loss_rows[0] and entry[0] == ("tiles", "fp32"))  # the slowest last
    for way, rows in order:
        before, taken = last.get(way, (rows, 0.0))
        seconds = one(size, device, section, *way, rows, 1.2 * taken * (rows / before) ** 2, known)
        if seconds:
            last[way] = rows, seconds
        section.budget.check()
