"""A model in the item space of today, as it would serve: items that it does not know are never returned, histories lose them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from esans.columns import COUNT, ITEM_ID
from esans.model import load
from esans.retrieval.encode import Towers, encode_catalogue, encode_users
from esans.retrieval.ragged import Ragged
from esans.retrieval.scorers import DotScorer, Scorer
from esans.retrieval.users import UserBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from esans.bundle import Bundle


@dataclass(frozen=True)
class Contender:
    """A model that is judged; N items of today.

    vectors_ND: unit vectors, zero where the model does not know the item; known_N: bool; own_N: its own index of every item, -1 where
    it has none; popular_N: shares that rank items for users without a known history, as serving does.
    """

    name: str
    model: Towers
    vectors_ND: Tensor
    known_N: Tensor
    own_N: Tensor
    popular_N: Tensor
    num_users: int
    """Users whose index means the same to the model as today; later ones are unknown to it."""

    def translate(self, batch: UserBatch) -> UserBatch:
        """The batch as the model knows it: histories of its own indices, without items that it lacks; unknown users are -1."""
        own = self.own_N[batch.history.values]
        history = Ragged(batch.history.offsets, own).keep(own >= 0)
        users = torch.where(batch.users < self.num_users, batch.users, -1)
        return UserBatch(users, history, batch.targets, batch.seen)

    def users(self, batch: UserBatch, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """(B, D) unit vectors, and (B,) bool: users without a known history, who get the popular items."""
        mine = self.translate(batch)
        return encode_users(self.model, mine, device), mine.history.lengths == 0

    def scorer(self, vectors_BD: Tensor, without_history: Tensor) -> Scorer:
        """Scores of a batch of users."""
        return _Served(DotScorer(vectors_BD, self.vectors_ND), self.popular_N, without_history.to(vectors_BD.device))


class _Served:
    """Inner products, and popularity for the users that have no known history."""

    def __init__(self, dot: DotScorer, popular_N: Tensor, fallback_B: Tensor) -> None:
        self._dot, self._popular_N, self._fallback_B = dot, popular_N, fallback_B

    def chunk(self, start: int, stop: int) -> Tensor:
        """(B, stop - start) float64."""
        return torch.where(self._fallback_B[:, None], self._popular_N[start:stop], self._dot.chunk(start, stop))

    def pairs(self, rows: Tensor, items: Tensor) -> Tensor:
        """(n,) float64."""
        return torch.where(self._fallback_B[rows], self._popular_N[items], self._dot.pairs(rows, items))


@contextmanager
def opened(name: str, export: Bundle, item_ids: pa.Array, prepare: Bundle, device: torch.device | str = "cpu") -> Iterator[Contender]:
    """The model of an export bundle in the item space of `prepare`.

    Args:
        name: for messages.
        export: what would serve: its folder `retriever`.
        item_ids: (N,) ids of today in index order.
        prepare: today's, whose lineage says whether user indices mean the same.
        device: where the model runs.
    """
    import pyarrow.parquet as pq

    with export.local("retriever") as folder:
        model: Any = load(folder / "model", device)
        items = pq.read_table(folder / "items.parquet", columns=[ITEM_ID, COUNT])
    yield contender(
        name, model, items.column(ITEM_ID), items.column(COUNT).to_numpy(), item_ids, _shared_users(export, prepare, model), device
    )


def contender(
    name: str, model: Towers, own_ids: Any, own_counts: np.ndarray, item_ids: Any, num_users: int, device: torch.device | str = "cpu"
) -> Contender:
    """A model whose items are `own_ids` (M,), with their (M,) counts, in a space of `item_ids` (N,)."""
    import pyarrow.compute as pc

    own = pc.fill_null(pc.index_in(item_ids, value_set=own_ids), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    own_N = torch.from_numpy(own)
    known = own_N >= 0
    vectors_MD = encode_catalogue(model, device)
    vectors_ND = torch.zeros((len(own_N), vectors_MD.shape[1]), device=device)
    vectors_ND[known.to(device)] = vectors_MD[own_N[known].to(device)]
    popular = torch.zeros(len(own_N), dtype=torch.float64)
    popular[known] = torch.from_numpy(own_counts.astype(np.float64))[own_N[known]] / max(int(own_counts.max(initial=1)), 1)
    return Contender(name, model, vectors_ND, known, own_N, popular.to(device), num_users)


def _shared_users(export: Bundle, prepare: Bundle, model: Any) -> int:
    """How many user indices mean the same: all of the model's where today's ids were grown from its own; else none."""
    from esans.bundle import Bundle

    own = Bundle.open(str(export.manifest["inputs"]["prepare"]))
    if own.uri == prepare.uri:
        return int(prepare.facts["num_users"])
    last: Mapping[str, Any] | None = next(iter(own.facts.get("id_maps", [])[-1:]), None)
    return int(last["users"]) if last is not None and last in prepare.facts.get("id_maps", []) else 0
