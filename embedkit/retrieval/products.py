"""Products of documents with queries, by the quickest instructions that a device has for their type."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from embedkit.retrieval.arrays import Array
from embedkit.system.cpu import cpu_has_avx512, cpu_has_int8

Product = Callable[[Tensor], Tensor]
"""Documents (B, D) to scores (B, Q)."""


def product(queries: Array, dtype: str, device: torch.device) -> Product:
    """The function that scores documents (B, D) for queries (Q, D): to (B, Q).

    Parameters
    ----------
    queries : float32 array (Q, D)
        One a row.
    dtype : str
        "fp32" and "bf16": the products' type and that of the scores. "int8": documents are uint8, queries are rounded
        to 8 bits; scores are whole numbers in float32, those of one query on one scale.
    device : torch.device
        Where documents are.

    Examples
    --------
    >>> import numpy as np
    >>> score = product(np.array([[1.0, 0.5]], np.float32), "fp32", torch.device("cpu"))
    >>> score(torch.tensor([[2.0, 4.0], [0.0, 1.0]])).tolist()
    [[4.0], [0.5]]
    >>> score = product(np.array([[1.0, 0.5]], np.float32), "int8", torch.device("cpu"))
    >>> score(torch.tensor([[2, 4], [0, 1]], dtype=torch.uint8)).tolist()
    [[510.0], [64.0]]
    """
    weight = torch.from_numpy(queries)
    if dtype == "int8":
        return _int8(weight, device)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    weight = weight.to(device, kind)
    if device.type == "cpu" and cpu_has_avx512():
        # oneDNN: torch.mm goes to MKL, whose float32 kernels use half of what AMD's CPUs have
        return lambda documents: torch.ops.mkldnn._linear_pointwise(documents.to(kind), weight, None, "none", [], "")
    return lambda documents: documents.to(kind) @ weight.T


def _int8(weight: Tensor, device: torch.device) -> Product:
    """Products with uint8 documents, summed in 32-bit integers where the CPU has the instructions."""
    largest = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    codes = (weight / largest * 127).round_().to(torch.int8)  # (Q, D)
    if device.type != "cpu" or not cpu_has_int8():
        whole = codes.float().to(device)
        return lambda documents: documents.float() @ whole.T
    # documents are the uint8 side: for int8 inputs oneDNN has nothing but a reference loop
    packs = torch.ops.onednn.qlinear_prepack(codes, None)
    ones, zeros = torch.ones(len(codes)), torch.zeros(len(codes), dtype=torch.int32)

    def score(documents: Tensor) -> Tensor:
        scores: Tensor = torch.ops.onednn.qlinear_pointwise(
            documents, 1.0, 0, packs, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return scores

    return score
