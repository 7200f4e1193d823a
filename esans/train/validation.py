"""Metrics over the whole catalogue between epochs; they do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from esans.bundle import Bundle
from esans.columns import AVAILABLE, ITEM_IDX, PADDING, VALIDATION
from esans.model.towers import TwoTower
from esans.retrieval.metrics import MetricSums, ranking_metrics, reduce_sums
from esans.retrieval.topk import rank_targets
from esans.retrieval.users import UserBatch, sampled_users

_USERS, _ITEMS = 1024, 65_536


@dataclass
class ValidationUsers:
    """The validation users of one rank."""

    batches: list[UserBatch]
    available: torch.Tensor
    """(N,) bool, items that may be recommended."""

    @classmethod
    def load(cls, prepared: Bundle, most: int, rank: int, world_size: int) -> ValidationUsers:
        """This rank's part of about `most` users of the validation split."""
        facts, histories = prepared.facts, prepared.table("histories")
        batches = sampled_users(histories, VALIDATION, int(facts["num_validation_users"]), most, _USERS, rank, world_size)
        available = prepared.table("items").dense(ITEM_IDX, AVAILABLE, int(facts["num_items"]), dtype=bool)
        return cls(batches, torch.from_numpy(available))


@torch.inference_mode()
def validate(
    model: TwoTower, users: ValidationUsers, device: torch.device, at: Callable[[str, bool], None] = lambda place, waits: None
) -> dict[str, float]:
    """Means of all metrics over the validation users of all ranks.

    Args:
        model: the towers.
        users: of this rank.
        device: where they are ranked.
        at: told what comes now, and whether it waits for other ranks; a validation takes longer than any step.
    """
    was_training = model.training
    model.eval()
    places = torch.arange(model.num_items, device=device)
    chunks = []
    for chunk in places.split(_ITEMS):
        at("validation: encoding of the items", False)
        chunks.append(model.encode_items(chunk))
    items = torch.cat(chunks)
    available = users.available.to(device)
    sums = MetricSums.zero()
    for _ in range(_missing(users, model, device)):
        # Rows of sharded tables travel only where all ranks ask for some.
        model.encode_users(torch.full((1, model.history_length), PADDING, device=device), torch.zeros(1, dtype=torch.int64, device=device))
    for batch in users.batches:
        at("validation: ranking", False)
        history = batch.history.padded(PADDING, left=True, width=model.history_length).to(device)
        vectors = model.encode_users(history, batch.users.to(device))
        sums.add(ranking_metrics(rank_targets(vectors, items, batch.targets.to(device), batch.seen.to(device), available)))
    model.train(was_training)
    at("validation: all_reduce of the metrics", True)
    return reduce_sums({"validation": sums}, device)["validation"].means()


def _missing(users: ValidationUsers, model: TwoTower, device: torch.device) -> int:
    """Batches that this rank has less than another one, where they have to look up in step."""
    if not model.item_inputs.sharded:
        return 0
    most = torch.tensor(len(users.batches), device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most.item()) - len(users.batches)
