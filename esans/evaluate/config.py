"""Configuration of the evaluate stage."""

from __future__ import annotations

from typing import Annotated, Literal

from esans.config import PositiveInt, Runtime, config, section
from esans.retrieval.config import MetricsConfig


@config
class EvaluateConfig:
    """Keys under `evaluate`."""

    metrics: MetricsConfig = section(MetricsConfig)
    """Metrics and slices; keep them equal to references.metrics."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Runtime] = "auto"
    """Where the model runs; `auto` takes the GPU where there is one."""
    user_batch: Annotated[PositiveInt, Runtime] = 512
    """Users encoded and ranked at a time."""
    item_chunk: Annotated[PositiveInt, Runtime] = 4096
    """Items ranked at a time; memory is user_batch * item_chunk * 48 bytes, and the catalogue's vectors."""
