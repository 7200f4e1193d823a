"""What a raw table looks like, for people: rows, columns and types, missing values, distinct ids, time span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from esans import columns as C
from esans.prepare.rejects import Checked
from esans.prepare.sources import column, readable
from esans.progress import console

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_EVENTS_SHOWN = 30


def print_columns(table: DataFrame, name: str, roles: Mapping[str, str]) -> None:
    """Columns with type, what the config maps them to, null share and, for plain values, about how many are distinct.

    One pass; two numbers per column reach the driver.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import AtomicType, BinaryType

    plain = {field.name for field in table.schema if isinstance(field.dataType, AtomicType) and not isinstance(field.dataType, BinaryType)}
    wanted = [F.count(F.lit(1)).alias("rows")]
    for place, field in enumerate(table.schema):
        wanted.append(F.count(column(field.name)).alias(f"there{place}"))
        if field.name in plain:
            wanted.append(F.approx_count_distinct(column(field.name), 0.02).alias(f"distinct{place}"))
    with readable(name):
        found = table.agg(*wanted).collect()[0]
    shown = Table(title=f"{name}: {found['rows']:,} rows", title_justify="left")
    for heading in ("column", "type", "meaning", "missing", "distinct (about)"):
        shown.add_column(heading, justify="right" if heading in ("missing", "distinct (about)") else "left", no_wrap=heading == "column")
    for place, field in enumerate(table.schema):
        missing = 1 - found[f"there{place}"] / found["rows"] if found["rows"] else 0.0
        # An estimate of as many as there are rows comes out above them as often as below.
        distinct = f"{min(found[f'distinct{place}'], found[f'there{place}']):,}" if field.name in plain else ""
        shown.add_row(field.name, field.dataType.simpleString(), roles.get(field.name, "(not used)"), f"{missing:.1%}", distinct)
    console.print(shown)


def print_rejects(checked: Sequence[Checked], allowed: float) -> None:
    """Rejected rows by reason, with an example each, and the share against what is allowed."""
    shown = Table(title="Rejected rows", title_justify="left")
    for heading in ("table", "reason", "column", "rows", "first"):
        shown.add_column(heading, justify="right" if heading == "rows" else "left", overflow="fold")
    for table in checked:
        for one in table.rejects:
            shown.add_row(one.table, one.reason, one.column, f"{one.rows:,}", one.example)
        shown.add_row(table.name, "all", "", f"{table.num_rejected:,} of {table.total:,} ({table.num_rejected / table.total:.2%})", "")
    console.print(shown)
    console.print(f"allowed: {allowed:.2%} of the rows of a table (prepare.max_rejected_share)")


def print_events(good: DataFrame, counts: Mapping[str, int], times: bool) -> None:
    """Users, items and time span of the rows that stay, and how the event rules see them; the most frequent event types only."""
    from pyspark.sql import functions as F

    span = F.min(C.TIMESTAMP).alias("first"), F.max(C.TIMESTAMP).alias("last")
    found = good.agg(F.countDistinct(C.USER_ID).alias("users"), F.countDistinct(C.ITEM_ID).alias("items"), *span).collect()[0]
    if found["first"] is None:
        return
    ends = [found["first"], found["last"]]
    if times:
        row = good.sparkSession.range(1).select(
            *[F.timestamp_seconds(F.lit(end)).cast("string").alias(f"t{i}") for i, end in enumerate(ends)]
        )
        ends = list(row.collect()[0])
    console.print(
        f"{found['users']:,} users with {found['items']:,} items, from {ends[0]} to {ends[1]}" + (" (UTC)" if times else " (positions)")
    )
    types = good.groupBy(C.EVENT).count().orderBy(F.desc("count"), C.EVENT).limit(_EVENTS_SHOWN).collect()
    if types and types[0][C.EVENT] is not None:
        console.print("event types: " + ", ".join(f"{row[C.EVENT]} {row['count']:,}" for row in types))
    console.print("by the rules in prepare.events: " + ", ".join(f"{kind} {number:,}" for kind, number in counts.items()))
