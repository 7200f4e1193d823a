from __future__ import annotations

import math

import pyarrow as pa

from esans.features.config import SideConfig
from esans.features.side import CODES, Meaning, read_meanings, side_codes, to_table
from tests.features.helpers import write_bundle


def codes(spark, column, kind, config=None, earlier=None):
    name = f"side_{kind}"
    frame = spark.createDataFrame(pa.table({"item_idx": pa.array(range(len(column)), pa.int64()), name: column}))
    coded = side_codes(frame, {kind: kind}, config or SideConfig(), earlier)
    return coded.frame.toArrow().sort_by("item_idx").column(name).to_pylist(), coded.cardinality[kind]


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


def test_codes_of_an_earlier_build_stay_new_values_come_after_them_and_buckets_do_not_move(spark):
    column = pa.array(["c", "c", "d", "d", "d", "a", None])
    earlier = {"category": Meaning(values=("a", "b"))}
    assert codes(spark, column, "category", earlier=earlier) == ([4, 4, 3, 3, 3, 1, 0], 5)
    assert codes(spark, column, "category", SideConfig(max_categories=3), earlier) == ([0, 0, 3, 3, 3, 1, 0], 4)
    numbers = pa.array([1.0, 5.0, 50.0, None], pa.float64())
    assert codes(spark, numbers, "number", earlier={"number": Meaning(edges=(4.0, 6.0))}) == ([1, 2, 3, 0], 4)


def test_what_codes_stand_for_is_read_back_as_it_was_written(tmp_path):
    meanings = {"colour": Meaning(values=("red", "blue")), "price": Meaning(edges=(1.5, 2.0))}
    assert read_meanings(write_bundle(tmp_path, "features", {CODES: to_table(meanings)}, {})) == meanings
    assert read_meanings(write_bundle(tmp_path, "features", {}, {})) == read_meanings(None) == {}
    assert to_table({}).num_rows == 0
