"""Configuration of the align stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esans.codebooks.config import KMeansConfig
from esans.config import Added, Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Runtime, config, section
from esans.launch import LaunchConfig
from esans.roots import Place


@config
class VQConfig:
    """Keys under `align.vq`: codebooks that are trained with the heads (METHOD 2)."""

    num_primary: Annotated[int, Field(ge=2, le=20_000)] | None = None
    """K1. By default the rule of cluster.num_primary. 2 to 20,000."""
    num_secondary: Annotated[int, Field(ge=2, le=1_024)] | None = None
    """K2. By default the rule of cluster.num_secondary. 2 to 1,024."""
    min_cluster_size: PositiveInt = 20
    """Items that a primary must be able to hold, for the rule of K1: as cluster.min_cluster_size. At least 1."""
    m_c: PositiveInt = 2
    """Easy clusters that a method draws per positive, for the rule of K1: as cluster.m_c. At least 1."""
    warmup_epochs: NonNegativeInt = 5
    """Epochs of alignment alone before k-means places the codebooks; below align.epochs. 0 or more."""
    weight: NonNegativeFloat = 1.0
    """Weight of the codebooks' loss beside the alignment loss. 0 or more."""
    commitment: NonNegativeFloat = 0.25
    """Weight of ||x - sg[c]||^2, which draws aligned vectors to their codes, beside ||sg[x] - c||^2 (METHOD 2). 0 or more."""
    quantised: NonNegativeFloat = 0.0
    """Weight of the alignment loss of the quantised vectors, straight-through, beside that of the vectors themselves. 0 or more."""
    learning_rate: PositiveFloat = 0.002
    """Adam step size of the codebooks. Above 0."""
    dead_below: Fraction = 0.1
    """A code used less than this share of the mean use is dead, and is put near the middle of another code's items. 0 to 1; 0 keeps all."""
    dead_after: PositiveInt = 20
    """Items per code that are seen between two looks for dead codes. At least 1."""
    kmeans: KMeansConfig = section(KMeansConfig)
    """How the codebooks are placed."""


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
    codebooks: Literal["none", "vq"] = "none"
    """`vq` trains both codebooks together with the heads, for cluster.mode=vq; `none` leaves them to the cluster stage."""
    vq: VQConfig = section(VQConfig)
    """Codebooks trained with the heads."""
    previous: Annotated[str | None, Added, Place] = None
    """URI of an earlier align bundle over features of the same space (features.keep_space); null trains new heads."""
    previous_mode: Annotated[Literal["frozen", "warm"], Added] = "frozen"
    """With `previous`: `frozen` keeps its heads and codebooks, trains nothing and keeps the space: items whose features are the same keep
    every bit. `warm` trains on from them, which turns the space a little."""
    launch: LaunchConfig = section(LaunchConfig)
    """Worker processes; the batches and, but for rounding, the result are the same for any number of them."""

    def __post_init__(self) -> None:
        if self.codebooks == "vq" and self.vq.warmup_epochs >= self.epochs:
            raise ValueError(
                f"vq.warmup_epochs = {self.vq.warmup_epochs} leaves none of epochs = {self.epochs} to train the codebooks: "
                "lower vq.warmup_epochs or raise epochs."
            )
