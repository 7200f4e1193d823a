"""What scores a batch of users against the catalogue: inner products, or one score an item for everybody."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from esans.retrieval.keys import on_grid


class Scorer(Protocol):
    """Scores of B users, asked for in pieces; the same pair must get the same score whichever way it is asked for."""

    def chunk(self, start: int, stop: int) -> Tensor:
        """(B, stop - start) scores of items start .. stop - 1, without NaN."""

    def pairs(self, rows: Tensor, items: Tensor) -> Tensor:
        """(n,) scores of single pairs: users by their row in the batch, and item indices."""


class DotScorer:
    """Exact inner products of (B, d) users and (N, d) items, both of norm at most 2."""

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor) -> None:
        self._users_BD = on_grid(user_vectors)
        self._items_ND = item_vectors

    def chunk(self, start: int, stop: int) -> Tensor:
        """(B, stop - start) float64."""
        return self._users_BD @ on_grid(self._items_ND[start:stop]).T

    def pairs(self, rows: Tensor, items: Tensor) -> Tensor:
        """(n,) float64."""
        return (self._users_BD[rows] * on_grid(self._items_ND[items])).sum(1)


class StaticScorer:
    """The same (N,) scores for each of `users` users, such as popularity."""

    def __init__(self, scores: Tensor, users: int) -> None:
        self._scores, self._users = scores, users

    def chunk(self, start: int, stop: int) -> Tensor:
        """(users, stop - start), a view."""
        return self._scores[start:stop].expand(self._users, -1)

    def pairs(self, rows: Tensor, items: Tensor) -> Tensor:
        """(n,)."""
        return self._scores[items]
