"""How examples lie on disk: shuffled, one row group a file, no nulls (what the reader's plan builds on)."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import fsspec
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from esans import columns as c
from esans.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from esans.shards.config import ShardsConfig
    from esans.table import Table


def shuffle(examples: DataFrame, expected_rows: int, config: ShardsConfig, seed: int) -> DataFrame:
    """Examples in a seeded random order over files of about `rows_per_shard` rows; the same rows give the same files."""
    files = max(1, math.ceil(expected_rows / config.rows_per_shard))
    key = F.xxhash64(c.USER_IDX, c.TARGET, c.TIMESTAMP, F.lit(seed))
    # Hash partitioning by value, not round robin: a retried task then writes the same rows.
    return examples.withColumn("key", key).repartition(files, "key").sortWithinPartitions("key", c.USER_IDX, c.TARGET).drop("key")


def check_row_groups(table: Table) -> None:
    """Raise DataError unless the table has rows and each of its files holds one row group."""
    if table.rows == 0:
        raise DataError(
            "shards: no training example is left: no user has enough train positives. "
            "Lower shards.min_history, or check prepare.split and the filters of prepare."
        )

    def groups(uri: str) -> int:
        with fsspec.open(uri, "rb") as stream:
            return int(pq.ParquetFile(stream).metadata.num_row_groups)

    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(groups, table.file_uris))
    broken = [file.name for file, count in zip(table.files, counts, strict=True) if count != 1]
    if broken:
        raise DataError(
            f"shards: {len(broken)} of {len(counts)} files hold more than one row group (first: {broken[0]}). "
            "Lower shards.rows_per_shard, or raise parquet.block.size in spark.conf."
        )
