"""Towers, temperature and negatives as one module, so that DistributedDataParallel sees one forward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from esans.model.inputs import ItemInputs
from esans.model.towers import TwoTower
from esans.negatives.base import Batch
from esans.negatives.groups import NegativeGroups, StepResult
from esans.train.arithmetic import autocast, compiled_function

# So many ids an item, and nearly every item is among them: looking for the distinct ones no longer pays
# (`python -m benchmarks.train_step --parts encoding`).
_COVERED = 4


class TrainStep(nn.Module):
    """Loss of a batch."""

    def __init__(
        self, model: TwoTower, negatives: NegativeGroups, dynamic_shapes: bool = True, bf16: bool = False, compiled: bool = False
    ) -> None:
        super().__init__()
        self.model, self.negatives = model, negatives
        # Over the towers only: what leaves them is float32 again, and so is all that follows.
        self.bf16 = bf16
        # Functions, not modules: the names of weights stay as they are, and evaluation is not compiled.
        self.encode_users = compiled_function(model.encode_users) if compiled else model.encode_users
        self.encode_items = compiled_function(model.encode_items) if compiled else model.encode_items
        self.encode_inputs = compiled_function(model.encode_inputs) if compiled else model.encode_inputs
        # On a CPU, shapes may depend on values; False takes the path of a GPU, where the host would wait for such a shape.
        self.dynamic_shapes = dynamic_shapes
        for part in model.modules():
            if isinstance(part, ItemInputs):
                part.dynamic_shapes = dynamic_shapes

    def forward(self, batch: Batch, generator: Generator, epoch: float, diagnose: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Unweighted loss of each example, (B,), and the step's figures when asked for.

        A plain tuple: DistributedDataParallel with a static graph finds no tensors in a dataclass, and would then
        leave the first step's gradients unreduced.
        """
        with autocast(batch.history.device, self.bf16):
            inputs_ND = self.model.shared_inputs(batch.history.numel())
            user_BD = self.encode_users(batch.history, batch.user_idx, inputs_ND)
        encode = partial(self.encode, inputs_ND=inputs_ND)
        result: StepResult = self.negatives(batch, user_BD, encode, generator, epoch, diagnose)
        return result.loss_B, result.figures

    def encode(self, groups: Sequence[Tensor], inputs_ND: Tensor | None = None) -> list[Tensor]:
        """Item vectors of groups of ids, each distinct item encoded once where that is the faster way.

        `inputs_ND` are the inputs of all items, where the user tower has computed them: items are then looked up in them.

        With more ids than items, the whole catalogue is encoded once and gathered from: its shape is fixed, so a GPU
        needs no look at the ids. A CPU takes the distinct ids until there are several times as many ids as items; a GPU would
        have to wait for their number. Rows of sharded tables travel, so that distinct ids are taken in any case.
        """
        total = sum(ids.numel() for ids in groups)
        sharded = self.model.item_inputs.sharded
        distinct = sharded or (self.dynamic_shapes and groups[0].device.type == "cpu")
        if total >= self.model.num_items * (_COVERED if distinct else 1) and not sharded:
            with autocast(groups[0].device, self.bf16):
                table = self.encode_inputs(self.model.item_inputs.whole() if inputs_ND is None else inputs_ND)
            return [F.embedding(ids, table) for ids in groups]
        flat = torch.cat([ids.flatten() for ids in groups])
        place = torch.arange(total, device=flat.device)
        if distinct:
            flat, place = flat.unique(return_inverse=True)
        with autocast(flat.device, self.bf16):
            table = self.encode_items(flat) if inputs_ND is None else self.encode_inputs(F.embedding(flat, inputs_ND))
        parts = place.split([ids.numel() for ids in groups])
        return [F.embedding(part.view(ids.shape), table) for part, ids in zip(parts, groups, strict=True)]
