"""Slices of an evaluation: by popularity of the target, by length of the user's history, by cold items, and by columns of the items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esans.retrieval.config import MetricsConfig

ALL, POPULARITY, HISTORY_LENGTH, COLD = "all", "popularity", "history", "cold"


@dataclass(frozen=True)
class SliceKey:
    """One slice: what it cuts by, its place in order, and its label."""

    slice: str
    place: int
    label: str


EVERYBODY = SliceKey(ALL, 0, "all")


@dataclass(frozen=True)
class ItemCut:
    """Items in slices. place_N: (N,) int16, the slice of every item among `labels`."""

    name: str
    labels: tuple[str, ...]
    place_N: Tensor


@dataclass(frozen=True)
class Slices:
    """How to cut. A user counts in every slice of items that holds one of its targets, with those targets alone.

    history_edges: rising lower ends of the history lengths; cuts: those by items, 2 bytes an item each.
    """

    history_edges: tuple[int, ...]
    cuts: tuple[ItemCut, ...]

    @classmethod
    def build(cls, counts_N: Tensor, config: MetricsConfig, columns: Sequence[ItemCut] = ()) -> Slices:
        """The slices of a config, from (N,) int64 train positives, and further cuts of the same N items."""
        cuts = (popularity_cut(counts_N, config.popularity_buckets), cold_cut(counts_N, config.cold_below), *columns)
        return cls(tuple(config.history_edges), cuts)

    @property
    def keys(self) -> list[SliceKey]:
        """Every slice, in order."""
        lows = (0, *self.history_edges)
        highs = [f"-{high - 1}" for high in self.history_edges] + ["+"]
        lengths = [SliceKey(HISTORY_LENGTH, i, f"{low}{high}") for i, (low, high) in enumerate(zip(lows, highs, strict=True))]
        by_item = [SliceKey(cut.name, place, label) for cut in self.cuts for place, label in enumerate(cut.labels)]
        return [EVERYBODY, *lengths, *by_item]

    def places(self, target_rows: Tensor, targets: Tensor, history_lengths: Tensor) -> Iterator[Tensor]:
        """For every way of cutting, the place of each target among `keys`.

        Args:
            target_rows: (total,) the user of each target, as its row in the batch.
            targets: (total,) items.
            history_lengths: (B,) distinct earlier items of the users.

        Yields:
            (total,) int64.
        """
        yield torch.zeros_like(target_rows)
        edges = torch.tensor(self.history_edges)
        yield 1 + torch.bucketize(history_lengths, edges, right=True)[target_rows]
        first = 2 + len(self.history_edges)
        for cut in self.cuts:
            yield first + cut.place_N[targets].long()
            first += len(cut.labels)


def popularity_cut(counts_N: Tensor, buckets: int) -> ItemCut:
    """Buckets with about equal numbers of items (deciles by default), from (N,) int64 train positives; count 0 has its own."""
    warm = counts_N[counts_N > 0].sort().values
    inner = torch.tensor([i * len(warm) // buckets for i in range(1, buckets)], dtype=torch.int64) if len(warm) else torch.zeros(0).long()
    # A bucket starts at a count, not inside a run of equal counts: equal items are never told apart by their index.
    edges = torch.cat([torch.ones(1, dtype=torch.int64), warm[inner] if len(warm) else warm]).unique()
    tops = [int(edge) - 1 for edge in edges[1:]] + [int(warm[-1]) if len(warm) else 0]
    labels = ["cold"] + [f"{int(low)}-{high}" if high > low else f"{int(low)}" for low, high in zip(edges, tops, strict=True)]
    return ItemCut(POPULARITY, tuple(labels), torch.bucketize(counts_N, edges, right=True).to(torch.int16))


def cold_cut(counts_N: Tensor, below: int) -> ItemCut:
    """Items with fewer than `below` train positives, and the others."""
    return ItemCut(COLD, (f"cold: below {below}", f"{below} or more"), (counts_N >= below).to(torch.int16))
