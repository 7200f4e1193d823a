"""Checks the interactions table, row by row, and gives the columns their types."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING

from esans import columns as C
from esans.errors import DataError
from esans.prepare import rejects as R
from esans.prepare.config import InteractionsConfig, seconds
from esans.prepare.sources import as_id, as_number, column, is_number, is_text, readable, require_columns, require_some, type_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

NAME = "interactions"
_KEY = "prepare.interactions"
_DAY = 86_400
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}

QUANTITY, RATING = "quantity", "rating"


def mapped_columns(config: InteractionsConfig) -> list[tuple[str, str]]:
    """(config key, raw column) of every column that the config names."""
    fields = ("user_id", "item_id", "timestamp", "position", "event", "order_id", "weight", "quantity", "rating")
    return [(f"{_KEY}.columns.{field}", getattr(config.columns, field)) for field in fields if getattr(config.columns, field) is not None]


def check_interactions(
    raw: DataFrame,
    config: InteractionsConfig,
    catalogue: DataFrame,
    *,
    orders: bool = False,
    now: float | None = None,
    until: float | None = None,
    since: float | None = None,
) -> R.Checked:
    """Typed events of the rows that stay, and the rows that do not.

    Args:
        raw: the raw table.
        catalogue: item_id of the known items, distinct; further columns (item_idx) are carried over.
        orders: whether a null order id rejects the row.
        now: unix seconds of the present, for the upper end of the sane range.
        until: unix seconds from which on rows are left out, as if the table ended there; None keeps all.
        since: unix seconds before which rows are left out, since a log holds them; there may then be none at all.

    Returns:
        Checked, whose good rows hold user_id, item_id, timestamp (long), event, order_id, weight, quantity, rating (double), all null where
        not mapped, and the columns of the catalogue.

    Raises:
        DataError: empty table, missing column, or a column whose type cannot mean what it should.
    """
    from pyspark.sql import functions as F

    require_columns(raw, mapped_columns(config), NAME)
    raw = raw if until is None else before(raw, config, until)
    raw = raw if since is None else from_on(raw, config, since)
    with readable(NAME):
        if since is None and raw.isEmpty():
            left = "" if until is None else " before prepare.until"
            raise DataError(
                f"interactions: the table is empty (0 rows{left}): {config.path or config.table}. Check prepare.interactions.path."
            )
    typed, problems = _typed(raw, config, orders, time.time() if now is None else now)
    shown = F.struct(*[column(name).cast("string").alias(name) for name in dict.fromkeys(name for _, name in mapped_columns(config))])
    first = F.coalesce(*problems)
    rows = raw.select(
        *[value.alias(name) for name, value in typed.items()],
        first.alias("__bad"),
        F.to_json(shown, {"ignoreNullFields": "false"}).alias(C.ROW),
    )
    # The catalogue is the light side: hashing it spares sorting all events.
    known = catalogue.withColumn("__known", F.lit(True)).hint("shuffle_hash")
    unknown = R.problem(R.UNKNOWN_ITEM, config.columns.item_id, F.col("__known").isNull())
    rows = rows.join(known, C.ITEM_ID, "left").withColumn("__bad", F.coalesce("__bad", unknown)).drop("__known")
    # The row as JSON is wanted of rejected rows only; a copy of the whole table would double what is kept.
    rows = rows.withColumn(C.ROW, F.when(F.col("__bad").isNotNull(), F.col(C.ROW))).persist()
    with readable(NAME):
        total = rows.count()
        bad = F.col("__bad")
        rejected = rows.where(bad.isNotNull()).select(
            F.lit(NAME).alias(C.TABLE), bad[C.REASON].alias(C.REASON), bad[C.COLUMN].alias(C.COLUMN), C.ROW
        )
        return R.Checked(NAME, total, rows.where(bad.isNull()).drop("__bad", C.ROW), rejected, R.count(rejected))


def before(raw: DataFrame, config: InteractionsConfig, until: float) -> DataFrame:
    """The rows of the raw table before a moment; those whose time cannot be read stay, for the checks to find.

    Where times are whole numbers, timestamps or dates, Spark hands the condition to the reader, which skips partitions and row groups.

    Args:
        raw: the raw table.
        config: name and unit of the times.
        until: unix seconds.
    """
    value, moment = _time_and_moment(raw, config, until)
    return raw.where(value.isNull() | (value < moment))


def from_on(raw: DataFrame, config: InteractionsConfig, since: float) -> DataFrame:
    """The rows of the raw table from a moment on, and those whose time cannot be read; the reader skips the rest as in `before`."""
    value, moment = _time_and_moment(raw, config, since)
    return raw.where(value.isNull() | (value >= moment))


def _time_and_moment(raw: DataFrame, config: InteractionsConfig, moment: float) -> tuple[Column, Column]:
    """The time of a row and a moment, in a form that readers of files compare by themselves where the type allows it."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import DateType, IntegralType, TimestampType

    name, unit = str(config.columns.timestamp), config.timestamps.unit
    kind, value = type_of(raw, name), column(name)
    if isinstance(kind, IntegralType):
        return value, F.lit(-int(-moment * _UNITS[unit] // 1)).cast("long")
    if isinstance(kind, TimestampType):
        return value, F.timestamp_seconds(F.lit(moment))
    if isinstance(kind, DateType):
        # A date is its first moment in UTC.
        return value, F.lit(datetime.date(1970, 1, 1) + datetime.timedelta(days=-int(-moment // _DAY)))
    value, _ = _unix_seconds(raw, name, f"{_KEY}.columns.timestamp", unit)
    return value, F.lit(-int(-moment // 1)).cast("long")


def _typed(raw: DataFrame, config: InteractionsConfig, orders: bool, now: float) -> tuple[dict[str, Column], list[Column]]:
    from pyspark.sql import functions as F

    names = config.columns
    nothing = F.lit(None)
    typed = {
        C.USER_ID: as_id(raw, names.user_id, NAME, f"{_KEY}.columns.user_id"),
        C.ITEM_ID: as_id(raw, names.item_id, NAME, f"{_KEY}.columns.item_id"),
        C.EVENT: nothing.cast("string"),
        C.ORDER_ID: nothing.cast("string"),
    }
    problems = [R.problem(R.NULL, getattr(names, name), typed[name].isNull()) for name in (C.USER_ID, C.ITEM_ID)]
    typed[C.TIMESTAMP], time_problems = _time(raw, config, now)
    problems += time_problems
    if names.event is not None:
        typed[C.EVENT] = F.trim(column(names.event).cast("string"))
    if names.order_id is not None:
        typed[C.ORDER_ID] = as_id(raw, names.order_id, NAME, f"{_KEY}.columns.order_id")
        if orders:
            problems.append(R.problem(R.NULL, names.order_id, typed[C.ORDER_ID].isNull()))
    for field, positive in ((C.WEIGHT, True), (QUANTITY, True), (RATING, False)):
        name = getattr(names, field)
        if name is None:
            typed[field] = nothing.cast("double")
            continue
        value, bad = as_number(raw, name, NAME, f"{_KEY}.columns.{field}")
        require_some(raw, name, value, "number", NAME, f"{_KEY}.columns.{field}")
        typed[field] = value
        problems.append(R.problem(R.NOT_A_NUMBER, name, bad))
        if positive:
            problems.append(R.problem(R.NOT_POSITIVE, name, value <= 0))
    return typed, problems


def _time(raw: DataFrame, config: InteractionsConfig, now: float) -> tuple[Column, list[Column]]:
    names = config.columns
    name = names.timestamp or names.position
    assert name is not None  # the config is complete
    key = f"{_KEY}.columns.{'timestamp' if names.timestamp else 'position'}"
    if names.timestamp is None:
        number, bad = as_number(raw, name, NAME, key)
        require_some(raw, name, number, "number", NAME, key)
        value = number.try_cast("bigint")
        return value, [R.problem(R.NULL, name, value.isNull() & ~bad), R.problem(R.NOT_A_NUMBER, name, bad)]
    value, there = _unix_seconds(raw, name, key, config.timestamps.unit)
    if is_text(type_of(raw, name)):
        require_some(raw, name, value, "time", NAME, key)
    low = seconds(config.timestamps.min, "min")  # type: ignore[arg-type]
    high = now + _DAY if config.timestamps.max is None else seconds(config.timestamps.max, "max")  # type: ignore[arg-type]
    return value, [
        R.problem(R.NULL, name, ~there),
        R.problem(R.NOT_A_TIME, name, value.isNull()),
        R.problem(R.OUT_OF_RANGE, name, (value < low) | (value > high)),
    ]


def _unix_seconds(raw: DataFrame, name: str, key: str, unit: str) -> tuple[Column, Column]:
    # (whole unix seconds or null, whether a value is there)
    from pyspark.sql import functions as F
    from pyspark.sql.types import DateType, DoubleType, FloatType, TimestampNTZType, TimestampType

    kind = type_of(raw, name)
    value = column(name)
    scale = _UNITS[unit]
    if isinstance(kind, TimestampType | DateType | TimestampNTZType):
        return F.unix_seconds(value.cast("timestamp")), value.isNotNull()
    if is_number(kind):
        there = value.isNotNull() & ~F.isnan(value) if isinstance(kind, DoubleType | FloatType) else value.isNotNull()
        return F.floor(value / scale).try_cast("bigint") if scale > 1 else F.floor(value).try_cast("bigint"), there
    if is_text(kind):
        text = F.trim(value)
        number = F.floor(text.try_cast("double") / scale).try_cast("bigint")
        return F.coalesce(number, F.unix_seconds(F.try_to_timestamp(text))), value.isNotNull() & (text != "")
    raise DataError(
        f"interactions: column {name!r} ({key}) has type {kind.simpleString()}; "
        "unix time, a timestamp, a date or an ISO text belongs there."
    )


def utc_day(raw: DataFrame, config: InteractionsConfig) -> Column:
    """Days since 1970-01-01 in UTC of every raw row; null where its time cannot be read. `config` maps a timestamp column."""
    from pyspark.sql import functions as F

    value, _ = _unix_seconds(raw, str(config.columns.timestamp), f"{_KEY}.columns.timestamp", config.timestamps.unit)
    return F.floor(value / _DAY).cast("int")
