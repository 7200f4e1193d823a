"""Where trained codebooks start: k-means on a bounded sample of the vectors as they are aligned by now (METHOD 2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from esans.align.config import VQConfig
from esans.align.model import fill_missing
from esans.align.ranks import Ranks
from esans.align.reader import Reader, Rows, held_out
from esans.align.vq import Quantiser
from esans.codebooks.codebook import nearest, residuals
from esans.codebooks.kmeans import kmeans
from esans.codebooks.sizes import Sizes, decide

# As cluster.repair.largest; no size that is used here depends on it.
_LARGEST = 5.0
_CHUNK = 8_192
Align = Callable[[Rows], tuple[Tensor, Tensor]]


def sizes(config: VQConfig, items: int) -> Sizes:
    """K1 and K2 for so many items that have a vector. Raises DataError when they are too few."""
    return decide(items, config.min_cluster_size, config.m_c + 1, _LARGEST, config.num_primary, config.num_secondary, "align.vq")


def place_codebooks(config: VQConfig, reader: Reader, align: Align, items: int, ranks: Ranks, seed: int) -> Quantiser:
    """Sample items by a hash of their index, fit P on means and Q on residuals on rank 0, and share both.

    Args:
        config: sizes and k-means.
        reader: this rank's rows.
        align: rows -> (n, M, d_a) aligned vectors and (n, M) present.
        items: items with a vector, over all ranks.
        ranks: the others.
        seed: of the sample and of k-means.
    """
    drawn = ranks.collect(_sample(reader, align, config.kmeans.max_training_vectors / max(items, 1), seed + 1))
    books: tuple[np.ndarray, np.ndarray] | None = None
    if ranks.rank == 0:
        item, filled, mean = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        # The same sample in the same order however the items are spread over ranks.
        order = np.argsort(item)[: config.kmeans.max_training_vectors]
        books = _fit(filled[order], mean[order], sizes(config, items), config, seed)
    books = ranks.share(books)
    assert books is not None
    return Quantiser(*(torch.from_numpy(book) for book in books)).to(ranks.device)


def _fit(filled: np.ndarray, mean: np.ndarray, wanted: Sizes, config: VQConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    primary = kmeans(mean, wanted.primary, config.kmeans, seed, spherical=config.kmeans.spherical)
    rest = residuals(filled, nearest(mean, primary), primary)
    return primary, kmeans(rest, wanted.secondary, config.kmeans, seed)


@torch.no_grad()
def _sample(reader: Reader, align: Align, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) item_idx, (n, M, d_a) filled vectors and (n, d_a) means of this rank's part of the sample."""
    found = []
    for window in reader.windows():
        rows = window.rows
        some = np.flatnonzero(rows.present.any(1) & held_out(rows.item, share, seed))
        for start in range(0, len(some) or 1, _CHUNK):
            part = rows.take(some[start : start + _CHUNK])
            filled_NMD, mean_ND = fill_missing(*align(part))
            found.append((part.item, filled_NMD.cpu().numpy(), mean_ND.cpu().numpy()))
    item, filled, mean = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return item, filled, mean
