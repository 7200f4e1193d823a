"""Rows that break the contract: kept apart with a reason, counted, and too many of them stop the stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esans import columns as C
from esans.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

NULL = "null_key"
DUPLICATE = "duplicate_item_id"
NOT_A_NUMBER = "not_a_number"
NOT_A_BOOLEAN = "not_a_boolean"
NOT_A_TIME = "not_a_time"
OUT_OF_RANGE = "time_out_of_range"
NOT_POSITIVE = "not_positive"
UNKNOWN_ITEM = "unknown_item"
WRONG_LENGTH = "vector_of_wrong_length"
NOT_FINITE = "vector_with_nan_or_infinity"
ZERO_VECTOR = "vector_all_zero"
SET_MISSING = "set_missing:"  # prefix: the value was dropped, the row stays

# What such rejects often come from, said when they stop the stage.
_HINTS = {
    OUT_OF_RANGE: "Times in milliseconds need prepare.interactions.timestamps.unit=ms; times to come, prepare.interactions.timestamps.max.",
    UNKNOWN_ITEM: "Interactions need their item in the items table: is it whole, and are the ids written the same way in both?",
}


@dataclass(frozen=True)
class Reject:
    """How many rows of a table have one reason, with the first of them as JSON."""

    table: str
    reason: str
    column: str
    rows: int
    example: str

    @property
    def dropped(self) -> bool:
        """Whether the row is gone, and not merely a value of it."""
        return not self.reason.startswith(SET_MISSING)


@dataclass(frozen=True)
class Checked:
    """A raw table after its checks."""

    name: str
    total: int
    """Rows of the raw table."""
    good: DataFrame
    """Typed columns of the rows that stay."""
    rejected: DataFrame
    """Rows of the `rejected` table."""
    rejects: Sequence[Reject]

    @property
    def num_rejected(self) -> int:
        """Rows that are dropped."""
        return sum(reject.rows for reject in self.rejects if reject.dropped)


def problem(reason: str, column: str, condition: Column) -> Column:
    """A (reason, column) struct where the condition holds, else null."""
    from pyspark.sql import functions as F

    return F.when(condition, F.struct(F.lit(reason).alias(C.REASON), F.lit(column).alias(C.COLUMN)))


def count(rejected: DataFrame) -> list[Reject]:
    """Counts by table, reason and column: as many rows as there are kinds of checks.

    The example is the smallest row, so that it is always the same one.
    """
    from pyspark.sql import functions as F

    kinds = rejected.groupBy(C.TABLE, C.REASON, C.COLUMN).agg(F.count("*").alias("rows"), F.min(C.ROW).alias("example")).collect()
    found = [Reject(row[C.TABLE], row[C.REASON], row[C.COLUMN], row["rows"], row["example"]) for row in kinds]
    return sorted(found, key=lambda reject: (reject.table, -reject.rows, reject.reason, reject.column))


def describe(rejects: Sequence[Reject]) -> list[str]:
    """A line for each kind of reject."""
    return [f"  column {one.column!r}: {one.rows:,} {_rows(one.rows)} {one.reason} (first: {one.example})" for one in rejects]


def _rows(number: int) -> str:
    return "row" if number == 1 else "rows"


def enforce_share(checked: Checked, allowed: float) -> None:
    """Raise DataError when more than the allowed share of a table's rows is rejected."""
    rejected = checked.num_rejected
    if rejected <= allowed * checked.total:
        return
    lines = [
        f"{checked.name}: {rejected:,} of {checked.total:,} rows ({rejected / checked.total:.1%}) are rejected, "
        f"more than prepare.max_rejected_share = {allowed:g} allows:",
        *describe([one for one in checked.rejects if one.dropped]),
        *({f"  {_HINTS[one.reason]}": None for one in checked.rejects if one.reason in _HINTS}),
        "  Fix the rows or the column mapping, or raise prepare.max_rejected_share. `esans validate` shows every reason.",
    ]
    raise DataError("\n".join(lines))
