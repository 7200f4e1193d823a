"""Exact top-k and ranks: the naive form is a full sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.retrieval.keys import keys_of, score_of, tie_order
from esans.retrieval.ragged import Ragged
from esans.retrieval.topk import exact_topk, rank_targets


def unit(rng: np.random.Generator, rows: int, dim: int) -> torch.Tensor:
    vectors = torch.from_numpy(rng.normal(size=(rows, dim)).astype(np.float32))
    return torch.nn.functional.normalize(vectors, dim=1)


def problem(seed: int, users: int, items: int, repeats: bool) -> tuple[torch.Tensor, torch.Tensor, Ragged, Ragged, torch.Tensor]:
    rng = np.random.default_rng(seed)
    user_vectors, item_vectors = unit(rng, users, 8), unit(rng, items, 8)
    if repeats:  # equal items, so that many scores tie
        item_vectors = item_vectors[torch.from_numpy(rng.integers(0, max(1, items // 4), size=items))]
    seen = [rng.choice(items, size=rng.integers(0, items // 3 + 1), replace=False).tolist() for _ in range(users)]
    targets = [rng.choice(items, size=rng.integers(0, 4), replace=False).tolist() for _ in range(users)]
    available = torch.from_numpy(rng.random(items) < 0.8)
    return user_vectors, item_vectors, Ragged.from_lists(targets), Ragged.from_lists(seen), available


def naive_order(user: torch.Tensor, items: torch.Tensor, seen: set[int], available: torch.Tensor) -> list[int]:
    grid = lambda x: np.round(x.double().numpy() * 2**25) / 2**25  # noqa: E731
    scores = (grid(items) @ grid(user)).astype(np.float32)
    tie = tie_order(torch.arange(len(items))).tolist()
    allowed = [item for item in range(len(items)) if item not in seen and bool(available[item])]
    return sorted(allowed, key=lambda item: (-scores[item], -tie[item]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(4, 60), st.booleans(), st.integers(1, 25), st.integers(1, 4))
def test_ranks_and_top_k_are_those_of_a_full_sort_for_any_chunking(seed, users, items, repeats, item_chunk, user_chunk):
    user_vectors, item_vectors, targets, seen, available = problem(seed, users, items, repeats)
    ranks = rank_targets(user_vectors, item_vectors, targets, seen, available, item_chunk, user_chunk)
    scores, ids = exact_topk(user_vectors, item_vectors, 7, seen, available, item_chunk, user_chunk)
    for user in range(users):
        order = naive_order(user_vectors[user], item_vectors, set(seen.slice(user, user + 1).values.tolist()), available)
        expected = [order.index(t) + 1 if t in order else 0 for t in targets.slice(user, user + 1).values.tolist()]
        assert ranks.slice(user, user + 1).values.tolist() == expected
        width = min(7, items)
        assert ids[user].tolist() == (order[:width] + [-1] * width)[:width]
        assert torch.isneginf(scores[user]).tolist() == [item == -1 for item in ids[user].tolist()]
        assert (scores[user].diff() <= 0).logical_or(scores[user].diff().isnan()).all()


def test_chunk_sizes_and_threads_change_no_rank_on_a_larger_problem():
    user_vectors, item_vectors, _, seen, available = problem(3, 200, 3000, repeats=False)
    targets = Ragged.from_lists([[(7 * user + j) % 3000 for j in range(5)] for user in range(200)])
    whole = rank_targets(user_vectors, item_vectors, targets, seen, available, item_chunk=3000, user_chunk=200)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        parts = rank_targets(user_vectors, item_vectors, targets, seen, available, item_chunk=131, user_chunk=7)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole.values, parts.values)


def test_seen_and_unavailable_items_never_appear():
    user_vectors, item_vectors, _, seen, available = problem(5, 30, 80, repeats=True)
    _, ids = exact_topk(user_vectors, item_vectors, 80, seen, available, item_chunk=9)
    for user in range(30):
        returned = {item for item in ids[user].tolist() if item >= 0}
        masked = set(seen.slice(user, user + 1).values.tolist())
        assert not returned & masked
        assert returned == {item for item in range(80) if bool(available[item])} - masked


def test_a_masked_target_has_rank_0_and_other_targets_stay_competitors():
    items = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]]), dim=1)
    user = torch.tensor([[1.0, 0.0]])
    ranks = rank_targets(user, items, Ragged.from_lists([[2, 1, 0]]), Ragged.from_lists([[0]]))
    assert ranks.values.tolist() == [2, 1, 0]


def test_ties_do_not_follow_the_item_index():
    items, user = torch.ones(1000, 1), torch.ones(1, 1)
    _, ids = exact_topk(user, items, 1000, item_chunk=64)
    assert sorted(ids[0].tolist()) == list(range(1000))
    assert abs(float(ids[0, :200].double().mean()) - 499.5) < 60


def test_tie_order_is_a_bijection_of_the_indices():
    assert len(tie_order(torch.arange(200_000)).unique()) == 200_000
    assert int(tie_order(torch.tensor([2**32 - 1]))) < 2**32


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2))
def test_keys_order_as_scores_and_give_them_back(scores):
    pair = torch.tensor(scores)
    keys = keys_of(pair, torch.tensor([5, 5]))
    assert (keys[0] < keys[1]).item() == (pair[0] < pair[1]).item()
    assert torch.equal(score_of(keys), pair)


def test_vectors_that_are_not_finite_or_too_long_are_refused():
    message = "vectors to be ranked must be finite with a norm of at most 2.0; the largest norm is "
    for bad, norm in ((torch.tensor([[float("nan")]]), "nan"), (torch.tensor([[3.0]]), "3.0")):
        with pytest.raises(ValueError) as error:
            exact_topk(bad, torch.ones(3, 1), 2)
        assert str(error.value) == message + norm
