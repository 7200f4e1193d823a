"""Configuration of the align stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esans.config import NonNegativeFloat, PositiveFloat, PositiveInt, Runtime, config


@config
class AlignConfig:
    """Keys under `align`."""

    dim: Annotated[int, Field(ge=2, le=4096)] = 128
    """d_a: length of aligned vectors. 2 to 4096."""
    head: Literal["linear", "mlp"] = "linear"
    """Projection of each modality: one matrix, or two with a GELU between."""
    hidden: PositiveInt = 256
    """Width between the two matrices of `mlp`. At least 1."""
    temperature: PositiveFloat = 0.07
    """InfoNCE temperature (METHOD 1). Above 0."""
    epochs: PositiveInt = 40
    """Most passes over the items. At least 1."""
    patience: PositiveInt = 5
    """Stop after this many epochs without a better held-out recall; the best epoch is kept. At least 1."""
    batch_size: Annotated[int, Field(ge=2)] = 512
    """Items that are contrasted with each other. At least 2."""
    learning_rate: PositiveFloat = 0.01
    """AdamW step size. Above 0."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW weight decay. 0 or more."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of items held out to measure retrieval across modalities. Between 0 and 1."""
    max_validation_items: Annotated[int, Field(ge=10, le=100_000)] = 5_000
    """Most items held out; every one is ranked against all others. 10 to 100,000."""
    buffer_items: PositiveInt = 131_072
    """Items in memory at a time, shuffled together: buffer x (sum of the lengths of the modalities) x 4 bytes, twice. At least 1."""
    rows_per_file: Annotated[PositiveInt, Runtime] = 262_144
    """Items per Parquet file of the result. At least 1."""
    device: Annotated[str, Runtime] = "auto"
    """`auto` takes a GPU where there is one; or a torch device such as cpu or cuda:1."""
