"""Pictures of items: while rows are checked, a hash stands in for them, so that their bytes are moved once and never written as rejects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esans import columns as C
from esans.errors import DataError
from esans.prepare.sources import column, is_text, type_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

CONFIG_KEY = "prepare.items.columns.image"
STAND_IN = "__image"
_HASH = "__image_hash"


def stand_in(table: DataFrame, name: str) -> Column:
    """A struct `__image` of hash (long) and what may be shown of the picture: its URI, or its size. Null where there is none.

    Raises:
        DataError: the column holds neither bytes nor text.
    """
    from pyspark.sql import functions as F

    value = _value(table, name)
    shown = value if _is_uri(table, name) else F.concat(F.octet_length(value).cast("string"), F.lit(" bytes"))
    return F.when(value.isNotNull(), F.struct(F.xxhash64(value).alias("hash"), shown.alias("shown"))).alias(STAND_IN)


def source(table: DataFrame, name: str, item_id: Column) -> DataFrame:
    """item_id, image (binary) or image_uri (string), and its hash, of every row that has one.

    Raises:
        DataError: the column holds neither bytes nor text.
    """
    from pyspark.sql import functions as F

    value, kept = _value(table, name), C.IMAGE_URI if _is_uri(table, name) else C.IMAGE
    rows = table.select(item_id.alias(C.ITEM_ID), value.alias(kept)).where(F.col(kept).isNotNull())
    return rows.withColumn(_HASH, F.xxhash64(kept))


def of_items(pictures: DataFrame, good: DataFrame, items: DataFrame) -> DataFrame:
    """item_idx and the picture of every item that has one: that of the row which stayed, where an item had several.

    Args:
        pictures: what `source` returns.
        good: checked rows: item_id and `__image`, the hash.
        items: item_id and item_idx as written.
    """
    from pyspark.sql import functions as F

    wanted = good.where(F.col(STAND_IN).isNotNull()).select(C.ITEM_ID, F.col(STAND_IN).alias(_HASH)).join(items, C.ITEM_ID)
    # One hash an item, so pictures that share both are one; keyed like the join, this moves no bytes a second time.
    found = pictures.join(wanted, [C.ITEM_ID, _HASH]).dropDuplicates([C.ITEM_ID, _HASH])
    return found.select(C.ITEM_IDX, *[name for name in (C.IMAGE, C.IMAGE_URI) if name in pictures.columns])


def _is_uri(table: DataFrame, name: str) -> bool:
    return is_text(type_of(table, name))


def _value(table: DataFrame, name: str) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql.types import BinaryType

    kind = type_of(table, name)
    if isinstance(kind, BinaryType):
        return column(name)
    if is_text(kind):
        return F.when(F.trim(column(name)) != "", F.trim(column(name)))
    raise DataError(
        f"items: column {name!r} ({CONFIG_KEY}) has type {kind.simpleString()}; image bytes (binary) or a URI (string) belong there."
    )
