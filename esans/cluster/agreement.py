"""How well two ways to part the items agree: purity, mutual information, adjusted Rand index; summed in Spark, item by item nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esans.columns import ITEM_IDX, PRIMARY, SECONDARY, UNASSIGNED

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

A, B, ITEMS = "a", "b", "items"


def agreement(labels: DataFrame) -> dict[str, float]:
    """How well partition a tells partition b.

    Args:
        labels: columns a and b, one row an item.

    Returns:
        purity (share of items whose b is the commonest of their a), chance (that of the commonest b overall), nmi
        (mutual information over the mean entropy) and ari (adjusted Rand index); empty when there are no items.
    """
    from pyspark.sql import functions as F

    cells = labels.groupBy(A, B).agg(F.count(F.lit(1)).cast("double").alias(ITEMS)).persist()
    by_a = cells.groupBy(A).agg(F.sum(ITEMS).alias(ITEMS), F.max(ITEMS).alias("top"))
    by_b = cells.groupBy(B).agg(F.sum(ITEMS).alias(ITEMS), F.sum(F.lit(0.0)).alias("top"))
    pairs, entropy = F.sum(F.col(ITEMS) * (F.col(ITEMS) - 1) / 2), F.sum(F.col(ITEMS) * F.log(ITEMS))

    def sums(table: DataFrame) -> tuple[float, float, float, float]:
        row = table.agg(F.sum(ITEMS), pairs, entropy, F.max(ITEMS)).first()
        assert row is not None
        return tuple(float(value or 0) for value in row)  # type: ignore[return-value]

    total, both, log_both, _ = sums(cells)
    if total == 0:
        return {}
    _, pairs_a, log_a, _ = sums(by_a)
    _, pairs_b, log_b, most_b = sums(by_b)
    top = by_a.agg(F.sum("top")).first()
    cells.unpersist()
    assert top is not None
    entropy_a, entropy_b = np.log(total) - log_a / total, np.log(total) - log_b / total
    information = entropy_a + entropy_b - (np.log(total) - log_both / total)
    expected = pairs_a * pairs_b / max(total * (total - 1) / 2, 1)
    spread = (pairs_a + pairs_b) / 2 - expected
    return {
        "purity": float(top[0]) / total,
        "chance": most_b / total,
        "nmi": float(2 * information / (entropy_a + entropy_b)) if entropy_a + entropy_b > 0 else 1.0,
        "ari": float((both - expected) / spread) if spread else 1.0,
    }


def category_agreement(codes: DataFrame, items: DataFrame, column: str) -> dict[str, float]:
    """Purity and mutual information of the primaries against a category column of items; items without one are left out."""
    from pyspark.sql import functions as F

    known = items.where(F.col(column).isNotNull()).select(ITEM_IDX, F.col(column).alias(B))
    own = codes.where(F.col(PRIMARY) != UNASSIGNED).select(ITEM_IDX, F.col(PRIMARY).alias(A))
    found = agreement(own.join(known, ITEM_IDX).select(A, B))
    return {f"category.{name}": found[name] for name in ("purity", "chance", "nmi") if name in found}


def stability(codes: DataFrame, previous: DataFrame) -> dict[str, float]:
    """Adjusted Rand index against an earlier build, over the items that both assign: of primaries, and of cells."""
    from pyspark.sql import functions as F

    now = codes.where(F.col(PRIMARY) != UNASSIGNED).select(ITEM_IDX, F.col(PRIMARY).alias("p"), F.col(SECONDARY).alias("s"))
    then = previous.where(F.col(PRIMARY) != UNASSIGNED).select(ITEM_IDX, F.col(PRIMARY).alias("q"), F.col(SECONDARY).alias("r"))
    both = now.join(then, ITEM_IDX)
    primary = agreement(both.select(F.col("p").alias(A), F.col("q").alias(B)))
    cell = agreement(both.select(F.struct("p", "s").alias(A), F.struct("q", "r").alias(B)))
    return {f"stability.{name}": found["ari"] for name, found in (("primary_ari", primary), ("cell_ari", cell)) if found}
