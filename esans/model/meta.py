"""Towers that are described before they take memory: torch.device("meta") and Module.to_empty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from esans.model.config import ModelConfig
from esans.model.towers import TwoTower


def without_memory(config: ModelConfig, **sizes: Any) -> TwoTower:
    """The towers on the meta device: names and shapes, no memory and no draws. `sizes` are the arguments of TwoTower."""
    with torch.device("meta"):
        return TwoTower(config, **sizes)


def materialise(model: TwoTower, device: torch.device, content_NF: Tensor | None, side_NS: Tensor | None) -> None:
    """Give towers without memory their weights, drawn on `device`, so that no table is ever in memory twice.

    Draws come from torch's generator of that device: one seed gives the same weights on every rank with that kind of device,
    and on the CPU those of towers that were built there. Parameters are replaced: optimisers and wrappers come afterwards.

    Args:
        model: of `without_memory`.
        device: where it trains.
        content_NF: (N, F) float32; None for towers without content.
        side_NS: (N, S) int64; None for towers without side columns.
    """
    for inputs in model.all_inputs:
        # What takes their place is there already: they are not allocated first.
        for name, given in (("content_NF", content_NF), ("side_NS", side_NS)):
            if given is not None:
                inputs.register_buffer(name, None, persistent=False)
    model.to_empty(device=device)
    model.reset_parameters()
    model.set_content(content_NF, side_NS)
