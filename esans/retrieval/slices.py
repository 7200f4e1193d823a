"""Slices of an evaluation: by popularity of the target, and by length of the user's history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esans.retrieval.ragged import Ragged

ALL, POPULARITY, HISTORY_LENGTH = "all", "popularity", "history"


@dataclass(frozen=True)
class SliceKey:
    """One slice: what it cuts by, its place in order, and its label."""

    slice: str
    place: int
    label: str


EVERYBODY = SliceKey(ALL, 0, "all")


@dataclass(frozen=True)
class Slices:
    """How to cut.

    bucket_N: (N,) int64, the popularity bucket of every item, 0 the least popular; history_edges: rising lower ends.
    """

    bucket_N: Tensor
    bucket_labels: tuple[str, ...]
    history_edges: tuple[int, ...]

    @classmethod
    def build(cls, counts_N: Tensor, buckets: int, history_edges: Sequence[int]) -> Slices:
        """Popularity buckets with about equal numbers of items, from (N,) int64 train positives; count 0 is a bucket of its own."""
        warm = counts_N[counts_N > 0].sort().values
        inner = (
            torch.tensor([i * len(warm) // buckets for i in range(1, buckets)], dtype=torch.int64) if len(warm) else torch.zeros(0).long()
        )
        # A bucket starts at a count, not inside a run of equal counts: equal items are never told apart by their index.
        edges = torch.cat([torch.ones(1, dtype=torch.int64), warm[inner] if len(warm) else warm]).unique()
        bucket = torch.bucketize(counts_N, edges, right=True)
        tops = [int(edge) - 1 for edge in edges[1:]] + [int(warm[-1]) if len(warm) else 0]
        labels = ["cold"] + [f"{int(low)}-{high}" if high > low else f"{int(low)}" for low, high in zip(edges, tops, strict=True)]
        return cls(bucket, tuple(labels), tuple(history_edges))

    @property
    def keys(self) -> list[SliceKey]:
        """Every slice, in order."""
        lows = (0, *self.history_edges)
        highs = [f"-{high - 1}" for high in self.history_edges] + ["+"]
        lengths = [SliceKey(HISTORY_LENGTH, i, f"{low}{high}") for i, (low, high) in enumerate(zip(lows, highs, strict=True))]
        return [EVERYBODY, *(SliceKey(POPULARITY, i, label) for i, label in enumerate(self.bucket_labels)), *lengths]

    def cut(self, ranks: Ragged, targets: Ragged, history_lengths: Tensor) -> Iterator[tuple[SliceKey, Ragged]]:
        """The ranks that fall into each slice.

        By popularity, a user counts in every bucket that holds one of its targets, with those targets alone. Ranks stay
        ranks among the whole catalogue.
        """
        target_bucket = self.bucket_N[targets.values]
        length_slice = torch.bucketize(history_lengths, torch.tensor(self.history_edges), right=True)[ranks.rows]
        for key in self.keys:
            if key.slice == POPULARITY:
                yield key, ranks.keep(target_bucket == key.place)
            elif key.slice == HISTORY_LENGTH:
                yield key, ranks.keep(length_slice == key.place)
            else:
                yield key, ranks
