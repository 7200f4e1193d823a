"""Configuration of the export stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esans.config import NonNegativeFloat, PositiveInt, Runtime, config, section


@config
class IndexConfig:
    """Keys under `export.index`: the nearest-neighbour index over the items that may be recommended."""

    kind: Literal["auto", "flat", "hnsw", "ivf"] = "auto"
    """`flat` is exact; `auto` takes flat below hnsw_from items, HNSW from there, and IVF from ivf_from."""
    hnsw_from: PositiveInt = 50_000
    """Items from which `auto` leaves the exact index for HNSW."""
    ivf_from: PositiveInt = 5_000_000
    """Items from which `auto` takes IVF, whose graph-free lists need less memory than HNSW."""
    hnsw_links: Annotated[int, Field(ge=4, le=128)] = 32
    """Links of an item in the HNSW graph (M); memory grows by 8 bytes a link and item."""
    hnsw_build: PositiveInt = 80
    """Candidates looked at while an item is linked (efConstruction)."""
    hnsw_search: PositiveInt = 128
    """Candidates looked at by a query (efSearch); more finds more and takes longer."""
    ivf_lists: PositiveInt | None = None
    """Inverted lists; by default 4 times the square root of the number of items."""
    ivf_probes: PositiveInt = 32
    """Lists that a query looks into."""
    measured_k: PositiveInt = 50
    """The index's recall is its overlap with the exact first so many items."""
    measured_users: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Users, chosen by a hash, on which recall and queries per second are measured."""


@config
class RegistryConfig:
    """Keys under `export.registry`: the MLflow model registry."""

    register: bool = True
    """Register the model; switched off, the bundle is written all the same."""
    name: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")] = "esans-retrieval"
    """Registered name; it may not hold '/' or ':'."""
    alias: Annotated[str, Field(min_length=1)] = "challenger"
    """Alias that the newest version takes over."""


@config
class ExportConfig:
    """Keys under `export`."""

    index: IndexConfig = section(IndexConfig)
    """The faiss index."""
    registry: RegistryConfig = section(RegistryConfig)
    """The MLflow registry."""
    user_vectors: bool = True
    """Write the vectors of all users, by all they did."""
    towers: bool = True
    """Write both towers as torch.export programs, which run without this package."""
    delta_from: str | None = None
    """URI of an earlier export bundle: write the vectors that changed since then, and the ids that are gone, as tables of their own."""
    delta_tolerance: NonNegativeFloat = 0.0
    """Largest move of a vector's component that is no change; vectors have length 1. 0 keeps what `delta_from` and the delta make equal
    to this export bit by bit."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Runtime] = "auto"
    """Where the model runs; `auto` takes the GPU where there is one."""
    user_batch: Annotated[PositiveInt, Runtime] = 1024
    """Users encoded at a time."""
