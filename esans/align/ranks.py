"""What the ranks of one fit exchange. Alone, each of these is the identity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


class Ranks:
    """This rank among the others; every method is called by all of them, in the same order."""

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum of an array over the ranks, same dtype."""
        if self.world_size == 1:
            return values
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def gather(self, own: Tensor, whose: np.ndarray) -> Tensor:
        """Rows of all ranks, put back into the order of the batch; a gradient goes back to the rank that brought the row.

        Args:
            own: (n, ...) this rank's rows, in batch order.
            whose: (N,) the rank that brings each row of the batch, the same on every rank.

        Returns:
            (N, ...).
        """
        if self.world_size == 1:
            return own
        found: Tensor = _Gather.apply(own, torch.from_numpy(whose).to(own.device), self.rank, self.world_size)
        return found

    def sum_gradients(self, modules: Iterable[nn.Module]) -> None:
        """Add the gradients up over the ranks in one exchange: shares of one loss add, where DDP would average losses of their own."""
        if self.world_size == 1:
            return
        parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters if parameter.grad is not None])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([parameter.numel() for parameter in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def collect(self, value: T) -> list[T]:
        """A picklable value of bounded size from every rank, on rank 0; empty on the others."""
        if self.world_size == 1:
            return [value]
        box: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, box, dst=0)
        return box or []

    def share(self, value: T) -> T:
        """Rank 0's picklable value, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


class _Gather(torch.autograd.Function):
    """All rows forward; backward, the sum over the ranks of what each wants of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, whose_N: Tensor, rank: int, world_size: int) -> Tensor:
        counts = torch.bincount(whose_N, minlength=world_size).tolist()
        # Equal sizes for the exchange: ranks rarely own as many rows of a batch.
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(world_size)]
        dist.all_gather(parts, padded)
        rows = own.new_empty(len(whose_N), *own.shape[1:])
        for other, part in enumerate(parts):
            rows[whose_N == other] = part[: counts[other]]
        ctx.save_for_backward(whose_N == rank)
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (mine_N,) = ctx.saved_tensors
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[mine_N], None, None, None
