"""Alias tables: exact shares for any weights, and a catalogue of ten million items (METHOD 6, popularity)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from esans.negatives.alias import AliasTable
from tests.negatives.conftest import generator_of


def shares(table: AliasTable) -> Tensor:
    """Chance of every item, read off the table: what it keeps of its slot and what others' slots give it."""
    own, alias = table.own_share_N.double(), table.alias_N.long()
    return own.index_add(0, alias, 1 - own) / len(own)


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0), st.floats(1.0, 1e4)), min_size=1, max_size=60))
@settings(deadline=None)
def test_the_slots_add_up_to_the_weights(weights: list[float]) -> None:
    given_N = torch.tensor(weights, dtype=torch.float64)
    if given_N.sum() == 0:
        given_N[0] = 1.0
    found_N = shares(AliasTable(given_N))
    assert torch.allclose(found_N, given_N / given_N.sum(), atol=1e-6)
    assert (found_N[given_N == 0] == 0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 49, 1000])
def test_equal_weights_keep_their_slots_whatever_their_sum_rounds_to(size: int) -> None:
    assert torch.allclose(shares(AliasTable(torch.full((size,), 1 / size))), torch.full((size,), 1 / size, dtype=torch.float64), atol=1e-7)


def test_weights_that_say_nothing_are_refused() -> None:
    for weights in ([0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [float("inf"), 1.0]):
        with pytest.raises(ValueError, match="weights of an alias table"):
            AliasTable(torch.tensor(weights))


def test_ten_million_items_are_drawn_by_their_weights() -> None:
    size, draws = 10_000_000, 2_000_000
    # Zipf's law over shuffled ids, every tenth item without a count.
    rank = torch.randperm(size, generator=generator_of(0))
    weights = (rank + 1.0).double() ** -0.75
    weights[::10] = 0
    table = AliasTable(weights)
    assert torch.allclose(shares(table) * size, weights * (size / weights.sum()), rtol=1e-4, atol=1e-6)
    ids = table.draw((draws,), generator_of(1))
    assert (weights[ids] > 0).all()
    # By popularity, from single heads to bins of millions, and by id: what an error of either half would bend.
    by_rank = torch.bucketize(rank, torch.logspace(0, 7, 60).unique().long().unique())
    for bins in (by_rank, torch.arange(size) * 100 // size):
        expected = torch.zeros(int(bins.max()) + 1, dtype=torch.float64).index_add_(0, bins, weights) * (draws / weights.sum())
        drawn = torch.bincount(bins[ids], minlength=len(expected)).double()
        live = expected > 5
        assert drawn[~live].sum() <= 60
        scale = drawn[live].sum() / expected[live].sum()
        assert chisquare(drawn[live].numpy(), (expected[live] * scale).numpy()).pvalue > 1e-4
