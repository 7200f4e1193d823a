"""What recommendations are made with: towers, catalogue, and the searches over it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from esans.bundle import Bundle
from esans.columns import ITEM_ID, ITEM_IDX
from esans.retrieval.encode import Towers, encode_catalogue, encode_users
from esans.retrieval.evaluation import Catalogue
from esans.retrieval.folder import MODEL, ServedItems, read_index
from esans.retrieval.ragged import Ragged
from esans.retrieval.scorers import StaticScorer
from esans.retrieval.topk import TopK, exact_topk, scan
from esans.retrieval.users import UserBatch


@dataclass
class Served:
    """A model with its items; users of the prepare bundle are brought to its indices first.

    item_ids: N outside ids; available: (N,) bool, as the prepare bundle has it today; popularity: (N,) scores of the fallback.
    """

    model: Towers
    item_ids: pa.Array
    available: Tensor
    popularity: Tensor
    vectors: Tensor | None = None
    """(N, D), for exact search."""
    index: Any = None
    item_at: np.ndarray | None = None
    """item_idx of every row of the index."""
    model_item: Tensor | None = None
    """item_idx of the prepare bundle -> the model's, -1 for items that it does not know; None where they are the same."""
    knows_users: bool = True
    """Whether user_idx means the same to the model."""

    @classmethod
    def of_bundles(cls, prepare: Bundle, model_folder: Path, index_folder: Path | None, device: str) -> Served:
        """The model of this configuration's train bundle, and the index of its export bundle."""
        from esans.model import load

        model, catalogue = load(model_folder, device), Catalogue.read(prepare)
        popularity = catalogue.counts / max(int(catalogue.counts.max()), 1)
        served = cls(model, _item_ids(prepare), catalogue.available, popularity)
        served._prepare_search(index_folder, None if index_folder is None else ServedItems.read(index_folder), device)
        return served

    @classmethod
    def of_folder(cls, prepare: Bundle, folder: Path, exact: bool, device: str) -> Served:
        """A registered model, whose items are matched with those of the prepare bundle by id. It is asked for unknown users."""
        import pyarrow.compute as pc

        from esans.model import load

        model, items = load(folder / MODEL, device), ServedItems.read(folder)
        place = pc.fill_null(pc.index_in(_item_ids(prepare), value_set=items.ids), -1)
        model_item = torch.from_numpy(place.to_numpy(zero_copy_only=False).astype(np.int64))
        offered = Catalogue.read(prepare).available & (model_item >= 0)
        available = torch.zeros(len(items.ids), dtype=torch.bool)
        available[model_item[offered]] = True
        served = cls(model, items.ids, available, torch.from_numpy(items.popularity), model_item=model_item, knows_users=False)
        served._prepare_search(None if exact else folder, items, device)
        return served

    def _prepare_search(self, index_folder: Path | None, items: ServedItems | None, device: str) -> None:
        if index_folder is None:
            self.vectors = encode_catalogue(self.model, device)
        else:
            assert items is not None  # whoever has the folder has read it
            self.index, self.item_at = read_index(index_folder), items.item_at

    def translated(self, batch: UserBatch) -> UserBatch:
        """Users with the model's items alone, by its indices."""
        users = batch.users if self.knows_users else torch.full_like(batch.users, -1)
        if self.model_item is None:
            return UserBatch(users, batch.history, batch.targets, batch.seen)
        return UserBatch(users, _mapped(batch.history, self.model_item), batch.targets, _mapped(batch.seen, self.model_item))

    def best(self, batch: UserBatch, k: int, item_chunk: int, device: str) -> tuple[Tensor, Tensor]:
        """(scores, items), (B, k) on the CPU, of users with a history; -1 where too few items are left."""
        vectors = encode_users(self.model, batch, device)
        if self.vectors is not None:
            found = exact_topk(vectors, self.vectors, k, batch.seen, self.available, item_chunk, user_chunk=len(batch))
            return found[0].cpu(), found[1].cpu()
        return self._by_index(vectors.cpu(), batch.seen, k)

    def popular(self, batch: UserBatch, k: int, item_chunk: int) -> tuple[Tensor, Tensor]:
        """(scores, items), (B, k), of the most popular items."""
        best = TopK(k)
        for first, keys in scan(StaticScorer(self.popularity, len(batch)), len(self.item_ids), batch.seen, self.available, item_chunk):
            best.update(first, keys)
        return best.result()

    def _by_index(self, vectors: Tensor, seen: Ragged, k: int) -> tuple[Tensor, Tensor]:
        assert self.item_at is not None  # of an index
        # Seen items are dropped afterwards, so ask for as many more.
        wanted = min(k + int(seen.lengths.max()), len(self.item_at))
        found, places = self.index.search(np.ascontiguousarray(vectors.numpy()), wanted)
        items = np.where(places >= 0, self.item_at[places.clip(min=0)], -1)
        size = len(self.item_ids)
        row = np.arange(len(items))[:, None]
        known = np.isin(row * size + items, seen.rows.numpy() * size + seen.values.numpy())
        kept = (items >= 0) & ~known & self.available.numpy()[items.clip(min=0)]
        # The first k that are kept, moved to the front.
        rank = kept.cumsum(axis=1) - 1
        rows, columns = np.nonzero(kept & (rank < k))
        scores, ids = np.full((len(items), k), -np.inf, dtype=np.float32), np.full((len(items), k), -1, dtype=np.int64)
        scores[rows, rank[rows, columns]], ids[rows, rank[rows, columns]] = found[rows, columns], items[rows, columns]
        return torch.from_numpy(scores), torch.from_numpy(ids)


def _mapped(items: Ragged, model_item: Tensor) -> Ragged:
    mapped = Ragged(items.offsets, model_item[items.values])
    return mapped.keep(mapped.values >= 0)


def _item_ids(prepare: Bundle) -> pa.Array:
    size = int(prepare.facts["num_items"])
    ids = np.empty(size, dtype=object)
    for batch in prepare.table("items").batches([ITEM_IDX, ITEM_ID]):
        ids[batch.column(0).to_numpy(zero_copy_only=False)] = batch.column(1).to_numpy(zero_copy_only=False)
    return pa.array(ids, pa.string())
