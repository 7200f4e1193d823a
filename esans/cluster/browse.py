"""What clusters.html shows: a sample of primaries, items in them, their nearest primaries, and negatives of every item shown.

Chosen among the items that the driver holds; how many is bounded by the keys of `cluster.quality`, whatever the catalogue's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esans.cluster.hardness import Expected, Held, draw_easy, draw_hard, fallback_of
from esans.columns import UNASSIGNED

if TYPE_CHECKING:
    from esans.cluster.config_quality import QualityConfig
    from esans.cluster.tables import Cells

# A draw may come again; this many times as many are drawn as are shown.
_SPARE = 4
_TITLES_OF_A_NEIGHBOUR = 4


@dataclass(frozen=True)
class Neighbour:
    """A primary near another one."""

    c1: int
    size: int
    probability: float
    """That an easy draw goes there first."""
    items: list[int]
    """A few of its items."""


@dataclass(frozen=True)
class ShownPrimary:
    """One primary of the page."""

    c1: int
    size: int
    cells: list[tuple[int, int]]
    """(c2, items) of its cells."""
    items: list[int]
    """Sampled items, in the order of their cells."""
    nearest: list[Neighbour]


@dataclass(frozen=True)
class ShownItem:
    """An item that can be chosen: what would be drawn for it."""

    c1: int
    c2: int
    easy: list[tuple[int, float]]
    """(item, cosine), the likest first."""
    hard: list[tuple[int, float]]
    """(item, cosine), the likest first."""


@dataclass(frozen=True)
class Selection:
    """Everything on the page, by item_idx."""

    primaries: list[ShownPrimary]
    items: dict[int, ShownItem]
    codes: dict[int, tuple[int, int]]
    """(c1, c2) of every item met on the page."""

    @property
    def every(self) -> list[int]:
        """All items that need a title."""
        return sorted(self.codes)


def select(
    held: Held, cells: Cells, fallback: np.ndarray, apart: np.ndarray, first: Expected, expected: Expected, config: QualityConfig, seed: int
) -> Selection:
    """Choose what to show.

    Args:
        held: items that can be shown.
        cells: all cells with their sizes.
        fallback: (n,) primary that tops up each cell's hard pool.
        apart: (K1, K1) distances of the primaries.
        first: transition probabilities of given primaries.
        expected: how often given primaries lead to each other one.
        config: how much to show.
        seed: of every choice.
    """
    random = np.random.default_rng(seed)
    sizes = cells.sizes
    # One primary of each part of the sizes, from the largest to the smallest.
    parts = np.array_split(np.argsort(-sizes, kind="stable"), min(config.page_primaries, len(sizes)))
    chosen = [int(random.choice(part)) for part in parts]
    rows_of = {c1: _some(held, c1, config.page_items, random) for c1 in chosen}
    primaries = [_primary(held, cells, c1, rows_of[c1], apart, first, config, random) for c1 in chosen]
    rows = np.concatenate([*rows_of.values(), np.empty(0, np.int64)]).astype(np.int64)
    items, met = _negatives(held, cells, fallback, rows, expected, config.page_negatives, random)
    ids = {item for shown in primaries for item in [*shown.items, *(item for near in shown.nearest for item in near.items)]}
    place = {int(held.item[row]): int(row) for row in np.unique(np.concatenate([rows, met]))}
    place |= {int(held.item[row]): int(row) for row in np.flatnonzero(np.isin(held.item, list(ids)))}
    return Selection(primaries, items, {item: (int(held.c1[row]), int(held.c2[row])) for item, row in place.items()})


def _some(held: Held, c1: int, most: int, random: np.random.Generator) -> np.ndarray:
    start, end = held.primary_start[c1], held.primary_start[c1 + 1]
    return np.sort(start + random.permutation(end - start)[:most])


def _primary(
    held: Held,
    cells: Cells,
    c1: int,
    rows: np.ndarray,
    apart: np.ndarray,
    first: Expected,
    config: QualityConfig,
    random: np.random.Generator,
) -> ShownPrimary:
    own = np.flatnonzero(cells.c1 == c1)
    own = own[np.argsort(-cells.count[own], kind="stable")]
    sizes, probability = cells.sizes, first(np.array([c1]))[0]
    nearest = []
    for other in np.argsort(apart[c1], kind="stable")[: min(config.page_nearest, held.primaries - 1)]:
        items = held.item[_some(held, int(other), _TITLES_OF_A_NEIGHBOUR, random)]
        nearest.append(Neighbour(int(other), int(sizes[other]), float(probability[other]), items.tolist()))
    cells_of = list(zip(cells.c2[own].tolist(), cells.count[own].tolist(), strict=True))
    return ShownPrimary(c1, int(sizes[c1]), cells_of, held.item[rows].tolist(), nearest)


def _negatives(
    held: Held, cells: Cells, fallback: np.ndarray, rows: np.ndarray, expected: Expected, count: int, random: np.random.Generator
) -> tuple[dict[int, ShownItem], np.ndarray]:
    c1, c2 = held.c1[rows], held.c2[rows]
    easy = draw_easy(held, c1, expected, count * _SPARE, random)
    hard = draw_hard(held, c1, c2, fallback_of(cells, fallback, c1, c2), count * _SPARE, random)
    found, met = {}, [np.empty(0, np.int64)]
    for place, row in enumerate(rows):
        lists = []
        for drawn in (easy[place], hard[place]):
            kept = np.array([other for other in dict.fromkeys(drawn.tolist()) if other not in (UNASSIGNED, row)][:count], np.int64)
            cosine = held.unit[kept] @ held.unit[row]
            order = np.argsort(-cosine, kind="stable")
            lists.append([(int(held.item[kept[at]]), float(cosine[at])) for at in order])
            met.append(kept)
        found[int(held.item[row])] = ShownItem(int(c1[place]), int(c2[place]), *lists)
    return found, np.concatenate(met)
