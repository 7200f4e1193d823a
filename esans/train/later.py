"""What users choose after the training period, for the diagnosis of negatives."""

from __future__ import annotations

import torch

from esans.bundle import Bundle
from esans.columns import PADDING, VALIDATION
from esans.negatives.diagnosis import Later
from esans.retrieval.users import sampled_users

# Together at most 256 MB.
_MOST_USERS = 1_000_000
_MOST_ITEMS = 64
_USERS = 8192


def load_later(prepared: Bundle) -> Later | None:
    """Validation targets of at most 1,000,000 users, the last 64 of each; None where the split has no users."""
    total = int(prepared.facts["num_validation_users"])
    users, items, left_out = [], [], 0
    for batch in sampled_users(prepared.table("histories"), VALIDATION, total, _MOST_USERS, _USERS):
        padded_UT = batch.targets.padded(PADDING, left=False, width=_MOST_ITEMS)
        left_out += len(batch.targets.values) - int((padded_UT != PADDING).sum())
        users.append(batch.users)
        items.append(padded_UT.to(torch.int32))
    if not users:
        return None
    users_V, order_V = torch.cat(users).long().sort()
    items_VT = torch.cat(items)[order_V]
    width = int((items_VT != PADDING).any(0).sum())
    return Later(users_V, items_VT[:, : max(width, 1)].contiguous(), left_out)
