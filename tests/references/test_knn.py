"""Item-kNN against a worked example and a naive form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.references import cooccurrence
from esans.references.knn import KnnScorer, history_matrix
from esans.references.neighbours import find_neighbours
from esans.retrieval.ragged import Ragged
from esans.retrieval.users import UserBatch

# Users 0..3 by items 0..3.
EXAMPLE = sp.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]], dtype=np.float32))


def batch_of(histories: list[list[int]]) -> UserBatch:
    history = Ragged.from_lists(histories)
    return UserBatch(torch.arange(len(histories)), history, Ragged.from_lists([[]] * len(histories)), history)


def dense_similarity(matrix: np.ndarray, similarity: str, shrinkage: float) -> np.ndarray:
    if similarity.startswith("bm25"):
        matrix = cooccurrence.weighted_bm25(sp.csr_matrix(matrix)).toarray()
    gram = matrix.T @ matrix
    norm2 = np.diag(gram)
    product = np.sqrt(np.outer(norm2, norm2))
    denominator = {
        "cosine": product,
        "bm25_cosine": product,
        "shrunk_cosine": product + shrinkage,
        "jaccard": norm2[:, None] + norm2[None] - gram,
        "bm25": np.ones_like(gram),
    }[similarity]
    result = np.divide(gram, denominator, out=np.zeros_like(gram), where=denominator > 0)
    np.fill_diagonal(result, 0)
    return result


def test_the_worked_example_of_cosine():
    found = find_neighbours(EXAMPLE, "cosine", 2, 0.0, 100)
    # Items 0 and 1 share two of their three users; items 1 and 2 share both users of 2; item 3 only meets item 0.
    assert found.ids[1].tolist() == [2, 0]
    assert np.allclose(found.values[1], [2 / math.sqrt(6), 2 / 3])
    assert found.ids[3].tolist() == [0, -1]
    assert np.allclose(found.values[3], [1 / math.sqrt(3), 0])
    scorer = KnnScorer(batch_of([[1], [3, 1]]), found.matrix(1, "candidate"), None, torch.tensor([3, 3, 2, 1]))
    # Nearest of 0 is 1, of 2 is 1, of 3 is 0: so from {1}, items 0 and 2 get a score; item 3 follows by popularity.
    scores = scorer.chunk(0, 4)
    assert torch.allclose(scores[0, [0, 2]], torch.tensor([2 / 3, 2 / math.sqrt(6)]))
    assert scores[0, 3] == pytest.approx(1 / 3 - 1)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(["cosine", "shrunk_cosine", "jaccard", "bm25", "bm25_cosine"]),
    st.integers(1, 5),
    st.integers(1, 6),
)
def test_neighbours_are_those_of_the_dense_form_for_any_block_size(seed, similarity, k, block_rows):
    rng = np.random.default_rng(seed)
    dense = (rng.random((12, 9)) < 0.35).astype(np.float32)
    expected = dense_similarity(dense, similarity, 3.0)
    old = cooccurrence._BLOCK_ENTRIES
    cooccurrence._BLOCK_ENTRIES = block_rows * 9
    try:
        found = find_neighbours(sp.csr_matrix(dense), similarity, k, 3.0, 1000)
    finally:
        cooccurrence._BLOCK_ENTRIES = old
    assert np.allclose(found.every.toarray(), expected, atol=1e-5)
    for item in range(9):
        ids = [i for i in found.ids[item].tolist() if i >= 0]
        assert len(ids) == min(k, int((expected[item] > 0).sum()))
        assert np.allclose(np.sort(expected[item])[::-1][: len(ids)], found.values[item][: len(ids)], atol=1e-5)
        assert np.allclose(expected[item][ids], found.values[item][: len(ids)], atol=1e-5)


def test_sides_are_transposes_and_pairs_agree_with_chunks():
    rng = np.random.default_rng(0)
    found = find_neighbours(sp.csr_matrix((rng.random((30, 12)) < 0.3).astype(np.float32)), "cosine", 3, 0.0, 0)
    assert np.allclose(found.matrix(3, "candidate").toarray(), found.matrix(3, "history").toarray().T)
    assert found.every is None
    scorer = KnnScorer(batch_of([[0, 3], [5], []]), found.matrix(2, "candidate"), None, torch.arange(12))
    whole = torch.cat([scorer.chunk(0, 5), scorer.chunk(5, 12)], 1)
    rows, items = torch.arange(3).repeat_interleave(12), torch.arange(12).repeat(3)
    assert torch.equal(scorer.pairs(rows, items), whole.flatten())


def test_recency_halves_the_weight_of_older_positions():
    weights = history_matrix(batch_of([[2, 0, 1], [1]]), 3, 1.0).toarray()
    assert np.allclose(weights, [[0.5, 1.0, 0.25], [0, 1, 0]])


def test_very_long_users_are_left_out_and_counted():
    matrix = sp.csr_matrix(np.array([[1, 1, 1], [1, 1, 0]], dtype=np.float32))
    assert cooccurrence._drop_heavy(matrix, 2) == 1
    assert matrix.toarray().tolist() == [[0, 0, 0], [1, 1, 0]]
