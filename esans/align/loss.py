"""Symmetric InfoNCE over pairs of modalities, and retrieval across them (METHOD 1)."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

_CHUNK = 1_024


def info_nce(aligned_NMD: Tensor, present_NM: Tensor, temperature: float, own_N: Tensor | None = None) -> Tensor | None:
    """Sum over modality pairs of the symmetric InfoNCE loss; a missing modality takes part in no pair.

    Where the batch is spread over ranks, each computes the rows of its own items against all keys: the shares add up to the whole.

    Args:
        aligned_NMD: unit vectors of the whole batch.
        present_NM: bool.
        temperature: divides the cosines.
        own_N: bool, the items whose share of the loss is wanted; None is all of them.

    Returns:
        A scalar, or None where no pair of modalities has two items in the whole batch.
    """
    losses = []
    for a, b in combinations(range(present_NM.shape[1]), 2):
        both_N = present_NM[:, a] & present_NM[:, b]
        if (count := int(both_N.sum())) < 2:
            continue
        left_ND, right_ND = aligned_NMD[both_N, a], aligned_NMD[both_N, b]
        same_Q = torch.arange(count, device=left_ND.device)
        if own_N is None:
            there = left_ND @ right_ND.T / temperature
            back = there.T
        else:
            same_Q = same_Q[own_N[both_N]]
            there, back = left_ND[same_Q] @ right_ND.T / temperature, right_ND[same_Q] @ left_ND.T / temperature
        losses += [cross_entropy(logits_QN, same_Q, reduction="sum") / (2 * count) for logits_QN in (there, back)]
    return torch.stack(losses).sum() if losses else None


def recall(query_ND: Tensor, key_ND: Tensor, k: int) -> float:
    """Share of queries whose own key is among the k nearest of all keys; ties count against it, so a constant modality scores 0."""
    hits = 0
    for start in range(0, len(query_ND), _CHUNK):
        scores_QN = query_ND[start : start + _CHUNK] @ key_ND.T
        own_Q1 = scores_QN.gather(1, torch.arange(start, start + len(scores_QN), device=scores_QN.device).unsqueeze(1))
        hits += int(((scores_QN >= own_Q1).sum(1) <= k).sum())
    return hits / max(len(query_ND), 1)


def cross_recall(aligned_NMD: Tensor, present_NM: Tensor, names: list[str], k: int = 10, fewest: int = 20) -> dict[str, float]:
    """Recall@k from each modality to each other one, over the items that have both; pairs with fewer than `fewest` items are left out."""
    found = {}
    for a, b in combinations(range(len(names)), 2):
        both_N = present_NM[:, a] & present_NM[:, b]
        if int(both_N.sum()) < fewest:
            continue
        left_ND, right_ND = aligned_NMD[both_N, a], aligned_NMD[both_N, b]
        found[f"recall@{k}.{names[a]}_to_{names[b]}"] = recall(left_ND, right_ND, k)
        found[f"recall@{k}.{names[b]}_to_{names[a]}"] = recall(right_ND, left_ND, k)
    return found
