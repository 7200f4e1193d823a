"""The gradient of one optimiser step: over the micro-batches of this rank, and over the ranks."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from esans.negatives.base import Batch
from esans.train.shards import data_parallel
from esans.train.sparse import average_over_ranks, sparse_tables
from esans.train.step import TrainStep


def _nowhere(place: str, waits: bool = False) -> None:
    """Nobody watches."""


class Gradients:
    """Leaves in the parameters the gradient of the weighted mean loss of a batch over all ranks and micro-batches.

    Gradients are linear: every micro-batch is divided by the weight of the whole batch, which is known before any loss is,
    and they add up to the gradient of one big batch. What a micro-batch does not share is its negatives: those drawn from
    the batch (in_batch, and every pool) are drawn from the micro-batch.

    Ranks exchange gradients once, with the last micro-batch. `DistributedDataParallel.no_sync` can't do that beside a static
    graph (torch 2.13 fails an assertion of its own in the first step); here the others ask autograd for their gradients, which
    passes by the hooks that DistributedDataParallel counts.

    Args:
        module: on its device, with the parameters that are trained. Wrapped here where there are several ranks.
        world_size: number of ranks, all of which call this with batches of the same size.
        accumulate: micro-batches; a divisor of the rows of a batch.
        at: told what comes now, and whether it waits for other ranks.
    """

    def __init__(self, module: TrainStep, world_size: int, accumulate: int = 1, at: Callable[[str, bool], None] = _nowhere) -> None:
        self.module, self.world_size, self.accumulate, self.at = module, world_size, accumulate, at
        # Those in checkpoints. DistributedDataParallel would broadcast the frozen tables at every step too, which are the same everywhere.
        saved = module.state_dict()
        self.learned = [name for name, _ in module.named_buffers() if name in saved]
        wrapped = data_parallel(module) if world_size > 1 else module
        self.wrapped: nn.Module = wrapped
        self.sparse = list(sparse_tables(module).values()) if world_size > 1 else []

    def close(self) -> None:
        """Let go of DistributedDataParallel: this must come before the process group is left.

        Otherwise its reducer holds the group last, and torch (2.13) ends the group's threads with the interpreter's lock held, which
        such a thread may wait for: compiled towers leave it Python objects to free. Nothing ends that but a kill.
        """
        self.wrapped = self.module
        # It is in cycles.
        gc.collect()

    def __call__(self, batch: Batch, generator: Generator, epoch: float, diagnose: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Replace the gradients; nothing here waits for the device.

        Args:
            batch: this rank's part.
            generator: of the draws; micro-batches draw from it one after the other.
            epoch: epochs trained so far, with their fraction.
            diagnose: also compute the figures of the negatives, those of the last micro-batch.

        Returns:
            Weighted mean loss over all ranks, a scalar without gradient, the same on every rank; and the figures.
        """
        self._share_state()
        for parameter in self.module.parameters():
            parameter.grad = None
        # Both sums travel while the towers are busy: a step would wait for each as long as for a small tensor's way through all ranks.
        weight, total_weight = self._over_ranks(batch.weight.sum()), None
        losses, figures = [], {}
        parts = micro_batches(batch, self.accumulate)
        for place, part in enumerate(parts):
            last = place + 1 == len(parts)
            self.at("forward pass", True)
            loss_B, figures = (self.wrapped if last else self.module)(part, generator, epoch, diagnose and last)
            if total_weight is None:
                total_weight = weight("all_reduce of the weights").clamp_min(1e-12)
            # DDP averages gradients over ranks; times the world size, the sum over ranks is the global weighted mean.
            loss = (loss_B * part.weight).sum() * self.world_size / total_weight
            losses.append(loss.detach())
            if last:
                total_loss = self._over_ranks(torch.stack(losses).sum())
                self.at("all_reduce of the gradients", True)
                loss.backward()
                if self.sparse:
                    self.at("all_gather of the rows of tables", True)
                    average_over_ranks(self.sparse, self.world_size)
            else:
                self.at("backward pass", True)
                add_gradients(loss, [parameter for parameter in self.module.parameters() if parameter.requires_grad])
        return total_loss("all_reduce of the loss") / self.world_size, figures

    def _over_ranks(self, value: Tensor) -> Callable[[str], Tensor]:
        """Begin a sum over all ranks; what comes back waits for it, once told as which place."""
        work = dist.all_reduce(value, async_op=True) if self.world_size > 1 else None

        def total(place: str) -> Tensor:
            if work is not None:
                self.at(place, True)
                work.wait()
            return value

        return total

    def _share_state(self) -> None:
        """What samplers and temperatures have learned on the first rank, for all; as a run resumed from a checkpoint has it."""
        if self.world_size == 1:
            return
        self.at("broadcast of what the negatives have learned", True)
        buffers = dict(self.module.named_buffers())
        for name in self.learned:
            dist.broadcast(buffers[name], src=0)


def micro_batches(batch: Batch, parts: int) -> list[Batch]:
    """A batch of B examples as `parts` batches of B / parts, in order, without a copy."""
    if parts == 1:
        return [batch]
    if len(batch) % parts:
        raise ValueError(f"{len(batch)} examples don't make {parts} equal micro-batches")
    rows = len(batch) // parts
    columns = {field.name: getattr(batch, field.name) for field in fields(batch)}
    split = {name: values.split(rows) for name, values in columns.items() if isinstance(values, Tensor)}
    extra = {name: values.split(rows) for name, values in batch.extra.items()}
    return [
        replace(
            batch,
            **{name: values[place] for name, values in split.items()},
            extra={name: values[place] for name, values in extra.items()},
        )
        for place in range(parts)
    ]


def add_gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """`loss.backward()` without hooks. Sparse gradients are put one after the other, repeated rows and all."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters), allow_unused=True), strict=True):
        if gradient is not None:
            # A copy: autograd may give one tensor to two parameters, or an expanded one, and the last backward pass adds in place.
            parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient
