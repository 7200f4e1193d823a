"""Configuration of k-means, for whichever stage fits codebooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esans.config import PositiveInt, Runtime, config


@config
class KMeansConfig:
    """How codebooks are fitted."""

    max_training_vectors: Annotated[int, Field(ge=100)] = 200_000
    """Items sampled to the driver: each takes (modalities + 1) x align.dim x 4 bytes. At least 100."""
    iterations: PositiveInt = 25
    """Lloyd iterations. At least 1."""
    restarts: PositiveInt = 1
    """Independent starts; the one with the least distortion is kept. At least 1."""
    spherical: bool = False
    """Scale primary centroids to unit norm."""
    two_level: Literal["auto", "always", "never"] = "auto"
    """Fit sqrt(K) coarse clusters, then clusters inside each, then refine all together: `auto` does so from 1,000 centroids on."""
    device: Annotated[Literal["auto", "cpu", "gpu"], Runtime] = "auto"
    """`auto` takes a GPU where faiss sees one (extra `gpu`); `gpu` insists on it."""
