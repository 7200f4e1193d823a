"""Intervals and paired tests: what they must be by definition, and how often they are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.retrieval.bootstrap import bootstrap_interval, group_sums, resampled_weights
from esans.retrieval.paired import common_users, paired_bootstrap

values = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=30).map(np.array)


def test_the_interval_is_that_of_draws_one_by_one():
    sample = np.random.default_rng(1).beta(0.3, 1.0, size=60)
    random = np.random.default_rng(2)
    naive = np.quantile([random.choice(sample, size=60).mean() for _ in range(4000)], [0.025, 0.975])
    found = bootstrap_interval(sample, resamples=4000, seed=3)
    assert found.value == pytest.approx(sample.mean())
    assert [found.low, found.high] == pytest.approx(naive, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(values, st.integers(0, 1000))
def test_intervals_hold_the_mean_follow_the_seed_and_move_with_the_values(sample, seed):
    found = bootstrap_interval(sample, 400, seed)
    assert sample.min() - 1e-9 <= found.low <= found.high <= sample.max() + 1e-9
    assert bootstrap_interval(sample, 400, seed) == found
    moved = bootstrap_interval(sample + 5, 400, seed)
    assert [moved.low, moved.high] == pytest.approx([found.low + 5, found.high + 5])


def test_every_draw_has_as_many_users_as_there_are_and_chunks_change_nothing(monkeypatch):
    whole = np.concatenate(list(resampled_weights(7, 50, 3)))
    assert whole.shape == (50, 7)
    assert (whole.sum(1) == 7).all()
    monkeypatch.setattr("esans.retrieval.bootstrap._WEIGHTS", 7 * 9)
    parts = list(resampled_weights(7, 50, 3))
    assert [len(part) for part in parts] == [9] * 5 + [5]
    assert np.array_equal(np.concatenate(parts), whole)


def test_many_users_are_drawn_in_groups_and_the_interval_keeps_its_width():
    sample = np.random.default_rng(0).beta(0.3, 1.0, size=50_000)
    sums, counts = group_sums(sample[:, None], seed=1, groups=500)
    assert sums.sum() == pytest.approx(sample.sum())
    assert set(counts) == {100}
    found = bootstrap_interval(sample, resamples=1000)
    expected = 2 * 1.96 * sample.std() / math.sqrt(len(sample))
    assert found.high - found.low == pytest.approx(expected, rel=0.12)


def test_intervals_of_nobody_and_of_one_user():
    assert math.isnan(bootstrap_interval(np.array([])).value)
    one = bootstrap_interval(np.array([0.5, np.nan]))
    assert one.value == 0.5
    assert math.isnan(one.low)


@settings(max_examples=30, deadline=None)
@given(values, st.integers(0, 1000))
def test_swapping_the_runs_swaps_the_signs_and_keeps_p(a, seed):
    b = np.random.default_rng(seed).permutation(a) * 0.5
    there, back = paired_bootstrap(a, b, 300, seed), paired_bootstrap(b, a, 300, seed)
    assert [back.difference, back.low, back.high] == pytest.approx([-there.difference, -there.high, -there.low])
    assert back.p == there.p
    assert there.difference == pytest.approx(there.mean_a - there.mean_b)
    if there.mean_a and there.mean_b:
        assert back.ratio == pytest.approx(1 / there.ratio)


def test_equal_runs_have_no_difference_and_a_p_of_1():
    a = np.random.default_rng(0).random(200)
    found = paired_bootstrap(a, a.copy(), 500)
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert (found.ratio, found.ratio_low, found.ratio_high, found.users) == (1.0, 1.0, 1.0, 200)


def test_p_is_small_where_the_interval_excludes_zero_and_pairing_is_what_shows_it():
    random = np.random.default_rng(4)
    b = random.random(300)
    a = b + 0.01 + random.normal(0, 0.03, size=300)
    found = paired_bootstrap(a, b, 2000)
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.05
    assert paired_bootstrap(random.permutation(a), b, 2000).p > 0.05


def test_where_nothing_differs_about_one_test_in_twenty_says_otherwise():
    random = np.random.default_rng(5)
    ps = np.array([paired_bootstrap(*random.random((2, 80)), resamples=400, seed=trial).p for trial in range(300)])
    assert 0.02 < (ps < 0.05).mean() < 0.10
    assert (ps < 0.5).mean() == pytest.approx(0.5, abs=0.1)


def test_users_without_a_value_in_either_run_are_left_out():
    found = paired_bootstrap(np.array([1.0, np.nan, 0.0, 0.4]), np.array([0.5, 0.2, np.nan, 0.4]), 100)
    assert found.users == 2
    assert found.difference == pytest.approx(0.25)
    assert paired_bootstrap(np.array([np.nan]), np.array([1.0])).users == 0


def test_a_baseline_of_zero_has_no_ratio():
    found = paired_bootstrap(np.array([0.5, 0.2, 0.1]), np.zeros(3), 100)
    assert math.isnan(found.ratio)
    assert math.isnan(found.ratio_high)
    assert found.difference > 0


def test_runs_are_joined_by_user_and_a_user_may_stand_once():
    a, b = common_users(np.array([3, 1, 7]), np.array([0.3, 0.1, 0.7]), np.array([7, 9, 3]), np.array([70, 90, 30]))
    assert a.tolist() == [0.3, 0.7]
    assert b.tolist() == [30, 70]
    with pytest.raises(ValueError) as error:
        common_users(np.array([1, 1]), np.zeros(2), np.array([1]), np.zeros(1))
    assert str(error.value) == "a user stands twice in the values of a run: pick one method and one split first"
    with pytest.raises(ValueError) as error:
        paired_bootstrap(np.zeros(2), np.zeros(3))
    assert str(error.value) == "paired values must be two rows of one length, not of shapes (2,) and (3,)"
