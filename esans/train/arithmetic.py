"""How the towers compute while they train: in bfloat16 or float32, compiled or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether `train.precision` means bfloat16 on that device: `auto` does on a GPU that computes in it, on a CPU it does not."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """A block whose matrix products run in bfloat16 where `bf16`. Weights stay float32, and so do sums and norms."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def compiled_function(function: Callable[P, R]) -> Callable[P, R]:
    """The function through torch.compile, which starts at its first call; random numbers are those of the uncompiled one."""
    return torch.compile(function, options={"fallback_random": True})
