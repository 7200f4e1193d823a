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

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

AUTO, NONE = "auto", "none"

TEXT_ENCODERS: Mapping[str, str] = {"tfidf": "esans.features.tfidf", "columns": "esans.features.ready"}
IMAGE_ENCODERS: Mapping[str, str] = {"columns": "esans.features.ready"}
BEHAVIOUR_ENCODERS: Mapping[str, str] = {"landmarks": "esans.features.landmarks"}


@dataclass(frozen=True)
class Job:
    """What an encoder may use beside its input and its section."""

    spark: SparkSession
    modality: str
    seed: int
    num_items: int


@dataclass(frozen=True)
class Encoded:
    """Raw vectors of one modality, before cleaning."""

    frame: DataFrame
    """item_idx, vector array<float>: null or no row where the item lacks the modality; norms are free."""
    dim: int
    """Length that vectors must have; any other length is a bad row."""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Interactions:
    """What behaviour encoders see: the train split and the graph made of it."""

    graph: DataFrame
    """item_idx, neighbour_idx, score."""
    events: DataFrame
    """Train events: user_idx, item_idx, timestamp, position."""


Encode = Callable[[Any, Any, Job], Encoded]


def load(encoders: Mapping[str, str], name: str) -> Encode:
    """The `encode` function of the encoder `name`."""
    found: Encode = import_module(encoders[name]).encode
    return found


def check(encoders: Mapping[str, str], name: str, key: str) -> None:
    """Raise ValueError, naming the key and what is allowed, unless `name` is an encoder, `auto` or `none`."""
    allowed = [AUTO, *encoders, NONE]
    if name not in allowed:
        raise ValueError(f"{key} = {name!r}: must be one of {', '.join(allowed)}.")
