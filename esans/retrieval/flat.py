"""Exact top-k by faiss's flat search, on a GPU where faiss sees one: the items and order of `exact_topk`, proven query by query.

faiss adds in float32, so near the k-th place its order may be another. It is asked for more than k items, their scores are taken again
exactly, and a query counts as answered only where no item outside them can reach its k-th score, by the bound on float32 sums. The
few that remain (equal scores at the end of the list) go through `exact_topk`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from esans.retrieval.keys import keys_of, on_grid, score_of, tie_order
from esans.retrieval.topk import exact_topk

# Largest k of faiss's GPU search.
_MOST = 2048
# Queries at a time: their candidates take 8 bytes a dimension.
_QUERIES = 256


class FlatSearch:
    """Flat search over (n, d) item vectors of norm at most 2. Memory: a float32 copy of them, on the GPU where there is one.

    Args:
        item_vectors: on any device.
        gpu: use a GPU where faiss sees one.
    """

    def __init__(self, item_vectors: Tensor, *, gpu: bool = True) -> None:
        import faiss

        self._items_ND = item_vectors
        index: Any = faiss.IndexFlatIP(item_vectors.shape[1])
        if gpu and faiss.get_num_gpus():
            self._resources = faiss.StandardGpuResources()  # must live as long as the index
            index = faiss.index_cpu_to_gpu(self._resources, 0, index)
        index.add(np.ascontiguousarray(item_vectors.float().cpu().numpy()))
        self._index = index
        self.repeated = 0
        """Queries so far that were answered by `exact_topk`."""

    def topk(self, user_vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """What `exact_topk` gives for (B, d) users of norm at most 2: scores (B, min(k, n)) float32 and ids int64, best first."""
        parts = [self._part(users, min(k, len(self._items_ND))) for users in user_vectors.split(_QUERIES)] if k <= _MOST else []
        if not len(user_vectors) or not parts:
            return exact_topk(user_vectors, self._items_ND, k)
        scores, ids = zip(*parts, strict=True)
        return torch.cat(scores), torch.cat(ids)

    def _part(self, users_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        size, dim = self._items_ND.shape
        asked = min(2 * k + 32, size, _MOST)
        found, places = self._index.search(np.ascontiguousarray(users_BD.float().cpu().numpy()), asked)
        ids_BK = torch.from_numpy(places).to(users_BD.device)
        exact_BK = (on_grid(users_BD)[:, None, :] * on_grid(self._items_ND[ids_BK.flatten()]).view(*ids_BK.shape, dim)).sum(2)
        keys_BK, order = keys_of(exact_BK, tie_order(ids_BK)).topk(k, dim=1)
        scores, ids = score_of(keys_BK), ids_BK.gather(1, order)
        # Norms are at most 2, hence 4: a float32 sum of `dim` products, the grid, and the rounding of a score to float32.
        slack = 4.0 * (dim + 2) * 2.0**-24 + 4.0 * dim**0.5 * 2.0**-25 + 4.0 * 2.0**-24
        outside = torch.from_numpy(found[:, -1].astype(np.float64)).to(users_BD.device) + slack
        open_B = (scores[:, -1].double() <= outside) & (asked < size)
        if bool(open_B.any()):
            self.repeated += int(open_B.sum())
            scores[open_B], ids[open_B] = exact_topk(users_BD[open_B], self._items_ND, k)
        return scores, ids
