"""Parquet through Spark's Python workers: the rows and types of Hadoop's path, and no part of a killed task."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans import lake
from esans.bundle import BundleWriter
from esans.errors import BundleError, ConfigError
from esans.prepare.config import TableConfig
from esans.prepare.sources import read_table
from esans.uri import canonical, join

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Spark whose Hadoop has no file system for any scheme."""
    monkeypatch.setattr(lake, "_has_file_system", lambda spark, scheme: False)


def rows_of_every_type(spark: SparkSession) -> DataFrame:
    """40 rows in 3 partitions: what bundles hold, with nulls, and times."""
    columns = (
        "id, cast(id as int) % 7 as part, if(id % 5 = 0, null, concat('é', id)) as text, cast(id as float) / 3 as weight, id / 7 as price, "
        "if(id % 4 = 0, null, array(cast(id as float), -1.5f)) as vector, array(id, id + 1) as history, id % 2 = 0 as available, "
        "cast(concat('p', id) as binary) as image, timestamp_seconds(id * 1000003) as at, "
        "date_add(date'2020-01-01', cast(id as int)) as day"
    )
    return spark.range(0, 40, numPartitions=3).selectExpr(*_split(columns))


def _split(columns: str) -> list[str]:
    # Commas inside parentheses part no columns.
    found, depth, start = [], 0, 0
    for place, letter in enumerate(columns + ","):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            found.append(columns[start:place].strip())
            start = place + 1
    return found


def collected(frame: DataFrame) -> list[Any]:
    return sorted(frame.collect(), key=lambda row: row["id"])


def test_workers_write_what_spark_reads_and_read_what_spark_writes(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = rows_of_every_type(spark)
    native, by_workers = str(tmp_path / "native"), str(tmp_path / "workers")
    lake.write_parquet(frame, native)
    with monkeypatch.context() as patch:
        patch.setattr(lake, "_has_file_system", lambda spark, scheme: False)
        lake.write_parquet(frame, f"file://{by_workers}")
        read_by_workers = [lake.read_parquet(spark, f"file://{place}") for place in (native, by_workers)]
    expected, written = spark.read.parquet(native), spark.read.parquet(by_workers)
    assert written.schema == expected.schema
    assert collected(written) == collected(expected)
    for read in read_by_workers:
        assert [(field.name, field.dataType) for field in read.schema] == [(field.name, field.dataType) for field in expected.schema]
        assert collected(read) == collected(expected)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 25), max_size=6), bound=st.integers(0, 12))
def test_files_hold_all_rows_in_order_and_at_most_the_bound_in_one_row_group(
    sizes: list[int], bound: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    table = pa.table({"id": pa.array(range(sum(sizes)), pa.int64())})
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    batches = [table.slice(start, size).to_batches()[0] for start, size in zip(starts, sizes, strict=True) if size]
    written = list(lake._write_files(batches, f"file://{folder}", "part", bound))
    parts = [pq.ParquetFile(folder / name) for name, _ in written]
    assert [part.metadata.num_rows for part in parts] == [rows for _, rows in written]
    assert [value for part in parts for value in part.read()["id"].to_pylist()] == list(range(sum(sizes)))
    if bound:
        assert all(part.metadata.num_row_groups == 1 and part.metadata.num_rows <= bound for part in parts)


def test_a_bundle_written_by_workers_lists_exactly_its_files_and_shards_of_the_asked_size(
    spark: SparkSession, tmp_path: Path, workers: None
) -> None:
    out = BundleWriter(canonical(str(tmp_path / "bundle")), "shards", "f00d")
    table = out.write("examples", rows_of_every_type(spark).coalesce(1), max_records_per_file=16)
    assert [file.rows for file in table.files] == [16, 16, 8]
    assert table.rows == 40
    assert collected(table.spark(spark)) == collected(rows_of_every_type(spark))


def test_what_a_killed_attempt_left_in_the_folder_is_neither_read_nor_kept(spark: SparkSession, tmp_path: Path, workers: None) -> None:
    uri = canonical(str(tmp_path / "table"))
    lake.write_parquet(rows_of_every_type(spark), uri)
    names = json.loads((tmp_path / "table" / lake.COMMITTED).read_text())
    (tmp_path / "table" / "part-00000-999-00000.zstd.parquet").write_bytes((tmp_path / "table" / names[0]).read_bytes())
    assert lake.read_parquet(spark, uri).count() == 40
    lake.write_parquet(rows_of_every_type(spark), uri, overwrite=True)
    left = {path.name for path in (tmp_path / "table").iterdir()}
    assert left == {*json.loads((tmp_path / "table" / lake.COMMITTED).read_text()), lake.COMMITTED}


def test_a_frame_without_rows_leaves_one_file_with_its_columns(spark: SparkSession, tmp_path: Path, workers: None) -> None:
    uri = canonical(str(tmp_path / "empty"))
    lake.write_parquet(rows_of_every_type(spark).where("id < 0"), uri)
    assert len(lake.parquet_files(uri)) == 1
    read = lake.read_parquet(spark, uri)
    assert read.columns == rows_of_every_type(spark).columns
    assert read.count() == 0


def test_nothing_is_written_over_files_that_are_there_nor_beside_speculative_tasks(
    spark: SparkSession, tmp_path: Path, workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = canonical(str(tmp_path / "table"))
    lake.write_parquet(spark.range(3), uri)
    with pytest.raises(BundleError, match="holds files already"):
        lake.write_parquet(spark.range(3), uri)
    monkeypatch.setattr(type(spark.conf), "get", lambda self, name, default=None: "true" if name == "spark.speculation" else default)
    with pytest.raises(ConfigError, match=r"spark\.speculation must be false"):
        lake.write_parquet(spark.range(3), join(uri, "other"))


def test_pandas_types_that_spark_lacks_are_read_as_the_nearest_that_it_has(spark: SparkSession, tmp_path: Path, workers: None) -> None:
    when = dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    table = pa.table(
        {
            "category": pa.array(["a", "b"]).dictionary_encode(),
            "small": pa.array([1, 255], pa.uint8()),
            "at": pa.array([when, when], pa.timestamp("ns", tz="Europe/Berlin")),
            "long_text": pa.array(["x", None], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "items.parquet", version="2.6")
    read = lake.read_parquet(spark, canonical(str(tmp_path / "items.parquet")))
    assert [kind for _, kind in read.dtypes] == ["string", "smallint", "timestamp", "string"]
    # The session's zone is UTC; collected times come in the driver's own.
    found = read.selectExpr("category", "small", "unix_seconds(at) as at", "long_text").collect()
    assert [tuple(row) for row in found] == [("a", 1, int(when.timestamp()), "x"), ("b", 255, int(when.timestamp()), None)]


def test_s3_has_one_name_in_bundles_and_the_one_that_hadoop_knows_in_spark(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    assert canonical("s3a://bucket/shop/") == canonical("s3://bucket/shop") == "s3://bucket/shop"
    for known, expected in ((("s3", "s3a"), "s3://b/t"), (("s3a",), "s3a://b/t"), ((), None)):
        monkeypatch.setattr(lake, "_has_file_system", lambda _, scheme, known=known: scheme in known)
        assert lake.hadoop_uri(spark, "s3://b/t") == expected


def test_hadoop_is_asked_for_the_class_of_a_scheme(spark: SparkSession) -> None:
    assert lake.hadoop_uri(spark, "file:///tmp/x") == "file:///tmp/x"
    assert lake.hadoop_uri(spark, "hdfs://name:8020/x") == "hdfs://name:8020/x"
    assert lake.hadoop_uri(spark, "gs://bucket/x") is None


@pytest.mark.parametrize("uri", ["hdfs://name:8020/esans/work", "hdfs:///esans/work", "webhdfs://name:9870/esans/work"])
def test_a_name_node_stays_in_its_uri(uri: str) -> None:
    assert canonical(uri + "/") == uri


def test_other_raw_formats_need_hadoop_and_partitioned_folders_too(spark: SparkSession, tmp_path: Path, workers: None) -> None:
    with pytest.raises(ConfigError, match=r"prepare\.items\.path = .*only Parquet is read, not csv"):
        read_table(spark, TableConfig(path=str(tmp_path / "items.csv"), format="csv"), "items", "prepare.items")
    spark.range(2).selectExpr("id", "id as day").write.partitionBy("day").parquet(str(tmp_path / "days"))
    with pytest.raises(ConfigError, match="folder named by a column's value"):
        lake.read_parquet(spark, canonical(str(tmp_path / "days")))
