"""Metrics over the whole catalogue between epochs; the ranks of a user's targets do not depend on the number of processes."""

from __future__ import annotations

import torch

from esans.model.towers import TwoTower
from esans.retrieval.metrics import MetricSums, ranking_metrics, reduce_sums
from esans.retrieval.topk import rank_targets
from esans.train.inputs import ValidationUsers

_USERS, _ITEMS = 1024, 65_536


@torch.inference_mode()
def encode_catalogue(model: TwoTower, device: torch.device) -> torch.Tensor:
    """Vectors of all items, in chunks: (N, D)."""
    places = torch.arange(model.num_items, device=device)
    return torch.cat([model.encode_items(chunk) for chunk in places.split(_ITEMS)])


@torch.inference_mode()
def validate(model: TwoTower, users: ValidationUsers, device: torch.device) -> dict[str, float]:
    """Means of all metrics over the validation users of all ranks."""
    was_training = model.training
    model.eval()
    items = encode_catalogue(model, device)
    sums = MetricSums.zero()
    for start in range(0, len(users.user_idx), _USERS):
        stop = min(start + _USERS, len(users.user_idx))
        vectors = model.encode_users(users.history[start:stop].to(device), users.user_idx[start:stop].to(device))
        targets, seen = users.targets.slice(start, stop).to(device), users.seen.slice(start, stop).to(device)
        ranks = rank_targets(vectors, items, targets, seen, users.available.to(device))
        sums.add(ranking_metrics(ranks))
    model.train(was_training)
    return reduce_sums({"validation": sums}, device)["validation"].means()
