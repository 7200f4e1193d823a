"""What a finished training passes on beside its towers: temperature, what samplers have learned, the optimiser's moments, its age."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import fsspec
import torch
from torch import nn
from torch.optim import Optimizer

from esans.bundle import Bundle
from esans.errors import BundleError

if TYPE_CHECKING:
    from esans.train.trainer import Trainer

FILE = "training.pt"
_NEGATIVES = "negatives."


@dataclass
class Kept:
    """The state after the best epoch, with whole tables, on the host."""

    epochs: int
    """Epochs that these weights were trained for, over all warm starts."""
    negatives: dict[str, Any] = field(default_factory=dict)
    """State of esans.negatives.groups.NegativeGroups: the temperature, and buffers of samplers that learn."""
    moments: dict[str, dict[str, Any]] | None = None
    """What the optimiser keeps of each parameter, by the parameter's name in TrainStep; None where it was not kept."""

    def write(self, uri: str) -> None:
        """Write it as one file of tensors and plain values."""
        with fsspec.open(uri, "wb") as stream:
            torch.save(asdict(self), stream)

    @classmethod
    def read(cls, bundle: Bundle) -> Kept:
        """What a train bundle keeps. Raises BundleError where it was written before there was such a thing."""
        try:
            with bundle.local(FILE) as path:
                return cls(**torch.load(path, map_location="cpu", weights_only=True))
        except BundleError:
            raise BundleError(
                f"{bundle.uri} has no {FILE}: it was trained before training state was kept, and nothing can go on from it. "
                "Train once without train.warm_start."
            ) from None


def keep(trainer: Trainer, optimizer: bool) -> Kept:
    """What to keep of a training that has ended, from its best checkpoint; for one process to call.

    Args:
        trainer: after `train`.
        optimizer: keep the moments too, twice the size of the tables with Adam.

    Raises:
        CheckpointError: the best checkpoint is gone or damaged.
    """
    assert trainer.checkpoints is not None
    state = trainer.checkpoints.best()
    negatives = {name.removeprefix(_NEGATIVES): value for name, value in state["module"].items() if name.startswith(_NEGATIVES)}
    moments = by_name(trainer.optimizer, trainer.module, state["optimizer"]) if optimizer else None
    return Kept(trainer.progress.before + trainer.progress.best_epoch + 1, negatives, moments)


def by_name(optimizer: Optimizer, module: nn.Module, state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The `state` of an optimiser's state dict, by the names of the module's parameters instead of their numbers."""
    found: dict[str, dict[str, Any]] = {}
    for names, part in zip(names_of(optimizer, module), parts_of(state), strict=True):
        found |= {names[int(place)]: dict(values) for place, values in part["state"].items()}
    return found


def names_of(optimizer: Optimizer, module: nn.Module) -> Iterator[list[str]]:
    """For each part of an optimiser, the names of its parameters in the order in which its state numbers them."""
    known = {id(parameter): name for name, parameter in module.named_parameters()}
    for part in getattr(optimizer, "parts", (optimizer,)):
        yield [known[id(parameter)] for group in part.param_groups for parameter in group["params"]]


def parts_of(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The state dicts of the parts of an optimiser."""
    return list(state["parts"]) if "parts" in state else [dict(state)]
