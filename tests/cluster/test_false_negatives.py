from __future__ import annotations

from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.cluster.config_quality import QualityConfig
from esans.cluster.false_negatives import Pairs, count_pairs, easy_rate, expected_counts, figures, rates
from esans.cluster.tables import Cells, distances, transitions
from esans.config import build
from esans.negatives.config import EasyConfig, HardConfig
from esans.negatives.easy import Easy
from esans.negatives.hard import Hard
from esans.negatives.tables import Catalogue, ClusterTables
from tests.features.helpers import write_bundle
from tests.negatives.conftest import generator_of, make_batch

CELLS = [[5, 3, 2], [6], [4, 8], [10, 1]]
FALLBACK = np.array([-1, -1, -1, 2, -1, -1, -1, -1], np.int32)
ASSIGNED, NUM_ITEMS = 39, 41
# User -> train positives oldest first, validation positives. Item 2 of user 0 was chosen before; 39 and 40 have no cluster.
USERS = {0: ([38, 0, 11, 12], [2, 20, 3, 11, 39]), 1: ([5, 6, 40], [7, 9, 37, 1]), 2: ([30, 13], [14, 17, 22, 36])}


def counts_by_order(p: np.ndarray, draws: int) -> np.ndarray:
    """The definition: every order in which so many primaries can be drawn, with its probability."""
    found = np.zeros_like(p)
    for order in permutations(range(len(p)), draws):
        chance, left = 1.0, 1.0
        for k in order:
            chance, left = chance * p[k] / left, left - p[k]
        found[list(order)] += chance
    return found


@settings(deadline=None, max_examples=30)
@given(k=st.integers(4, 7), seed=st.integers(0, 1000), sharpness=st.sampled_from([0.1, 1.0, 5.0]), draws=st.integers(1, 2))
def test_the_closed_form_is_the_sum_over_every_order_of_draws(k, seed, sharpness, draws):
    p = np.random.default_rng(seed).dirichlet(np.full(k, 1 / sharpness))
    p = np.maximum(p, 1e-9) / np.maximum(p, 1e-9).sum()
    np.testing.assert_allclose(expected_counts(p[None], draws)[0], counts_by_order(p, draws), rtol=1e-6, atol=1e-9)


def test_above_two_draws_races_come_near_the_sum_over_every_order():
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=3)
    p[:, 0] = 0
    p /= p.sum(1, keepdims=True)
    found = expected_counts(p, 3, seed=1)
    exact = np.array([np.concatenate([[0], counts_by_order(row[1:], 3)]) for row in p])
    np.testing.assert_allclose(found, exact, atol=0.05)
    np.testing.assert_allclose(found.sum(1), 3)


def test_one_primary_that_takes_nearly_all_loses_no_digits():
    p = np.array([[1 - 3e-30, 2e-30, 1e-30, 0.0]])
    np.testing.assert_allclose(expected_counts(p, 2)[0], [1, 2 / 3, 1 / 3, 0], rtol=1e-9, atol=1e-12)


def small_tables() -> tuple[ClusterTables, Cells, np.ndarray]:
    """Four primaries of unequal cells, one of them topped up, and two items without a cluster; T_c = 1."""
    count = np.array([size for primary in CELLS for size in primary])
    c1 = np.array([place for place, primary in enumerate(CELLS) for _ in primary], np.int32)
    c2 = np.array([place for primary in CELLS for place in range(len(primary))], np.int32)
    cells = Cells(c1, c2, count, len(CELLS))
    apart = distances(np.random.default_rng(3).standard_normal((len(CELLS), 3)))
    item_cell = torch.tensor([*np.repeat(np.arange(len(count)), count), -1, -1])
    offset = torch.from_numpy(cells.offset)
    tables = ClusterTables(
        members_M=torch.arange(ASSIGNED),
        item_primary_N=torch.where(item_cell >= 0, torch.from_numpy(c1).long()[item_cell.clamp_min(0)], -1),
        item_cell_N=item_cell,
        cell_offset_S=offset,
        cell_count_S=torch.from_numpy(count),
        cell_primary_S=torch.from_numpy(c1).long(),
        cell_fallback_S=torch.from_numpy(FALLBACK).long(),
        primary_offset_P=torch.from_numpy(np.cumsum(cells.sizes) - cells.sizes),
        primary_count_P=torch.from_numpy(cells.sizes),
        centroids_PD=torch.empty(0),
        transitions_PP=torch.from_numpy(transitions(apart, 1.0)),
    )
    return tables, cells, apart


@pytest.fixture(scope="module")
def counted(spark, tmp_path_factory) -> tuple[Pairs, ClusterTables, Cells, np.ndarray]:
    tables, cells, apart = small_tables()
    rows = [
        {
            "user_idx": user,
            "split": "validation",
            "history": history,
            "targets": targets,
            "seen": sorted({*history, 2} if user == 0 else history),
        }
        for user, (history, targets) in USERS.items()
    ]
    other = {"user_idx": 9, "split": "test", "history": [1, 2], "targets": [30], "seen": [1, 2]}
    histories = pa.Table.from_pylist([*rows, other])
    popularity = pa.table({"item_idx": pa.array(range(NUM_ITEMS), pa.int64()), "count": pa.array(range(NUM_ITEMS), pa.int64())})
    prepare = write_bundle(tmp_path_factory.mktemp("pairs"), "prepare", {"histories": histories, "popularity": popularity}, {})
    primary, cell = tables.item_primary_N.numpy(), tables.item_cell_N.numpy()
    codes = pa.table(
        {
            "item_idx": pa.array(range(NUM_ITEMS), pa.int64()),
            "c1": pa.array(primary.astype(np.int32)),
            "c2": pa.array(np.where(cell >= 0, cells.c2[np.maximum(cell, 0)], -1).astype(np.int32)),
        }
    )
    pairs = count_pairs(prepare, spark.createDataFrame(codes), cells, FALLBACK, build(QualityConfig, {"max_anchors": 3}), 0)
    assert pairs is not None
    return pairs, tables, cells, apart


def wanted(tables: ClusterTables) -> tuple[list[int], list[set[int]]]:
    """Anchors that have a cluster, the last three of a user, with the user's new validation positives."""
    anchors, positives = [], []
    for user, (history, targets) in USERS.items():
        new = set(targets) - set(history) - ({2} if user == 0 else set())
        own = [item for item in history[-3:] if tables.item_primary_N[item] >= 0]
        anchors += own
        positives += [new] * len(own)
    return anchors, positives


def test_rates_are_those_of_the_real_samplers_drawing(counted):
    pairs, tables, cells, apart = counted
    anchors, positives = wanted(tables)
    assert pairs.anchors == pytest.approx(len(anchors)) == 7
    assert (pairs.users, pairs.share) == (3, 1.0)
    catalogue = Catalogue(NUM_ITEMS, torch.full((NUM_ITEMS,), 1 / NUM_ITEMS), tables)
    copies, closed = 4_000, {**rates(pairs, NUM_ITEMS), "easy": easy_rate(pairs, apart, cells.sizes, 1.0, 2)}
    batch = make_batch([anchor for anchor in anchors for _ in range(copies)])
    hit = torch.zeros(len(anchors), NUM_ITEMS, dtype=torch.bool)
    for row, items in enumerate(positives):
        hit[row, list(items)] = True
    hit = hit.repeat_interleave(copies, 0)
    samplers = {
        "easy": Easy(build(EasyConfig, {"sampler": "easy", "clusters": 2, "per_cluster": 5}), catalogue),
        "hard": Hard(build(HardConfig, {"sampler": "hard", "num_negatives": 5}), catalogue),
    }
    for name, sampler in samplers.items():
        ids = sampler.propose(batch, torch.zeros(len(batch), 1), generator_of(1)).ids.flatten(1)
        drawn = hit.gather(1, ids).float().mean(1)
        error = float(drawn.std() / len(drawn) ** 0.5)
        assert abs(float(drawn.mean()) - closed[name]) < 4 * error, name
    count = torch.arange(NUM_ITEMS) ** 0.75
    shares = [sum(float(count[item] / count.sum()) for item in items) for items in positives]
    assert closed["popularity"] == pytest.approx(np.mean(shares))
    assert closed["uniform"] == pytest.approx(np.mean([len(items) / NUM_ITEMS for items in positives]))


def test_ratios_are_against_uniform_draws():
    found = figures({"easy": 0.02, "hard": 0.05, "uniform": 0.01, "popularity": 0.03})
    assert found["false_negatives.easy"] == 0.02
    assert found["false_negatives.easy_vs_uniform"] == pytest.approx(2)
    assert found["false_negatives.hard_vs_uniform"] == pytest.approx(5)
    assert found["false_negatives.popularity_vs_uniform"] == pytest.approx(3)
    assert "false_negatives.uniform_vs_uniform" not in found


def test_clusters_that_say_nothing_about_users_draw_false_negatives_as_often_as_chance():
    # Every pair of primaries is as common as their sizes make it.
    sizes, n = np.array([10, 20, 30, 40]), 100
    anchor, positive = (part.ravel() for part in np.meshgrid(range(4), range(4), indexing="ij"))
    count = sizes[anchor] * sizes[positive] / n
    pairs = Pairs(anchor, positive, count, count * 0, count * 0, float(sizes.sum()), 1, 1.0)
    apart = np.ones((4, 4))
    np.fill_diagonal(apart, np.inf)
    # An easy draw never meets the own primary: each of the others is met a third of the time.
    exact = sum(sizes[i] * sum(sizes[j] / n / sizes[j] / 3 for j in range(4) if j != i) for i in range(4)) / n
    assert easy_rate(pairs, apart, sizes, 0.1, 1) == pytest.approx(exact) == pytest.approx(rates(pairs, n)["uniform"])
