from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.generate import write
from benchmarks.growth import fit
from benchmarks.world import DAYS, FIRST_MOMENT, World, item_block, shelves, user_block, user_blocks

WORLD = World(users=2_000, items=60_000, interactions=40_000, seed=3)


def events(world):
    return [np.concatenate(column) for column in zip(*(user_block(world, block) for block in range(user_blocks(world))), strict=True)]


def test_popularity_follows_zipf_and_activity_is_lognormal():
    world = World(users=10_000, items=5_000, interactions=400_000, seed=0)
    user, item, _, event = events(world)
    assert len(user) == world.interactions
    ranked = np.sort(np.bincount(item, minlength=world.items))[::-1]
    rank = np.arange(5, 1_000)
    slope = np.polyfit(np.log(rank), np.log(ranked[rank]), 1)[0]
    assert -0.95 < slope < -0.55
    logs = np.log(np.bincount(user)[np.bincount(user) > 4])
    assert 0.6 < logs.std() < 1.1
    assert 0.75 < (event == 0).mean() < 0.85


def test_events_lie_within_the_span_in_sessions_sorted_by_user_and_time():
    user, _, time, _ = events(WORLD)
    assert time.min() >= 0
    assert time.max() < DAYS * 86_400
    same = user[1:] == user[:-1]
    gaps = np.diff(time)[same]
    assert (gaps >= 0).all()
    assert 0.5 < (gaps < 1_800).mean() < 0.95
    days = np.bincount(time // 86_400, minlength=DAYS)
    assert days.max() > 2 * np.median(days)


def test_content_explains_behaviour_as_far_as_the_share_says():
    def kinship(share: float) -> float:
        world = World(users=3_000, items=4_000, interactions=60_000, seed=1, content_share=share)
        text = item_block(world, 0).text
        text = text / np.linalg.norm(text, axis=1, keepdims=True)
        user, item, _, _ = events(world)
        next_to = user[1:] == user[:-1]
        return float((text[item[1:]] * text[item[:-1]]).sum(1)[next_to].mean())

    none, some, most = (kinship(share) for share in (0.0, 0.5, 1.0))
    assert none < some < most
    assert most > none + 0.1


@given(groups=st.integers(1, 20), items=st.integers(1, 200), seed=st.integers(0, 1_000))
@settings(max_examples=30, deadline=None)
def test_an_item_drawn_from_a_group_that_has_any_is_of_that_group(groups, items, seed):
    from benchmarks.world import Shelf

    random = np.random.default_rng(seed)
    group = random.integers(0, groups, items)
    shelf = Shelf.of(group, np.arange(items), random.random(items) + 0.1, groups)
    wanted = random.choice(group, 50)
    assert (group[shelf.draw(wanted, random.random(50))] == wanted).all()


def test_tables_are_the_same_however_spark_runs_and_miss_what_they_should(spark, tmp_path):
    write(spark, WORLD, f"file://{tmp_path}/one")
    items = pq.read_table(tmp_path / "one" / "items.parquet")
    assert items.num_rows == WORLD.items
    assert set(items.column("item_id").to_numpy()) == set(range(WORLD.items))
    assert items.column("text_vector").null_count / WORLD.items == pytest.approx(0.02, abs=0.005)
    assert items.column("image_vector").null_count / WORLD.items == pytest.approx(0.20, abs=0.01)
    assert set(items.column("image_vector").combine_chunks().value_lengths().drop_null().to_numpy()) == {128}
    made = item_block(WORLD, 1)
    row = items.filter(items.column("item_id").to_numpy() == made.item[7]).to_pylist()[0]
    assert row["text_vector"] == (made.text[7].tolist() if made.has_text[7] else None)
    found = pq.read_table(tmp_path / "one" / "interactions.parquet").sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    user, item, time, _ = events(WORLD)
    assert (found.column("user_id").to_numpy() == user).all()
    assert (found.column("timestamp").to_numpy() == FIRST_MOMENT + time).all()
    assert sorted(found.column("item_id").to_pylist()) == sorted(item.tolist())


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"^content_share = 1\.5: must lie between 0 and 1$"):
        World(1, 1, 1, 0, 1.5)


@given(a=st.floats(0, 30), b=st.floats(1e-6, 1e-4), p=st.floats(0.8, 1.2))
@settings(max_examples=15, deadline=None)
def test_the_fit_finds_the_law_that_made_the_times(a, b, p):
    rows = np.array([1e6, 2.7e6, 7.4e6, 2e7])
    law = fit(rows, a + b * rows**p)
    assert law.error < 0.02
    assert law.seconds(2e7) == pytest.approx(a + b * 2e7**p, rel=0.02)


def test_every_worker_draws_from_the_same_shelves():
    shelves.cache_clear()
    first = user_block(WORLD, 0)[1]
    shelves.cache_clear()
    assert (user_block(WORLD, 0)[1] == first).all()
