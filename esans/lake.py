"""Parquet tables between Spark and a place given by URI: through Hadoop where it knows the scheme, else by Spark's Python workers.

A cluster's Spark has the jars of its stores (hadoop-aws for S3), and then its own reader and writer are used. A Spark from pip has
none. Its Python workers then read and write the same files with pyarrow through fsspec (s3fs), task by task, and the driver sees
only file names. That costs two things: every column of a table is read, and a file is never split between tasks.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa

from esans.errors import BundleError, ConfigError
from esans.uri import canonical, join, write_text

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Names of the files that belong to a table, written by the driver when all tasks have ended well. Spark skips names with an underscore.
COMMITTED = "_files.json"

_BYTES_PER_GROUP = 128 * 2**20
_ROWS_PER_BATCH = 16_384
_TASKS_PER_CORE = 4
_REPORT = "name string, rows long"


def hadoop_uri(spark: SparkSession, uri: str) -> str | None:
    """The URI as this session's Hadoop knows it (s3:// may be s3a:// there), or None where it has no file system for the scheme."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    for known in ("s3", "s3a") if scheme in ("s3", "s3a") else (scheme,):
        if _has_file_system(spark, known):
            return f"{known}://{rest}"
    return None


def _has_file_system(spark: SparkSession, scheme: str) -> bool:
    from py4j.protocol import Py4JJavaError

    try:
        spark._jvm.org.apache.hadoop.fs.FileSystem.getFileSystemClass(scheme, spark._jsc.hadoopConfiguration())
    except Py4JJavaError:
        return False
    return True


def read_parquet(spark: SparkSession, uri: str) -> DataFrame:
    """A Parquet table: a folder or a file, and for the Python workers also a pattern.

    Raises:
        ConfigError: the table's folders are partitions (`day=3`), which the Python workers do not read.
        BundleError: there is no Parquet file.
    """
    native = hadoop_uri(spark, uri)
    return spark.read.parquet(native) if native is not None else _read_by_workers(spark, canonical(uri))


def write_parquet(frame: DataFrame, uri: str, *, max_records_per_file: int = 0, overwrite: bool = False) -> None:
    """Write rows as a folder of Parquet files; 0 records per file means no bound.

    Raises:
        BundleError: something is there already, without `overwrite`.
        ConfigError: speculative tasks are on where the Python workers write.
    """
    native = hadoop_uri(frame.sparkSession, uri)
    if native is None:
        _write_by_workers(frame, canonical(uri), max_records_per_file, overwrite)
        return
    writer = frame.write.option("maxRecordsPerFile", max_records_per_file)
    writer.mode("overwrite" if overwrite else "errorifexists").parquet(native)


def parquet_files(uri: str) -> list[str]:
    """Paths of a table's Parquet files in its own file system, in name order: those committed, or all where nobody committed any."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    listed = posixpath.join(path, COMMITTED)
    if filesystem.exists(listed):
        return [posixpath.join(path, name) for name in json.loads(filesystem.cat_file(listed))]
    found = filesystem.glob(path) if "*" in path else filesystem.find(path)
    return sorted(name for name in found if name.endswith(".parquet"))


def _read_by_workers(spark: SparkSession, uri: str) -> DataFrame:
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    filesystem, root = fsspec.core.url_to_fs(uri)
    paths = parquet_files(uri)
    if not paths:
        raise BundleError(f"no Parquet file at {uri}")
    partitioned = next((path for path in paths if "=" in path[len(root) :]), None)
    if partitioned is not None:
        raise ConfigError(
            f"{filesystem.unstrip_protocol(partitioned)} lies in a folder named by a column's value, which is read through Hadoop only: "
            "give Spark the jars of this store (docs/cluster.md, Object stores)."
        )
    with filesystem.open(paths[0], "rb") as stream:
        schema = from_arrow_schema(_as_spark_reads(stream))
    wanted = to_arrow_schema(schema)

    def batches(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        files, _ = fsspec.core.url_to_fs(uri)
        for part in parts:
            for path in part.column(0).to_pylist():
                with files.open(path, "rb") as stream:
                    for batch in pq.ParquetFile(stream).iter_batches(_ROWS_PER_BATCH, columns=wanted.names):
                        # Unsafe where times lose nanoseconds, which Spark does not know.
                        yield from pa.Table.from_batches([batch]).cast(wanted, safe=False).to_batches()

    context = spark.sparkContext
    tasks = min(len(paths), _TASKS_PER_CORE * max(context.defaultParallelism, 1))
    names = spark.createDataFrame(context.parallelize([(path,) for path in paths], tasks), "path string")
    return names.mapInArrow(batches, schema)


def _as_spark_reads(stream: Any) -> pa.Schema:
    """A file's schema with the types that Spark gives its columns."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream)
    physical = {column.path: column.physical_type for column in (file.schema.column(place) for place in range(len(file.schema.names)))}
    return pa.schema([pa.field(field.name, _known(field.type, physical.get(field.name) == "INT96")) for field in file.schema_arrow])


def _known(kind: pa.DataType, instant: bool) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        # Spark's own INT96 times are instants, though Arrow reads them without a zone.
        return pa.timestamp("us", tz="UTC" if instant or kind.tz is not None else None)
    if pa.types.is_dictionary(kind):
        return _known(kind.value_type, instant)
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_known(kind.value_type, instant))
    widened = {"uint8": pa.int16(), "uint16": pa.int32(), "uint32": pa.int64(), "halffloat": pa.float32()}
    return widened.get(str(kind), kind)


def _write_by_workers(frame: DataFrame, uri: str, max_records_per_file: int, overwrite: bool) -> None:
    from pyspark.sql.pandas.types import to_arrow_schema

    spark = frame.sparkSession
    if spark.conf.get("spark.speculation", "false") == "true":
        raise ConfigError(f"spark.speculation must be false where Python workers write ({uri}): two attempts at one task would both write.")
    filesystem, path = fsspec.core.url_to_fs(uri)
    if filesystem.exists(path) and filesystem.find(path):
        if not overwrite:
            raise BundleError(f"{uri} holds files already")
        filesystem.rm(path, recursive=True)
    filesystem.makedirs(path, exist_ok=True)

    def files(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        # An attempt writes files of its own: one that was given up and still writes can spoil nothing.
        stem = f"part-{context.partitionId():05d}-{context.taskAttemptId()}"
        for name, rows in _write_files(batches, uri, stem, max_records_per_file):
            yield pa.RecordBatch.from_pydict({"name": [name], "rows": [rows]})

    # As many rows as files; nothing of the data.
    written = [row["name"] for row in frame.mapInArrow(files, _REPORT).collect()]
    if not written:
        empty = to_arrow_schema(frame.schema).empty_table()
        written = [name for name, _ in _write_files(empty.to_batches() or [_no_rows(empty.schema)], uri, "part-00000-0", 0)]
    write_text(join(uri, COMMITTED), json.dumps(sorted(written)))
    for left in set(filesystem.find(path)) - {posixpath.join(path, name) for name in [*written, COMMITTED]}:
        filesystem.rm_file(left)


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _write_files(batches: Iterable[pa.RecordBatch], uri: str, stem: str, max_records: int) -> Iterator[tuple[str, int]]:
    """Write batches into files of at most `max_records` rows, one row group each; unbounded ones get a group every 128 MB."""
    import pyarrow.parquet as pq

    filesystem, folder = fsspec.core.url_to_fs(uri)
    for number, groups in enumerate(_files(batches, max_records)):
        name, rows = f"{stem}-{number:05d}.zstd.parquet", 0
        with filesystem.open(posixpath.join(folder, name), "wb") as stream:
            writer = None
            for group in groups:
                writer = writer or pq.ParquetWriter(stream, group.schema, compression="zstd")
                writer.write_table(group, row_group_size=max(group.num_rows, 1))
                rows += group.num_rows
            assert writer is not None
            writer.close()
        yield name, rows


def _files(batches: Iterable[pa.RecordBatch], max_records: int) -> Iterator[Iterable[pa.Table]]:
    """The row groups of each file in turn; a file's are read before the next file's."""
    waiting: list[pa.RecordBatch] = []
    if max_records:
        rows = 0
        for batch in batches:
            while batch.num_rows:
                part = batch.slice(0, max_records - rows)
                waiting, rows, batch = [*waiting, part], rows + part.num_rows, batch.slice(part.num_rows)
                if rows == max_records:
                    yield [pa.Table.from_batches(waiting)]
                    waiting, rows = [], 0
        if waiting:
            yield [pa.Table.from_batches(waiting)]
        return
    source = iter(batches)
    first = next(source, None)
    if first is not None:
        yield _groups(first, source)


def _groups(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting, size = [first], first.nbytes
    for batch in rest:
        if size >= _BYTES_PER_GROUP:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
        waiting, size = [*waiting, batch], size + batch.nbytes
    yield pa.Table.from_batches(waiting)
