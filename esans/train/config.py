"""Configuration of the train stage."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from esans.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Runtime, config, section
from esans.errors import ConfigError
from esans.launch import LaunchConfig
from esans.model.config import ModelConfig


@config
class OptimizerConfig:
    """Keys under `train.optimizer`."""

    learning_rate: PositiveFloat = 0.002
    """AdamW step size of the towers."""
    table_learning_rate: PositiveFloat | None = None
    """Step size of the embedding tables; by default the towers'."""
    tables: Literal["adamw", "sparse_adam"] = "adamw"
    """Optimiser of the embedding tables. sparse_adam touches only the rows of the step, which a large catalogue needs on a CPU;
    it takes no weight decay, stands outside gradient clipping, and runs in one process only."""
    weight_decay: NonNegativeFloat = 0.0001
    """Decoupled weight decay of everything but the temperature."""
    warmup_steps: NonNegativeInt = 50
    """Steps over which the step size rises from 0."""
    clip_norm: NonNegativeFloat = 5.0
    """Largest global gradient norm; 0 leaves gradients alone."""


@config
class LoaderConfig:
    """Keys under `train.loader`."""

    window_shards: PositiveInt = 4
    """Files that are held in memory together and permuted row by row; more mixes better and takes more memory."""
    keep_in_memory: Annotated[bool, Runtime] = False
    """Keep what was read for the next epochs: about 1.3 kB an example with a history of 100."""
    prefetch_batches: Annotated[PositiveInt, Runtime] = 8
    """Batches that the reader prepares ahead of the step, on the training device."""
    on_bad_shard: Literal["error", "skip"] = "error"
    """What a corrupt or vanished shard does: `error` ends the run, naming file and row group; `skip` names it, counts its rows and
    lets examples of weight 0 stand for them, so that all processes keep the same number of steps."""


@config
class CheckpointConfig:
    """Keys under `train.checkpoint`."""

    every_steps: NonNegativeInt = 1000
    """Steps between two checkpoints inside an epoch; 0 writes them at the ends of epochs only."""
    keep: PositiveInt = 2
    """Latest checkpoints that are kept, beside the latest that was the best by validation."""
    background: bool = True
    """Write them while training goes on, from a copy of the state in host memory; else training waits."""


@config
class TrainConfig:
    """Keys under `train`."""

    negatives: list[dict[str, Any]] = dataclasses.field(
        default_factory=lambda: [{"sampler": "in_batch"}, {"sampler": "easy"}, {"sampler": "hard"}]
    )
    """Groups of negatives; each has the key `sampler` and that sampler's own keys."""
    loss: str | dict[str, Any] = "sampled_softmax"
    """Name of the loss, or a mapping with the key `loss` and that loss's own keys."""
    temperature: float | dict[str, Any] = 0.1
    """Where the learned temperature of the softmax starts (0.01 .. 1), or a mapping with the key `temperature` and its own keys."""
    batch_size: PositiveInt = 1024
    """Examples per step over all processes."""
    epochs: PositiveInt = 20
    """Most passes over the examples."""
    examples_per_epoch: PositiveInt | None = None
    """Examples of an epoch, a new sample of the shards' files and rows each time; by default all. Fewer validate and stop more often."""
    patience: NonNegativeInt = 2
    """Epochs without a better validation metric before training stops; 0 runs all epochs."""
    validation_metric: Literal["recall@10", "recall@50", "recall@200", "ndcg@50", "mrr"] = "recall@50"
    """Metric over the whole catalogue that early stopping looks at."""
    validation_users: PositiveInt = 20_000
    """Users of the validation split that are ranked after each epoch: the first so many in hash order."""
    log_every: Annotated[PositiveInt, Runtime] = 50
    """Steps between two looks at loss and speed; only then does the host wait for the device."""
    max_skipped: PositiveInt = 10
    """Updates in a row, skipped for a loss or gradient that is not finite, that end the training at the next look."""
    model: ModelConfig = section(ModelConfig)
    """The two towers."""
    optimizer: OptimizerConfig = section(OptimizerConfig)
    """AdamW, and what steps the embedding tables."""
    loader: LoaderConfig = section(LoaderConfig)
    """Reading of the shards."""
    checkpoint: Annotated[CheckpointConfig, Runtime] = section(CheckpointConfig)
    """What a killed run goes on from."""
    launch: LaunchConfig = section(LaunchConfig)
    """Worker processes."""

    def __post_init__(self) -> None:
        if self.batch_size % self.launch.processes:
            raise ValueError(
                f"batch_size = {self.batch_size} is not a multiple of launch.processes = {self.launch.processes}; "
                "each process takes an equal part"
            )
        if self.optimizer.tables == "sparse_adam" and self.launch.processes > 1:
            raise ValueError(
                f"optimizer.tables = 'sparse_adam' runs in one process, but launch.processes = {self.launch.processes}; take adamw"
            )
        if not self.negatives:
            raise ValueError("negatives is empty: name at least one group, such as [{sampler: uniform}]")

    def resolve_groups(self) -> None:
        """Fill the defaults of every negative group, the loss and the temperature in. Raises ConfigError naming the key."""
        # One that brings its own Config is a torch module: loaded last, so that other errors show at once.
        from esans.negatives.registry import LOSSES, TEMPERATURES, resolve

        self.negatives = resolve(self.negatives)
        first = min(group["enters_at_epoch"] for group in self.negatives)
        if first > 0:
            raise ConfigError(
                f"train.negatives: no group takes part from the start, the first enters at epoch {first:g}; "
                "set enters_at_epoch of at least one group to 0."
            )
        loss = {"loss": self.loss} if isinstance(self.loss, str) else self.loss
        self.loss = LOSSES.resolve(loss, "train.loss")
        number = isinstance(self.temperature, int | float)
        temperature = {"temperature": "learned", "start": self.temperature} if number else self.temperature
        self.temperature = TEMPERATURES.resolve(temperature, "train.temperature")  # type: ignore[arg-type]
