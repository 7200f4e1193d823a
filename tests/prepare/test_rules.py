"""Event rules and times, each on a handful of rows; the report of `esans validate`; the real shop data."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from esans.config import build, merge, read_yaml
from esans.errors import DataError
from esans.prepare.config import PrepareConfig
from esans.prepare.events import classify
from esans.prepare.histories import histories
from esans.prepare.interactions import check_interactions
from esans.prepare.report import split_counts
from esans.prepare.split import split, with_ties
from esans.prepare.validate import check_columns, print_report, read_tables
from esans.progress import console
from esans.spark import SparkConfig

from .conftest import EVENTS, ITEMS, START

ROOT = Path(__file__).resolve().parents[2]


def test_event_rules_give_weights_exposures_and_the_rest(spark, raw):
    events = {
        "user_id": [1, 1, 1, 1, 1, 1],
        "item_id": [0, 1, 2, 3, 4, 0],
        "timestamp": [START] * 6,
        "kind": ["buy", "buy", "view", "search", None, "buy"],
        "strength": ["2", None, "1", "1", "1", "1"],
        "pieces": [1, 10, 1, 1, 1, 1],
        "stars": [5.0, 4.0, 5.0, 5.0, 5.0, 2.0],
    }
    config = raw(
        ITEMS,
        events,
        interactions={"columns": {"event": "kind", "weight": "strength", "quantity": "pieces", "rating": "stars"}},
        events={"positives": {"buy": 0.5}, "exposures": ["view"], "min_rating": 3, "quantity": "linear"},
    )
    tables = check_columns(read_tables(spark, config), config)
    checked = check_interactions(
        tables.interactions, config.interactions, spark.createDataFrame([(str(i),) for i in range(5)], "item_id string")
    )
    found = classify(checked.good, config.events)
    assert sorted((row["item_id"], row["weight"]) for row in found.positives.collect()) == [("0", 1.0), ("1", 5.0)]
    assert [row["item_id"] for row in found.exposures.collect()] == ["2"]
    assert found.counts == {"positive": 2, "exposure": 1, "ignored": 3}


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (pa.array([START * 1000 + 999], pa.int64()), "ms"),
        (pa.array([START + 0.5], pa.float64()), "s"),
        (pa.array([datetime.datetime.fromtimestamp(START, datetime.UTC)], pa.timestamp("us", "UTC")), "s"),
        (pa.array([datetime.datetime.fromtimestamp(START, datetime.UTC).replace(tzinfo=None)], pa.timestamp("us")), "s"),
        (pa.array([str(START)]), "s"),
        (pa.array(["2020-09-13T12:26:40"]), "s"),
        (pa.array(["2020-09-13 14:26:40+02:00"]), "s"),
    ],
    ids=["milliseconds", "fraction", "zoned", "zoneless", "number-text", "iso-text", "iso-zone"],
)
def test_times_of_every_kind_become_unix_seconds(spark, raw, values, unit):
    table = pa.table({"user_id": [1], "item_id": [0], "timestamp": values})
    config = raw(ITEMS, table, interactions={"timestamps": {"unit": unit}})
    tables = check_columns(read_tables(spark, config), config)
    checked = check_interactions(tables.interactions, config.interactions, spark.createDataFrame([("0",)], "item_id string"))
    assert [row["timestamp"] for row in checked.good.collect()] == [START]


def test_validate_prints_both_tables_and_fails_beyond_the_allowed_share(spark, raw, tmp_path):
    events = {**EVENTS, "item_id": [77, *EVENTS["item_id"][1:]]}
    before = sorted(tmp_path.iterdir())
    with console.capture() as capture, pytest.raises(DataError) as error:
        print_report(raw(ITEMS, events), SparkConfig())
    printed = capture.get()
    assert str(error.value).startswith(
        "interactions: 1 of 12 rows (8.3%) are rejected, more than prepare.max_rejected_share = 0.05 allows:"
    )
    for words in ("items: 5 rows", "interactions: 12 rows", "unknown_item", "3 users with 5 items, from 2020-09-13 12:26:40 to"):
        assert words in printed, printed
    with console.capture() as capture:
        print_report(raw(ITEMS, events, max_rejected_share=0.1), SparkConfig())
    assert "Both tables keep the contract." in capture.get()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {path.name for path in before} | {"items.parquet", "interactions.parquet"}
    )


@pytest.mark.parametrize(
    ("files", "counts"),
    [
        (("quickstart",), {"num_test_users": 1724, "num_validation_users": 1764, "num_users_in_both": 1602, "num_train": 213_534}),
        (("quickstart", "basket_completion"), {"num_test_users": 4076, "num_validation_users": 4076, "num_users_in_both": 4076}),
    ],
    ids=["last_basket", "basket_completion"],
)
def test_the_bundled_shop_data_gives_the_known_numbers_of_tested_users(spark, files, counts, monkeypatch):
    monkeypatch.chdir(ROOT)
    values: dict = {}
    for file in files:
        values = merge(values, read_yaml(f"conf/{file}.yaml").get("prepare", {}))
    config = build(PrepareConfig, values)
    tables = read_tables(spark, config)
    catalogue = tables["items"].select(F.col("item_id").cast("string").alias("item_id"))
    checked = check_interactions(tables["interactions"], config.interactions, catalogue, orders=True)
    assert checked.num_rejected == 0
    positives = with_ties(classify(checked.good, config.events).positives, 0)
    rows = positives.withColumns({"user_idx": F.col("user_id").cast("long"), "item_idx": F.col("item_id").cast("long")})
    rows = split(rows, config.split, config.deduplicate).persist()
    found = split_counts(rows, histories(rows, config.max_history))
    assert {name: found[name] for name in counts} == counts
    assert found["num_train"] + found["num_validation"] + found["num_test"] == 266_221
