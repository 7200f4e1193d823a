"""The made worlds of the catalogue experiment: behaviour from latent points, content that explains its share, clusters of content alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.catalogue_growth import Budget, Scene, ranks, train
from benchmarks.growth_plot import growth_figure
from benchmarks.growth_report import growth_rows, growth_table, growth_words, paired_ratio
from benchmarks.growth_world import EVENTS, GrowthWorld, msac, softened
from esans.cluster.config import ClusterConfig

WORLD = GrowthWorld(items=1_500, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("worlds")


@pytest.fixture(scope="module")
def events(folder):
    return WORLD.load_events(folder)


def inside(labels, events):
    """Share of consecutive choices of a user with the same label, over that with labels dealt out anew."""
    random = np.random.default_rng(0)

    def share(dealt):
        return (dealt[events[:, :-1]] == dealt[events[:, 1:]]).mean()

    return share(labels) / np.mean([share(random.permutation(labels)) for _ in range(20)])


def test_a_world_follows_from_its_seed_and_its_file_is_read_again(folder, events):
    assert events.shape == (WORLD.users, EVENTS)
    assert ((events >= 0) & (events < WORLD.items)).all()
    assert np.array_equal(events, GrowthWorld(1_500, 5).events())
    assert np.array_equal(events, WORLD.load_events(folder))
    assert not np.array_equal(events, GrowthWorld(1_500, 6).events())


def test_a_user_stays_near_a_few_points_of_the_latent_space(events):
    near = (WORLD.latent[events[:, :-1]] * WORLD.latent[events[:, 1:]]).sum(-1).mean()
    shuffled = np.random.default_rng(0).permutation(events.ravel()).reshape(events.shape)
    assert near > (WORLD.latent[shuffled[:, :-1]] * WORLD.latent[shuffled[:, 1:]]).sum(-1).mean() + 0.1


def test_popular_items_are_chosen_more_with_a_long_tail(events):
    counts = np.bincount(events.ravel(), minlength=WORLD.items)
    assert np.corrcoef(WORLD.log_popularity, np.log1p(counts))[0, 1] > 0.5
    ranked = np.sort(counts)[::-1]
    assert ranked[:15].sum() > 5 * 15 * counts.mean()
    assert (counts > 0).mean() > 0.9


def test_chances_fall_with_distance_rise_with_popularity_and_leave_empty_places_out():
    affinity = np.array([[0.9, 0.8, 0.4], [0.9, 0.7, -1e9]], np.float32)
    popularity = np.log(np.array([1, 1, 1, 2], np.float32))
    chances = softened(affinity, np.array([[0, 1, 2], [0, 3, -1]]), popularity)
    # Row 0: weights 1, e^-1, e^-5. Row 1: 1 and 2 e^-5; nothing at the empty place.
    weights = np.array([1, np.exp(-1), np.exp(-5)])
    assert np.allclose(chances[0], weights / weights.sum(), atol=1e-5)
    assert np.allclose(chances[1], np.array([1, 2 * np.exp(-5), 0]) / (1 + 2 * np.exp(-5)), atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_content_explains_its_share_of_the_latent_variance(share):
    vectors = WORLD.content(share)
    assert vectors.shape[:2] == (WORLD.items, 2)
    assert np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    latent, shown = WORLD.latent - WORLD.latent.mean(0), vectors.mean(1)
    shown = shown - shown.mean(0)
    fitted = shown @ np.linalg.lstsq(shown, latent, rcond=None)[0]
    # Unit norm and the modalities' own noise take a little of it.
    assert 1 - ((latent - fitted) ** 2).sum() / (latent**2).sum() == pytest.approx(share, abs=0.1)


def test_clusters_of_content_that_explains_nothing_are_noise_to_behaviour_and_others_are_not(events):
    lifts = [inside(msac(WORLD.content(share), 0).item_primary_N.numpy(), events) for share in (0.0, 0.5, 0.9)]
    assert lifts[0] == pytest.approx(1, abs=0.1)
    assert lifts[0] < lifts[1] < lifts[2]
    assert lifts[2] > 1.5


def test_cluster_tables_keep_what_samplers_rely_on():
    config = ClusterConfig(min_cluster_size=20)
    tables = msac(WORLD.content(0.5), 0, config)
    assert torch.equal(tables.members_M.sort().values, torch.arange(WORLD.items))
    assert tables.primary_count_P.min() >= config.least
    assert int(tables.primary_count_P.sum()) == int(tables.cell_count_S.sum()) == WORLD.items
    for cell in range(0, len(tables.cell_count_S), 7):
        start = int(tables.cell_offset_S[cell])
        members = tables.members_M[start : start + int(tables.cell_count_S[cell])]
        assert (tables.item_cell_N[members] == cell).all()
        assert (tables.item_primary_N[members] == tables.cell_primary_S[cell]).all()
    assert torch.allclose(tables.transitions_PP.sum(1), torch.ones(len(tables.primary_count_P)), atol=1e-5)
    assert (tables.transitions_PP.diagonal() == 0).all()


def test_ranks_are_those_of_a_full_sort_and_training_beats_chance(folder):
    scene = Scene(WORLD.items, 0.9, WORLD.seed, folder)
    groups = [{"sampler": "in_batch"}, {"sampler": "easy"}, {"sampler": "hard"}, {"sampler": "midx", "num_negatives": 4}]
    model, _ = train(scene, 0.1, groups, Budget(steps=30, dim=16), seed=0)
    users = scene.users[1][:300]
    found = ranks(model, scene, users, EVENTS - 1)
    with torch.no_grad():
        vectors = model.encode_users(scene.history(users, torch.full((len(users),), EVENTS - 1)), users)
        scores = vectors @ model.encode_items(torch.arange(WORLD.items)).T
    scores.scatter_(1, scene.events[users, :-1].long(), -torch.inf)
    target = scores.gather(1, scene.events[users, -1:].long())
    assert torch.allclose(found.double(), (scores >= target).sum(1).double(), atol=1)
    assert (found >= 1).all()
    assert (found <= 50).double().mean() > 2 * 50 / WORLD.items
    first, second = (set(part.tolist()) for part in scene.users)
    assert not first & second


def test_a_paired_ratio_has_no_error_where_both_agree_and_none_at_all_without_hits():
    hits = np.array([1, 0, 0, 1, 0.0])
    assert paired_ratio(hits, hits) == (1.0, 0.0)
    assert np.isnan(paired_ratio(hits, np.zeros(5))).all()


def test_rows_pool_seeds_pair_users_and_the_table_and_picture_hold_every_method(tmp_path):
    def cell(method, seed, hits):
        key = {"kind": "cell", "items": 100, "content": 0.5, "seed": seed, "method": method, "steps": 1}
        return {**key, "seconds_per_step": 0.01, "hits@50": hits, "hits@200": hits}

    lines = [cell("in_batch", 0, "1000"), cell("in_batch", 1, "1010"), cell("esans", 1, "1110"), cell("esans", 0, "1100")]
    lines.append({"kind": "trial", "items": 100})
    (tmp_path / "cells.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = growth_rows(tmp_path)
    assert [row["method"] for row in rows] == ["in_batch", "esans"]
    assert rows[1]["recall@50"] == 5 / 8
    assert rows[1]["ratio@50"] == pytest.approx(5 / 3)
    assert "of_full@50" not in rows[1]
    assert sum("esans" in line for line in growth_table(rows)) == 1
    assert len(growth_figure(rows).axes) == 2


def at_each_k(**numbers):
    return {f"{name}@{k}": value for k in (50, 200) for name, value in numbers.items()}


@pytest.mark.parametrize(
    ("last", "said"), [(1.5, "it grows with the catalogue"), (1.05, "no growth beyond noise"), (0.5, "it shrinks with the catalogue")]
)
def test_words_tell_whether_the_ratio_moves_by_more_than_twice_its_error(last, said):
    rows = []
    for items, ratio in ((100, 1.0), (1000, last)):
        for content in (0.0, 0.5):
            key = {"items": items, "content": content}
            rows.append({**key, "method": "uniform"} | at_each_k(recall=0.1))
            rows.append({**key, "method": "in_batch"} | at_each_k(recall=0.2, se=0.005))
            rows.append({**key, "method": "esans"} | at_each_k(ratio=ratio, ratio_se=0.1, recall=0.2))
    lines = growth_words(rows)
    assert lines[0].startswith(
        "- Recall@50 of `esans` to in_batch (to uniform), mean over content shares: 100 items 1.000 ± 0.100 (2.00), 1,000 items"
    )
    assert all(line.endswith(f"; {said}.") for line in lines)


def test_a_size_with_few_hits_is_named_and_not_asked_whether_the_ratio_grows():
    rows = []
    for items, recall, error in ((100, 0.2, 0.005), (1000, 0.005, 0.001)):
        key = {"items": items, "content": 0.0}
        rows.append({**key, "method": "in_batch"} | at_each_k(recall=recall, se=error))
        rows.append({**key, "method": "esans"} | at_each_k(ratio=1.5, ratio_se=0.1, recall=1.5 * recall))
    line = growth_words(rows)[0]
    assert "1,000 items 1.500 ± 0.100 (nan, too few hits to tell)" in line
    assert line.endswith("; too few sizes with enough hits to say whether it grows.")
