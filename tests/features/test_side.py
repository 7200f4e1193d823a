from __future__ import annotations

import math

import pyarrow as pa

from esans.features.config import SideConfig
from esans.features.side import side_codes


def codes(spark, column, kind, config=None):
    name = f"side_{kind}"
    frame = spark.createDataFrame(pa.table({"item_idx": pa.array(range(len(column)), pa.int64()), name: column}))
    table, cardinality = side_codes(frame, {kind: kind}, config or SideConfig())
    return table.toArrow().sort_by("item_idx").column(name).to_pylist(), cardinality[kind]


def test_categories_are_numbered_by_frequency_and_zero_is_missing_or_rare(spark):
    column = pa.array(["b", "a", "b", None, "c", "b", "a"])
    assert codes(spark, column, "category") == ([1, 2, 1, 0, 3, 1, 2], 4)
    assert codes(spark, column, "category", SideConfig(max_categories=2)) == ([1, 2, 1, 0, 0, 1, 2], 3)


def test_numbers_become_quantile_buckets_and_zero_is_missing_or_not_finite(spark):
    column = pa.array([1.0, 2.0, 3.0, 4.0, None, math.nan, math.inf], pa.float64())
    found, cardinality = codes(spark, column, "number", SideConfig(buckets=2))
    assert found == [1, 2, 2, 2, 0, 0, 0]
    assert max(found) < cardinality


def test_a_number_that_no_item_has_is_zero_everywhere(spark):
    assert codes(spark, pa.array([None, None], pa.float64()), "number")[0] == [0, 0]
