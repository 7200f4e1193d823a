"""What the raw tables look like on the as-of day and on the days before it: counts, nulls, repeats, newcomers, distributions.

A few numbers per day and column reach the driver, never a row.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from esans import columns as C
from esans.prepare import interactions, items
from esans.prepare.sources import as_id, as_number, column, readable, require_columns
from esans.prepare.validate import read_tables

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from esans.prepare.config import PrepareConfig

BINS = 10
_EPOCH = datetime.date(1970, 1, 1)
_ACCURACY = 10_000
_CATEGORIES = 50
_USER, _ITEM, _DAY, _BIN, _NOW, _KNOWN = "__user", "__item", "__day", "__bin", "__now", "__known"

Profile = dict[str, Any]


def profile(
    spark: SparkSession, config: PrepareConfig, as_of: datetime.date, reference_days: int, earlier: Mapping[str, Any] | None
) -> Profile:
    """Profile both raw tables as of a day.

    Args:
        spark: the session.
        config: which tables, and what their columns mean.
        as_of: the day; its rows and those of the `reference_days` before it are looked at, later rows are not.
        reference_days: calendar days.
        earlier: profile of the last published run, for the bins of the items table; None where there is none.

    Returns:
        interactions: rows by day as ISO date -> counts; `unreadable_times`; distributions (bins of the reference days against the day).
        items: rows, duplicates, nulls by column, and distributions with their edges.

    Raises:
        DataError: a table or a mapped column is not there, or a file cannot be read.
    """
    from pyspark.sql import functions as F

    tables = read_tables(spark, config)
    require_columns(tables["interactions"], interactions.mapped_columns(config.interactions), "interactions")
    extras = {name: tables[f"items.extra.{name}"] for name in config.items.extra}
    catalogue = items.join_extras(tables["items"], extras, config.items)
    with readable("items"):
        about_items = _items(catalogue, config, (earlier or {}).get("items", {}).get("distributions", {}))
    with readable("interactions"):
        return {
            "interactions": _interactions(
                tables["interactions"], catalogue.select(F.col(C.ITEM_ID).alias(_ITEM)).distinct(), config, as_of, reference_days
            ),
            "items": about_items,
        }


def _interactions(raw: DataFrame, known: DataFrame, config: PrepareConfig, as_of: datetime.date, reference_days: int) -> Profile:
    from pyspark.sql import functions as F

    names, last = config.interactions.columns, (as_of - _EPOCH).days
    mapped = list(dict.fromkeys(name for _, name in interactions.mapped_columns(config.interactions)))
    rows = raw.withColumns(
        {
            _DAY: interactions.utc_day(raw, config.interactions),
            _USER: as_id(raw, names.user_id, interactions.NAME, "prepare.interactions.columns.user_id"),
            _ITEM: as_id(raw, names.item_id, interactions.NAME, "prepare.interactions.columns.item_id"),
        }
    )
    # One pass over the file serves what follows.
    rows = rows.persist()
    dated = rows.where(F.col(_DAY) <= last)
    recent = dated.where(F.col(_DAY) >= last - reference_days)
    unreadable = rows.where(F.col(_DAY).isNull()).count()
    lacking = recent.join(known.withColumn(_KNOWN, F.lit(True)), _ITEM, "left")
    days = _by_day(lacking, mapped)
    for name, key in (("new_users", _USER), ("new_items", _ITEM)):
        counts = _first_days(dated, key, last - reference_days)
        for day, entry in days.items():
            entry[name] = counts.get(day, 0)
    distributions = {}
    for field in ("weight", "quantity", "rating"):
        name = getattr(names, field)
        if name is not None:
            value, _ = as_number(raw, name, interactions.NAME, f"prepare.interactions.columns.{field}")
            distributions[name] = _numbers_against(recent, value, last)
    if names.event is not None:
        distributions[names.event] = _words_against(recent, column(names.event).cast("string"), last)
    rows.unpersist()
    return {
        "days": {str(_EPOCH + datetime.timedelta(days=day)): entry for day, entry in sorted(days.items())},
        "unreadable_times": unreadable,
        "distributions": distributions,
    }


def _by_day(recent: DataFrame, mapped: Sequence[str]) -> dict[int, dict[str, Any]]:
    from pyspark.sql import functions as F

    wanted = [
        F.count(F.lit(1)).alias("rows"),
        F.countDistinct(_USER).alias("users"),
        F.countDistinct(_ITEM).alias("items"),
        F.countDistinct(F.xxhash64(*[column(name) for name in mapped])).alias("distinct"),
        F.count(F.when(F.col(_KNOWN).isNull() & F.col(_ITEM).isNotNull(), 1)).alias("unknown"),
        *[F.count(F.when(_missing(recent, name), 1)).alias(f"null{place}") for place, name in enumerate(mapped)],
    ]
    found = recent.groupBy(_DAY).agg(*wanted).collect()
    return {
        row[_DAY]: {
            "rows": row["rows"],
            "users": row["users"],
            "items": row["items"],
            "duplicates": row["rows"] - row["distinct"],
            "unknown_items": row["unknown"],
            "nulls": {name: row[f"null{place}"] for place, name in enumerate(mapped)},
        }
        for row in found
    }


def _missing(table: DataFrame, name: str) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql.types import DoubleType, FloatType, StringType

    value, kind = column(name), table.schema[name].dataType
    if isinstance(kind, DoubleType | FloatType):
        return value.isNull() | F.isnan(value)
    return value.isNull() | (F.trim(value) == "") if isinstance(kind, StringType) else value.isNull()


def _first_days(dated: DataFrame, key: str, start: int) -> dict[int, int]:
    """How many ids have their first row on each day from `start` on."""
    from pyspark.sql import functions as F

    first = dated.where(F.col(key).isNotNull()).groupBy(key).agg(F.min(_DAY).alias(_DAY))
    return _counts(first.where(F.col(_DAY) >= start), _DAY)


def _counts(rows: DataFrame, key: str) -> dict[Any, int]:
    return {row[key]: row["count"] for row in rows.groupBy(key).count().collect()}


def _numbers_against(recent: DataFrame, value: Column, last: int) -> Profile:
    from pyspark.sql import functions as F

    rows = recent.select((F.col(_DAY) == last).alias(_NOW), value.alias(_BIN)).where(F.col(_BIN).isNotNull())
    edges = _edges(rows.where(~F.col(_NOW)))
    found = _counts(rows.select(F.struct(_NOW, _bin(F.col(_BIN), edges).alias(_BIN)).alias("key")), "key")
    return {"edges": edges, **_sides({(row[_NOW], row[_BIN]): count for row, count in found.items()}, range(len(edges) + 1))}


def _words_against(recent: DataFrame, value: Column, last: int) -> Profile:
    from pyspark.sql import functions as F

    rows = recent.select((F.col(_DAY) == last).alias(_NOW), value.alias(_BIN)).where(F.col(_BIN).isNotNull())
    top = [row[_BIN] for row in rows.where(~F.col(_NOW)).groupBy(_BIN).count().orderBy(F.desc("count"), _BIN).limit(_CATEGORIES).collect()]
    # What the reference lacks is one bin more.
    word = F.coalesce(F.array_position(F.array(*[F.lit(name) for name in top]), F.col(_BIN)) - 1, F.lit(-1)) if top else F.lit(-1)
    place = F.when(word < 0, F.lit(len(top))).otherwise(word).cast("int")
    found = _counts(rows.select(F.struct(_NOW, place.alias(_BIN)).alias("key")), "key")
    return {"words": top, **_sides({(row[_NOW], row[_BIN]): count for row, count in found.items()}, range(len(top) + 1))}


def _sides(found: Mapping[tuple[bool, int], int], bins: range) -> Profile:
    return {side: [found.get((now, place), 0) for place in bins] for side, now in (("reference", False), ("day", True))}


def _edges(rows: DataFrame) -> list[float]:
    from pyspark.sql import functions as F

    shares = [place / BINS for place in range(1, BINS)]
    found = rows.agg(F.percentile_approx(_BIN, shares, _ACCURACY).alias("edges")).collect()[0]["edges"]
    return sorted({float(edge) for edge in found or []})


def _bin(value: Column, edges: Sequence[float]) -> Column:
    """Place of a value among rising edges: 0 .. len(edges)."""
    from pyspark.sql import functions as F

    return reduce(lambda total, edge: total + (value > F.lit(edge)).cast("int"), edges, F.lit(0)).alias(_BIN)


def _items(catalogue: DataFrame, config: PrepareConfig, earlier: Mapping[str, Any]) -> Profile:
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType

    used = list(dict.fromkeys(name for _, name in items.uses(config.items) if name in catalogue.columns))
    nulls = [F.count(F.when(_missing(catalogue, name), 1)).alias(f"null{place}") for place, name in enumerate(used)]
    rows = catalogue.persist()
    found = rows.agg(F.count(F.lit(1)).alias("rows"), F.countDistinct(C.ITEM_ID).alias("distinct"), *nulls).collect()[0]
    values = {
        side.column: as_number(rows, side.column, "items", "prepare.items.side")[0]
        for side in config.items.side.values()
        if side.kind == "number"
    }
    for name in (config.items.columns.text_vector, config.items.columns.image_vector):
        if name is not None and isinstance(rows.schema[name].dataType, ArrayType):
            squares = F.aggregate(column(name), F.lit(0.0).cast("double"), lambda total, x: total + x.cast("double") * x.cast("double"))
            values[f"norm of {name}"] = F.sqrt(squares)
    distributions = {name: _shape(rows.select(value.alias(_BIN)), earlier.get(name)) for name, value in values.items()}
    rows.unpersist()
    return {
        "rows": found["rows"],
        "duplicates": found["rows"] - found["distinct"],
        "nulls": {name: found[f"null{place}"] for place, name in enumerate(used)},
        "distributions": distributions,
    }


def _shape(rows: DataFrame, earlier: Mapping[str, Any] | None) -> Profile:
    """Counts over bins: those of the earlier profile where there is one, so that the two can be compared."""
    from pyspark.sql import functions as F

    rows = rows.where(F.col(_BIN).isNotNull())
    edges = _edges(rows) if earlier is None else list(earlier["edges"])
    found = _counts(rows.select(_bin(F.col(_BIN), edges)), _BIN)
    return {"edges": edges, "counts": [found.get(place, 0) for place in range(len(edges) + 1)]}
