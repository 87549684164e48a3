"""Similarities of vectors against numpy, for every form that vectors come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError, UserError
from embedkit.models.similarity import SIMILARITIES, check_similarity, similarity_matrix
from tests.helpers import tiny

A = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
B = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)


def by_hand(name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if name == "dot":
        return a @ b.T
    if name == "cosine":
        return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None]
    apart = a[:, None] - b[None]
    return -np.sqrt((apart**2).sum(-1)) if name == "euclidean" else -np.abs(apart).sum(-1)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_each_function_is_its_formula(name: str) -> None:
    found = similarity_matrix(name, A, B)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(name, A.astype(np.float64), B.astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_nothing_is_closer_to_a_vector_than_itself(name: str) -> None:
    unit = A / np.linalg.norm(A, axis=1, keepdims=True)
    found = similarity_matrix(name, unit, unit)
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    assert (found.argmax(1) == np.arange(len(A))).all()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_it_is_the_function_of_sentence_transformers(name: str) -> None:
    library = pytest.importorskip("sentence_transformers.util")
    theirs = {"cosine": library.cos_sim, "dot": library.dot_score, "euclidean": library.euclidean_sim,
              "manhattan": library.manhattan_sim}[name]  # fmt: skip
    np.testing.assert_allclose(similarity_matrix(name, A, B), theirs(A, B).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x, lambda x: x.tolist(), lambda x: torch.from_numpy(x), lambda x: list(x), tuple,
        lambda x: [torch.from_numpy(row) for row in x], lambda x: x.astype(np.float64),
        lambda x: torch.from_numpy(x).double().requires_grad_(),
    ],
    ids=["array", "lists", "tensor", "rows", "tuple", "tensors", "double", "gradient"],
)  # fmt: skip
def test_vectors_in_any_form(form: Any) -> None:
    np.testing.assert_allclose(similarity_matrix("cosine", form(A), form(B)), by_hand("cosine", A, B), atol=1e-5)


def test_half_precision_is_computed_in_single() -> None:
    found = similarity_matrix("dot", torch.from_numpy(A).bfloat16(), B)
    expected = torch.from_numpy(A).bfloat16().float().numpy() @ B.T
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_one_vector_is_one_row(name: str) -> None:
    assert similarity_matrix(name, A[0], B).shape == (1, 3)
    assert similarity_matrix(name, A, B[0]).shape == (4, 1)
    np.testing.assert_allclose(similarity_matrix(name, A[0], B), similarity_matrix(name, A, B)[:1], atol=1e-6)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_no_vectors_have_no_similarities(name: str) -> None:
    assert similarity_matrix(name, np.zeros((0, 6)), B).shape == (0, 3)


def test_a_zero_vector_has_a_cosine_of_zero() -> None:
    np.testing.assert_array_equal(similarity_matrix("cosine", np.zeros((1, 6)), B), np.zeros((1, 3), np.float32))


def test_near_vectors_have_small_distances_not_zero() -> None:
    """The quick formula a² - 2ab + b² loses them in single precision."""
    a = np.full((40, 6), 100.0, dtype=np.float32)
    b = a + np.float32(1e-3)
    found = similarity_matrix("euclidean", a, b)
    np.testing.assert_allclose(found, -np.linalg.norm((b - a).astype(np.float64)[0]), rtol=1e-3)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (A, B[:, :4], "vectors have 6 and 4 coordinates; use one model for both"),
        (A[None], B, r"vectors have the shape \(1, 4, 6\)"),
        (np.float32(3), B, r"vectors have the shape \(\)"),
        ([["a", "b"]], B, "neither texts nor vectors"),
        ([[1.0], [1.0, 2.0]], B, "neither texts nor vectors"),
        (None, B, "shape|neither texts nor vectors"),
    ],
)
def test_what_are_no_vectors(a: Any, b: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        similarity_matrix("cosine", a, b)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "meant"), [("cos", "cosine"), ("euclid", "euclidean"), ("dotproduct", "dot")])
def test_an_unknown_function_has_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ModelError, match=f"unknown similarity function '{name}'.*{meant}"):
        check_similarity(name)
    assert check_similarity(meant) == meant


def test_a_model_compares_texts_with_vectors() -> None:
    model = tiny.text_encoder(normalize=False, similarity_fn_name="dot")
    texts = ["the dog", "a man is playing guitar"]
    vectors = model.encode(texts)
    np.testing.assert_allclose(model.similarity(texts, vectors), vectors @ vectors.T, rtol=1e-5)
    np.testing.assert_allclose(model.similarity("the dog", texts), vectors[:1] @ vectors.T, rtol=1e-5)
