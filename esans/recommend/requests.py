"""Who gets recommendations: every user, or those of a list, with what they did, in chunks of a fixed number of users (Spark)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from esans.bundle import Bundle
from esans.columns import HISTORY, SEEN, SERVE, SPLIT, USER_ID, USER_IDX
from esans.errors import ConfigError, DataError
from esans.lake import read_parquet
from esans.table import Table
from esans.uri import canonical

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from esans.recommend.config import RecommendConfig

# Users with an index come in chunks 0, 1, ... by it; unknown ids in chunks -1, -2, ... by a hash.
CHUNK = "chunk"
_MOST_PARTITIONS = 2000


def requests(spark: SparkSession, prepare: Bundle, config: RecommendConfig) -> DataFrame:
    """chunk, user_idx (null for unknown users), user_id, history and seen (null without any); chunks whole and in order within files.

    Raises:
        DataError: the list of users lacks its column or names nobody.
    """
    from pyspark.sql import functions as F

    users = prepare.table("users").spark(spark).select(USER_IDX, USER_ID)
    unknown_chunks, total = 1, int(prepare.facts["num_users"])
    if config.users is not None:
        wanted = _listed(spark, config)
        total = wanted.count()
        if not total:
            raise DataError(f"recommend.users = {config.users!r} names no users.")
        unknown_chunks = math.ceil(total / config.chunk_users)
        users = wanted.join(users, USER_ID, "left")
    histories = prepare.table("histories").spark(spark).where(F.col(SPLIT) == SERVE).select(USER_IDX, HISTORY, SEEN)
    by_hash = -1 - F.pmod(F.xxhash64(USER_ID), F.lit(unknown_chunks))
    by_index = F.floor(F.col(USER_IDX) / config.chunk_users)
    rows = users.join(histories, USER_IDX, "left").withColumn(CHUNK, F.when(F.col(USER_IDX).isNull(), by_hash).otherwise(by_index))
    partitions = min(_MOST_PARTITIONS, max(1, math.ceil(total / config.chunk_users)))
    ordered = rows.select(CHUNK, USER_IDX, USER_ID, HISTORY, SEEN).repartition(partitions, CHUNK)
    return ordered.sortWithinPartitions(CHUNK, USER_IDX, USER_ID)


def _listed(spark: SparkSession, config: RecommendConfig) -> DataFrame:
    """Distinct ids of the list, as strings."""
    from pyspark.sql import functions as F

    uri = canonical(config.users or "")
    if uri.endswith((".csv", ".parquet")):
        table = read_parquet(spark, uri) if uri.endswith(".parquet") else spark.read.option("header", True).csv(uri)
        if config.users_column not in table.columns:
            raise DataError(f"recommend.users = {config.users!r} has no column {config.users_column!r}; it has {', '.join(table.columns)}.")
        ids = table.select(F.col(config.users_column).cast("string").alias(USER_ID))
    else:
        ids = spark.read.text(uri).select(F.trim("value").alias(USER_ID)).where(F.col(USER_ID) != "")
    return ids.where(F.col(USER_ID).isNotNull()).distinct()


def list_fingerprint(uri: str) -> dict[str, Any]:
    """Names, sizes and times of the files of a list of users. Raises ConfigError where there are none."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    found = filesystem.find(path, detail=True) if filesystem.exists(path) else {}
    if not found:
        raise ConfigError(f"recommend.users = {uri!r}: no such file.")
    changed = ("ETag", "mtime", "LastModified", "last_modified")
    return {
        name[len(path) :]: {"size": info["size"], "changed": next((str(info[key]) for key in changed if key in info), "")}
        for name, info in sorted(found.items())
    }


def chunks(table: Table, batch_size: int = 16_384) -> Iterator[tuple[int, pa.Table]]:
    """(chunk, its rows) one after another. Memory: one chunk, and one batch being read."""
    number: int | None = None
    held: list[pa.RecordBatch] = []
    for batch in table.batches(batch_size=batch_size):
        runs = pc.run_end_encode(batch.column(batch.schema.get_field_index(CHUNK)))
        start = 0
        for end, value in zip(runs.run_ends.to_pylist(), runs.values.to_pylist(), strict=True):
            if value != number and held:
                assert number is not None  # of what is held
                yield number, pa.Table.from_batches(held)
                held = []
            number = value
            held.append(batch.slice(start, end - start))
            start = end
    if held and number is not None:
        yield number, pa.Table.from_batches(held)
