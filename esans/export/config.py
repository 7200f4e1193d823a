"""Configuration of the export stage."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from esans.config import NonNegativeFloat, PositiveFloat, PositiveInt, Runtime, config, section
from esans.roots import Place


@config
class IndexConfig:
    """Keys under `export.index`: the nearest-neighbour index over the items that may be recommended."""

    kind: Literal["auto", "flat", "hnsw", "ivf", "ivfpq"] = "auto"
    """`flat` is exact; `auto` takes flat below hnsw_from items, HNSW from there, IVF from ivf_from, and IVF with coded vectors
    (product quantisation) from ivfpq_from."""
    hnsw_from: PositiveInt = 50_000
    """Items from which `auto` leaves the exact index for HNSW."""
    ivf_from: PositiveInt = 5_000_000
    """Items from which `auto` takes IVF, whose graph-free lists need less memory than HNSW."""
    ivfpq_from: PositiveInt = 20_000_000
    """Items from which `auto` takes IVF-PQ: lists are scanned by codes, and the exact vectors order the best of them."""
    hnsw_links: Annotated[int, Field(ge=4, le=128)] = 32
    """Links of an item in the HNSW graph (M); memory grows by 8 bytes a link and item."""
    hnsw_build: PositiveInt = 200
    """Candidates looked at while an item is linked (efConstruction)."""
    hnsw_search: PositiveInt = 128
    """Candidates looked at by a query (efSearch); more finds more and takes longer."""
    ivf_lists: PositiveInt | None = None
    """Inverted lists; by default 4 times the square root of the number of items."""
    ivf_probes: PositiveInt = 32
    """Lists that a query looks into (nprobe)."""
    pq_bytes: PositiveInt = 32
    """Bytes of a code of `ivfpq`; the next smaller number that divides the dimensions is taken."""
    pq_refine: PositiveInt = 4
    """The codes of `ivfpq` name so many times k candidates, which the exact vectors order."""
    gpu: Annotated[Literal["auto", "never"], Runtime] = "auto"
    """Where faiss sees a GPU, IVF and IVF-PQ are trained and filled on it and copied back; `never` keeps to the CPU."""
    measured_k: PositiveInt = 50
    """The index's recall is its overlap with the exact first so many items."""
    measured_users: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Users, chosen by a hash, on which recall and queries per second are measured."""
    exact_search: Annotated[Literal["torch", "faiss"], Runtime] = "torch"
    """What finds the exact lists to compare with: torch on `export.device`, or faiss's flat search, on a GPU where faiss sees one."""
    measured_settings: list[PositiveFloat] = dataclasses.field(default_factory=lambda: [0.25, 0.5, 1, 2, 4])
    """Multiples of hnsw_search or ivf_probes at which they are measured besides the setting itself: table `ann` and the plot."""


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
    delta_from: Annotated[str | None, Place] = None
    """URI of an earlier export bundle: write the vectors that changed since then, and the ids that are gone, as tables of their own."""
    delta_tolerance: NonNegativeFloat = 0.0
    """Largest move of a vector's component that is no change; vectors have length 1. 0 keeps what `delta_from` and the delta make equal
    to this export bit by bit."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Runtime] = "auto"
    """Where the model runs; `auto` takes the GPU where there is one."""
    user_batch: Annotated[PositiveInt, Runtime] = 1024
    """Users encoded at a time."""
