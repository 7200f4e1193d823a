"""All that the next step depends on, taken from a trainer for a checkpoint and put back from one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from esans.train.shards import load_optimizer, optimizer_of, weights_of
from esans.train.watch import Watch

if TYPE_CHECKING:
    from esans.train.trainer import Trainer


@dataclass
class Progress:
    """What a resumed run must know besides weights; plain values only."""

    epoch: int = 0
    step: int = 0
    place: int = 0
    """Steps done of the epoch that is under way."""
    seconds: float = 0.0
    """What they took."""
    best: float = float("-inf")
    best_epoch: int = -1
    records: list[dict[str, float]] = field(default_factory=list)
    before: int = 0
    """Epochs that the weights were trained for before this run began."""


def take(trainer: Trainer, watch: Watch | None) -> dict[str, Any]:
    """The state after an optimiser step, as esans.train.state packs it; `watch` inside an epoch. All ranks call it."""
    return {
        "module": weights_of(trainer.module),
        "optimizer": optimizer_of(trainer.optimizer, trainer.module),
        "schedule": trainer.schedule.state_dict(),
        "best_weights": weights_of(trainer.model, trainer.best_weights),
        "guard": (trainer.guard.skipped, trainer.guard.in_a_row),
        "progress": {**vars(trainer.progress), "records": list(trainer.progress.records)},
        "watch": None if watch is None else watch.state_dict(),
        "loader": trainer.loader.state_dict(trainer.skipped_rows()),
        # Every step seeds anew; these are for what draws between steps.
        "random": {"torch": torch.get_rng_state(), "draws": trainer.generator.get_state()},
    }


def put_back(trainer: Trainer, state: dict[str, Any]) -> dict[str, Any] | None:
    """Let the trainer go on from what `take` gave, on any number of ranks; the state of the watch, inside an epoch."""
    trainer.module.load_state_dict(state["module"])
    load_optimizer(trainer.optimizer, trainer.module, state["optimizer"])
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.loader.load_state_dict(state["loader"])
    trainer.best_weights, trainer.progress = state["best_weights"], Progress(**state["progress"])
    trainer.guard.skipped, trainer.guard.in_a_row = (count.to(trainer.device) for count in state["guard"])
    torch.set_rng_state(state["random"]["torch"])
    # A generator's state is that of one kind of device.
    if trainer.device.type == "cpu":
        trainer.generator.set_state(state["random"]["draws"])
    watched: dict[str, Any] | None = state["watch"]
    return watched
