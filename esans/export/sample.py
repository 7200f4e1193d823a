"""A bounded sample of users, chosen by a hash: queries to measure the index with, and histories for the input example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from esans.columns import SERVE
from esans.retrieval.encode import Towers, encode_users
from esans.retrieval.keys import tie_order
from esans.retrieval.users import UserBatch, user_batches

if TYPE_CHECKING:
    from esans.bundle import Bundle

_EXAMPLES = 3
_EXAMPLE_ITEMS = 5


class UserSample:
    """Keeps about `most` of `num_users` users, never more than twice as many."""

    def __init__(self, num_users: int, most: int) -> None:
        self._limit = int(min(1.0, most / max(num_users, 1)) * 2**32)
        self._most = 2 * most
        self._kept: list[Tensor] = []
        self._histories: list[list[int]] = []

    def add(self, batch: UserBatch, vectors: Tensor) -> None:
        """Take the chosen users of a batch with their (B, dim) vectors."""
        chosen = torch.nonzero(tie_order(batch.users) < self._limit).flatten()[: self._most - sum(map(len, self._kept))]
        self._kept.append(vectors.cpu()[chosen])
        for row in range(min(len(batch), _EXAMPLES - len(self._histories))):
            self._histories.append(batch.history.slice(row, row + 1).values[-_EXAMPLE_ITEMS:].tolist())

    def read(self, prepare: Bundle, model: Towers, batch_size: int, device: str) -> None:
        """Fill the sample without writing vectors."""
        for batch in user_batches(prepare.table("histories"), SERVE, batch_size):
            chosen = batch.pick(torch.nonzero(tie_order(batch.users) < self._limit).flatten())
            if len(chosen):
                self.add(chosen, encode_users(model, chosen, device))

    @property
    def vectors(self) -> Tensor:
        """(q, dim) vectors of the chosen users, on the CPU."""
        return torch.cat(self._kept)

    def raw_histories(self, item_ids: Any) -> list[list[str]]:
        """A few short histories as item ids, oldest first."""
        return [[item_ids[item].as_py() for item in history] for history in self._histories]
