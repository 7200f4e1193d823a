"""The training loop of one rank: train -> train_epoch -> train_step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from esans.config import to_dict
from esans.heartbeat import Heartbeat
from esans.launch import timeout_of
from esans.model.towers import TwoTower
from esans.negatives.base import Batch
from esans.progress import Bar, say
from esans.train.checkpoint import Checkpoints
from esans.train.config import TrainConfig
from esans.train.gradients import Gradients
from esans.train.guard import Guard
from esans.train.loader import Loader
from esans.train.optimizer import build_optimizer, build_schedule, clip_gradients, step_unless
from esans.train.preemption import Preempted, Preemption
from esans.train.snapshot import Progress, put_back, take
from esans.train.step import TrainStep
from esans.train.validation import ValidationUsers, validate
from esans.train.watch import Watch
from esans.uri import join

Log = Callable[[Mapping[str, float], int], None]


class Trainer:
    """Trains the towers; after `train` the model holds the weights of the best epoch."""

    def __init__(
        self,
        config: TrainConfig,
        module: TrainStep,
        loader: Loader,
        users: ValidationUsers,
        device: torch.device,
        seed: int,
        scratch_uri: str,
        log: Log,
    ) -> None:
        self.config, self.loader, self.users, self.device, self.seed = config, loader, users, device, seed
        self.module = module.to(device)
        self.rank, self.world_size = loader.rank, loader.world_size
        self.optimizer = build_optimizer(self.module, config.optimizer)
        self.start_schedule()
        # Wrapped once the optimiser has told the tables which gradients to give.
        self.gradients = Gradients(self.module, self.world_size, config.accumulate, self._at)
        self.guard = Guard(device, config.max_skipped)
        self.generator = torch.Generator(device)
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] = {}
        self.scratch_uri, self.log = scratch_uri, log
        # Set by `train` only: who drives epochs alone pays for no checkpoint.
        self.checkpoints: Checkpoints | None = None
        self.preemption: Preemption | None = None
        self._watched: dict[str, Any] | None = None
        # Where this rank is; whoever starts it lets it be watched.
        self.heartbeat = Heartbeat()
        # Makes from the step that `train` goes on from what is told of every step done: the batch, the epoch, the place in it, the step.
        self.on_resume: Callable[[int], Callable[[Batch, int, int, int], None]] | None = None
        self._on_step: Callable[[Batch, int, int, int], None] | None = None

    def start_schedule(self, passed: int = 0) -> None:
        """Let the step sizes begin, as if `passed` steps of the warm-up had been taken; before a resumed loader counts what is left."""
        self.schedule = build_schedule(self.optimizer, self.config.optimizer, self.config.epochs * self.loader.steps(0), passed)

    def train(self) -> Progress:
        """Run epochs until the validation metric stops rising, then put the best weights back.

        Goes on from the latest checkpoint in the scratch folder, at the step where that was written.

        Raises:
            Preempted: SIGTERM came; a checkpoint was written first.
            ConfigError: the checkpoint is of another config.
            CheckpointError: a checkpoint could not be written, or is not of this project.
        """
        self.checkpoints, group = self._open_checkpoints()
        every = min(self.config.log_every, self.config.checkpoint.every_steps or self.config.log_every)
        try:
            with Preemption(group, every) as self.preemption:
                self._resume()
                self._on_step = self.on_resume(self.progress.step) if self.on_resume is not None else None
                while not self.finished:
                    record = self.next_epoch()
                    self._checkpoint()
                    self._tell(record)
                    self._leave_if(self.preemption.agreed() and not self.finished)
                self._at("last checkpoint", waits=True)
                self.checkpoints.wait()
        finally:
            self.loader.close()
            self.checkpoints.close()
        self.model.load_state_dict(self.best_weights)
        return self.progress

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or patience has run out."""
        return self.progress.epoch >= self.config.epochs or self._exhausted()

    def next_epoch(self) -> dict[str, float]:
        """Train and validate one epoch more, and keep its weights when they are the best so far; its record."""
        record = self.train_epoch(self.progress.epoch)
        self._keep_if_best(record)
        self.progress.records.append(record)
        self.progress.epoch += 1
        self.progress.place, self.progress.seconds = 0, 0.0
        return record

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over this rank's part, or what is left of it, and the validation metrics after it."""
        self.module.train()
        self._at("reading of a batch")
        first, batches = self.progress.place, self.loader.epoch(self._age(epoch))
        steps = self._steps(epoch)
        started = time.perf_counter() - self.progress.seconds
        # An epoch shorter than `log_every` is looked at once, at its end.
        every, log = max(1, min(self.config.log_every, steps)), self.log if self.rank == 0 else None
        watch = Watch(self.device, every, self.config.batch_size, self.loader, log)
        if self._watched is not None:
            watch.load_state_dict(self._watched)
            self._watched = None
        with Bar(f"epoch {epoch + 1}/{self.config.epochs}", total=steps, unit="steps", show=self.rank == 0) as bar:
            for place, batch in enumerate(batches, first):
                figures, loss = self.train_step(batch, epoch, place, steps, watch.due(place))
                self._at("look at loss and figures", waits=watch.due(place))
                self.progress.step += 1
                if self._on_step is not None:
                    self._on_step(batch, epoch, place, self.progress.step)
                suffix = watch.see(place, self.progress.step, loss, figures, self.module.negatives.temperature.shown().detach())
                if watch.due(place):
                    self.guard.check(self.progress.step, [str(group["sampler"]) for group in self.config.negatives])
                bar.update(place + 1, suffix)
                self.progress.place, self.progress.seconds = place + 1, time.perf_counter() - started
                # After the last step the epoch's own checkpoint comes, with the validation metrics.
                if place + 1 < steps:
                    self._between_steps(watch)
                self._at("reading of a batch")
        seconds = time.perf_counter() - started
        skipped = {"skipped_rows": float(self.skipped_rows())} if self.loader.skip_bad else {}
        if self.checkpoints is not None and epoch + 1 < self.config.epochs:
            # Read while validation runs; `train` closes what is not used.
            self.loader.prepare(self._age(epoch + 1))
        metrics = validate(self.model, self.users, self.device, self._at)
        speed = steps * self.config.batch_size / seconds
        record = {"epoch": epoch, "step": self.progress.step, "loss": watch.mean_loss(), "seconds": seconds, "examples_per_second": speed}
        return record | {"seconds_per_step": seconds / max(steps, 1)} | skipped | metrics | watch.mean_figures()

    def train_step(self, batch: Batch, epoch: int, place: int, steps: int, diagnose: bool) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step on the weighted mean loss of all ranks and micro-batches; nothing here waits for the device."""
        self._seed(epoch, place)
        loss, figures = self.gradients(batch, self.generator, self._age(epoch) + place / steps, diagnose)
        self._at("update of the weights", waits=True)
        norm = clip_gradients(self.module, self.config.optimizer)
        step_unless(self.optimizer, self.guard.found(loss, norm))
        self.schedule.step()
        return figures | ({"skipped_steps": self.guard.skipped} if diagnose else {}), loss

    @property
    def model(self) -> TwoTower:
        """The towers, without wrappers."""
        return self.module.model

    def _seed(self, epoch: int, place: int) -> None:
        # A function of the step, so that a resumed run draws what the undisturbed one would have drawn.
        mixed = hash((self.seed, self._age(epoch), place, self.rank)) & (2**62 - 1)
        self.generator.manual_seed(mixed)
        torch.manual_seed(mixed)

    def _at(self, place: str, waits: bool = False) -> None:
        """Say where this rank is; `waits`, if for other ranks or the device too."""
        self.heartbeat.at(place, self.progress.step + 1, waits)

    def _exhausted(self) -> bool:
        waited = self.progress.epoch - 1 - self.progress.best_epoch
        return bool(self.config.patience) and self.progress.best_epoch >= 0 and waited >= self.config.patience

    def _keep_if_best(self, record: Mapping[str, float]) -> None:
        metric = record[self.config.validation_metric]
        # Without validation users the metric is NaN: the last epoch counts as the best.
        if not metric <= self.progress.best:
            self.progress.best = metric if metric == metric else self.progress.best
            self.progress.best_epoch = int(record["epoch"])
            self.best_weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def _tell(self, record: Mapping[str, float]) -> None:
        if self.rank == 0:
            self.log({name: value for name, value in record.items() if name not in ("epoch", "step")}, self.progress.step)
            name = self.config.validation_metric
            mark = "  best so far" if self.progress.best_epoch == record["epoch"] else ""
            say(
                f"  epoch {int(record['epoch']) + 1}/{self.config.epochs}: loss {record['loss']:.4f}, "
                f"validation {name} {record[name]:.4f}, "
                f"{record['examples_per_second']:,.0f} examples/s, {record['seconds']:.1f} s{mark}"
            )

    def skipped_rows(self) -> int:
        """Rows of bad shards that the run has skipped so far, over all ranks, which all call it; earlier starts of the run count too."""
        if not self.loader.skip_bad or self.world_size == 1:
            return self.loader.skipped_rows
        rows = torch.tensor(self.loader.skipped_rows, device=self.device)
        self._at("all_reduce of the rows skipped", waits=True)
        dist.all_reduce(rows)
        return int(rows.item())

    def _steps(self, epoch: int) -> int:
        """Steps of the whole epoch: a loader that was put back in the middle counts those that are left."""
        return self.loader.steps(self._age(epoch)) + self.progress.place

    def _age(self, epoch: int) -> int:
        """An epoch of this run, counted from where the weights began: a warm start goes on with other draws, orders and schedules."""
        return self.progress.before + epoch

    def _between_steps(self, watch: Watch) -> None:
        """Write a checkpoint where one is due, and leave where a signal asked for it."""
        if self.checkpoints is None or self.preemption is None:
            return
        every = self.config.checkpoint.every_steps
        self._at("agreement on a stop", waits=True)
        stop = self.preemption.due(self.progress.step)
        if stop or (every and self.progress.step % every == 0):
            self._checkpoint(watch)
        self._leave_if(stop)

    def _leave_if(self, stop: bool) -> None:
        if not stop:
            return
        assert self.checkpoints is not None
        self.checkpoints.wait()
        raise Preempted(
            f"training stopped on SIGTERM after step {self.progress.step}; its checkpoint is in {self.checkpoints.uri}: "
            "the same command goes on from there."
        )

    def _open_checkpoints(self) -> tuple[Checkpoints, dist.ProcessGroup | None]:
        # Two groups on the host beside the training's own: the writing thread's collectives must not mix with any other's.
        own, shared = (
            dist.new_group(backend="gloo", timeout=timeout_of(self.config.launch)) if self.world_size > 1 else None for _ in range(2)
        )
        # Runs of one config may go on with other numbers of processes.
        config = {key: value for key, value in to_dict(self.config, results_only=True).items() if key != "launch"}
        keys = self.config.checkpoint
        told = say if self.rank == 0 else _silent
        uri = join(self.scratch_uri, "checkpoints")
        return Checkpoints(uri, {"seed": self.seed, "train": config}, keys.keep, keys.background, own, told), shared

    def _checkpoint(self, watch: Watch | None = None) -> None:
        """Write the state after this step; `watch` inside an epoch."""
        assert self.checkpoints is not None
        self._at("checkpoint", waits=True)
        best = watch is None and self.progress.best_epoch == self.progress.epoch - 1
        self.checkpoints.save(take(self, watch), self.progress.step, best)

    def _resume(self) -> None:
        assert self.checkpoints is not None
        state: dict[str, Any] | None = self.checkpoints.load()
        if state is None:
            return
        self._watched = put_back(self, state)
        if self.rank == 0:
            inside = f", {self.progress.place} steps into the next" if self.progress.place else ""
            say(f"  resumed after epoch {self.progress.epoch}{inside}")


def _silent(message: str) -> None:
    """Only rank 0 speaks."""
