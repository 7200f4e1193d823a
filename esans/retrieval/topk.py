"""Exact top-k and exact ranks over the whole catalogue: users in batches, items in chunks, a running merge.

Memory beyond the inputs is about 48 bytes for each score in flight, that is `user_chunk * item_chunk * 48` bytes, whatever the
size of the catalogue: 100 MB with the defaults. Results do not depend on either chunk size (see `esans.retrieval.keys`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from esans.retrieval.keys import MASKED, keys_of, score_of, tie_order
from esans.retrieval.ragged import Ragged
from esans.retrieval.scorers import DotScorer, Scorer

USER_CHUNK = 512
ITEM_CHUNK = 4096


def scan(
    scorer: Scorer, num_items: int, seen: Ragged | None = None, available: Tensor | None = None, item_chunk: int = ITEM_CHUNK
) -> Iterator[tuple[int, Tensor]]:
    """The catalogue in chunks, as (first item, keys (B, C) int64), with seen and unavailable items MASKED."""
    seen_rows = seen.rows if seen is not None else None
    for start in range(0, num_items, item_chunk):
        stop = min(start + item_chunk, num_items)
        scores_BC = scorer.chunk(start, stop)
        items_C = torch.arange(start, stop, device=scores_BC.device)
        keys_BC = keys_of(scores_BC, tie_order(items_C))
        if available is not None:
            keys_BC.masked_fill_(~available[start:stop].to(keys_BC.device), MASKED)
        if seen is not None and seen_rows is not None:
            inside = (seen.values >= start) & (seen.values < stop)
            keys_BC[seen_rows[inside], seen.values[inside] - start] = MASKED
        yield start, keys_BC


class TopK:
    """The k best items seen so far in a scan."""

    def __init__(self, k: int) -> None:
        self.k = k
        self._keys: Tensor | None = None
        self._ids: Tensor | None = None

    def update(self, start: int, keys_BC: Tensor) -> None:
        """Take in one chunk of a scan."""
        best_keys, place = keys_BC.topk(min(self.k, keys_BC.shape[1]), dim=1, sorted=False)
        best_ids = place + start
        if self._keys is not None and self._ids is not None:
            best_keys, best_ids = torch.cat([self._keys, best_keys], 1), torch.cat([self._ids, best_ids], 1)
        best_keys, place = best_keys.topk(min(self.k, best_keys.shape[1]), dim=1)
        self._keys, self._ids = best_keys, best_ids.gather(1, place)

    def result(self) -> tuple[Tensor, Tensor]:
        """(scores (B, k) float32, ids (B, k) int64), best first; -inf and -1 where fewer than k items may be ranked."""
        if self._keys is None or self._ids is None:
            raise ValueError("top-k of an empty catalogue")
        return score_of(self._keys), self._ids.masked_fill(self._keys == MASKED, -1)


class RankCounter:
    """Ranks of known items, by counting the keys above theirs.

    Args:
        target_keys: (total,) keys of the targets, masked or not.
        targets: their item indices, in the rows they belong to.
    """

    def __init__(self, target_keys: Tensor, targets: Ragged) -> None:
        rows, lengths = targets.rows, targets.lengths
        width = int(lengths.max()) if len(targets) else 0
        self._place = torch.arange(len(target_keys), device=rows.device) - targets.offsets[rows]
        self._rows, self._targets = rows, targets
        self._ranked = torch.zeros(len(target_keys), dtype=torch.bool, device=rows.device)
        keys_BT = torch.full((len(targets), width), torch.iinfo(torch.int64).max, device=rows.device)
        keys_BT[rows, self._place] = target_keys
        self._sorted_BT, order = keys_BT.sort(dim=1)
        self._slot_BT = order.argsort(dim=1)
        self._beaten_BT = torch.zeros((len(targets), width), dtype=torch.int64, device=rows.device)

    def update(self, start: int, keys_BC: Tensor) -> None:
        """Take in one chunk of a scan."""
        if self._beaten_BT.shape[1] == 0:
            return
        # An item falls between two sorted targets and beats those below it: one search an item, however many targets.
        slot_BC = torch.searchsorted(self._sorted_BT, keys_BC.contiguous())
        counts = torch.zeros((len(keys_BC), self._sorted_BT.shape[1] + 1), dtype=torch.int64, device=keys_BC.device)
        counts.scatter_add_(1, slot_BC, torch.ones_like(slot_BC))
        self._beaten_BT += keys_BC.shape[1] - counts.cumsum(1)[:, :-1]
        items = self._targets.values
        inside = (items >= start) & (items < start + keys_BC.shape[1])
        self._ranked[inside] = keys_BC[self._rows[inside], items[inside] - start] != MASKED

    def result(self) -> Ragged:
        """Rank of every target, 1 for the best item; 0 for a target that is masked."""
        above = self._beaten_BT.gather(1, self._slot_BT)[self._rows, self._place]
        return Ragged(self._targets.offsets, torch.where(self._ranked, above + 1, 0))


def rank_and_retrieve(
    scorer: Scorer,
    num_items: int,
    targets: Ragged,
    seen: Ragged | None = None,
    available: Tensor | None = None,
    k: int = 0,
    item_chunk: int = ITEM_CHUNK,
) -> tuple[Ragged, Tensor]:
    """Ranks of the targets and the k best items of one batch of users, in one pass over the catalogue.

    Args:
        scorer: scores of the B users.
        num_items: size of the catalogue.
        targets: B rows of distinct items, as in `rank_targets`.
        seen: B rows of items left out, or None.
        available: (num_items,) bool, or None.
        k: how many items to return; 0 for none.
        item_chunk: items scored at a time; changes memory, never results.

    Returns:
        ranks on the CPU, as `rank_targets` gives them, and ids (B, min(k, num_items)), -1 where too few items are left.
    """
    counter = RankCounter(keys_of(scorer.pairs(targets.rows, targets.values), tie_order(targets.values)), targets)
    best = TopK(k)
    for first, keys in scan(scorer, num_items, seen, available, item_chunk):
        counter.update(first, keys)
        if k:
            best.update(first, keys)
    ids = best.result()[1] if k else targets.values.new_zeros((len(targets), 0))
    return counter.result().to("cpu"), ids


def exact_topk(
    user_vectors: Tensor,
    item_vectors: Tensor,
    k: int,
    seen: Ragged | None = None,
    available: Tensor | None = None,
    item_chunk: int = ITEM_CHUNK,
    user_chunk: int = USER_CHUNK,
) -> tuple[Tensor, Tensor]:
    """The k items with the largest inner product for every user, exact over the whole catalogue.

    Args:
        user_vectors: (B, d), norm at most 2.
        item_vectors: (N, d), norm at most 2, on the same device.
        k: how many items to return.
        seen: items left out for each user (B rows), or None.
        available: (N,) bool, items that may be returned at all, or None for all.
        item_chunk: items scored at a time; changes memory, never results.
        user_chunk: users scored at a time; likewise.

    Returns:
        scores (B, min(k, N)) float32 and ids (B, min(k, N)) int64, best first; -inf and -1 where too few items are left.

    Raises:
        ValueError: a vector is not finite or longer than 2.
    """
    scores, ids = [], []
    for start in range(0, len(user_vectors), user_chunk):
        users = user_vectors[start : start + user_chunk]
        masked = seen.slice(start, start + len(users)).to(users.device) if seen is not None else None
        best = TopK(k)
        for first, keys in scan(DotScorer(users, item_vectors), len(item_vectors), masked, available, item_chunk):
            best.update(first, keys)
        part_scores, part_ids = best.result()
        scores.append(part_scores)
        ids.append(part_ids)
    if not scores:
        width = min(k, len(item_vectors))
        return user_vectors.new_zeros((0, width), dtype=torch.float32), user_vectors.new_zeros((0, width), dtype=torch.int64)
    return torch.cat(scores), torch.cat(ids)


def rank_targets(
    user_vectors: Tensor,
    item_vectors: Tensor,
    targets: Ragged,
    seen: Ragged | None = None,
    available: Tensor | None = None,
    item_chunk: int = ITEM_CHUNK,
    user_chunk: int = USER_CHUNK,
) -> Ragged:
    """Exact rank of every target among the items that are neither seen nor unavailable.

    The rank is 1 + the number of such items that stand above the target. A user's other targets stay in the list as
    competitors: with m targets found first, their ranks are 1 .. m. Ties are ordered as in `exact_topk`.

    Args:
        user_vectors: (B, d), norm at most 2.
        item_vectors: (N, d), norm at most 2, on the same device.
        targets: B rows of distinct item indices.
        seen: B rows of items left out, or None.
        available: (N,) bool, or None.
        item_chunk: items scored at a time; changes memory, never results.
        user_chunk: users scored at a time; likewise.

    Returns:
        Integer ranks in the shape of `targets`, on the CPU; 0 where a target is itself seen or unavailable and so cannot be found.

    Raises:
        ValueError: a vector is not finite or longer than 2.
    """
    ranks = []
    for start in range(0, len(user_vectors), user_chunk):
        users = user_vectors[start : start + user_chunk]
        wanted = targets.slice(start, start + len(users)).to(users.device)
        masked = seen.slice(start, start + len(users)).to(users.device) if seen is not None else None
        scorer = DotScorer(users, item_vectors)
        part, _ = rank_and_retrieve(scorer, len(item_vectors), wanted, masked, available, item_chunk=item_chunk)
        ranks.append(part.values)
    return Ragged(targets.offsets.cpu(), torch.cat(ranks) if ranks else targets.values.new_zeros(0).cpu())
