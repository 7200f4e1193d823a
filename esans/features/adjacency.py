"""The item graph on disk, as compressed rows in memory-mapped files: neither driver nor device ever holds it.

Disk: 8 bytes an edge and 32 an item. Memory: one Arrow batch, or one slice of rows, at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

# Edges that are read or sorted together.
_EDGES = 4_000_000


@dataclass(frozen=True)
class Adjacency:
    """Rows of weighted neighbours; every array may be larger than memory."""

    indptr: np.ndarray
    """(N + 1,) int64: row i is indices[indptr[i] : indptr[i + 1]]."""
    indices: np.ndarray
    """(E,) int32: neighbours, rising within a row."""
    weights: np.ndarray
    """(E,) float32, above 0."""
    out_degree: np.ndarray
    """(N,) float64: sum of the weights of a row."""
    in_degree: np.ndarray
    """(N,) float64: sum of the weights of the edges that point here."""

    @property
    def num_items(self) -> int:
        """Rows, with or without neighbours."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """Edges, each direction counted."""
        return len(self.indices)

    def slices(self, edges: int = _EDGES) -> Iterator[tuple[int, int]]:
        """Row ranges of about `edges` edges, at least one row each, that cover all rows."""
        start = 0
        while start < self.num_items:
            stop = int(np.searchsorted(self.indptr, self.indptr[start] + edges, side="right")) - 1
            stop = min(max(stop, start + 1), self.num_items)
            yield start, stop
            start = stop

    def edges(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row, neighbour, weight) of rows start .. stop - 1, in order."""
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        row = np.repeat(np.arange(start, stop), np.diff(self.indptr[start : stop + 1]))
        return row, self.indices[first:last].astype(np.int64), np.asarray(self.weights[first:last])


def array(folder: Path, name: str, size: int | tuple[int, ...], dtype: type) -> np.ndarray:
    """A new array of zeros in a file of its own."""
    shape = (size,) if isinstance(size, int) else size
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(folder / f"{name}.bin", dtype=dtype, mode="w+", shape=shape)


def build(batches: Callable[[], Iterable[pa.RecordBatch]], num_items: int, num_edges: int, folder: Path) -> Adjacency:
    """Read the graph twice: once to count, once to place. Its order does not matter.

    Args:
        batches: gives item_idx, neighbour_idx, score; called twice.
        num_items: rows, below 2^31.
        num_edges: rows of the table.
        folder: local, for the files.
    """
    indptr, cursor = array(folder, "indptr", num_items + 1, np.int64), array(folder, "cursor", num_items, np.int64)
    for item, _, _ in map(_columns, batches()):
        found, count = np.unique(item, return_counts=True)
        indptr[found + 1] += count
    np.cumsum(indptr, out=indptr)
    cursor[:] = indptr[:-1]
    indices, weights = array(folder, "indices", num_edges, np.int32), array(folder, "weights", num_edges, np.float32)
    graph = Adjacency(
        indptr, indices, weights, array(folder, "out_degree", num_items, np.float64), array(folder, "in_degree", num_items, np.float64)
    )
    for item, neighbour, score in map(_columns, batches()):
        order = np.argsort(item, kind="stable")
        found, first, count = np.unique(item[order], return_index=True, return_counts=True)
        place = np.repeat(cursor[found] - first, count) + np.arange(len(item))
        indices[place], weights[place] = neighbour[order], score[order]
        cursor[found] += count
    for start, stop in graph.slices():
        _settle(graph, start, stop)
    return graph


def _columns(batch: pa.RecordBatch) -> tuple[np.ndarray, ...]:
    return tuple(batch.column(place).to_numpy(zero_copy_only=False) for place in range(3))


def _settle(graph: Adjacency, start: int, stop: int) -> None:
    """Sort the rows of a slice by neighbour and add up their weights: sums must not depend on the order in which edges came."""
    row, neighbour, weight = graph.edges(start, stop)
    order = np.lexsort((neighbour, row))
    # Copies: `weight` is a view of the file that is written next.
    neighbour, weight = neighbour[order], weight[order]
    first = int(graph.indptr[start])
    graph.indices[first : first + len(row)] = neighbour
    graph.weights[first : first + len(row)] = weight
    graph.out_degree[start:stop] = np.bincount(row - start, weights=weight, minlength=stop - start)
    found, inverse = np.unique(neighbour, return_inverse=True)
    graph.in_degree[found] += np.bincount(inverse, weights=weight, minlength=len(found))
