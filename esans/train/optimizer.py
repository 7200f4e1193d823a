"""Fused AdamW over towers and tables, or SparseAdam over the tables beside it, and the warm-up of the step size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR

from esans.train.config import OptimizerConfig


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
            part.found_inf = found  # type: ignore[attr-defined]
            # SparseAdam knows no found_inf. It waits for the device anyway, to sum the gradients of repeated rows.
            if isinstance(part, SparseAdam) and found is not None and found.item():
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

    With `tables: sparse_adam` the tables are told to give sparse gradients, and SparseAdam takes them: a step then costs
    in proportion to the rows it touches, not to the catalogue.
    """
    parts = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    tables = {id(part.weight) for part in parts}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    sparse = config.tables == "sparse_adam"
    table_group = {"params": [p for p in trained if id(p) in tables], "lr": config.table_learning_rate or config.learning_rate}
    groups = [
        {"params": [p for p in trained if id(p) not in tables and p.dim() > 0], "lr": config.learning_rate},
        {"params": [p for p in trained if p.dim() == 0], "lr": config.learning_rate, "weight_decay": 0.0},
    ]
    if not sparse:
        groups.insert(0, table_group)
    # Fused: one kernel, a step count that stays on the device, and an update that found_inf skips there.
    dense = AdamW([group for group in groups if group["params"]], weight_decay=config.weight_decay, fused=True)
    for part in parts:
        part.sparse = sparse
    return SplitOptimizer(dense, SparseAdam([table_group])) if sparse and table_group["params"] else dense


def clip_gradients(module: nn.Module, config: OptimizerConfig) -> Tensor:
    """Scale gradients down to the largest global norm; those of sparse tables neither count for it nor change.

    Returns:
        Norm of all gradients before, sparse ones too: a scalar on their device, not finite where one of them is not.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    dense = [gradient for gradient in gradients if not gradient.is_sparse]
    sparse = [gradient._values() for gradient in gradients if gradient.is_sparse]
    norm = nn.utils.get_total_norm(dense)
    if config.clip_norm:
        nn.utils.clip_grads_with_norm_(
            [p for p in module.parameters() if p.grad is not None and not p.grad.is_sparse], config.clip_norm, norm
        )
    return torch.linalg.vector_norm(torch.stack([norm, nn.utils.get_total_norm(sparse)])) if sparse else norm


def step_unless(optimizer: Optimizer, found_inf: Tensor) -> None:
    """Update where the scalar `found_inf` is 0, leave weights and moments as they are where it is 1; the host does not learn which."""
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]
    optimizer.step()


def build_schedule(optimizer: Optimizer, config: OptimizerConfig) -> LambdaLR:
    """Linear warm-up to the configured step size, constant from there."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(config.warmup_steps, 1)))
