"""Opens both raw tables and checks their contract; `esans validate` prints what it finds and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esans import columns as C
from esans.errors import DataError
from esans.prepare import fingerprint, interactions, items
from esans.prepare.config import PrepareConfig
from esans.prepare.sources import read_table, require_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from esans.spark import SparkConfig


@dataclass(frozen=True)
class RawTables:
    """Both raw tables, lazily, after the checks that need no pass over the data."""

    items: DataFrame
    """Mapped item columns, extra tables joined (`items.join_extras`)."""
    interactions: DataFrame
    images: DataFrame | None
    """Pictures by item id, where they are mapped (`items.image_source`)."""


def read_tables(spark: SparkSession, config: PrepareConfig) -> dict[str, DataFrame]:
    """Every raw table by its name in messages, lazily. Raises DataError with a line for each that cannot be read."""
    found: dict[str, DataFrame] = {}
    problems = []
    for name, key, table in fingerprint.tables(config):
        try:
            found[name] = read_table(spark, table, name, key)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return found


def check_columns(tables: Mapping[str, DataFrame], config: PrepareConfig) -> RawTables:
    """Check that every mapped column is there, in both tables, before any row is read.

    Raises:
        DataError: with a line for every column that is missing.
    """
    problems = []
    joined = pictures = None
    extras = {name: tables[f"items.extra.{name}"] for name in config.items.extra}
    try:
        joined = items.join_extras(tables["items"], extras, config.items)
        pictures = items.image_source(tables["items"], extras, config.items)
    except DataError as error:
        problems.append(str(error))
    try:
        require_columns(tables["interactions"], interactions.mapped_columns(config.interactions), "interactions")
    except DataError as error:
        problems.append(str(error))
    if joined is None or problems:
        raise DataError("\n".join(problems))
    return RawTables(joined, tables["interactions"], pictures)


def print_report(config: PrepareConfig, spark_config: SparkConfig) -> None:
    """Check both raw tables and print a report; nothing is written.

    Raises:
        ConfigError: a key that prepare needs is not set.
        DataError: the contract is broken beyond prepare.max_rejected_share, or in a way that no row can be blamed for.
    """
    from esans.prepare import profile
    from esans.prepare.events import classify
    from esans.prepare.rejects import enforce_share
    from esans.progress import headline, say, spark_step
    from esans.spark import open_session

    fingerprint.outside_inputs(config)
    headline("validate")
    spark = open_session(spark_config, "esans-validate")
    tables = read_tables(spark, config)
    for name, table in tables.items():
        profile.print_columns(table, name, roles(config, name))
    raw = check_columns(tables, config)
    with spark_step(spark, "check items"):
        catalogue = items.check_items(raw.items, config.items)
    with spark_step(spark, "check interactions"):
        orders = config.split.method == "last_basket"
        known, until = catalogue.good.select(C.ITEM_ID), config.until_seconds
        events = interactions.check_interactions(raw.interactions, config.interactions, known, orders=orders, until=until)
        counts = classify(events.good, config.events).counts
    profile.print_events(events.good, counts, times=config.interactions.columns.timestamp is not None)
    profile.print_rejects([catalogue, events], config.max_rejected_share)
    spark.catalog.clearCache()
    problems = []
    for checked in (catalogue, events):
        try:
            enforce_share(checked, config.max_rejected_share)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    say("Both tables keep the contract.")


def roles(config: PrepareConfig, name: str) -> dict[str, str]:
    """Column -> what the config maps it to, for one raw table."""
    found: dict[str, list[str]] = {}
    if name == "interactions":
        for key, column in interactions.mapped_columns(config.interactions):
            found.setdefault(column, []).append(key.removeprefix("prepare.interactions.columns."))
    else:
        extra = name.removeprefix("items.extra.") if name != "items" else None
        id_column = config.items.extra[extra].item_id if extra else config.items.columns.item_id
        found[id_column] = [C.ITEM_ID]
        for key, column in items.uses(config.items):
            found.setdefault(column.removeprefix(f"{extra}."), []).append(
                key.removeprefix("prepare.items.").removeprefix("columns.").removesuffix(".column")
            )
    return {column: ", ".join(dict.fromkeys(meanings)) for column, meanings in found.items()}
