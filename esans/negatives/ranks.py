"""What samplers, losses and temperatures ask of the other ranks of a training; one process has none to ask.

Collectives have to meet: every rank must call these in the same order, with tensors of the same shape.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_single_autograd


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def of_all_ranks(values: Tensor) -> Tensor:
    """Values of every rank, in rank order: (n, ...) -> (ranks n, ...), without gradient."""
    if ranks() == 1:
        return values
    gathered = values.new_empty(ranks() * len(values), *values.shape[1:])
    dist.all_gather_single(gathered, values.detach().contiguous())
    return gathered


def of_all_ranks_with_gradient(values: Tensor) -> Tensor:
    """Values of every rank, in rank order: (n, ...) -> (ranks n, ...).

    The gradient of a row is the sum of what every rank's loss has for it, and goes back to the rank that the row came from:
    averaged over ranks by DistributedDataParallel, parameters get the gradient of the mean of all ranks' losses.
    """
    if ranks() == 1:
        return values
    world = dist.group.WORLD
    assert world is not None
    return all_gather_single_autograd(values.contiguous(), 0, world)
