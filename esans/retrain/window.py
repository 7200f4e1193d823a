"""The trailing window: what each user chose for the first time on each of its days, and the history as it stood in the morning."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from esans import columns as C
from esans.bundle import Bundle, BundleWriter, digest
from esans.prepare.config import PrepareConfig
from esans.spark import sampled
from esans.uri import join

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

TABLE = "users"
_CODE_VERSION = 1
_DAY = 86_400


def window_days(as_of: datetime.date, days: int) -> list[datetime.date]:
    """The days of the window, rising; the last is the as-of day."""
    return [as_of - datetime.timedelta(days=back) for back in reversed(range(days))]


def write_window(
    spark: SparkSession, prepare: Bundle, config: PrepareConfig, days: list[datetime.date], max_users: int, seed: int, folder: str
) -> Bundle:
    """A bundle with table `users`: user_idx, split (the day as ISO date), history, targets, seen; what is there already is kept.

    Args:
        spark: the session.
        prepare: positives, from a run that reads them to the end of the last day.
        config: the length of histories.
        days: consecutive days.
        max_users: users of the window that are kept, chosen by a hash.
        seed: of that hash.
        folder: URI below which the bundle is written.
    """
    covered = {
        "prepare": prepare.uri,
        "days": [str(day) for day in days],
        "max_users": max_users,
        "seed": seed,
        "max_history": config.max_history,
        "code_version": _CODE_VERSION,
    }
    fingerprint = digest(covered)
    uri = join(folder, "window", fingerprint)
    found = Bundle.find(uri)
    if found is not None:
        return found
    out = BundleWriter(uri, "window", fingerprint)
    rows = prepare.table("interactions").spark(spark)
    out.write(TABLE, user_days(rows, days, config.max_history, max_users, seed))
    return out.finish(code_version=_CODE_VERSION, config=covered, inputs={"prepare": prepare.uri})


def user_days(rows: DataFrame, days: list[datetime.date], max_history: int, max_users: int, seed: int) -> DataFrame:
    """One row a user and day with something new, as `write_window` describes them.

    Args:
        rows: user_idx, item_idx, timestamp, position of all positives.
        days: consecutive days in UTC.
        max_history: positives of a history, the latest ones.
        max_users: about so many users at most.
        seed: of the hash that chooses them.
    """
    from pyspark.sql import functions as F

    start = int(datetime.datetime.combine(days[0], datetime.time(), datetime.UTC).timestamp())
    active = rows.where(F.col(C.TIMESTAMP).between(start, start + len(days) * _DAY - 1)).select(C.USER_IDX).distinct()
    total = active.count()
    chosen = sampled(active, C.USER_IDX, max_users / max(total, 1), seed)
    event = F.struct(C.TIMESTAMP, C.POSITION, C.ITEM_IDX)
    users = rows.join(chosen, C.USER_IDX, "left_semi").groupBy(C.USER_IDX).agg(F.sort_array(F.collect_list(event)).alias("events"))
    each = F.explode(F.array(*[_day(day, start + place * _DAY, max_history) for place, day in enumerate(days)]))
    found = users.select(C.USER_IDX, each.alias("one")).select(C.USER_IDX, "one.*")
    return found.where((F.size(C.TARGETS) > 0) & (F.size(C.HISTORY) > 0)).orderBy(C.SPLIT, C.USER_IDX)


def _day(day: datetime.date, start: int, max_history: int):  # type: ignore[no-untyped-def]
    from pyspark.sql import functions as F

    before = F.transform(F.filter("events", lambda e: e[C.TIMESTAMP] < start), lambda e: e[C.ITEM_IDX])
    within = F.filter("events", lambda e: (e[C.TIMESTAMP] >= start) & (e[C.TIMESTAMP] < start + _DAY))
    seen = F.array_distinct(before)
    first = F.greatest(F.size(before) - max_history + 1, F.lit(1))
    return F.struct(
        F.lit(str(day)).alias(C.SPLIT),
        F.slice(before, first, max_history).alias(C.HISTORY),
        F.array_except(F.transform(within, lambda e: e[C.ITEM_IDX]), seen).alias(C.TARGETS),
        seen.alias(C.SEEN),
    )
