"""Exact top-k against a full sort, for any block size, with many ties."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from embedkit.errors import DataError, NonFiniteError
from embedkit.retrieval.approximate import FaissIndex
from embedkit.retrieval.exact import (
    _sortable,
    _unsortable,
    array_blocks,
    exact_top_k,
    trec_preference,
)


def test_sortable_numbers_order_like_floats_and_come_back() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.standard_normal(500) * 10.0 ** rng.integers(-40, 38, 500), [0.0, np.inf, -np.inf]])
    values = values.astype(np.float32)
    numbers = _sortable(values)
    assert np.array_equal(np.argsort(numbers, kind="stable"), np.argsort(values, kind="stable"))
    assert np.array_equal(_unsortable(numbers), values)
    assert _sortable(np.array([-0.0])) == _sortable(np.array([0.0]))


@pytest.mark.parametrize("seed", range(40))
def test_equals_a_full_sort_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, size, k = int(rng.integers(1, 40)), int(rng.integers(1, 400)), int(rng.integers(1, 60))
    queries = rng.integers(-1, 2, (count, 4)).astype(np.float32)
    documents = rng.integers(-1, 2, (size, 4)).astype(np.float16 if seed % 2 else np.float32)
    ids = [str(i) for i in rng.permutation(10_000)[:size]]
    full = queries @ documents.astype(np.float32).T
    blocks, rows = int(rng.integers(1, 150)), int(rng.integers(1, 20))
    trec = exact_top_k(queries, array_blocks(documents, blocks), k, size, trec_preference(ids), query_block=rows)
    early = exact_top_k(queries, array_blocks(documents, blocks), k, size, query_block=rows)
    for row in range(count):
        wanted = sorted(range(size), key=lambda i: (full[row, i], ids[i]), reverse=True)[:k]
        assert trec[1][row].tolist() == wanted
        assert np.array_equal(trec[0][row], full[row, wanted])
        assert early[1][row].tolist() == sorted(range(size), key=lambda i: (-full[row, i], i))[:k]


def test_all_documents_tied_keeps_the_preferred_ones() -> None:
    documents, queries = np.ones((5000, 2), dtype=np.float32), np.ones((3, 2), dtype=np.float32)
    scores, places = exact_top_k(queries, array_blocks(documents, 700), 5, 5000, np.arange(5000))
    assert places.tolist() == [[4999, 4998, 4997, 4996, 4995]] * 3
    assert (scores == 2).all()


def test_memory_is_bounded_by_the_blocks() -> None:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((20, 16)).astype(np.float32)

    def corpus() -> object:
        for start in range(0, 200_000, 1000):
            yield start, rng.standard_normal((1000, 16)).astype(np.float32)

    tracemalloc.start()
    exact_top_k(queries, corpus(), 10, 200_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # the corpus has 12.8 MB, all scores 16 MB; two arrays of corpus length are kept


def test_non_finite_vectors_and_short_corpora_are_refused() -> None:
    good, bad = np.ones((4, 2), dtype=np.float32), np.full((4, 2), np.nan, dtype=np.float32)
    with pytest.raises(NonFiniteError, match="query"):
        exact_top_k(bad, [(0, good)], 2, 4)
    with pytest.raises(NonFiniteError, match=r"documents 0\.\.3 hold NaN"):
        exact_top_k(good, [(0, bad)], 2, 4)
    with pytest.raises(DataError, match="fewer documents"):
        exact_top_k(good, [(0, good[:1])], 3, 4)


def test_more_may_be_kept_than_a_block_holds() -> None:
    rng = np.random.default_rng(2)
    queries, documents = (rng.standard_normal((n, 3)).astype(np.float32) for n in (3, 150))
    scores, places = exact_top_k(queries, array_blocks(documents, 10), 120, 150)
    full = queries @ documents.T
    assert places.tolist() == np.argsort(-full, axis=1, kind="stable")[:, :120].tolist()
    assert scores == pytest.approx(np.take_along_axis(full, places, axis=1), rel=1e-5)


def test_numbers_that_keep_nothing_are_refused() -> None:
    good = np.ones((4, 2), dtype=np.float32)
    for k, size in ((0, 4), (2, 0), (2, 2**32)):
        with pytest.raises(DataError, match=f"cannot keep {k} of {size} documents"):
            exact_top_k(good, [(0, good)], k, size)
    assert exact_top_k(good, [(0, good[:1])], 1, 1)[1].tolist() == [[0]] * 4
    assert exact_top_k(good[:0], [(0, good)], 2, 4)[1].shape == (0, 2)


def test_scores_up_to_the_largest_float_are_kept_and_larger_ones_refused() -> None:
    queries, documents = np.full((1, 2), 1e19, dtype=np.float32), np.full((3, 2), 1e18, dtype=np.float32)
    documents[1] = 1.5e19
    scores, places = exact_top_k(queries, [(0, documents)], 3, 3)
    assert places.tolist() == [[1, 0, 2]]
    assert scores[0] == pytest.approx([3e38, 2e37, 2e37])
    documents[2] = -2e19
    with pytest.raises(NonFiniteError, match=r"documents 0\.\.2 hold .* too large numbers"):
        exact_top_k(queries, [(0, documents)], 3, 3)


def test_flat_faiss_index_agrees() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(1)
    queries, documents = (rng.standard_normal((n, 8)).astype(np.float32) for n in (6, 90))
    scores, places = exact_top_k(queries, array_blocks(documents, 40), 7, 90)
    approximate = FaissIndex(documents, "Flat").search(queries, 7)
    assert np.array_equal(approximate[1], places)
    assert np.allclose(approximate[0], scores, atol=1e-5)
    with pytest.raises(DataError, match="cannot make an index 'Nonsense'"):
        FaissIndex(documents, "Nonsense")
