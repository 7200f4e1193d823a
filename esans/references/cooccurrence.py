"""Train interactions as a sparse matrix of bounded size, and item co-occurrence in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from esans.columns import ITEM_IDX, SPLIT, TRAIN, USER_IDX
from esans.errors import DataError
from esans.progress import say

if TYPE_CHECKING:
    from esans.bundle import Bundle
    from esans.references.names import Reference

# Dense entries of one block of item rows: the padded keys of a block take 8 bytes each.
_BLOCK_ENTRIES = 16_000_000


@dataclass(frozen=True)
class TrainMatrix:
    """Distinct (user, item) pairs of the train split: (users, items) CSR float32 of ones, and how much of the data it holds."""

    users_items: sp.csr_matrix
    share_of_users: float
    users_left_out: int


def train_matrix(prepare: Bundle, reference: Reference, max_interactions: int, max_user_items: int | None = None) -> TrainMatrix:
    """Read the train split in batches, keeping at most `max_interactions` pairs by leaving out whole users.

    Users with more than `max_user_items` distinct items are left out too. Memory: 12 bytes a pair kept, and 4 bytes a user.

    Raises:
        DataError: no train interaction is left.
    """
    import pyarrow.dataset as pads

    num_users, num_items, total = (int(prepare.facts[name]) for name in ("num_users", "num_items", "num_train"))
    share = min(1.0, 0.9 * max_interactions / total) if total > max_interactions else 1.0
    kept = _user_sample(num_users, share)
    users, items = [], []
    dataset = prepare.table("interactions").dataset()
    for batch in dataset.to_batches(columns=[USER_IDX, ITEM_IDX], filter=pads.field(SPLIT) == TRAIN):
        user = batch.column(0).to_numpy(zero_copy_only=False)
        mine = kept[user]
        users.append(user[mine].astype(np.int32))
        items.append(batch.column(1).to_numpy(zero_copy_only=False)[mine].astype(np.int32))
    rows = np.concatenate(users) if users else np.zeros(0, np.int32)
    if not len(rows):
        raise DataError(f"interactions: the train split is empty, so {reference.title} has nothing to count. Set {reference.switch}=false.")
    columns = np.concatenate(items)
    matrix = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(num_users, num_items))
    matrix.data[:] = 1.0  # a repeated purchase counts once
    left_out = _drop_heavy(matrix, max_user_items) if max_user_items is not None else 0
    if share < 1 or left_out:
        key = f"{reference.section}.max_interactions"
        say(f"  {reference.title} counts on {share:.1%} of the users ({key}); {left_out} heavy users left out")
    return TrainMatrix(matrix, share, left_out)


def _user_sample(num_users: int, share: float) -> np.ndarray:
    import torch

    from esans.retrieval.keys import tie_order

    return (tie_order(torch.arange(num_users)) < int(share * 2**32)).numpy()


def _drop_heavy(matrix: sp.csr_matrix, limit: int) -> int:
    lengths = np.diff(matrix.indptr)
    heavy = lengths > limit
    if heavy.any():
        matrix.data[np.repeat(heavy, lengths)] = 0
        matrix.eliminate_zeros()
    return int(heavy.sum())


@dataclass(frozen=True)
class Bm25:
    """Okapi BM25 with the statistics of one binary matrix: users are documents, items their terms; long lists count less.

    idf: (items,) float; mean_length: distinct items of a user who has any.
    """

    idf: np.ndarray
    mean_length: float

    @classmethod
    def of(cls, matrix: sp.csr_matrix) -> Bm25:
        """Statistics of a (users, items) matrix."""
        lengths = np.diff(matrix.indptr)
        present = max(int((lengths > 0).sum()), 1)
        frequency = np.asarray(matrix.sum(axis=0)).ravel()
        return cls(np.log1p((present - frequency + 0.5) / (frequency + 0.5)), max(float(lengths.sum()) / present, 1e-9))

    def weigh(self, matrix: sp.csr_matrix, k1: float = 1.2, b: float = 0.75) -> sp.csr_matrix:
        """The entries of any binary (users, items) matrix replaced by their float32 weights."""
        lengths = np.diff(matrix.indptr)
        norm = 1 - b + b * lengths / self.mean_length
        data = np.repeat((k1 + 1) / (k1 * norm + 1), lengths) * self.idf[matrix.indices]
        return sp.csr_matrix((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def weighted_bm25(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """BM25 weights of a binary matrix by its own statistics."""
    return Bm25.of(matrix).weigh(matrix)


def blocks(matrix: sp.csr_matrix) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Rows of `matrix^T matrix` without its diagonal, as (first item, (rows, items) CSR); bounded by dense entries."""
    num_items = matrix.shape[1]
    by_item = matrix.T.tocsr()
    rows = max(1, _BLOCK_ENTRIES // num_items)
    for start in range(0, num_items, rows):
        block = (by_item[start : start + rows] @ matrix).tocsr()
        own = np.arange(start, start + block.shape[0])
        diagonal = np.repeat(own, np.diff(block.indptr)) == block.indices
        block.data[diagonal] = 0
        block.eliminate_zeros()
        yield start, block
