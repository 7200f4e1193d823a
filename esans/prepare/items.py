"""Checks the items table and its extra tables, row by row, and gives the columns their types."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from esans import columns as C
from esans.errors import DataError
from esans.prepare import images
from esans.prepare import rejects as R
from esans.prepare.config import ItemsConfig
from esans.prepare.sources import (
    as_id,
    as_number,
    column,
    is_number,
    is_text,
    missing_column,
    readable,
    require_columns,
    require_some,
    sql_condition,
    type_of,
)
from esans.prepare.vectors import VECTORS, check_vectors, require_good_vectors, require_vector, usual_lengths

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

NAME = "items"
_KEY = "prepare.items"


def uses(config: ItemsConfig) -> list[tuple[str, str]]:
    """(config key, raw column) of every use that the config makes of a column, the item id left out."""
    names = config.columns
    text = [names.text] if isinstance(names.text, str) else names.text or []
    found = [(f"{_KEY}.columns.text", name) for name in text]
    for field in (C.TITLE, C.TEXT_VECTOR, C.IMAGE_VECTOR, C.IMAGE, C.AVAILABLE):
        name = getattr(names, field)
        if name is not None:
            found.append((f"{_KEY}.columns.{field}", name))
    return found + [(f"{_KEY}.side.{name}.column", side.column) for name, side in config.side.items()]


def _mapped(config: ItemsConfig) -> dict[str, str]:
    # raw column -> the first config key that uses it
    return {column: key for key, column in reversed(uses(config))}


def join_extras(items: DataFrame, extras: dict[str, DataFrame], config: ItemsConfig) -> DataFrame:
    """(item_id raw, every mapped column by its own name, __available, __image) with the extra tables joined on their item id.

    A column may be written `name.column` to say which extra table it comes from.

    Raises:
        DataError: a mapped column is in no table, or in several.
    """
    from pyspark.sql import functions as F

    id_column = config.columns.item_id
    require_columns(items, [(f"{_KEY}.columns.item_id", id_column)], NAME)
    for name, extra in extras.items():
        require_columns(extra, [(f"{_KEY}.extra.{name}.item_id", config.extra[name].item_id)], f"items.extra.{name}")
    home = {name: _home(name, key, items, extras) for name, key in _mapped(config).items()}
    # A picture has a stand-in; its column comes along only where it means something else too (a URI shown as a title, say).
    other = {name for key, name in uses(config) if key != images.CONFIG_KEY}
    available = (
        sql_condition(items, config.available_where, f"{_KEY}.available_where") if config.available_where else F.lit(None).cast("boolean")
    )
    joined = items.select(
        as_id(items, id_column, NAME, f"{_KEY}.columns.item_id").alias(C.ITEM_ID),
        *[column(name).alias(name) for name, (table, _) in home.items() if table is None and name != C.ITEM_ID and name in other],
        *_image_stand_in(items, None, home, config),
        available.alias("__available"),
    )
    for extra_name, extra in extras.items():
        label, key = f"items.extra.{extra_name}", f"{_KEY}.extra.{extra_name}.item_id"
        wanted = [column(raw).alias(name) for name, (table, raw) in home.items() if table == extra_name and name in other]
        wanted += _image_stand_in(extra, extra_name, home, config)
        if not wanted:
            raise DataError(
                f"{label}: none of its columns is mapped. Name one under prepare.items.columns or prepare.items.side, "
                f"or remove prepare.{label}."
            )
        rows = extra.select(as_id(extra, config.extra[extra_name].item_id, label, key).alias(C.ITEM_ID), *wanted)
        rows = rows.where(F.col(C.ITEM_ID).isNotNull())
        joined = joined.join(_one_each(rows), C.ITEM_ID, "left")
    return joined


def _image_stand_in(table: DataFrame, place: str | None, home: dict[str, tuple[str | None, str]], config: ItemsConfig) -> list[Column]:
    found = home[config.columns.image] if config.columns.image is not None else None
    return [images.stand_in(table, found[1])] if found is not None and found[0] == place else []


def image_source(items: DataFrame, extras: dict[str, DataFrame], config: ItemsConfig) -> DataFrame | None:
    """(item_id, image or image_uri, its hash) of the table that holds the pictures; None where they are not mapped."""
    if config.columns.image is None:
        return None
    place, raw = _home(config.columns.image, images.CONFIG_KEY, items, extras)
    if place is None:
        return images.source(items, raw, as_id(items, config.columns.item_id, NAME, f"{_KEY}.columns.item_id"))
    label, id_column = f"items.extra.{place}", config.extra[place].item_id
    return images.source(extras[place], raw, as_id(extras[place], id_column, label, f"{_KEY}.extra.{place}.item_id"))


def _home(name: str, key: str, items: DataFrame, extras: dict[str, DataFrame]) -> tuple[str | None, str]:
    for extra, table in extras.items():
        if name.startswith(f"{extra}.") and name.removeprefix(f"{extra}.") in table.columns:
            return extra, name.removeprefix(f"{extra}.")
    found: list[str | None] = [None] if name in items.columns else []
    found += [extra for extra, table in extras.items() if name in table.columns]
    if not found:
        everywhere = [*items.columns, *(f"{extra}.{other}" for extra, table in extras.items() for other in table.columns)]
        raise DataError(missing_column(NAME, key, name, everywhere))
    if len(found) > 1:
        places = ", ".join("items" if place is None else f"items.extra.{place}" for place in found)
        raise DataError(
            f"items: column {name!r} ({key}) is in several tables: {places}. Write NAME.{name} with the name of the extra table."
        )
    return found[0], name


def _one_each(rows: DataFrame) -> DataFrame:
    # Of several rows of one item: the one with the most values, then the smallest hash. Any partitioning gives the same.
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    names = [name for name in rows.columns if name != C.ITEM_ID]
    filled = reduce(lambda total, name: total + column(name).isNotNull().cast("int"), names, F.lit(0))
    best = Window.partitionBy(C.ITEM_ID).orderBy(filled.desc(), F.xxhash64(*[column(name) for name in names]))
    return rows.withColumn("__place", F.row_number().over(best)).where("__place = 1").drop("__place")


def check_items(joined: DataFrame, config: ItemsConfig) -> R.Checked:
    """Typed catalogue of the rows that stay, and the rows that do not.

    Of several rows with one item id the one with the most mapped values stays (then the one with the smallest hash).

    Args:
        joined: what `join_extras` returns.

    Returns:
        Checked, whose good rows hold item_id, available, what is mapped of title, text, text_vector, image_vector, side_*,
        and the hash of the picture as `__image`.

    Raises:
        DataError: empty table, a column whose type cannot mean what it should, bad vectors under on_bad_vector=error.
    """
    from pyspark import StorageLevel
    from pyspark.sql import functions as F

    with readable(NAME):
        typed, problems, soft = _typed(joined, config)
        base = joined.select(
            C.ITEM_ID,
            *[value.alias(name) for name, value in typed.items()],
            _there(problems).alias("__bad"),
            _there(soft).alias("__soft"),
            _row_json(joined, config).alias(C.ROW),
            reduce(lambda total, value: total + value.isNotNull().cast("int"), typed.values(), F.lit(0)).alias("__filled"),
        ).persist(StorageLevel.DISK_ONLY)
        total, lengths = usual_lengths(base, config)
        if total == 0:
            raise DataError(f"items: the table is empty (0 rows): {config.path or config.table}. Check prepare.items.path.")
        rows = check_vectors(base, config, lengths)
        # Telling duplicates apart sorts whole rows, vectors and all: only where there are any.
        if _has_duplicates(base):
            rows = _mark_duplicates(rows, config).persist(StorageLevel.DISK_ONLY)
        # One entry for a row that goes, one for each value that goes of a row that stays.
        entries = F.when(F.size("__bad") > 0, F.slice("__bad", 1, 1)).otherwise(F.col("__soft"))
        rejected = rows.select(C.ROW, F.explode(entries).alias("one")).select(F.lit(NAME).alias(C.TABLE), "one.*", C.ROW)
        rejects = R.count(rejected)
        if config.on_bad_vector == "error":
            require_good_vectors(joined, rejects, lengths, config)
        good = rows.where(F.size("__bad") == 0).drop("__bad", "__soft", "__filled", C.ROW)
        return R.Checked(NAME, total, good, rejected, rejects)


def _there(problems: list[Column]) -> Column:
    from pyspark.sql import functions as F

    found = F.array(*problems) if problems else F.array().cast("array<struct<reason:string,column:string>>")
    return F.array_compact(found)


def _typed(joined: DataFrame, config: ItemsConfig) -> tuple[dict[str, Column], list[Column], list[Column]]:
    # name inside -> typed value; problems that reject the row; problems that only drop a value
    from pyspark.sql import functions as F

    names = config.columns
    typed: dict[str, Column] = {}
    problems = [R.problem(R.NULL, names.item_id, F.col(C.ITEM_ID).isNull())]
    soft: list[Column] = []
    value_problems, prefix = (soft, R.SET_MISSING) if config.on_bad_value == "missing" else (problems, "")
    if names.title is not None:
        typed[C.TITLE] = _words(joined, names.title)
    if names.text is not None:
        parts = [_words(joined, name) for name in ([names.text] if isinstance(names.text, str) else names.text)]
        text = F.trim(F.concat_ws(" ", *parts))
        typed[C.TEXT] = F.when(text != "", text)
    for vector in VECTORS:
        name = getattr(names, vector)
        if name is not None:
            require_vector(type_of(joined, name), name, f"{_KEY}.columns.{vector}")
            typed[vector] = column(name).cast("array<float>")
    if names.image is not None:
        typed[images.STAND_IN] = F.col(images.STAND_IN).getField("hash")
    available = F.col("__available")
    if names.available is not None:
        available, bad = _truth(joined, names.available)
        value_problems.append(R.problem(prefix + R.NOT_A_BOOLEAN, names.available, bad))
    typed[C.AVAILABLE] = F.coalesce(available, F.lit(config.available_when_missing if config.available_where or names.available else True))
    for name, side in config.side.items():
        key = f"{_KEY}.side.{name}"
        if side.kind == "number":
            value, bad = as_number(joined, side.column, NAME, key)
            require_some(joined, side.column, value, "number", NAME, f"{key}.column", f", or set {key}.kind to category")
            value_problems.append(R.problem(prefix + R.NOT_A_NUMBER, side.column, bad))
        else:
            value = _category(joined, side.column, key)
        typed[C.SIDE_PREFIX + name] = value
    return typed, problems, soft


def _words(table: DataFrame, name: str) -> Column:
    # Text of any column. Numbers in a list become words with the column's name, so that 7 of one list is not 7 of another.
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, BinaryType, MapType, StructType

    kind = type_of(table, name)
    if isinstance(kind, ArrayType) and not isinstance(kind.elementType, ArrayType | StructType | MapType | BinaryType):
        prefix = name if is_number(kind.elementType) else ""
        value = F.array_join(F.transform(column(name), lambda word: F.concat(F.lit(prefix), word.cast("string"))), " ")
    elif isinstance(kind, ArrayType | StructType | MapType | BinaryType):
        raise DataError(
            f"items: column {name!r} has type {kind.simpleString()}, which is no text. Map a column of strings, numbers or lists of them."
        )
    else:
        value = F.trim(column(name).cast("string"))
    return F.when(value != "", value)


def _category(table: DataFrame, name: str, key: str) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, BinaryType, MapType, StructType

    kind = type_of(table, name)
    if isinstance(kind, ArrayType | StructType | MapType | BinaryType):
        raise DataError(f"items: column {name!r} ({key}.column) has type {kind.simpleString()}; a category is one string or number.")
    text = F.trim(column(name).cast("string"))
    return F.when(text != "", text)


def _truth(table: DataFrame, name: str) -> tuple[Column, Column]:
    from pyspark.sql import functions as F
    from pyspark.sql.types import BooleanType

    kind = type_of(table, name)
    if not (is_number(kind) or is_text(kind) or isinstance(kind, BooleanType)):
        raise DataError(
            f"items: column {name!r} ({_KEY}.columns.available) has type {kind.simpleString()}; a boolean, 0/1 or true/false belongs there."
        )
    raw = F.trim(column(name)) if is_text(kind) else column(name)
    value = raw.try_cast("boolean")
    there = raw.isNotNull() & (raw != "") if is_text(kind) else raw.isNotNull()
    return value, there & value.isNull()


def _row_json(joined: DataFrame, config: ItemsConfig) -> Column:
    # Vectors and binary columns would dwarf everything else: their size says enough.
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, BinaryType

    shown: list[Column] = [F.col(C.ITEM_ID).alias(config.columns.item_id)]
    for name in _mapped(config):
        if name in (C.ITEM_ID, config.columns.item_id):
            continue
        if name == config.columns.image and name not in joined.columns:
            shown.append(F.col(images.STAND_IN).getField("shown").alias(name))
            continue
        kind = type_of(joined, name)
        if isinstance(kind, ArrayType | BinaryType):
            size = F.size(column(name)) if isinstance(kind, ArrayType) else F.octet_length(column(name))
            shown.append(F.concat(size.cast("string"), F.lit(" values")).alias(name))
        else:
            shown.append(column(name).cast("string").alias(name))
    return F.to_json(F.struct(*shown), {"ignoreNullFields": "false"})


def _has_duplicates(rows: DataFrame) -> bool:
    from pyspark.sql import functions as F

    return not rows.where(F.col(C.ITEM_ID).isNotNull()).groupBy(C.ITEM_ID).count().where("count > 1").isEmpty()


def _mark_duplicates(rows: DataFrame, config: ItemsConfig) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    # A row that is rejected for another reason must not push out a good row with the same id.
    best = Window.partitionBy(C.ITEM_ID).orderBy(F.size("__bad"), F.desc("__filled"), F.xxhash64(C.ROW), C.ROW)
    rows = rows.withColumn("__place", F.row_number().over(best))
    duplicate = R.problem(R.DUPLICATE, config.columns.item_id, (F.col("__place") > 1) & F.col(C.ITEM_ID).isNotNull())
    return rows.withColumn("__bad", F.array_compact(F.array_append("__bad", duplicate))).drop("__place")
