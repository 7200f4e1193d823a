"""Real models, untrained, as train bundles."""

from __future__ import annotations

from pathlib import Path

import torch

from esans.bundle import Bundle, BundleWriter
from esans.model import TwoTower, save
from esans.model.config import ModelConfig


def train_bundle(folder: Path, num_items: int, num_users: int = 60, seed: int = 0) -> Bundle:
    """A bundle with the folder `model`."""
    torch.manual_seed(seed)
    out = BundleWriter(str(folder / f"train-{num_items}-{seed}"), "train", "x")
    with out.local("model") as target:
        save(TwoTower(ModelConfig(dim=8, hidden=8), num_items, num_users, 6, 0, []), target)
    return out.finish(code_version=1, config={}, inputs={})
