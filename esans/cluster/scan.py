"""Aligned vectors read by Python workers themselves: Spark hands out row groups, and floats never pass through the JVM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from esans.columns import ITEM_IDX
from esans.uri import is_local

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import DataFrame, SparkSession

    from esans.table import Table

# Rows at a time: their vectors stay in the processor's cache from the file to the scores.
_ROWS = 2_048
# Tasks a core: enough to even out slow ones, few enough that starting them costs nothing beside the reading.
_TASKS_PER_CORE = 2


def rows_of(column: pa.Array) -> np.ndarray:
    """A list column without nulls, of equal lengths, as (n, d) float32."""
    width = len(column[0]) if len(column) else 0
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), width)


def mean_of(vectors: np.ndarray) -> np.ndarray:
    """m_i of METHOD 2: (n, M, d) aligned modalities -> (n, d). Summed anew, which costs less than reading it."""
    total = vectors[:, 0].copy()
    for modality in range(1, vectors.shape[1]):
        total += vectors[:, modality]
    total /= vectors.shape[1]
    return total


@dataclass(frozen=True)
class Source:
    """The table of aligned vectors, cut into row groups."""

    units: tuple[tuple[str, int], ...]
    """URI of a file and number of a row group in it; in the table's order."""
    modalities: tuple[str, ...]
    rows: int

    @classmethod
    def of(cls, table: Table, modalities: Sequence[str]) -> Source:
        """Row groups of a table of item_idx and one array<float> per modality, from the footers of its files."""

        def groups(uri: str) -> list[tuple[str, int]]:
            with _open(uri) as file:
                return [(uri, group) for group in range(file.num_row_groups)]

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(groups, [uri for uri, file in zip(table.file_uris, table.files, strict=True) if file.rows]))
        return cls(tuple(unit for units in found for unit in units), tuple(modalities), table.rows)

    def read(self, unit: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(n,) item_idx and (n, M, d) float32 of one row group, some rows at a time."""
        uri, group = self.units[unit]
        columns = [ITEM_IDX, *self.modalities]
        for batch in _kept_open(uri).iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
            first = rows_of(batch.column(self.modalities[0]))
            vectors = np.empty((len(first), len(self.modalities), first.shape[1]), np.float32)
            for place, name in enumerate(self.modalities):
                vectors[:, place] = rows_of(batch.column(name))
            yield batch.column(ITEM_IDX).to_numpy(), vectors

    def numbers(self, spark: SparkSession) -> DataFrame:
        """Column id: numbers of the units, spread over tasks."""
        return spark.range(0, len(self.units), 1, self._tasks(spark))

    def parallel(self, spark: SparkSession) -> RDD[int]:
        """The same, for sums that come back as numpy arrays."""
        return spark.sparkContext.parallelize(range(len(self.units)), self._tasks(spark))

    def _tasks(self, spark: SparkSession) -> int:
        return max(1, min(len(self.units), _TASKS_PER_CORE * spark.sparkContext.defaultParallelism))


@lru_cache(maxsize=2)
def _kept_open(uri: str) -> Any:
    # A task reads the row groups of a file one after the other; its footer is read once.
    return _open(uri)


def _open(uri: str) -> Any:
    import fsspec
    import pyarrow.parquet as pq

    filesystem, path = fsspec.core.url_to_fs(uri)
    if is_local(filesystem):
        return pq.ParquetFile(path, memory_map=True)
    return pq.ParquetFile(filesystem.open(path, "rb"), pre_buffer=True)
