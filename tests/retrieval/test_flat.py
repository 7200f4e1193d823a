"""faiss's flat search with its proof gives the lists of exact search, equal scores included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.retrieval.flat import FlatSearch
from esans.retrieval.topk import exact_topk


def unit(rows: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn((rows, dim), generator=generator), dim=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 400), st.integers(1, 40), st.booleans())
def test_lists_and_scores_are_those_of_exact_search(seed, items, k, repeats):
    generator = torch.Generator().manual_seed(seed)
    users, vectors = unit(9, 12, generator), unit(items, 12, generator)
    if repeats:  # equal items, so that many scores tie
        vectors = vectors[torch.randint(0, max(1, items // 6), (items,), generator=generator)]
    scores, ids = FlatSearch(vectors).topk(users, k)
    expected_scores, expected_ids = exact_topk(users, vectors, k)
    assert torch.equal(ids, expected_ids)
    assert torch.equal(scores, expected_scores)


def test_plain_queries_need_no_second_search_and_ties_at_the_end_do():
    generator = torch.Generator().manual_seed(0)
    users, vectors = unit(50, 32, generator), unit(3000, 32, generator)
    search = FlatSearch(vectors)
    search.topk(users, 10)
    assert search.repeated == 0
    same = FlatSearch(vectors[:1].expand(500, -1).contiguous())
    _, ids = same.topk(users, 10)
    assert same.repeated == 50
    assert torch.equal(ids, exact_topk(users, vectors[:1].expand(500, -1), 10)[1])


def test_vectors_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="norm of at most"):
        FlatSearch(torch.ones(5, 3) * 3).topk(torch.ones(1, 3), 2)
