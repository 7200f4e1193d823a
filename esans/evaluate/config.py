"""Configuration of the evaluate stage."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from esans.config import PositiveInt, Runtime, config, section
from esans.launch import LaunchConfig
from esans.retrieval.config import MetricsConfig


@config
class EvaluateLaunch(LaunchConfig):
    """Keys under `evaluate.launch`: how the processes that share the users start."""

    processes: Annotated[PositiveInt, Runtime] = 1
    """World size. It changes the time, never a result."""


@config
class EvaluateConfig:
    """Keys under `evaluate`."""

    metrics: MetricsConfig = section(MetricsConfig)
    """Metrics and slices; keep them equal to references.metrics."""
    slices: list[str] = dataclasses.field(default_factory=list)
    """Columns of the items to slice by besides popularity, history and cold: names under prepare.items.side, title, available."""
    slice_values: PositiveInt = 8
    """Slices of a category: so many of its largest values by number of items, and one for the rest."""
    launch: EvaluateLaunch = section(EvaluateLaunch)
    """Processes, their device and threads."""
    user_batch: Annotated[PositiveInt, Runtime] = 512
    """Users encoded and ranked at a time. Another size may move a vector in its last bits, as any other batching does."""
    item_chunk: Annotated[PositiveInt, Runtime] = 4096
    """Items ranked at a time; a process takes user_batch * item_chunk * 48 bytes beside the catalogue's vectors."""
