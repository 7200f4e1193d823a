"""Checks ready embedding columns: one length, no NaN, no infinity, not all zeros."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from esans import columns as C
from esans.errors import DataError
from esans.prepare import rejects as R
from esans.prepare.config import ItemsConfig
from esans.prepare.sources import column, is_number

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

# Names inside, with what an item lacks when its vector is dropped.
VECTORS = {C.TEXT_VECTOR: "a text vector", C.IMAGE_VECTOR: "an image vector"}


def require_vector(kind: DataType, name: str, key: str) -> None:
    """Raise DataError unless a column's type is an array of numbers."""
    from pyspark.sql.types import ArrayType

    if not (isinstance(kind, ArrayType) and is_number(kind.elementType)):
        raise DataError(f"items: column {name!r} ({key}) has type {kind.simpleString()}; an array of numbers belongs there.")


def usual_lengths(rows: DataFrame, config: ItemsConfig) -> tuple[int, dict[str, int]]:
    """(number of rows, the most frequent length of each mapped vector column; of equally frequent ones the longer).

    One pass. The driver gets as many counts as there are combinations of lengths.

    Raises:
        DataError: a mapped column has no vector at all.
    """
    from pyspark.sql import functions as F

    mapped = [vector for vector in VECTORS if getattr(config.columns, vector) is not None]
    counts = rows.groupBy(*[F.size(F.col(vector)).alias(vector) for vector in mapped]).count().collect()
    total = sum(row["count"] for row in counts)
    usual: dict[str, int] = {}
    for vector in mapped:
        found: Counter[int] = Counter()
        for row in counts:
            if row[vector] is not None and row[vector] >= 0:
                found[row[vector]] += row["count"]
        if total and not found:
            name = getattr(config.columns, vector)
            raise DataError(f"items: column {name!r} (prepare.items.columns.{vector}) has no value at all. Map another column, or none.")
        usual[vector] = max(found, key=lambda length: (found[length], length), default=0)
    return total, usual


def check_vectors(rows: DataFrame, config: ItemsConfig, lengths: dict[str, int]) -> DataFrame:
    """Rows whose bad vectors are null, with the reason appended to `__soft`.

    Args:
        rows: the mapped ones of text_vector and image_vector (array<float>), and `__soft`.
        lengths: expected length of each.
    """
    from pyspark.sql import functions as F

    for vector, length in lengths.items():
        name = getattr(config.columns, vector)
        bad = F.coalesce(*[R.problem(R.SET_MISSING + reason, name, condition) for reason, _, condition in _checks(vector, length)])
        rows = rows.withColumn("__vector", bad)
        rows = rows.withColumn("__soft", F.array_compact(F.array_append("__soft", F.col("__vector"))))
        rows = rows.withColumn(vector, F.when(F.col("__vector").isNull(), F.col(vector))).drop("__vector")
    return rows


def _checks(name: str, length: int) -> list[tuple[str, str, Column]]:
    from pyspark.sql import functions as F

    vector, infinite = column(name), float("inf")
    # NaN is the greatest float to Spark, so two native passes see what a lambda per element would see slowly.
    low, high = F.array_min(vector), F.array_max(vector)
    not_finite = F.isnan(high) | (high == infinite) | (low == -infinite) | F.exists(vector, lambda x: x.isNull())
    return [
        (R.WRONG_LENGTH, f"whose length is not {length}", F.size(vector) != length),
        (R.NOT_FINITE, "with NaN, infinity or null inside", not_finite),
        (R.ZERO_VECTOR, "that are all zeros", (low == 0) & (high == 0)),
    ]


def require_good_vectors(joined: DataFrame, rejects: Sequence[R.Reject], lengths: dict[str, int], config: ItemsConfig) -> None:
    """Raise DataError for the first kind of bad vector among the rejects; a pass to name an item runs only then."""
    from pyspark.sql import functions as F

    for vector, length in lengths.items():
        name = getattr(config.columns, vector)
        for reason, words, condition in _checks(name, length):
            number = sum(one.rows for one in rejects if one.column == name and one.reason == R.SET_MISSING + reason)
            if not number:
                continue
            item, size = joined.where(condition).agg(F.min(F.struct(C.ITEM_ID, F.size(column(name)).alias("size")))).collect()[0][0]
            rows_are = "1 row" if number == 1 else f"{number:,} rows"
            raise DataError(
                f"items: column {name!r} has {rows_are} {words} (first: item_id {item!r}, length {size}).\n"
                f"Fix the rows, or set prepare.items.on_bad_vector=missing to treat them as items without {VECTORS[vector]}."
            )
