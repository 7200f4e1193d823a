"""How good a set of clusters is: sizes, hard pools, transitions, coherence (METHOD 2).

What needs items is summed in Spark; the driver sees sizes and single numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esans.cluster.repair import Repairs, Sample
from esans.cluster.tables import Cells
from esans.columns import ITEM_IDX, NEIGHBOUR_IDX, PRIMARY, SCORE, UNASSIGNED

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


_CHUNK = 16_384


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
    """The exponential of the mean entropy of the transition rows: how many primaries an easy draw really chooses among."""
    p = probabilities.astype(np.float64)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return float(np.exp(-(p * logs).sum(1).mean()))


def drawn_vs_norm(probabilities: np.ndarray, centroids: np.ndarray) -> dict[str, float]:
    """Correlation, over primaries, of how often easy draws go there with the length of the centroid.

    Near -1 they go to loose primaries: means of unlike items are short, so that they are near to everything and like nothing.
    Easy negatives are then no harder than uniform ones; cluster.kmeans.spherical makes all centroids equally long.
    """
    drawn, norm = probabilities.sum(0, dtype=np.float64), np.linalg.norm(centroids, axis=1)
    if min(drawn.std(), norm.std()) < 1e-6:
        return {}
    return {"transition.drawn_vs_norm": float(np.corrcoef(drawn, norm)[0, 1])}


def cosine_coherence(sample: Sample, c1: np.ndarray) -> dict[str, float]:
    """Mean cosine of two different sampled items, within a primary and overall, by the aligned modality vectors concatenated."""
    from scipy.sparse import csr_matrix

    flat, counts = sample.vectors.reshape(len(sample.item), -1), np.bincount(c1)
    sums = np.zeros((len(counts), flat.shape[1]))
    # Unit vectors of the whole sample in double precision would take more memory than the sample itself.
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        scale = 1 / np.maximum(np.linalg.norm(part, axis=1), 1e-12)
        sums += csr_matrix((scale, (c1[start : start + _CHUNK], np.arange(len(part)))), (len(counts), len(part))) @ part

    def mean_cosine(sums: np.ndarray, counts: np.ndarray) -> float:
        pairs = (counts * (counts - 1.0)).sum()
        return float(((sums**2).sum() - counts.sum()) / pairs) if pairs else float("nan")

    overall = mean_cosine(sums.sum(0), np.array([len(flat)]))
    return {"coherence.cosine_within": mean_cosine(sums, counts), "coherence.cosine_overall": overall}


def graph_coherence(codes: DataFrame, graph: DataFrame, sizes: np.ndarray) -> dict[str, float]:
    """Share of the item graph's weight that stays inside a primary, and how many times the share by chance that is."""
    from pyspark.sql import functions as F

    own = codes.where(F.col(PRIMARY) != UNASSIGNED).select(ITEM_IDX, PRIMARY)
    other = own.toDF(NEIGHBOUR_IDX, "other")
    weight = F.col(SCORE).cast("double")
    inside = F.when(F.col(PRIMARY) == F.col("other"), weight).otherwise(0.0)
    row = graph.join(own, ITEM_IDX).join(other, NEIGHBOUR_IDX).agg(F.sum(inside).alias("inside"), F.sum(weight).alias("all")).first()
    if row is None or not row["all"]:
        return {}
    share, chance = row["inside"] / row["all"], float(((sizes / sizes.sum()) ** 2).sum())
    return {"coherence.graph_inside": share, "coherence.graph_lift": share / chance}
