"""Retrieval for raw item ids, from one folder (esans/retrieval/folder.py)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esans.columns import COUNT, ITEM_ID, PADDING
from esans.retrieval.folder import INDEX, ITEMS, MODEL, PLACE, ServedItems, read_index

if TYPE_CHECKING:
    from esans.retrieval.encode import Towers


@dataclass(frozen=True)
class Retrieved:
    """What one user gets: item ids with scores, best first, how many history ids were unknown, and whether it is the fallback."""

    item_ids: list[str]
    scores: list[float]
    unknown_ids: int
    fallback: bool


def write_folder(folder: Path, model: Path, index: Any, item_ids: Any, counts: np.ndarray, available: np.ndarray) -> None:
    """Write what `Retriever` reads.

    Args:
        folder: where; it must not exist.
        model: folder of the trained model, copied.
        index: faiss index over the available items in index order.
        item_ids: pyarrow string array of N ids.
        counts: (N,) train positives, for the fallback.
        available: (N,) bool.
    """
    import faiss
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    shutil.copytree(model, folder / MODEL)
    faiss.write_index(index, str(folder / INDEX))
    place = np.where(available, available.cumsum() - 1, -1)
    pq.write_table(pa.table({ITEM_ID: item_ids, COUNT: counts.astype(np.int64), PLACE: place.astype(np.int64)}), folder / ITEMS)


class Retriever:
    """Loads a folder that `write_folder` wrote and answers for histories of raw item ids. Memory: the catalogue."""

    def __init__(self, folder: Path) -> None:
        from esans.model import load

        self._model: Towers = load(folder / MODEL)
        self._index = read_index(folder)
        items = ServedItems.read(folder)
        self._ids: list[str] = items.ids.to_pylist()
        self._known = {item_id: place for place, item_id in enumerate(self._ids)}
        self._item_at = items.item_at
        self._popular = items.most_popular()
        self._share = items.popularity

    def retrieve(self, histories: Sequence[Sequence[str]], ks: Sequence[int]) -> list[Retrieved]:
        """The best items for each history (oldest first), without the items in it.

        Ids that the catalogue does not hold are left out and counted. A history without any known id gets the most
        popular items, with their train count relative to the most popular as score. Fewer than k items come back where
        the catalogue holds no more.
        """
        known = [[self._known[str(item)] for item in history if str(item) in self._known] for history in histories]
        warm = [row for row, items in enumerate(known) if items]
        results: list[Retrieved | None] = [None] * len(histories)
        if warm:
            found, scores = self._search([known[row] for row in warm], [ks[row] for row in warm])
            for row, items, values in zip(warm, found, scores, strict=True):
                results[row] = Retrieved([self._ids[item] for item in items], values, len(histories[row]) - len(known[row]), fallback=False)
        return [result or self._fallback(len(history), k) for result, history, k in zip(results, histories, ks, strict=True)]

    def _fallback(self, unknown: int, k: int) -> Retrieved:
        items = self._popular[:k]
        return Retrieved([self._ids[item] for item in items], self._share[items].tolist(), unknown, fallback=True)

    def _search(self, histories: list[list[int]], ks: list[int]) -> tuple[list[list[int]], list[list[float]]]:
        window = self._model.history_length
        padded = torch.full((len(histories), window), PADDING, dtype=torch.int64)
        for row, items in enumerate(histories):
            last = items[-window:]
            padded[row, window - len(last) :] = torch.tensor(last)
        with torch.inference_mode():
            vectors = self._model.encode_users(padded, torch.full((len(histories),), -1))
        # Seen items are dropped afterwards, so ask for as many more.
        seen = [set(items) for items in histories]
        wanted = min(max(k + len(s) for k, s in zip(ks, seen, strict=True)), len(self._item_at))
        scores, places = self._index.search(np.ascontiguousarray(vectors.float().numpy()), wanted)
        kept_items, kept_scores = [], []
        for row, k in enumerate(ks):
            pairs = [(int(self._item_at[p]), float(s)) for p, s in zip(places[row], scores[row], strict=True) if p >= 0]
            unseen = [(item, score) for item, score in pairs if item not in seen[row]][:k]
            kept_items.append([item for item, _ in unseen])
            kept_scores.append([score for _, score in unseen])
        return kept_items, kept_scores
