"""AdamW over towers and tables, and the warm-up of its step size."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from esans.train.config import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with the embedding tables in a group of their own, and no decay on scalars such as the temperature."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in tables], "lr": config.table_learning_rate or config.learning_rate},
        {"params": [p for p in trained if id(p) not in tables and p.dim() > 0], "lr": config.learning_rate},
        {"params": [p for p in trained if p.dim() == 0], "lr": config.learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=config.weight_decay)


def build_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig) -> LambdaLR:
    """Linear warm-up to the configured step size, constant from there."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(config.warmup_steps, 1)))
