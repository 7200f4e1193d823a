"""Event rules: which events are positives, with what weight, which only showed the item, and what is ignored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esans import columns as C
from esans.prepare.config import EventRules
from esans.prepare.interactions import QUANTITY, RATING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

POSITIVE, EXPOSURE, IGNORED = "positive", "exposure", "ignored"


@dataclass(frozen=True)
class Classified:
    """Events by what they are."""

    positives: DataFrame
    exposures: DataFrame
    counts: dict[str, int]
    """Rows by kind: positive, exposure, ignored."""


def classify(events: DataFrame, rules: EventRules) -> Classified:
    """Divide checked events by the rules; positives get their weight (float, > 0) in place of the raw one.

    One count per kind reaches the driver.
    """
    from pyspark.sql import functions as F

    weight, kind = _weight(rules), _kind(rules)
    marked = events.withColumn("__kind", kind)
    counts = {row["__kind"]: row["count"] for row in marked.groupBy("__kind").count().collect()}
    positives = marked.where(F.col("__kind") == POSITIVE).withColumn(C.WEIGHT, weight.cast("float"))
    return Classified(
        positives.drop("__kind", QUANTITY, RATING),
        marked.where(F.col("__kind") == EXPOSURE).drop("__kind", QUANTITY, RATING, C.WEIGHT),
        {name: counts.get(name, 0) for name in (POSITIVE, EXPOSURE, IGNORED)},
    )


def _kind(rules: EventRules) -> Column:
    from pyspark.sql import functions as F

    event = F.col(C.EVENT)
    positive = event.isin(list(rules.positives)) if rules.positives else F.lit(True)
    if rules.min_rating is not None:
        positive = positive & F.coalesce(F.col(RATING) >= rules.min_rating, F.lit(False))
    exposure = event.isin(rules.exposures) if rules.exposures else F.lit(False)
    return F.when(F.coalesce(exposure, F.lit(False)), EXPOSURE).when(F.coalesce(positive, F.lit(False)), POSITIVE).otherwise(IGNORED)


def _weight(rules: EventRules) -> Column:
    from pyspark.sql import functions as F

    weight = F.lit(rules.default_weight)
    for name, value in rules.positives.items():
        weight = F.when(F.col(C.EVENT) == name, F.lit(value)).otherwise(weight)
    weight = weight * F.coalesce(F.col(C.WEIGHT), F.lit(1.0))
    if rules.quantity != "ignore":
        # A quantity below 1 (half a kilo) must not turn the weight negative.
        factor = 1 + F.ln(F.greatest(F.col(QUANTITY), F.lit(1.0))) if rules.quantity == "log" else F.col(QUANTITY)
        weight = weight * F.coalesce(factor, F.lit(1.0))
    return weight
