"""How close two sets of vectors are, by the functions that a model folder can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import ModelError, UserError, nearest


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12) for x in (a, b))
    return a @ b.T


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    return -torch.cdist(a, b, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": _cosine,
    "dot": lambda a, b: a @ b.T,
    "euclidean": _euclidean,
    "manhattan": lambda a, b: -torch.cdist(a, b, p=1.0),
}
"""Vectors (N, D) and (M, D) to similarities (N, M), larger for closer ones: distances are negated, as in
sentence-transformers."""


def check_similarity(name: str) -> str:
    """`name`, when it is one of `SIMILARITIES`.

    Raises
    ------
    ModelError
        When it is not.

    Examples
    --------
    >>> from embedkit.models.similarity import check_similarity
    >>> check_similarity("dot")
    'dot'
    """
    if name not in SIMILARITIES:
        raise ModelError(f"unknown similarity function {name!r}", remedy=nearest(str(name), SIMILARITIES))
    return name


def similarity_matrix(name: str, a: Any, b: Any) -> np.ndarray:
    """Similarities, float32 (N, M), of vectors (N, D) and (M, D); a single vector (D,) counts as one row.

    Raises
    ------
    UserError
        When the vectors have different sizes or are no numbers.

    Examples
    --------
    >>> from embedkit.models.similarity import similarity_matrix
    >>> similarity_matrix("dot", [[1.0, 2.0]], [[3.0, 4.0], [0.0, 1.0]]).tolist()
    [[11.0, 2.0]]
    """
    left, right = _matrix(a), _matrix(b)
    if left.shape[1] != right.shape[1]:
        what = f"vectors have {left.shape[1]} and {right.shape[1]} coordinates"
        raise UserError(what, remedy="use one model for both")
    return SIMILARITIES[check_similarity(name)](left, right).numpy()


def _matrix(vectors: Any) -> Tensor:
    if isinstance(vectors, (list, tuple)) and vectors and all(isinstance(row, Tensor) for row in vectors):
        vectors = torch.stack(list(vectors))
    if isinstance(vectors, Tensor):
        matrix = vectors.detach().cpu().float()
    else:
        try:
            matrix = torch.from_numpy(np.array(vectors, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"neither texts nor vectors ({error})", remedy="give texts, or vectors that encode returned"
            ) from error
    if matrix.dim() not in (1, 2):
        raise UserError(f"vectors have the shape {tuple(matrix.shape)}", remedy="give (D,) or (N, D)")
    return matrix[None] if matrix.dim() == 1 else matrix
