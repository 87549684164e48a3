"""A transformer encoder, post-norm with ReLU, in plain loops (All4One, section 1.11)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .plain import dot, mean, softmax

Weights = Mapping[str, np.ndarray]


def linear(z: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Each row times the matrix, plus the bias."""
    return np.array([weight @ row + bias for row in z])


def layer_norm(z: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Each row to mean 0 and variance 1 (eps 1e-5), times scale, plus shift."""
    out = np.empty_like(z)
    for i, row in enumerate(z):
        centre = mean(row)
        spread = math.sqrt(mean((x - centre) ** 2 for x in row) + 1e-5)
        out[i] = [(x - centre) / spread * s + t for x, s, t in zip(row, scale, shift, strict=True)]
    return out


def attention(z: np.ndarray, w: Weights, prefix: str, heads: int) -> np.ndarray:
    """Self-attention with scaled dot products."""
    dim = z.shape[1]
    size = dim // heads
    q, k, v = (
        linear(
            z,
            w[f"{prefix}in_proj_weight"][n * dim : (n + 1) * dim],
            w[f"{prefix}in_proj_bias"][n * dim : (n + 1) * dim],
        )
        for n in range(3)
    )
    out = np.zeros_like(z)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for i in range(len(z)):
            weights = softmax([dot(q[i, part], k[j, part]) / math.sqrt(size) for j in range(len(z))])
            out[i, part] = sum(a * v[j, part] for j, a in enumerate(weights))
    return linear(out, w[f"{prefix}out_proj.weight"], w[f"{prefix}out_proj.bias"])


def first_output(tokens: np.ndarray, w: Weights, heads: int) -> np.ndarray:
    """The first output for tokens (k, D), with sinusoidal places added; weights are named ``mixer.layers.N....``."""
    count, dim = tokens.shape
    z = tokens.copy()
    for place in range(count):
        for d in range(dim):
            angle = place / 10000 ** ((d - d % 2) / dim)
            z[place, d] += math.sin(angle) if d % 2 == 0 else math.cos(angle)
    layers = sorted({int(name.split(".")[2]) for name in w if name.startswith("mixer.layers.")})
    for n in layers:
        p = f"mixer.layers.{n}."
        z = layer_norm(z + attention(z, w, f"{p}self_attn.", heads), w[f"{p}norm1.weight"], w[f"{p}norm1.bias"])
        hidden = np.maximum(linear(z, w[f"{p}linear1.weight"], w[f"{p}linear1.bias"]), 0.0)
        z = layer_norm(
            z + linear(hidden, w[f"{p}linear2.weight"], w[f"{p}linear2.bias"]),
            w[f"{p}norm2.weight"],
            w[f"{p}norm2.bias"],
        )
    return z[0]
