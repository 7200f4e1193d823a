"""Reads the raw tables and answers whether the mapped columns are there and can mean what the config says."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from esans.errors import ConfigError, DataError
from esans.lake import hadoop_uri, read_parquet
from esans.prepare.config import TableConfig
from esans.redaction import resolve
from esans.spark import unreadable_file
from esans.uri import canonical

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import DataType


def read_table(spark: SparkSession, config: TableConfig, name: str, key: str) -> DataFrame:
    """The raw table, lazily.

    Raises:
        DataError: the files are absent or not of the format, with the file named where Spark names it.
        ConfigError: Spark cannot read this format at this place.
    """
    with readable(name):
        if config.table is not None:
            return spark.table(config.table) if config.format == "parquet" else _reader(spark, config, key).load(config.table)
        path = str(config.path)
        # Without a scheme Spark would ask its default file system, which on a cluster need not be this one.
        native = hadoop_uri(spark, path if "://" in path else canonical(path))
        if native is not None:
            return _reader(spark, config, key).load(native)
        if config.format != "parquet":
            raise ConfigError(
                f"{key}.path = {path!r}: this Spark has no file system for it, and without one only Parquet is read, not {config.format}. "
                "Give Spark the jars of this store (docs/cluster.md, Object stores), or bring the table as Parquet."
            )
        return read_parquet(spark, path)


def _reader(spark: SparkSession, config: TableConfig, key: str):  # type: ignore[no-untyped-def]
    options = {"header": True, **config.options} if config.format == "csv" else config.options
    texts = {
        name: str(value).lower() if isinstance(value, bool) else resolve(str(value), f"{key}.options.{name}")
        for name, value in options.items()
    }
    return spark.read.format(config.format).options(**texts)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn Spark's failure to read a file into a DataError that names the file; let every other error through."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        if "PATH_NOT_FOUND" in text:
            raise DataError(f"{name}: {_first_line(text)}. Correct prepare.{name}.path.") from None
        if "TABLE_OR_VIEW_NOT_FOUND" in text or "DATA_SOURCE_NOT_FOUND" in text:
            raise DataError(f"{name}: {_first_line(text)}") from None
        if "UNABLE_TO_INFER_SCHEMA" in text:
            raise DataError(
                f"{name}: the table is empty: prepare.{name}.path holds no file that Spark can read. Correct the path or the format."
            ) from None
        file = unreadable_file(error)
        if file is not None:
            raise DataError(
                f"{name}: cannot read {file}: it is corrupt, cut short or not of the configured format. Replace the file, or take it out."
            ) from None
        raise


def _first_line(text: str) -> str:
    return re.sub(r"^\[[A-Z_.]+\] ", "", text.strip().splitlines()[0]).split(" SQLSTATE")[0].rstrip(".")


def require_columns(table: DataFrame, wanted: Sequence[tuple[str, str]], name: str) -> None:
    """Raise DataError unless every (config key, column) of `wanted` is a column of the table; all missing ones are listed."""
    missing = [(key, column) for key, column in wanted if column not in table.columns]
    if missing:
        raise DataError("\n".join(missing_column(name, key, column, table.columns) for key, column in missing))


def missing_column(name: str, key: str, column: str, columns: Sequence[str]) -> str:
    """The message for a column that is not there."""
    folded = {known.lower(): known for known in columns}
    close = [folded[found] for found in difflib.get_close_matches(column.lower(), list(folded), n=1)]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{name}: column {column!r} ({key}) is not there.{hint} The table has: {', '.join(columns)}."


def column(name: str) -> Column:
    """A column by its whole name, dots and blanks included."""
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")


def type_of(table: DataFrame, name: str) -> DataType:
    """Type of a column."""
    return table.schema[name].dataType


def is_number(kind: DataType) -> bool:
    """Whether a type holds numbers (booleans are none)."""
    from pyspark.sql.types import NumericType

    return isinstance(kind, NumericType)


def is_text(kind: DataType) -> bool:
    """Whether a type is text, whose values may or may not convert."""
    from pyspark.sql.types import CharType, StringType, VarcharType

    return isinstance(kind, StringType | CharType | VarcharType)


def as_id(table: DataFrame, name: str, label: str, key: str) -> Column:
    """An id as text; null where it is null or blank. Whole numbers stored as floats lose their '.0', so that 7.0 finds 7.

    Raises:
        DataError: the column's type cannot be an id.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import DoubleType, FloatType

    kind = type_of(table, name)
    if not (is_number(kind) or is_text(kind)):
        raise DataError(f"{label}: column {name!r} ({key}) has type {kind.simpleString()}; an id is a string or a whole number.")
    text = F.trim(column(name).cast("string"))
    if isinstance(kind, DoubleType | FloatType):
        whole = column(name).try_cast("bigint")
        text = F.when(whole.cast("double") == column(name).cast("double"), whole.cast("string")).when(~F.isnan(column(name)), text)
    return F.when(text != "", text)


def as_number(table: DataFrame, name: str, label: str, key: str) -> tuple[Column, Column]:
    """(value as double, condition that a value is there and is no number).

    Raises:
        DataError: the column's type cannot be a number.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import BooleanType

    kind = type_of(table, name)
    if not (is_number(kind) or is_text(kind) or isinstance(kind, BooleanType)):
        raise DataError(f"{label}: column {name!r} ({key}) has type {kind.simpleString()}; a number belongs there. Map another column.")
    raw = column(name)
    value = (F.trim(raw) if is_text(kind) else raw).try_cast("double")
    there = raw.isNotNull() & (F.trim(raw) != "") if is_text(kind) else raw.isNotNull()
    good = value.isNotNull() & ~F.isnan(value) & (F.abs(value) != float("inf"))
    # A NaN that pandas wrote for "no value" is a missing value, not a bad one; the text 'nan' in a file is the same.
    nan = value.isNotNull() & F.isnan(value)
    return F.when(good, value), there & ~good & ~nan


def sql_condition(table: DataFrame, condition: str, key: str) -> Column:
    """A user's SQL condition over the table. Raises ConfigError when Spark cannot resolve it to a boolean."""
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F
    from pyspark.sql.types import BooleanType

    try:
        kind = table.select(F.expr(condition).alias("outcome")).schema["outcome"].dataType
    except PySparkException as error:
        raise ConfigError(f"{key} = {condition!r}: {_first_line(str(error))}.") from None
    if not isinstance(kind, BooleanType):
        raise ConfigError(f"{key} = {condition!r}: must be a condition that is true or false, not {kind.simpleString()}.")
    return F.expr(condition)


def require_some(table: DataFrame, name: str, value: Column, what: str, label: str, key: str, other_cure: str = "") -> None:
    """Raise DataError when a text column that should hold numbers (or times) holds none: a wrong column, not some bad rows.

    Costs a pass over one column, and nothing where the column has the type already.
    """
    from pyspark.sql import functions as F

    if not is_text(type_of(table, name)):
        return
    with readable(label):
        found = table.agg(F.count(column(name)).alias("there"), F.count(value).alias("good"), F.min(column(name)).alias("first")).collect()[
            0
        ]
    if found["there"] and not found["good"]:
        raise DataError(
            f"{label}: column {name!r} ({key}) is text and holds no {what}: all {found['there']:,} values fail to convert "
            f"(first: {found['first']!r}). Map another column{other_cure}."
        )
