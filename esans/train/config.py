"""Configuration of the train stage."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

from esans.config import Added, Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Runtime, config, section
from esans.errors import ConfigError
from esans.launch import LaunchConfig
from esans.model.config import ModelConfig
from esans.roots import Place

_VERSION = re.compile(r"models:/[^/]+/\d+")


@config
class OptimizerConfig:
    """Keys under `train.optimizer`."""

    learning_rate: PositiveFloat = 0.002
    """AdamW step size of the towers."""
    table_learning_rate: PositiveFloat | None = None
    """Step size of the embedding tables; by default the towers'."""
    tables: Literal["adamw", "sparse_adam", "adagrad"] = "adamw"
    """Optimiser of the embedding tables. sparse_adam and adagrad take sparse gradients and touch only the rows of the step, which a
    large catalogue needs on a CPU: without weight decay, outside gradient clipping; over NCCL, on several GPUs, nobody has
    run them yet. adagrad keeps one number a weight, sparse_adam two; each row has a step size of its own that only falls."""
    weight_decay: NonNegativeFloat = 0.0001
    """Decoupled weight decay of the towers, the temperature excepted, and of tables that adamw steps."""
    table_weight_decay: NonNegativeFloat | None = None
    """Decoupled weight decay of the embedding tables; by default `weight_decay` with adamw, and none with the sparse optimisers."""
    warmup_steps: NonNegativeInt = 50
    """Optimiser steps over which the step sizes rise from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Step sizes after the warm-up: as they are, or falling to `final_share` of them at the last step of `epochs` epochs, by half
    a cosine or in a straight line. A run that stops early, by `patience`, does not see the end."""
    final_share: Fraction = 0.0
    """Share of the step sizes that is left at the end of a cosine or linear schedule, 0 .. 1."""
    clip_norm: NonNegativeFloat = 5.0
    """Largest gradient norm, over everything but tables with sparse gradients; 0 leaves gradients alone."""

    @property
    def sparse(self) -> bool:
        """Whether the embedding tables have sparse gradients."""
        return self.tables != "adamw"

    def __post_init__(self) -> None:
        if self.sparse and self.table_weight_decay:
            raise ValueError(
                f"optimizer.table_weight_decay = {self.table_weight_decay:g}, but optimizer.tables = '{self.tables}' touches only the "
                "rows of a step, and decay would touch all; take adamw, or leave it out"
            )
        if self.schedule == "constant" and self.final_share:
            raise ValueError(f"optimizer.final_share = {self.final_share:g} needs optimizer.schedule = 'cosine' or 'linear'")


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
    """What a corrupt or vanished shard does: `error` ends the run, naming file and row group; `skip` names it, counts its rows
    over all processes as `skipped_rows` of the run, and lets examples of weight 0 stand for them: steps stay as many in each."""


@config
class CheckpointConfig:
    """Keys under `train.checkpoint`."""

    every_steps: NonNegativeInt = 1000
    """Steps between two checkpoints inside an epoch; 0 writes them at the ends of epochs only."""
    keep: PositiveInt = 2
    """Latest checkpoints that are kept, beside the latest that was the best by validation."""
    background: bool = True
    """Write them while training goes on, from a copy of the state in host memory; else training waits."""
    record_steps: bool = False
    """For debugging: note the examples of every step in local scratch files, which tell what is in the weights (esans.train.lineage)."""


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
    """Examples per optimiser step over all processes and micro-batches."""
    accumulate: PositiveInt = 1
    """Micro-batches per optimiser step and process, one after the other: memory for `batch_size` / (processes x `accumulate`)
    examples at a time. The gradient is that of the whole batch, but negatives drawn from the batch (in_batch, and whatever a group
    shares over it) are those of the micro-batch."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the towers while training. bf16: their matrix products run in bfloat16 (autocast), while weights, vectors, scores
    and losses stay float32; auto: bf16 on a GPU that supports it, else float32."""
    compile: Annotated[bool, Runtime] = False
    """Compile the towers with torch.compile while training: a minute or so at the start, faster steps afterwards. Needs a C++ compiler
    on a CPU, and tables that adamw steps."""
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
    profile_steps: Annotated[NonNegativeInt, Runtime] = 0
    """Steps that torch.profiler records once, ten steps after the training began; 0 for none. Of the first process: a trace for
    chrome://tracing or Perfetto and the longest operators, kept as artifacts under `profile` of the stage's MLflow run."""
    warm_start: Annotated[str | None, Added, Place] = None
    """Train bundle to go on from: its URI, or `models:/NAME/VERSION` of the registry. Its weights, optimiser, temperature and samplers
    are taken over for a catalogue that may have grown; `epochs` are those of this run. prepare.previous must lead to its id maps."""
    keep_optimizer: Annotated[bool, Added] = True
    """Keep the optimiser's moments in the bundle for a warm start: twice the size of the model with Adam. Without them, step sizes
    warm up again."""
    max_skipped: PositiveInt = 10
    """Updates in a row, skipped for a loss or gradient that is not finite, that end the training at the next look."""
    model: ModelConfig = section(ModelConfig)
    """The two towers."""
    optimizer: OptimizerConfig = section(OptimizerConfig)
    """AdamW, what steps the embedding tables, and the schedule of the step sizes."""
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
        if self.batch_size // self.launch.processes % self.accumulate:
            raise ValueError(
                f"accumulate = {self.accumulate} does not divide the {self.batch_size // self.launch.processes} examples that each "
                "process takes of a batch; micro-batches are equal parts"
            )
        if self.compile and self.optimizer.sparse:
            raise ValueError(
                f"compile = true, but optimizer.tables = '{self.optimizer.tables}' needs sparse gradients, which torch.compile can't make; "
                "take adamw"
            )
        if self.warm_start is not None and self.warm_start.startswith("models:/") and not _VERSION.fullmatch(self.warm_start):
            raise ValueError(
                f"warm_start = {self.warm_start!r}: name a version, as in models:/NAME/3, which stays what it is; an alias or a stage moves"
            )
        if self.model.tables == "sharded":
            self._check_sharded()
        if not self.negatives:
            raise ValueError("negatives is empty: name at least one group, such as [{sampler: uniform}]")

    def _check_sharded(self) -> None:
        """Raise ValueError for what sharded tables can't honour."""
        if self.launch.processes == 1:
            raise ValueError("model.tables = 'sharded' spreads tables over processes, but launch.processes = 1; take replicated")
        if self.optimizer.tables != "adamw":
            raise ValueError(
                f"optimizer.tables = '{self.optimizer.tables}' needs sparse gradients, which sharded tables do not have; "
                "take adamw, which steps only the rows of a process, or model.tables = 'replicated'"
            )
        if self.compile:
            raise ValueError("compile = true, but model.tables = 'sharded' sends rows from inside the towers; set compile = false")

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
