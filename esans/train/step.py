"""Towers, temperature and negatives as one module, so that DistributedDataParallel sees one forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from esans.model.towers import TwoTower
from esans.negatives.base import Batch
from esans.negatives.groups import NegativeGroups, StepResult


class TrainStep(nn.Module):
    """Loss of a batch."""

    def __init__(self, model: TwoTower, negatives: NegativeGroups) -> None:
        super().__init__()
        self.model, self.negatives = model, negatives

    def forward(self, batch: Batch, generator: Generator, epoch: float, diagnose: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Unweighted loss of each example, (B,), and the step's figures when asked for.

        A plain tuple: DistributedDataParallel with a static graph finds no tensors in a dataclass, and would then
        leave the first step's gradients unreduced.
        """
        user_BD = self.model.encode_users(batch.history, batch.user_idx)
        result: StepResult = self.negatives(batch, user_BD, self.encode, generator, epoch, diagnose)
        return result.loss_B, result.figures

    def encode(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """Item vectors of groups of ids, each distinct item encoded once where that is the faster way.

        With more ids than items, the whole catalogue is encoded once and gathered from: its shape is fixed, so a GPU
        needs no look at the ids. Below that, a CPU takes the distinct ids; a GPU would have to wait for their number.
        """
        total = sum(ids.numel() for ids in groups)
        if total >= self.model.num_items:
            table = self.model.encode_items(torch.arange(self.model.num_items, device=groups[0].device))
            return [F.embedding(ids, table) for ids in groups]
        flat = torch.cat([ids.flatten() for ids in groups])
        place = torch.arange(total, device=flat.device)
        if flat.device.type == "cpu":
            flat, place = flat.unique(return_inverse=True)
        table = self.model.encode_items(flat)
        parts = place.split([ids.numel() for ids in groups])
        return [F.embedding(part.view(ids.shape), table) for part, ids in zip(parts, groups, strict=True)]
