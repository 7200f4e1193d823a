"""The log of checked events: a later run appends to it, and reads only what the raw table has gained since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esans import columns as C
from esans.config import flatten, to_dict
from esans.errors import ConfigError
from esans.prepare import rejects as R
from esans.prepare.interactions import QUANTITY, RATING
from esans.progress import say

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from esans.bundle import Bundle
    from esans.prepare.config import PrepareConfig

TABLE = "log"
_COLUMNS = (C.USER_ID, C.ITEM_ID, C.TIMESTAMP, C.EVENT, C.ORDER_ID, C.WEIGHT, QUANTITY, RATING)
_DAY = 86_400
# Where the raw table lies does not change what a checked row says.
_PLACE = ("path", "table", "format", "options", "snapshot")


@dataclass(frozen=True)
class Log:
    """Events of an earlier bundle that are taken as they were checked."""

    rows: DataFrame
    """The columns of the table `log`, all before `since`."""
    since: float
    """Unix seconds from which on the raw table is read."""

    def extended(self, checked: R.Checked, catalogue: DataFrame, column: str | None) -> R.Checked:
        """The events of both, as if the whole raw table had been checked today.

        Args:
            checked: the raw rows from `since` on.
            catalogue: as `check_interactions` took it; events of items that are not in it any more are rejected.
            column: the raw column of item ids, for the reason.
        """
        from pyspark.sql import functions as F

        known = catalogue.withColumn("__known", F.lit(True)).hint("shuffle_hash")
        rows = self.rows.join(known, C.ITEM_ID, "left").persist()
        gone = F.col("__known").isNull()
        lost = rows.where(gone).select(
            F.lit(checked.name).alias(C.TABLE),
            F.lit(R.UNKNOWN_ITEM).alias(C.REASON),
            F.lit(column).cast("string").alias(C.COLUMN),
            F.to_json(F.struct(*_COLUMNS), {"ignoreNullFields": "false"}).alias(C.ROW),
        )
        rejected = checked.rejected.unionByName(lost)
        good = rows.where(~gone).drop("__known").unionByName(checked.good)
        return R.Checked(checked.name, checked.total + rows.count(), good, rejected, R.count(rejected))


def written(checked: R.Checked, earlier: Log | None) -> DataFrame:
    """The rows of this run's table `log`.

    Args:
        checked: the raw rows that were read.
        earlier: what it goes on from; its events stay even where their item has left the catalogue, for it may come back.
    """
    rows = checked.good.select(*_COLUMNS)
    return rows if earlier is None else earlier.rows.select(*_COLUMNS).unionByName(rows)


def earlier_log(previous: Bundle | None, config: PrepareConfig, spark: SparkSession) -> Log | None:
    """What today's run need not read again; None where `log.extend` is off or there is no log, which is said.

    Raises:
        ConfigError: the rows of the log were read under other rules.
    """
    from pyspark.sql import functions as F

    if not config.log.extend or previous is None:
        return None
    until = previous.facts.get("until_seconds")
    if not previous.has(TABLE) or until is None:
        say(f"  {previous.uri} has no log of checked events (prepare.log.write): the whole raw table is read")
        return None
    before, now = _rules(previous.manifest["config"].get("interactions", {})), _rules(to_dict(config.interactions, results_only=True))
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        keys = ", ".join(f"prepare.interactions.{key}" for key in changed)
        raise ConfigError(
            f"prepare.log.extend: the log of prepare.previous = {previous.uri} was read with other values of {keys}.\n"
            "  Set prepare.log.extend=false once."
        )
    end = config.until_seconds
    since = float(until) - config.log.late_days * _DAY
    since = since if end is None else min(since, end)
    return Log(previous.table(TABLE).spark(spark).where(F.col(C.TIMESTAMP) < F.lit(-int(-since // 1)).cast("long")), since)


def _rules(interactions: dict[str, Any]) -> dict[str, Any]:
    return flatten({key: value for key, value in interactions.items() if key not in _PLACE})
