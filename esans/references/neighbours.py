"""Similar items: similarities over co-occurrence, and the most similar ones of every item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from esans.references.cooccurrence import blocks, weighted_bm25
from esans.retrieval.keys import MASKED, keys_of, score_of, tie_order

if TYPE_CHECKING:
    from esans.references.config import Side, Similarity


@dataclass(frozen=True)
class Neighbours:
    """The K most similar items of every item, best first.

    ids: (N, K) int32, -1 where an item has fewer; values: (N, K) float32; every: all similarities as CSR, where they fit.
    """

    ids: np.ndarray
    values: np.ndarray
    every: sp.csr_matrix | None

    def matrix(self, k: int | None, side: Side) -> sp.csr_matrix:
        """(history item, candidate) similarities with neighbour lists cut at `k`; None keeps all (they must have fitted)."""
        if k is None:
            if self.every is None:
                raise ValueError("all neighbours were not kept")
            return self.every  # every similarity here is symmetric
        ids = self.ids[:, :k]
        held = ids >= 0
        indptr = np.concatenate([[0], held.sum(1).cumsum()])
        lists = sp.csr_matrix((self.values[:, :k][held], ids[held], indptr), shape=(len(ids), len(ids)))
        return lists if side == "history" else lists.T.tocsr()


def find_neighbours(users_items: sp.csr_matrix, similarity: Similarity, k: int, shrinkage: float, max_entries: int) -> Neighbours:
    """The k most similar items of every item, block by block.

    Args:
        users_items: (users, N) binary CSR.
        similarity: which one, see `_similarity`.
        k: neighbours to keep.
        shrinkage: for `shrunk_cosine`.
        max_entries: keep the whole similarity matrix up to so many entries; 0 never does.
    """
    weighted = weighted_bm25(users_items) if similarity.startswith("bm25") else users_items
    norm2 = np.asarray(weighted.multiply(weighted).sum(axis=0)).ravel()
    num_items = users_items.shape[1]
    width = min(k, max(num_items - 1, 1))
    ids, values = np.full((num_items, width), -1, np.int32), np.zeros((num_items, width), np.float32)
    whole: list[sp.csr_matrix] | None = [] if max_entries else None
    entries = 0
    for start, block in blocks(weighted):
        block.data = _similarity(block, start, norm2, similarity, shrinkage)
        best_ids, best_values = _row_topk(block, width)
        ids[start : start + len(best_ids), : best_ids.shape[1]] = best_ids
        values[start : start + len(best_ids), : best_ids.shape[1]] = best_values
        entries += block.nnz
        if whole is not None:
            whole = [*whole, block] if entries <= max_entries else None
    return Neighbours(ids, values, sp.vstack(whole, format="csr") if whole else None)


def _similarity(block: sp.csr_matrix, start: int, norm2: np.ndarray, similarity: Similarity, shrinkage: float) -> np.ndarray:
    """Co-occurrence c_ij of a block turned into similarity; norm2_i = c_ii, for binary data the users of item i.

    cosine c / sqrt(n_i n_j); shrunk_cosine c / (sqrt(n_i n_j) + shrinkage); jaccard c / (n_i + n_j - c);
    bm25 the inner product of BM25-weighted columns; bm25_cosine their cosine.
    """
    left = np.repeat(norm2[start : start + block.shape[0]], np.diff(block.indptr))
    right = norm2[block.indices]
    counts = block.data
    if similarity == "bm25":
        result = counts
    elif similarity == "jaccard":
        result = counts / (left + right - counts)
    else:
        result = counts / (np.sqrt(left * right) + (shrinkage if similarity == "shrunk_cosine" else 0.0))
    return np.asarray(result, dtype=np.float32)


def _row_topk(block: sp.csr_matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.diff(block.indptr)
    width = int(lengths.max(initial=0))
    if width == 0:
        return np.full((block.shape[0], 0), -1, np.int32), np.zeros((block.shape[0], 0), np.float32)
    columns = torch.from_numpy(block.indices.astype(np.int64))
    rows = torch.repeat_interleave(torch.arange(block.shape[0]), torch.from_numpy(lengths.astype(np.int64)))
    place = torch.arange(block.nnz) - torch.from_numpy(block.indptr.astype(np.int64))[rows]
    keys = torch.full((block.shape[0], width), MASKED)
    keys[rows, place] = keys_of(torch.from_numpy(block.data), tie_order(torch.arange(block.shape[1]))[columns])
    best, found = keys.topk(min(k, width), dim=1)
    flat = torch.from_numpy(block.indptr[:-1].astype(np.int64))[:, None] + found
    ids = torch.where(best == MASKED, -1, columns[flat.clamp_max(block.nnz - 1)])
    scores = torch.where(best == MASKED, 0.0, score_of(best))
    return ids.to(torch.int32).numpy(), scores.numpy()
