"""Parquet tables of a bundle, read by URI: as Spark DataFrames, Arrow batches or dense arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa

from esans.errors import BundleError
from esans.uri import join

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table: its name below the table, its rows and bytes."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Table:
    """A Parquet table of a finished bundle."""

    uri: str
    schema: str
    files: list[DataFile]

    @property
    def rows(self) -> int:
        """Rows of all files, from their footers."""
        return sum(file.rows for file in self.files)

    @property
    def file_uris(self) -> list[str]:
        """URIs of the data files, in name order."""
        return [join(self.uri, file.name) for file in self.files]

    def spark(self, spark: SparkSession) -> DataFrame:
        """The table as a Spark DataFrame."""
        from esans.lake import read_parquet

        return read_parquet(spark, self.uri)

    def dataset(self) -> pads.Dataset:
        """The table as a pyarrow dataset; iterate over its batches where the table grows with the data."""
        # Imported here: it brings pandas along, and configuration errors must not wait for that.
        import pyarrow.dataset as pads

        filesystem, _ = fsspec.core.url_to_fs(self.uri)
        paths = [filesystem._strip_protocol(uri) for uri in self.file_uris]
        return pads.dataset(paths, format="parquet", filesystem=filesystem)

    def arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table in memory: for tables that do not grow with the data, or columns that a rank must hold."""
        return self.dataset().to_table(columns=list(columns) if columns else None)

    def batches(self, columns: Sequence[str] | None = None, batch_size: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Record batches of at most `batch_size` rows, file by file; memory stays bounded."""
        yield from self.dataset().to_batches(columns=list(columns) if columns else None, batch_size=batch_size)

    def dense(self, index: str, column: str, size: int, dtype: Any = np.float32, fill: float = 0) -> np.ndarray:
        """A column as an array addressed by an index column: `result[index] = column`.

        Args:
            index: a long column with values in [0, size).
            column: a scalar column, or a list column whose rows have equal length; null rows keep `fill`.
            size: length of the result.

        Returns:
            (size,) or (size, d) array of `dtype`.

        Raises:
            BundleError: an index lies outside [0, size), or list lengths differ.
        """
        result: np.ndarray | None = None
        for batch in self.batches([index, column]):
            rows, values = batch.column(0), batch.column(1)
            if values.null_count:
                keep = values.is_valid()
                rows, values = rows.filter(keep), values.filter(keep)
            place = rows.to_numpy(zero_copy_only=False)
            if len(place) and (place.min() < 0 or place.max() >= size):
                raise BundleError(f"{self.uri}: column {index!r} has values outside [0, {size})")
            flat = rectangular(values, self.uri, column)
            if result is None:
                result = np.full((size, *flat.shape[1:]), fill, dtype=dtype)
            if len(place):
                if flat.shape[1:] != result.shape[1:]:
                    if result.shape[1:] == (0,):
                        result = np.full((size, *flat.shape[1:]), fill, dtype=dtype)
                    else:
                        raise BundleError(f"{self.uri}: column {column!r} has lists of different lengths")
                result[place] = flat
        return result if result is not None else np.full((size,), fill, dtype=dtype)


def rectangular(values: pa.Array, uri: str, column: str) -> np.ndarray:
    """A scalar column as (n,), a list column without nulls as (n, d). Raises BundleError where lists differ in length."""
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        return values.to_numpy(zero_copy_only=False)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    if len(values) == 0:
        return flat.reshape(0, 0)
    lengths = values.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any():
        raise BundleError(f"{uri}: column {column!r} has lists of different lengths")
    return flat.reshape(len(values), int(lengths[0]))
