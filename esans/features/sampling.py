"""What one step sees of the graph: pairs drawn by weight and the neighbourhoods around them, in whole arrays, no loop over nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from esans.features.adjacency import Adjacency, array

_ITEMS = 1_000_000


@dataclass(frozen=True)
class Block:
    """One layer of a sub-graph: messages from `nodes` to some of them."""

    nodes: np.ndarray
    """(n,) int64 distinct items whose vectors the layer reads."""
    targets: np.ndarray
    """(t,) places in `nodes` of the items whose vectors it makes."""
    source: np.ndarray
    """(e,) places in `nodes` that messages come from."""
    target: np.ndarray
    """(e,) places in `nodes` that they go to."""
    weight: np.ndarray
    """(e,) float32: w_ij / sqrt(out_degree_i in_degree_j), or its unbiased estimate where neighbours are drawn."""


def neighbourhoods(graph: Adjacency, items: np.ndarray, layers: int, fan_out: int | None, random: np.random.Generator) -> list[Block]:
    """Blocks from the outermost layer inwards; the targets of the last one are `items`.

    Args:
        graph: edges on disk.
        items: (n,) distinct.
        layers: how many steps away messages come from.
        fan_out: most messages an item takes per layer; None takes all.
        random: of the draws.
    """
    blocks: list[Block] = []
    for _ in range(layers):
        blocks.append(_block(graph, items, fan_out, random))
        items = blocks[-1].nodes
    return blocks[::-1]


def _block(graph: Adjacency, items: np.ndarray, fan_out: int | None, random: np.random.Generator) -> Block:
    row, neighbour, weight = _messages(graph, items, fan_out, random)
    nodes = np.unique(np.concatenate([items, neighbour]))
    targets = np.searchsorted(nodes, items)
    return Block(nodes, targets, np.searchsorted(nodes, neighbour), targets[row], weight)


def _messages(
    graph: Adjacency, items: np.ndarray, fan_out: int | None, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(place in items, neighbour, weight): all neighbours where there are at most `fan_out`, else that many draws by weight."""
    degree = graph.indptr[items + 1] - graph.indptr[items]
    few = degree <= (fan_out if fan_out is not None else np.iinfo(np.int64).max)
    row = np.repeat(np.flatnonzero(few), degree[few])
    at = _places(graph.indptr[items[few]], degree[few])
    neighbour = graph.indices[at].astype(np.int64)
    weight = graph.weights[at] / np.sqrt(graph.out_degree[items[row]] * graph.in_degree[neighbour])
    many = np.flatnonzero(~few)
    if len(many) and fan_out is not None:
        drawn_row = np.repeat(many, fan_out)
        drawn = draw_neighbours(graph, items[drawn_row], random)
        # A draw comes up with w_ij / out_degree_i, so this has the exact sum as its mean.
        drawn_weight = np.sqrt(graph.out_degree[items[drawn_row]] / graph.in_degree[drawn]) / fan_out
        row, neighbour, weight = (np.concatenate(both) for both in ((row, drawn_row), (neighbour, drawn), (weight, drawn_weight)))
    return row, neighbour, weight.astype(np.float32)


def draw_neighbours(graph: Adjacency, items: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n,) int64: one neighbour of each item (repeats draw anew), with chance w_ij / out_degree_i. Every item has neighbours."""
    distinct, which = np.unique(items, return_inverse=True)
    start, degree = graph.indptr[distinct], graph.indptr[distinct + 1] - graph.indptr[distinct]
    at = _places(start, degree)
    row = np.repeat(np.arange(len(distinct)), degree)
    # All rows in one rising sequence: row r runs from r to r + 1.
    running = np.cumsum(graph.weights[at] / graph.out_degree[distinct[row]])
    offset = np.cumsum(degree) - degree
    before = np.concatenate([[0.0], running])[offset]
    rising = np.minimum(running - before[row], 1.0) + row
    place = np.searchsorted(rising, random.random(len(items)) + which, side="right") - offset[which]
    return graph.indices[start[which] + np.clip(place, 0, degree[which] - 1)].astype(np.int64)


def _places(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """start[0] .. start[0] + length[0] - 1, start[1] .. and so on."""
    begin = np.cumsum(length) - length
    return np.repeat(start - begin, length) + np.arange(int(length.sum()))


@dataclass(frozen=True)
class Pairs:
    """Positives: an item by the root of its train events, and one of its neighbours by weight."""

    graph: Adjacency
    running: np.ndarray
    """(N,) float64: running sum of the chances of the first item."""
    log_chance: np.ndarray
    """(N,) float32: log of the chance that a pair's second item is this one, for log-Q corrections."""
    linked: int
    """Items with neighbours."""

    def draw(self, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(size,) first and second items, int64."""
        at = np.searchsorted(self.running, random.random(size) * self.running[-1], side="right")
        first = np.minimum(at, len(self.running) - 1).astype(np.int64)
        return first, draw_neighbours(self.graph, first, random)


def pairs(graph: Adjacency, count: np.ndarray, folder: Path) -> Pairs:
    """Set up the draws.

    Args:
        graph: with at least one edge.
        count: (N,) train events of each item; items without neighbours are never drawn.
        folder: local, for the files; 12 bytes an item.
    """
    running, chance = array(folder, "running", graph.num_items, np.float64), array(folder, "chance", graph.num_items, np.float64)
    total, found_linked = 0.0, 0
    for start in range(0, graph.num_items, _ITEMS):
        part = slice(start, min(start + _ITEMS, graph.num_items))
        linked = graph.out_degree[part] > 0
        running[part] = total + np.cumsum(np.where(linked, np.sqrt(np.maximum(count[part], 1)), 0.0))
        total, found_linked = float(running[part.stop - 1]), found_linked + int(linked.sum())
    for start, stop in graph.slices():
        row, neighbour, weight = graph.edges(start, stop)
        found, inverse = np.unique(neighbour, return_inverse=True)
        share = np.sqrt(np.maximum(count[row], 1)) * weight / graph.out_degree[row] / total
        chance[found] += np.bincount(inverse, weights=share, minlength=len(found))
    log_chance = array(folder, "log_chance", graph.num_items, np.float32)
    for start in range(0, graph.num_items, _ITEMS):
        log_chance[start : start + _ITEMS] = np.log(np.maximum(chance[start : start + _ITEMS], 1e-30))
    return Pairs(graph, running, log_chance, found_linked)
