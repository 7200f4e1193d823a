"""Opens both raw tables and checks their contract; `esans validate` prints what it finds and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esans.errors import DataError
from esans.prepare.config import PrepareConfig
from esans.prepare.fingerprint import outside_inputs
from esans.prepare.interactions import mapped_columns
from esans.prepare.items import join_extras
from esans.prepare.sources import read_table, require_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from esans.spark import SparkConfig


@dataclass(frozen=True)
class RawTables:
    """Both raw tables, lazily, after the checks that need no pass over the data."""

    items: DataFrame
    """Mapped item columns, extra tables joined (`join_extras`)."""
    interactions: DataFrame


def open_tables(spark: SparkSession, config: PrepareConfig) -> RawTables:
    """Read both tables and check that the mapped columns are there.

    Raises:
        DataError: with a line for every table and column that is wrong.
    """
    problems: list[str] = []
    items = interactions = None
    try:
        raw = read_table(spark, config.items, "items", "prepare.items")
        extras = {
            name: read_table(spark, extra, f"items.extra.{name}", f"prepare.items.extra.{name}") for name, extra in config.items.extra.items()
        }
        items = join_extras(raw, extras, config.items)
    except DataError as error:
        problems.append(str(error))
    try:
        interactions = read_table(spark, config.interactions, "interactions", "prepare.interactions")
        require_columns(interactions, mapped_columns(config.interactions), "interactions")
    except DataError as error:
        problems.append(str(error))
    if problems or items is None or interactions is None:
        raise DataError("\n".join(problems))
    return RawTables(items, interactions)
