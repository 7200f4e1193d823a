"""False negatives: how often a draw is an item that the same user chooses next (METHOD 3 and 4c).

For an anchor i, a train positive of user u, and a validation positive j that u had not chosen before, the chance q_i(j) that
one draw made for i is j has a closed form for every sampler. So nothing is simulated: Spark sums pairs (i, j) by their
primaries, and the driver weighs the sums with what a draw between primaries does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.columns import (
    COUNT,
    FALLBACK,
    HISTORY,
    ITEM_IDX,
    PRIMARY,
    SECONDARY,
    SEEN,
    SPLIT,
    TARGETS,
    UNASSIGNED,
    USER_IDX,
    VALIDATION,
)
from esans.spark import sampled

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from esans.bundle import Bundle
    from esans.cluster.config_quality import QualityConfig
    from esans.cluster.tables import Cells

POPULARITY_POWER = 0.75
_RACES = 20_000_000
_BLOCK = 256


@dataclass(frozen=True)
class Pairs:
    """Pairs of an anchor and a validation positive, summed by their primaries; R rows of arrays."""

    anchor: np.ndarray
    """(R,) c1 of the anchors."""
    positive: np.ndarray
    """(R,) c1 of the validation positives; UNASSIGNED where they have no cluster, and no semantic draw meets them."""
    count: np.ndarray
    """(R,) pairs."""
    hard: np.ndarray
    """(R,) sum over the pairs of the chance that one hard draw for the anchor is the positive."""
    popularity: np.ndarray
    """(R,) the same for a draw by count^0.75."""
    anchors: float
    """Anchors that have a cluster, of users with a validation positive to find."""
    users: int
    """Users counted."""
    share: float
    """Share of the users that was counted; 1 is all."""


def expected_counts(transitions: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """How often each primary is drawn when `draws` are drawn without replacement (METHOD 3).

    P for one, P_j (1 + sum_{k != j} P_k / (1 - P_k)) for two; above two there is no closed form, and seeded races of
    exponentials estimate it: at least 32 a row.

    Args:
        transitions: (n, K) probabilities, rows sum to 1.
        draws: m_c.
        seed: of the races.

    Returns:
        (n, K) float64, rows sum to `draws`.
    """
    p = transitions.astype(np.float64)
    if draws == 1:
        return p
    if draws > 2:
        return _raced(p, draws, seed)
    top = p.argmax(1)[:, None]
    # 1 - P and the sum of the other odds lose their digits where one primary takes nearly all: they are summed from the small ones.
    small = p.copy()
    np.put_along_axis(small, top, 0.0, axis=1)
    rest = 1 - p
    np.put_along_axis(rest, top, small.sum(1, keepdims=True), axis=1)
    odds = p / np.maximum(rest, 1e-300)
    others = odds.sum(1, keepdims=True) - odds
    np.put_along_axis(odds, top, 0.0, axis=1)
    np.put_along_axis(others, top, odds.sum(1, keepdims=True), axis=1)
    return np.asarray(p * (1 + others))


def _raced(p: np.ndarray, draws: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    races = int(np.clip(_RACES // p.size, 32, 4_096))
    found = np.zeros_like(p)
    rows = np.arange(len(p))[:, None]
    rates = np.maximum(p, 1e-300)
    for _ in range(races):
        times = np.where(p > 0, random.exponential(size=p.shape) / rates, np.inf)
        first = np.argpartition(times, draws - 1, axis=1)[:, :draws]
        found[rows, first] += 1
    return found / races


def rates(pairs: Pairs, num_items: int) -> dict[str, float]:
    """Chance that one draw is a validation positive of the user, mean over anchors, for draws that do not depend on T_c."""
    everywhere = float(pairs.count.sum()) / num_items
    sums = {"hard": float(pairs.hard.sum()), "uniform": everywhere, "popularity": float(pairs.popularity.sum())}
    return {name: value / pairs.anchors for name, value in sums.items()}


def easy_rate(pairs: Pairs, apart: np.ndarray, sizes: np.ndarray, temperature: float, draws: int, seed: int = 0) -> float:
    """The same for easy draws at a temperature: E[count of c1(j)] / m_c / size of c1(j).

    Args:
        pairs: what `count_pairs` returns.
        apart: (K1, K1) distances, infinite on the diagonal.
        sizes: (K1,) items.
        temperature: T_c.
        draws: m_c.
        seed: of the estimate above two clusters.
    """
    from esans.cluster.tables import transitions

    met = pairs.positive != UNASSIGNED
    anchor, positive, count = pairs.anchor[met], pairs.positive[met], pairs.count[met]
    present, row = np.unique(anchor, return_inverse=True)
    total = 0.0
    for start in range(0, len(present), _BLOCK):
        block = present[start : start + _BLOCK]
        expected = expected_counts(transitions(apart[block], temperature), draws, seed + start)
        own = (row >= start) & (row < start + len(block))
        total += float((count[own] * expected[row[own] - start, positive[own]] / sizes[positive[own]]).sum())
    return total / draws / pairs.anchors


def count_pairs(prepare: Bundle, codes: DataFrame, cells: Cells, fallback: np.ndarray, config: QualityConfig, seed: int) -> Pairs | None:
    """Sum pairs of anchor and validation positive by their primaries; None where there is no such pair.

    What reaches the driver is at most one row a pair, and there are about config.max_pairs of them at most.

    Args:
        prepare: the bundle with `histories` and `popularity`.
        codes: item_idx, c1, c2 of every item.
        cells: the non-empty cells.
        fallback: (n,) primary that tops up the hard pool of each cell, UNASSIGNED where none does.
        config: bounds.
        seed: of the sample of users, if one is needed.
    """
    from pyspark.sql import functions as F

    if not (prepare.has("histories") and prepare.has("popularity")):
        return None
    spark = codes.sparkSession
    anchors = F.slice(HISTORY, F.greatest(F.size(HISTORY) - config.max_anchors + 1, F.lit(1)), config.max_anchors)
    users = prepare.table("histories").spark(spark).where(F.col(SPLIT) == VALIDATION)
    users = users.select(USER_IDX, anchors.alias("anchors"), F.array_except(TARGETS, SEEN).alias("positives"))
    users = users.where((F.size("positives") > 0) & (F.size("anchors") > 0))
    found = users.agg(F.count(F.lit(1)), F.sum(F.size("anchors") * F.size("positives"))).first()
    if found is None or not found[1]:
        return None
    share = min(1.0, config.max_pairs / found[1])
    users = sampled(users, USER_IDX, share, seed)
    popularity = prepare.table("popularity").spark(spark)
    drawn = F.pow(F.col(COUNT).cast("double"), POPULARITY_POWER)
    everything = popularity.agg(F.sum(drawn)).first()
    items = codes.join(popularity.select(ITEM_IDX, drawn.alias("p")), ITEM_IDX)
    table = _pairs_by_primary(users, items, _pools(spark, cells, fallback)).toArrow()
    if not table.num_rows:
        return None
    c1, c2, count, hard, p, anchor = (table.column(place).to_numpy() for place in range(6))
    mass = float(everything[0] or 0) if everything is not None else 0.0
    known = max(1, round(found[0] * share))
    return Pairs(c1, c2, count.astype(np.float64), hard, p / mass if mass else p * 0, float(anchor.sum()), known, share)


def _pools(spark: object, cells: Cells, fallback: np.ndarray) -> DataFrame:
    """c1, c2, fallback and the size of the hard pool of every cell: what a hard draw chooses among (esans/negatives/clusters.py)."""
    extra = np.where(fallback != UNASSIGNED, cells.sizes[np.maximum(fallback, 0)], 0)
    columns = {PRIMARY: cells.c1, SECONDARY: cells.c2, FALLBACK: fallback, "pool": (cells.hard_pool + extra).astype(np.float64)}
    return spark.createDataFrame(pa.table(columns))  # type: ignore[attr-defined]


def _pairs_by_primary(users: DataFrame, items: DataFrame, pools: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    # Each anchor is worth 1 in all, however many positives it is paired with.
    each = users.select(F.explode("anchors").alias("i"), "positives", (1 / F.size("positives")).alias("part"))
    each = each.select("i", "part", F.explode("positives").alias("j"))
    own = items.where(F.col(PRIMARY) != UNASSIGNED).join(F.broadcast(pools), [PRIMARY, SECONDARY])
    own = own.select(F.col(ITEM_IDX).alias("i"), F.col(PRIMARY).alias("a1"), F.col(SECONDARY).alias("a2"), FALLBACK, "pool")
    other = items.select(F.col(ITEM_IDX).alias("j"), F.col(PRIMARY).alias("b1"), F.col(SECONDARY).alias("b2"), "p")
    pairs = each.join(own, "i").join(other, "j")
    chance = F.when(_in_pool() & (F.col("pool") > 0), 1 / F.col("pool")).otherwise(0.0)
    return pairs.groupBy("a1", "b1").agg(
        F.count(F.lit(1)).alias("pairs"), F.sum(chance).alias("hard"), F.sum("p").alias("p"), F.sum("part").alias("anchors")
    )


def _in_pool() -> Column:
    from pyspark.sql import functions as F

    beside = (F.col("a1") == F.col("b1")) & (F.col("a2") != F.col("b2"))
    return (F.col("b1") != UNASSIGNED) & (beside | (F.col("b1") == F.col(FALLBACK)))


def figures(rate: dict[str, float]) -> dict[str, float]:
    """Rates of easy, hard, uniform and popularity draws under their report names, and each one over the uniform rate."""
    found = {f"false_negatives.{name}": value for name, value in rate.items()}
    if rate["uniform"]:
        found |= {f"false_negatives.{name}_vs_uniform": value / rate["uniform"] for name, value in rate.items() if name != "uniform"}
    return found
