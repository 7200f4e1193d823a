"""Training examples: what came before the positive, what is known, and files that the reader can plan over."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from esans import columns as c
from esans.bundle import Bundle, BundleWriter
from esans.errors import ConfigError, DataError
from esans.shards.config import ShardsConfig
from esans.shards.examples import build_examples, count_targets, known_positives, train_positives
from esans.shards.layout import check_row_groups, shuffle

Event = tuple[int, int, int, str, str]


def events(users: int = 7, seed: int = 0) -> list[Event]:
    """(user, item, position, split, order): distinct items of each user in time order, three to an order, the last one a test."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        count = int(random.integers(1, 30))
        for position, item in enumerate(random.permutation(50)[:count]):
            rows.append((user, int(item), position, c.TEST if position == count - 1 else c.TRAIN, f"{user}-{position // 3}"))
    return rows


def prepared(spark: SparkSession, folder: Path, rows: list[Event], with_orders: bool = True) -> Bundle:
    frame = spark.createDataFrame(
        [(user, item, position, 1000 + position, 1.0, split, order) for user, item, position, split, order in rows],
        f"{c.USER_IDX} long, {c.ITEM_IDX} long, {c.POSITION} int, {c.TIMESTAMP} long, {c.WEIGHT} float, "
        f"{c.SPLIT} string, {c.ORDER_ID} string",
    )
    out = BundleWriter(str(folder / "prepare"), "prepare", "0")
    out.write("interactions", frame if with_orders else frame.drop(c.ORDER_ID))
    return out.finish(code_version=1, config={}, inputs={})


def naive(rows: list[Event], config: ShardsConfig) -> dict[tuple[int, int], list[int]]:
    """(user, target) -> history, by loops."""
    by_user = defaultdict(list)
    for user, item, position, split, order in sorted(rows, key=lambda row: (row[0], row[2])):
        if split == c.TRAIN:
            by_user[user].append((item, position, order))
    expected = {}
    for user, train in by_user.items():
        for item, position, order in train:
            earlier = [
                other for other, place, its_order in train if place < position and not (config.exclude_same_order and its_order == order)
            ]
            window = earlier[-config.history_length :]
            if len(window) >= config.min_history:
                expected[user, item] = [c.PADDING] * (config.history_length - len(window)) + window
    return expected


@pytest.mark.parametrize(
    "config",
    [
        ShardsConfig(history_length=5),
        ShardsConfig(history_length=4, exclude_same_order=True),
        ShardsConfig(history_length=3, min_history=0),
    ],
)
def test_examples_equal_the_naive_form_and_no_test_event_reaches_them(spark: SparkSession, tmp_path: Path, config: ShardsConfig) -> None:
    rows = events()
    train = train_positives(prepared(spark, tmp_path, rows), spark, config)
    found = build_examples(train, known_positives(train), config).collect()
    assert {(row[c.USER_IDX], row[c.TARGET]): list(row[c.HISTORY]) for row in found} == naive(rows, config)
    for row in found:
        own = sorted(item for user, item, _, split, _ in rows if user == row[c.USER_IDX] and split == c.TRAIN)
        assert row[c.KNOWN] == [c.PADDING] * (c.KNOWN_SIZE - len(own)) + own
    counts = {row[c.ITEM_IDX]: row[c.COUNT] for row in count_targets(build_examples(train, known_positives(train), config)).collect()}
    assert sum(counts.values()) == len(found)


def test_known_keeps_the_last_positives_of_a_heavy_user(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(0, item, 300 - item, c.TRAIN, "one") for item in range(300)]
    train = train_positives(prepared(spark, tmp_path, rows), spark, ShardsConfig())
    known = known_positives(train).collect()[0][c.KNOWN]
    assert known == list(range(200)), "items 0 .. 199 stand at the last 200 positions, ascending"


def test_files_hold_one_row_group_and_the_same_rows_whatever_the_partitioning(spark: SparkSession, tmp_path: Path) -> None:
    config = ShardsConfig(history_length=4, rows_per_shard=20)
    train = train_positives(prepared(spark, tmp_path, events()), spark, config)
    contents = []
    for attempt, partitions in enumerate((1, 5)):
        examples = build_examples(train.repartition(partitions), known_positives(train), config)
        out = BundleWriter(str(tmp_path / f"shards{attempt}"), "shards", "0")
        table = out.write("examples", shuffle(examples, 100, config, seed=3))
        check_row_groups(table)
        assert table.rows == examples.count()
        contents.append([pq.read_table(uri.removeprefix("file://")).to_pydict() for uri in table.file_uris])
    assert contents[0] == contents[1]


def test_orders_are_asked_for_by_name_when_they_are_needed(spark: SparkSession, tmp_path: Path) -> None:
    bundle = prepared(spark, tmp_path, events(), with_orders=False)
    with pytest.raises(ConfigError) as error:
        train_positives(bundle, spark, ShardsConfig(exclude_same_order=True))
    assert str(error.value) == "shards.exclude_same_order = true needs an order column: set prepare.interactions.columns.order_id."


def test_no_example_left_says_what_to_change(spark: SparkSession, tmp_path: Path) -> None:
    config = ShardsConfig(min_history=100)
    train = train_positives(prepared(spark, tmp_path, events()), spark, config)
    out = BundleWriter(str(tmp_path / "shards"), "shards", "0")
    table = out.write("examples", shuffle(build_examples(train, known_positives(train), config), 10, config, seed=0))
    with pytest.raises(
        DataError, match=r"^shards: no training example is left: no user has enough train positives\. Lower shards\.min_history"
    ):
        check_row_groups(table)
