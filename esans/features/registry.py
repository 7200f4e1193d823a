"""Encoders by name: a new one is one file with an `encode` function, and one line here.

An encoder is `encode(source, config, job) -> Encoded`: `source` is the items table of prepare for text and image, and
`Interactions` for behaviour; `config` is the modality's own section, `job` what every encoder may use. Modules are named,
not imported, so that a wrong name fails before anything heavy loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from esans.bundle import Bundle, BundleWriter
from esans.table import Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

AUTO, NONE = "auto", "none"

TEXT_ENCODERS: Mapping[str, str] = {
    "tfidf": "esans.features.tfidf",
    "columns": "esans.features.ready",
    "sentence_transformers": "esans.features.sentences",
    "module": "esans.features.own",
}
IMAGE_ENCODERS: Mapping[str, str] = {
    "columns": "esans.features.ready",
    "open_clip": "esans.features.open_clip_images",
    "timm": "esans.features.timm_images",
    "module": "esans.features.own",
}
BEHAVIOUR_ENCODERS: Mapping[str, str] = {"landmarks": "esans.features.landmarks", "lightgcn": "esans.features.lightgcn"}


@dataclass(frozen=True)
class Job:
    """What an encoder may use beside its input and its section."""

    spark: SparkSession
    modality: str
    seed: int
    num_items: int
    out: BundleWriter
    """The bundle being written, for tables that an encoder keeps for the next build."""
    previous: Bundle | None = None
    """An earlier features bundle to take vectors from."""
    keep_space: bool = False
    """Whether vectors that are fitted to the data shall stay in the space of `previous`."""
    images: DataFrame | None = None
    """Pictures: item_idx, and image (bytes) or image_uri; None where prepare mapped none."""
    count: Callable[[int, Callable[[], int], str], None] = lambda total, done, unit: None
    """Shows the progress of a step in units of its own: their total, a function that says how many are done, their name."""


@dataclass(frozen=True)
class Encoded:
    """Raw vectors of one modality, before cleaning."""

    frame: DataFrame
    """item_idx, vector array<float>: null or no row where the item lacks the modality; norms are free."""
    dim: int
    """Length that vectors must have; any other length is a bad row."""
    figures: dict[str, float] = field(default_factory=dict)


# Their vectors are fitted to the data of a build, and mean nothing beside those of another build.
FITTED = ("tfidf", "landmarks", "lightgcn")


@dataclass(frozen=True)
class Interactions:
    """What behaviour encoders see: the train split and the graph made of it."""

    graph: DataFrame
    """item_idx, neighbour_idx, score."""
    events: DataFrame
    """Train events: user_idx, item_idx, timestamp, position."""
    table: Table
    """The graph as written, for those who stream it."""
    popularity: Table
    """item_idx, count: train events of every item."""


Encode = Callable[[Any, Any, Job], Encoded]


def load(encoders: Mapping[str, str], name: str) -> Encode:
    """The `encode` function of the encoder `name`."""
    found: Encode = import_module(encoders[name]).encode
    return found


def outside(encoders: Mapping[str, str], name: str, config: Any) -> dict[str, Any] | None:
    """What the vectors of a model encoder depend on beside the items; None for other encoders, which have no `identity`."""
    module = import_module(encoders[name]) if name in encoders else None
    identity: dict[str, Any] | None = module.identity(config) if module is not None and hasattr(module, "identity") else None
    return identity


def packages(encoders: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Import names of what an encoder needs beside the project's own requirements."""
    found: tuple[str, ...] = getattr(import_module(encoders[name]), "PACKAGES", ()) if name in encoders else ()
    return found


def check(encoders: Mapping[str, str], name: str, key: str) -> None:
    """Raise ValueError, naming the key and what is allowed, unless `name` is an encoder, `auto` or `none`."""
    allowed = [AUTO, *encoders, NONE]
    if name not in allowed:
        raise ValueError(f"{key} = {name!r}: must be one of {', '.join(allowed)}.")
