"""Drops users and items with too few events, in turn, until nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from esans import columns as C
from esans.prepare.config import Filters
from esans.progress import say

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def filter_rare(positives: DataFrame, config: Filters, keep: Callable[[DataFrame, int], DataFrame]) -> DataFrame:
    """Positives of users with enough distinct items and of items with enough distinct users.

    Distinct pairs are counted, so one user who buys one thing often makes neither of the two frequent.

    Args:
        positives: user_id, item_id and more.
        config: the minimums.
        keep: writes the rows of a round where every node can read them, and reads them back. That cuts the lineage of joins, which would
            otherwise double with every round; what only an executor keeps would be lost with it.
    """
    rules = [(C.USER_ID, C.ITEM_ID, config.min_user_items), (C.ITEM_ID, C.USER_ID, config.min_item_users)]
    rules = [rule for rule in rules if rule[2] > 1]
    if not rules:
        return positives
    if len(rules) == 1:
        kept = _keep_frequent(positives, *rules[0]).persist()
        say(f"  minimum events: {kept.count():,} positives left")
        return kept
    kept, before = positives, positives.count()
    for step in range(config.max_rounds):
        for group, other, least in rules:
            kept = _keep_frequent(kept, group, other, least)
        kept = keep(kept, step)
        after = kept.count()
        say(f"  minimum events, round {step + 1}: {after:,} positives left")
        if after == before:
            return kept
        before = after
    say(f"  minimum events: not settled after prepare.filters.max_rounds = {config.max_rounds} rounds; some are still below their minimum")
    return kept


def _keep_frequent(positives: DataFrame, group: str, other: str, least: int) -> DataFrame:
    from pyspark.sql import functions as F

    frequent = positives.select(group, other).distinct().groupBy(group).count().where(F.col("count") >= least).select(group)
    return positives.join(frequent.hint("shuffle_hash"), group, "left_semi")
