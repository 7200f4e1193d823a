"""Writes the tables of the bundle, numbered, each from what the earlier ones were written as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esans import columns as C
from esans.bundle import Bundle, BundleWriter
from esans.errors import BundleError, DataError
from esans.lake import read_parquet
from esans.prepare import images
from esans.prepare.histories import histories, popularity
from esans.prepare.ids import chain, digest, number
from esans.prepare.split import IS_TARGET, PART, split, with_ties

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from esans.prepare.config import PrepareConfig


@dataclass(frozen=True)
class IdMap:
    """(outside id, index) and the number of indices, those of ids that are gone included."""

    frame: DataFrame
    size: int


def previous_map(previous: Bundle | None, table: str, id_column: str, index_column: str, spark: SparkSession) -> IdMap | None:
    """The id map of an earlier prepare bundle. Raises BundleError when the bundle is of another stage."""
    if previous is None:
        return None
    if previous.manifest["stage"] != "prepare":
        raise BundleError(f"prepare.previous = {previous.uri}: is a bundle of the {previous.manifest['stage']} stage, not of prepare.")
    found = previous.table(table)
    return IdMap(found.spark(spark).select(id_column, index_column), found.rows)


def write_items(out: BundleWriter, good: DataFrame, previous: IdMap | None, spark: SparkSession) -> IdMap:
    """Table `items`: item_idx, item_id, available and the mapped columns. Items that are gone since `previous` stay, unavailable and empty.

    Raises:
        DataError: fewer than two items.
    """
    from pyspark.sql import functions as F

    start = previous.size if previous else 0
    numbered, size = number(good.select(C.ITEM_ID), C.ITEM_ID, C.ITEM_IDX, previous.frame if previous else None, start)
    if size < 2:
        raise DataError(
            f"items: {size} item is left after the checks, and retrieval needs at least 2. Check prepare.items.path and the rejected rows."
        )
    # Hashing the light side spares sorting the rows with the vectors.
    wide = good.drop(images.STAND_IN).join(numbered.hint("shuffle_hash"), C.ITEM_ID, "right")
    rows = wide.withColumn(C.AVAILABLE, F.coalesce(C.AVAILABLE, F.lit(False)))
    first = [C.ITEM_IDX, C.ITEM_ID, C.AVAILABLE]
    out.write("items", rows.select(*first, *[name for name in rows.columns if name not in first]))
    return IdMap(read_parquet(spark, f"{out.data_uri}/items").select(C.ITEM_ID, C.ITEM_IDX), size)


def write_images(out: BundleWriter, source: DataFrame, good: DataFrame, items: IdMap, name: str) -> int:
    """Table `images`: item_idx and image (bytes) or image_uri, for items that have one. Returns its rows.

    Args:
        source: what `items.image_source` returns.
        good: checked items, with the hash of their picture.
        items: the id map as written.
        name: the raw column, for messages.

    Raises:
        DataError: no item has a picture.
    """
    rows = out.write("images", images.of_items(source, good, items.frame)).rows
    if not rows:
        raise DataError(f"items: column {name!r} ({images.CONFIG_KEY}) has no value at all. Map another column, or none.")
    return rows


def write_users(out: BundleWriter, positives: DataFrame, previous: IdMap | None, spark: SparkSession) -> IdMap:
    """Table `users`: user_idx and user_id of every user with a positive, and of those in `previous`.

    Raises:
        DataError: fewer than two users with a positive.
    """
    ids = positives.select(C.USER_ID).distinct().persist()
    present = ids.count()
    if present < 2:
        users = "1 user has" if present == 1 else "no user has"
        raise DataError(
            f"interactions: {users} positives after the checks and filters, and training needs at least 2 users. "
            "Check prepare.events, prepare.filters and the rejected rows."
        )
    numbered, size = number(ids, C.USER_ID, C.USER_IDX, previous.frame if previous else None, previous.size if previous else 0)
    out.write("users", numbered.select(C.USER_IDX, C.USER_ID))
    ids.unpersist()
    return IdMap(read_parquet(spark, f"{out.data_uri}/users"), size)


def id_maps(items: IdMap, users: IdMap, previous: Bundle | None) -> list[dict[str, Any]]:
    """Fact `id_maps`: by it a model of an earlier bundle knows whether its rows mean the same items and users here."""
    digests = {"items_digest": digest(items.frame, C.ITEM_ID, C.ITEM_IDX), "users_digest": digest(users.frame, C.USER_ID, C.USER_IDX)}
    return chain({"items": items.size, "users": users.size, **digests}, {} if previous is None else previous.facts)


def write_interactions(
    out: BundleWriter, positives: DataFrame, users: IdMap, config: PrepareConfig, seed: int, spark: SparkSession
) -> DataFrame:
    """Table `interactions`: the positives with split, position and role. Returns it as written, with the column `part`."""
    from pyspark.sql import functions as F

    numbered = with_ties(positives, seed).join(users.frame.hint("shuffle_hash"), C.USER_ID).drop(C.USER_ID, C.ITEM_ID)
    # Everything that follows happens within a user: one shuffle serves it all.
    moments = positives.select(C.TIMESTAMP)
    rows = split(numbered.repartition(C.USER_IDX), config.split, config.deduplicate, moments, config.until_seconds)
    names = config.interactions.columns
    optional = [name for name, mapped in ((C.EVENT, names.event), (C.ORDER_ID, names.order_id)) if mapped is not None]
    out.write(
        "interactions",
        rows.select(C.USER_IDX, C.ITEM_IDX, C.TIMESTAMP, C.WEIGHT, *optional, C.POSITION, C.SPLIT, IS_TARGET),
    )
    written = read_parquet(spark, f"{out.data_uri}/interactions")
    parts = F.array_position(F.array(*[F.lit(name) for name in C.SPLITS]), F.col(C.SPLIT)) - 1
    return written.withColumn(PART, parts.cast("int"))


def write_exposures(out: BundleWriter, exposures: DataFrame, users: IdMap) -> int:
    """Table `exposures`: user_idx, item_idx, timestamp of what known users were shown. Returns its rows."""
    rows = exposures.join(users.frame, C.USER_ID).select(C.USER_IDX, C.ITEM_IDX, C.TIMESTAMP)
    return out.write("exposures", rows).rows


def write_histories(
    out: BundleWriter, rows: DataFrame, items: IdMap, config: PrepareConfig, spark: SparkSession
) -> tuple[DataFrame, DataFrame]:
    """Tables `histories` and `popularity`; returns both as written."""
    out.write("histories", histories(rows, config.max_history))
    out.write("popularity", popularity(rows, items.frame))
    return read_parquet(spark, f"{out.data_uri}/histories"), read_parquet(spark, f"{out.data_uri}/popularity")
