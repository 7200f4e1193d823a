"""What is planned for: the sizes of the data, the keys of the configuration that count, and the machines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esans.settings import Settings


@dataclass(frozen=True)
class Sizes:
    """How much there is, and what becomes of it under a configuration."""

    users: float
    items: float
    interactions: float
    """Rows of the raw table."""
    text_dim: int
    """Floats of a text vector; 0 for none."""
    image_dim: int
    """Floats of an image vector; 0 for none."""
    behaviour_dim: int
    neighbours: int
    align_dim: int
    align_epochs: int
    history: int
    known: int
    """Places of a user's seen items in an example."""
    side: int
    """Side columns."""
    dim: int
    hidden: int
    user_table: bool
    own_history_table: bool
    batch: int
    accumulate: int
    epochs: int
    negatives: float
    """Item vectors of an example beyond its positive, the mean of the methods."""
    methods: tuple[str, ...]
    processes: int
    sharded: bool
    checkpoints: int

    @property
    def content_dim(self) -> int:
        """Floats of the content vectors of an item in the towers."""
        return self.align_dim * self.modalities

    @property
    def modalities(self) -> int:
        """Text, image and behaviour, as far as they are there."""
        return sum(dim > 0 for dim in (self.text_dim, self.image_dim, self.behaviour_dim))

    @property
    def table_rows(self) -> float:
        """Rows of all embedding tables."""
        return self.items * (2 if self.own_history_table else 1) + (self.users if self.user_table else 0)

    @property
    def dense_weights(self) -> float:
        """Weights outside the embedding tables."""
        return self.content_dim * self.dim + 4 * self.dim * self.hidden

    @property
    def weights(self) -> float:
        """All weights of the towers."""
        return self.table_rows * self.dim + self.dense_weights


def id_bytes(count: float) -> float:
    """Bytes that tell one of so many ids from the others."""
    return max(math.log2(max(count, 2)), 1) / 8


def filled(mean: float, places: int) -> float:
    """Places of a window that hold something, where `mean` would without a bound; falls off smoothly near it."""
    return places * (1 - math.exp(-mean / places))


def sizes_of(
    settings: Settings,
    users: float,
    items: float,
    interactions: float,
    text_dim: int,
    image_dim: int,
    processes: int | None = None,
    negatives: float | None = None,
) -> Sizes:
    """What a configuration makes of data of these sizes.

    Args:
        settings: train.negatives resolved, as `Source.load` leaves them.
        users: number of users.
        items: number of items.
        interactions: rows of the raw table.
        text_dim: floats of a text vector; 0 for none.
        image_dim: floats of an image vector; 0 for none.
        processes: training processes; by default those of the configuration.
        negatives: item vectors of an example, where the methods' mean is known; by default those of these settings.
    """
    train, model = settings.train, settings.train.model
    return Sizes(
        users=users,
        items=items,
        interactions=interactions,
        text_dim=text_dim,
        image_dim=image_dim,
        behaviour_dim=0 if settings.features.behaviour.encoder == "none" else settings.features.behaviour.dim,
        neighbours=settings.features.behaviour.graph.neighbours,
        align_dim=settings.align.dim,
        align_epochs=settings.align.epochs,
        history=settings.shards.history_length,
        known=settings.prepare.max_history,
        side=len(settings.prepare.items.side),
        dim=model.dim,
        hidden=model.hidden,
        user_table=model.user_id,
        own_history_table=not model.share_item_input,
        batch=train.batch_size,
        accumulate=train.accumulate,
        epochs=train.epochs,
        negatives=negatives_of(settings) if negatives is None else negatives,
        methods=tuple(settings.pipeline.methods),
        processes=processes or train.launch.processes,
        sharded=model.tables == "sharded",
        checkpoints=train.checkpoint.keep,
    )


def negatives_of(settings: Settings) -> float:
    """Item vectors that an example needs beyond its positive."""
    return float(sum(_vectors(group) for group in settings.train.negatives))


def _vectors(group: Mapping[str, Any]) -> int:
    """Item vectors that a group encodes for each example; draws shared by the batch count little."""
    if group["sampler"] in ("in_batch", "cross_batch", "full_softmax") or group.get("shared"):
        return 0
    if "per_cluster" in group:
        return int(group.get("clusters", 1) * group["per_cluster"])
    return int(group.get("candidates") or group.get("num_negatives") or 1)
