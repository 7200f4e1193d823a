"""Encoder `columns`: vectors that the user computed, taken from the text_vector or image_vector column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esans.columns import IMAGE_MODALITY, IMAGE_VECTOR, ITEM_ID, ITEM_IDX, TEXT_MODALITY, TEXT_VECTOR
from esans.errors import DataError
from esans.features.registry import Encoded, Job
from esans.features.vectors import VECTOR

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COLUMN = {TEXT_MODALITY: TEXT_VECTOR, IMAGE_MODALITY: IMAGE_VECTOR}


def encode(items: DataFrame, config: Any, job: Job) -> Encoded:
    """Ready vectors as they are; the commonest length is the right one.

    Raises:
        DataError: the column was not mapped, or lengths differ and `on_bad_length` is `error`.
    """
    from pyspark.sql import functions as F

    column = COLUMN[job.modality]
    if column not in items.columns:
        raise DataError(
            f"items: there is no column '{column}'. Map it in the prepare section, or set features.{job.modality}.encoder to auto or none."
        )
    lengths = items.where(F.col(column).isNotNull()).groupBy(F.size(column).alias("length")).count()
    # A handful of lengths at most; the bound keeps even broken data off the driver.
    counted = lengths.where("length > 0").orderBy(F.desc("count"), "length").limit(100).collect()
    dim = int(counted[0]["length"]) if counted else 1
    if config.on_bad_length == "error":
        _refuse_other_lengths(items, column, dim, job.modality)
    return Encoded(items.select(ITEM_IDX, F.col(column).alias(VECTOR)), dim)


def _refuse_other_lengths(items: DataFrame, column: str, dim: int, modality: str) -> None:
    from pyspark.sql import functions as F

    bad = items.where(F.col(column).isNotNull() & (F.size(column) != dim))
    count = bad.count()
    if count:
        first = bad.orderBy(ITEM_IDX).select(ITEM_ID, F.size(column).alias("length")).first()
        assert first is not None
        raise DataError(
            f"items: column '{column}' has {count:,} rows whose length is not {dim} "
            f"(first: item_id '{first[ITEM_ID]}', length {first['length']}).\n"
            f"Fix the rows, or set features.{modality}.on_bad_length=missing to treat them as items without {_a(modality)}."
        )


def _a(modality: str) -> str:
    return "an image" if modality == IMAGE_MODALITY else "a text"
