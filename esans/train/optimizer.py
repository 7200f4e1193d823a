"""Fused AdamW over towers and tables, or an optimiser of sparse gradients over the tables beside it, and the schedule of the step sizes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Adagrad, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from esans.model.sharded import sharded_tables
from esans.train.config import OptimizerConfig
from esans.train.sparse import RowAdam


class SplitOptimizer(Optimizer):
    """Several optimisers over parts of one module that step as one; schedules see the groups of all."""

    def __init__(self, *parts: Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._share_groups()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step every part. There is no closure: it would have to run once for each part."""
        for part in self.parts:
            found = getattr(self, "found_inf", None)
            # Only AdamW, being fused, takes found_inf. The others wait for the device anyway, to sum the gradients of repeated rows.
            if isinstance(part, AdamW):
                part.found_inf = found  # type: ignore[attr-defined]
            elif found is not None and found.item():
                continue
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts, in their order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()

    def _share_groups(self) -> None:
        # The parts' own dicts, not copies: a schedule writes its step size into them.
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> AdamW | SplitOptimizer:
    """AdamW with the embedding tables in a group of their own, and no decay on scalars such as the temperature.

    With `tables: sparse_adam` or `adagrad` the tables are told to give sparse gradients, which that optimiser takes: a step then
    costs in proportion to the rows it touches, not to the catalogue. DistributedDataParallel asks the tables which gradients
    they give when it wraps them, so it comes afterwards.
    """
    parts = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    tables = {id(part.weight) for part in (*parts, *sharded_tables(module).values())}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    table_group = {"params": [p for p in trained if id(p) in tables], "lr": config.table_learning_rate or config.learning_rate}
    groups = [
        {"params": [p for p in trained if id(p) not in tables and p.dim() > 0], "lr": config.learning_rate},
        {"params": [p for p in trained if p.dim() == 0], "lr": config.learning_rate, "weight_decay": 0.0},
    ]
    if not config.sparse:
        decay = config.weight_decay if config.table_weight_decay is None else config.table_weight_decay
        groups.insert(0, table_group | {"weight_decay": decay})
    # Fused: one kernel, a step count that stays on the device, and an update that found_inf skips there.
    dense = AdamW([group for group in groups if group["params"]], weight_decay=config.weight_decay, fused=True)
    for part in parts:
        part.sparse = config.sparse
    if not config.sparse or not table_group["params"]:
        return dense
    return SplitOptimizer(dense, RowAdam([table_group]) if config.tables == "sparse_adam" else Adagrad([table_group], foreach=False))


def clip_gradients(module: nn.Module, config: OptimizerConfig) -> Tensor:
    """Scale gradients down to the largest global norm; those of sparse tables neither count for it nor change.

    Returns:
        Norm of all gradients before, sparse ones too: a scalar on their device, not finite where one of them is not.
    """
    shards = {id(table.weight) for table in sharded_tables(module).values()}
    gradients = [p.grad for p in module.parameters() if p.grad is not None and id(p) not in shards]
    dense = [gradient for gradient in gradients if not gradient.is_sparse]
    sparse = [gradient._values() for gradient in gradients if gradient.is_sparse]
    norm = nn.utils.get_total_norm(dense)
    if shards:
        norm = _with_shards(norm, [p.grad for p in module.parameters() if p.grad is not None and id(p) in shards])
    if config.clip_norm:
        nn.utils.clip_grads_with_norm_(
            [p for p in module.parameters() if p.grad is not None and not p.grad.is_sparse], config.clip_norm, norm
        )
    return torch.linalg.vector_norm(torch.stack([norm, nn.utils.get_total_norm(sparse)])) if sparse else norm


def _with_shards(norm: Tensor, gradients: list[Tensor]) -> Tensor:
    """Norm of gradients that all processes hold together with those of rows that each holds for itself: the same in all."""
    square = nn.utils.get_total_norm(gradients).square().to(norm)
    dist.all_reduce(square)
    return (norm.square() + square).sqrt()


def step_unless(optimizer: Optimizer, found_inf: Tensor) -> None:
    """Update where the scalar `found_inf` is 0, leave weights and moments as they are where it is 1; the host does not learn which."""
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]
    optimizer.step()


def build_schedule(optimizer: Optimizer, config: OptimizerConfig, total_steps: int = 0, passed: int = 0) -> LambdaLR:
    """Linear warm-up to the configured step sizes; from there they stay, or fall to `final_share` of them at the last step.

    A function of the step alone: a resumed run goes on with the step sizes that it would have had.

    Args:
        optimizer: all its groups follow, each from its own step size.
        config: what to follow.
        total_steps: optimiser steps that the run may take, warm-up included. Not needed where step sizes stay.
        passed: steps of the schedule that the run does not take, having begun with moments that are warm.

    Raises:
        ValueError: step sizes shall fall, and `total_steps` does not say how fast.
    """
    if config.schedule != "constant" and total_steps < 1:
        raise ValueError(f"the {config.schedule} schedule needs the number of steps")
    return LambdaLR(optimizer, lambda step: share_of_step_size(step + passed, config, total_steps + passed))


def share_of_step_size(step: int, config: OptimizerConfig, total_steps: int) -> float:
    """What the optimiser step `step`, from 0, takes of the configured step sizes."""
    warmed = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "constant" or step < config.warmup_steps:
        return warmed
    # 0 at the first step after the warm-up, 1 at the last step of all.
    passed = min(1.0, (step - config.warmup_steps) / max(total_steps - 1 - config.warmup_steps, 1))
    left = (1 + math.cos(math.pi * passed)) / 2 if config.schedule == "cosine" else 1 - passed
    return config.final_share + (1 - config.final_share) * left
