"""How good a set of clusters is: sizes, hard pools, transitions, purity, stability, coherence (METHOD 2).

What needs items is summed in Spark; the driver sees sizes and single numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esans.cluster.repair import Repairs, Sample
from esans.cluster.tables import Cells
from esans.columns import ITEM_IDX, NEIGHBOUR_IDX, PRIMARY, SCORE, SECONDARY, UNASSIGNED

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

A, B, ITEMS = "a", "b", "items"


def gini(sizes: np.ndarray) -> float:
    """0 where all are equal, towards 1 where one holds everything."""
    ordered = np.sort(sizes.astype(np.float64))
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * max(ordered.sum(), 1)))


def entropy_ratio(sizes: np.ndarray) -> float:
    """Entropy of the sizes over log K: 1 where all are equal."""
    shares = sizes[sizes > 0] / sizes.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(max(len(sizes), 2)))


def size_figures(cells: Cells, secondaries: int, fallback: np.ndarray, repairs: Repairs) -> dict[str, float]:
    """Utilisation, balance, what was repaired, and hard-pool sizes."""
    sizes, pool = cells.sizes, cells.hard_pool
    before = np.array(repairs.sizes)
    return {
        "primaries": len(sizes),
        "secondaries": secondaries,
        "cells": len(cells.count),
        "utilisation.primary": float((sizes > 0).mean()),
        "utilisation.secondary": len(np.unique(cells.c2)) / secondaries,
        "utilisation.cell": len(cells.count) / (len(sizes) * secondaries),
        "entropy_ratio": entropy_ratio(sizes),
        "gini": gini(sizes),
        "largest_over_mean": float(sizes.max() / sizes.mean()),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "repair.empty_before": int((before == 0).sum()),
        "repair.smallest_before": int(before.min()),
        "repair.merged": repairs.merged,
        "repair.split": repairs.split,
        "repair.shared_out": repairs.shared_out,
        "repair.forced": repairs.forced,
        "repair.rounds": repairs.rounds,
        "hard_pool.smallest": int(pool.min()),
        "hard_pool.median": float(np.median(pool)),
        "hard_pool.topped_up_cells": int((fallback != UNASSIGNED).sum()),
        "hard_pool.topped_up_items": float(cells.count[fallback != UNASSIGNED].sum() / cells.count.sum()),
    }


def effective_clusters(probabilities: np.ndarray) -> float:
    """exp of the mean entropy of the transition rows: how many primaries an easy draw really chooses among."""
    p = probabilities.astype(np.float64)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return float(np.exp(-(p * logs).sum(1).mean()))


def cosine_coherence(sample: Sample, c1: np.ndarray) -> dict[str, float]:
    """Mean cosine of two different sampled items, within a primary and overall, by the aligned modality vectors concatenated."""
    flat = sample.vectors.reshape(len(sample.item), -1).astype(np.float64)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)

    def mean_cosine(labels: np.ndarray) -> float:
        counts = np.bincount(labels)
        sums = np.zeros((len(counts), flat.shape[1]))
        np.add.at(sums, labels, flat)
        pairs = (counts * (counts - 1.0)).sum()
        return float(((sums**2).sum() - len(labels)) / pairs) if pairs else float("nan")

    return {"coherence.cosine_within": mean_cosine(c1), "coherence.cosine_overall": mean_cosine(np.zeros(len(c1), np.int64))}


def graph_coherence(codes: DataFrame, graph: DataFrame, sizes: np.ndarray) -> dict[str, float]:
    """Share of the item graph's weight that stays inside a primary, and how many times the share by chance that is."""
    from pyspark.sql import functions as F

    own = codes.where(F.col(PRIMARY) != UNASSIGNED).select(ITEM_IDX, PRIMARY)
    other = own.toDF(NEIGHBOUR_IDX, "other")
    inside = F.when(F.col(PRIMARY) == F.col("other"), F.col(SCORE)).otherwise(0.0)
    row = graph.join(own, ITEM_IDX).join(other, NEIGHBOUR_IDX).agg(F.sum(inside.cast("double")).alias("inside"), F.sum(F.col(SCORE).cast("double")).alias("all")).first()
    if row is None or not row["all"]:
        return {}
    share, chance = row["inside"] / row["all"], float(((sizes / sizes.sum()) ** 2).sum())
    return {"coherence.graph_inside": share, "coherence.graph_lift": share / chance}


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
    found = agreement(codes.where(F.col(PRIMARY) != UNASSIGNED).select(ITEM_IDX, F.col(PRIMARY).alias(A)).join(known, ITEM_IDX).select(A, B))
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
