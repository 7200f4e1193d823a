"""What a user had seen before the targets, and how often each item was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esans import columns as C
from esans.prepare.split import IS_TARGET, PART

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_PARTS = {C.VALIDATION: 1, C.TEST: 2, C.SERVE: 3}


def histories(rows: DataFrame, max_history: int) -> DataFrame:
    """Histories for validation, test and serving.

    Args:
        rows: user_idx, item_idx, position, part, is_target.

    Returns:
        user_idx, split, history (the last `max_history` positives before the targets, oldest first), targets (distinct, empty for
        serve), seen (all distinct items before the targets). Validation and test have the users with both a history and targets,
        serve has every user.
    """
    from pyspark.sql import functions as F

    event = F.struct(C.POSITION, C.ITEM_IDX, PART, IS_TARGET)
    users = rows.groupBy(C.USER_IDX).agg(F.sort_array(F.collect_list(event)).alias("events"))
    each = F.explode(F.array(*[_history(name, part, max_history) for name, part in _PARTS.items()])).alias("one")
    found = users.select(C.USER_IDX, each).select(C.USER_IDX, "one.*")
    return found.where((F.col(C.SPLIT) == C.SERVE) | ((F.size(C.TARGETS) > 0) & (F.size(C.HISTORY) > 0)))


def _history(name: str, part: int, max_history: int) -> Column:
    from pyspark.sql import functions as F

    before = F.transform(F.filter("events", lambda e: e[PART] < part), lambda e: e[C.ITEM_IDX])
    targets = F.transform(F.filter("events", lambda e: (e[PART] == part) & e[IS_TARGET]), lambda e: e[C.ITEM_IDX])
    start = F.greatest(F.size(before) - max_history + 1, F.lit(1))
    return F.struct(
        F.lit(name).alias(C.SPLIT),
        F.slice(before, start, max_history).alias(C.HISTORY),
        F.array_distinct(targets).alias(C.TARGETS),
        F.array_distinct(before).alias(C.SEEN),
    )


def popularity(rows: DataFrame, items: DataFrame) -> DataFrame:
    """(item_idx, count): train positives of every item of the catalogue, 0 where there are none."""
    from pyspark.sql import functions as F

    counts = rows.where(F.col(PART) == 0).groupBy(C.ITEM_IDX).agg(F.count("*").alias(C.COUNT))
    return items.select(C.ITEM_IDX).join(counts, C.ITEM_IDX, "left").fillna(0, [C.COUNT])
