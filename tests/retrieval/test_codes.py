"""Search through codes: against what codes and queries mean, taken word by word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedkit.retrieval.codes import Codes, SignLevels, principal_axes, write_codes
from embedkit.retrieval.exact import TopK
from embedkit.retrieval.products import product


def some(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors that are not centred."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, dim)) + 0.5 * rng.standard_normal(dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def whole_number_scores(weights: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Scores (Q, N): each query in whole numbers from -127 to 127, times the codes, summed as Python does."""
    numbers = np.rint(weights / np.abs(weights).max(axis=1, keepdims=True) * 127).astype(int)
    return np.array([[sum(int(a) * int(b) for a, b in zip(q, c, strict=True)) for c in codes] for q in numbers])


@pytest.mark.parametrize("dim", [8, 13, 64])
@pytest.mark.parametrize("name", ["uint8", "ubinary", "pca"])
def test_the_nearest_by_codes_are_those_of_whole_number_products(name: str, dim: int, tmp_path: Path) -> None:
    vectors, queries = some(70, dim), some(5, dim, seed=1)
    write_codes(tmp_path, name, [vectors[:30], vectors[30:]], 70, dim)
    stored, levels = np.load(tmp_path / f"{name}.npy"), np.load(tmp_path / f"{name}.levels.npy")
    axes = np.load(tmp_path / "pca.axes.npy") if name == "pca" else None
    places = Codes(name, stored, levels, axes).nearest(queries, 9, block=32)
    codes = stored
    if name == "ubinary":
        codes = np.array([[int(bit) for byte in row for bit in f"{byte:08b}"][:dim] for row in stored])
        assert np.array_equal(codes, vectors > 0)
    scores = whole_number_scores((queries if axes is None else queries @ axes) * levels[1], codes)
    for row in range(5):
        assert places[row].tolist() == sorted(range(70), key=lambda n: (-scores[row, n], n))[:9]


def test_a_code_stands_for_its_value_to_half_a_step(tmp_path: Path) -> None:
    vectors = some(200, 16)
    write_codes(tmp_path, "uint8", [vectors], 200, 16)
    low, step = np.load(tmp_path / "uint8.levels.npy")
    assert np.abs(low + np.load(tmp_path / "uint8.npy") * step - vectors).max() <= step.max() / 2 * 1.0001
    write_codes(tmp_path, "ubinary", [vectors], 200, 16)
    low, step = np.load(tmp_path / "ubinary.levels.npy")
    for place in range(16):
        column = vectors[:, place].astype(float)
        assert low[place] == pytest.approx(column[column <= 0].mean())
        assert low[place] + step[place] == pytest.approx(column[column > 0].mean())


def test_a_coordinate_with_one_sign_or_one_value_has_no_part() -> None:
    levels = SignLevels(3)
    levels.add(np.array([[1.0, -1.0, 0.0], [2.0, -2.0, 0.0]]))
    assert levels.result()[1].tolist() == [0, 0, 0]
    assert np.isfinite(levels.result()).all()


def test_principal_axes_are_those_of_the_centred_vectors() -> None:
    vectors = some(300, 10) * np.arange(1, 11, dtype=np.float32)
    axes = principal_axes([vectors[:100], vectors[100:]], 4)
    _, _, theirs = np.linalg.svd(vectors.astype(float) - vectors.astype(float).mean(axis=0), full_matrices=False)
    assert np.abs(np.abs((axes.T * theirs[:4]).sum(axis=1)) - 1).max() < 1e-4


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_products_of_any_shape(dtype: str) -> None:
    rng = np.random.default_rng(0)
    for rows, count, dim in ((1, 1, 1), (5, 3, 17), (64, 33, 384)):
        queries = rng.integers(-8, 9, (count, dim)).astype(np.float32)
        queries[:, 0] = 127  # the largest of each, so that whole numbers stay what they are
        documents = rng.integers(0, 4, (rows, dim))
        block = torch.from_numpy(documents.astype(np.uint8 if dtype == "int8" else np.float32))
        scores = product(queries, dtype, torch.device("cpu"))(block).float().numpy()
        assert scores.shape == (rows, count)
        wanted = documents.astype(np.int64) @ queries.astype(np.int64).T
        assert np.allclose(scores, wanted, rtol=2**-7 if dtype == "bf16" else 0)


def test_without_8_bit_instructions_the_same_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, documents = some(7, 40), rng.integers(0, 256, (500, 40)).astype(np.uint8)
    found = []
    for quick in (True, False):
        if not quick:
            monkeypatch.setattr("embedkit.retrieval.products.cpu_has_int8", lambda: False)
        search = TopK(queries, 20, 500, dtype="int8")
        search.add(0, documents)
        found.append(search.result())
    assert np.array_equal(found[0][1], found[1][1])
    assert np.array_equal(found[0][0], found[1][0])
