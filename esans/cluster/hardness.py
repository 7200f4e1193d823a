"""How hard drawn negatives are: quantiles of their scores, for easy, hard and uniform draws (METHOD 3).

Everything is drawn among the items that the driver holds, a bounded sample chosen by a hash: uniform in the catalogue,
and so uniform in every cluster and every hard pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from esans.columns import UNASSIGNED

if TYPE_CHECKING:
    from esans.cluster.repair import Sample
    from esans.cluster.tables import Cells
    from esans.codebooks.codebook import Codebooks

# Primaries -> how often each primary is drawn for one of theirs.
Expected = Callable[[np.ndarray], np.ndarray]

_BLOCK = 256
_PART = 4_000_000
QUANTILES = (1, 10, 25, 50, 75, 90, 99)


@dataclass(frozen=True)
class Held:
    """Sampled items in the order of (c1, c2), with their codes and unit mean vectors; H rows."""

    item: np.ndarray
    """(H,) item_idx."""
    c1: np.ndarray
    """(H,) int64."""
    c2: np.ndarray
    """(H,) int64."""
    unit: np.ndarray
    """(H, d) float32."""
    primaries: int
    """K1."""
    secondaries: int
    """K2."""

    @classmethod
    def of(cls, sample: Sample, books: Codebooks) -> Held:
        """The sample under its codebooks."""
        c1, c2 = books.assign(sample.item, sample.vectors, sample.mean)
        order = np.lexsort((sample.item, c2, c1))
        unit = sample.mean[order]
        unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
        sizes = len(books.primaries), len(books.secondaries)
        return cls(sample.item[order], c1[order].astype(np.int64), c2[order].astype(np.int64), unit, *sizes)

    def __len__(self) -> int:
        return len(self.item)

    @cached_property
    def primary_start(self) -> np.ndarray:
        """(K1 + 1,) first row of each primary, and the end."""
        return np.searchsorted(self.c1, np.arange(self.primaries + 1))

    def cell_bounds(self, c1: np.ndarray, c2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First row and end of given cells."""
        keys, wanted = self.c1 * self.secondaries + self.c2, c1 * self.secondaries + c2
        return np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")


def draw_easy(held: Held, c1: np.ndarray, expected: Expected, count: int, random: np.random.Generator) -> np.ndarray:
    """Items of other primaries, each drawn as one of a row's easy negatives is.

    Args:
        held: what can be drawn.
        c1: (n,) primaries of the positives.
        expected: (n,) primaries -> (n, K1) how often each other one is drawn, rows of any positive sum.
        count: draws per positive.
        random: source of the draws.

    Returns:
        (n, count) rows of `held`, -1 where the drawn primary has no held item.
    """
    clusters = np.empty((len(c1), count), np.int64)
    present, row = np.unique(c1, return_inverse=True)
    for first in range(0, len(present), _BLOCK):
        heaps = np.cumsum(expected(present[first : first + _BLOCK]), axis=1)
        for place, heap in enumerate(heaps):
            own = np.flatnonzero(row == first + place)
            drawn = np.searchsorted(heap, random.random((len(own), count)) * heap[-1], side="right")
            clusters[own] = np.minimum(drawn, held.primaries - 1)
    start, end = held.primary_start[clusters], held.primary_start[clusters + 1]
    return np.where(end > start, start + _below(end - start, random), UNASSIGNED)


def draw_hard(held: Held, c1: np.ndarray, c2: np.ndarray, fallback: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Items of the same primary and another cell, topped up from a fallback primary (esans/negatives/clusters.py).

    Args:
        held: what can be drawn.
        c1: (n,) primaries of the positives.
        c2: (n,) their secondary codes.
        fallback: (n,) primary that tops up, UNASSIGNED where none does.
        count: draws per positive.
        random: source of the draws.

    Returns:
        (n, count) rows of `held`, -1 where the pool holds no sampled item.
    """
    start, end = held.primary_start[c1], held.primary_start[c1 + 1]
    cell_start, cell_end = held.cell_bounds(c1, c2)
    own = (end - start) - (cell_end - cell_start)
    extra_start = held.primary_start[np.maximum(fallback, 0)]
    extra = np.where(fallback == UNASSIGNED, 0, held.primary_start[np.maximum(fallback, 0) + 1] - extra_start)
    total = (own + extra)[:, None]
    drawn = _below(np.broadcast_to(total, (len(c1), count)), random)
    # The primary with the positive's own cell cut out: places after the cut move up by the cell's size.
    place = start[:, None] + drawn
    inside = place + np.where(place >= cell_start[:, None], (cell_end - cell_start)[:, None], 0)
    row = np.where(drawn < own[:, None], inside, extra_start[:, None] + drawn - own[:, None])
    return np.where(total > 0, row, UNASSIGNED)


def fallback_of(cells: Cells, fallback: np.ndarray, c1: np.ndarray, c2: np.ndarray) -> np.ndarray:
    """(n,) the fallback primary of given cells, UNASSIGNED where the cell needs none."""
    width = int(max(cells.c2.max(), c2.max())) + 1
    keys, wanted = cells.c1.astype(np.int64) * width + cells.c2, c1.astype(np.int64) * width + c2
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, fallback[place], UNASSIGNED).astype(np.int64)


def _below(size: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.minimum((random.random(size.shape) * size).astype(np.int64), np.maximum(size - 1, 0))


def dots(own: np.ndarray, other: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n, m) inner products of (n, d) vectors with rows (n, m) of `other`, NaN where a row is -1; a bounded part at a time."""
    found = np.empty(rows.shape, np.float32)
    step = max(1, _PART // max(rows.shape[1] * own.shape[1], 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        found[part] = np.einsum("nd,nmd->nm", own[part], other[rows[part]])
    return np.where(rows == UNASSIGNED, np.nan, found)


class Judge(Protocol):
    """Positives to draw for, and the score of what was drawn for them."""

    @property
    def about(self) -> str:
        """What the scores are, for people."""

    @property
    def c1(self) -> np.ndarray:
        """(n,) primaries of the positives."""

    @property
    def c2(self) -> np.ndarray:
        """(n,) their secondary codes."""

    @property
    def positive(self) -> np.ndarray | None:
        """(n,) scores of the positives themselves, where they say something."""

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Scores of (n, m) rows of the held items, NaN where a row is -1."""


@dataclass
class CosineJudge:
    """Cosine of the mean aligned vectors of a positive and what is drawn for it."""

    held: Held
    anchors: np.ndarray
    """(n,) rows of `held`."""
    about: str = "cosine of the aligned vectors of positive and negative"
    positive: np.ndarray | None = None

    @classmethod
    def sample(cls, held: Held, weight: np.ndarray, count: int, random: np.random.Generator) -> CosineJudge:
        """Positives drawn by (H,) weight, which is how often each item is one."""
        share = weight / weight.sum() if weight.sum() > 0 else None
        return cls(held, random.choice(len(held), size=count, p=share))

    @property
    def c1(self) -> np.ndarray:
        """(n,) primaries of the positives."""
        return self.held.c1[self.anchors]

    @property
    def c2(self) -> np.ndarray:
        """(n,) their secondary codes."""
        return self.held.c2[self.anchors]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """(n, m) cosines."""
        return dots(self.held.unit[self.anchors], self.held.unit, rows)


@dataclass
class Drawn:
    """Scores of the draws of each kind."""

    about: str
    scores: dict[str, np.ndarray]
    """Kind -> flat scores, without draws that found nothing."""
    curve: dict[float, float]
    """T_c -> mean score of easy draws."""

    def figures(self) -> dict[str, float]:
        """`hardness.<kind>.p<quantile>` and `.mean`."""
        found: dict[str, float] = {}
        for kind, scores in self.scores.items():
            if len(scores):
                levels = np.quantile(scores, np.array(QUANTILES) / 100)
                found |= {f"hardness.{kind}.p{level}": float(value) for level, value in zip(QUANTILES, levels, strict=True)}
                found[f"hardness.{kind}.mean"] = float(scores.mean())
        return found


def measure(
    judge: Judge,
    held: Held,
    fallback: np.ndarray,
    expected: dict[float, Expected],
    temperature: float,
    draws: int,
    random: np.random.Generator,
) -> Drawn:
    """Draw negatives of each kind and score them.

    Args:
        judge: positives and scores.
        held: what can be drawn.
        fallback: (n,) of the positives' cells.
        expected: T_c -> expected counts of easy primaries.
        temperature: the T_c in force, one of them.
        draws: negatives of each kind per positive.
        random: source of the draws.
    """

    def flat(rows: np.ndarray) -> np.ndarray:
        scores = judge.scores(rows).ravel()
        return scores[~np.isnan(scores)]

    easy = {level: flat(draw_easy(held, judge.c1, counts, draws, random)) for level, counts in expected.items()}
    scores = {
        "easy": easy[temperature],
        "hard": flat(draw_hard(held, judge.c1, judge.c2, fallback, draws, random)),
        "uniform": flat(random.integers(0, len(held), (len(judge.c1), draws))),
    }
    if judge.positive is not None:
        scores["positive"] = judge.positive
    return Drawn(judge.about, scores, {level: float(found.mean()) for level, found in easy.items() if len(found)})
