"""Bytes in memory: of a training rank's device, of the host, of Spark's driver. By arithmetic: tensors have known sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from esans.plan.duration import activation_bytes
from esans.plan.sizes import Sizes

# Codes, members and the cell of an item, int64, and what samplers keep beside them.
_CLUSTER_TABLES = 32
_CONTEXT = 1.5e9  # CUDA's own, NCCL's buffers, fragments
_DRIVER = 0.5e9  # Python with Spark, torch and faiss


def rank(sizes: Sizes, device_is_gpu: bool = True) -> dict[str, float]:
    """What one rank holds on its device."""
    table = sizes.table_rows * sizes.dim * 4 / (sizes.processes if sizes.sharded else 1)
    examples = sizes.batch / sizes.processes / sizes.accumulate
    primaries = math.sqrt(sizes.items)
    return {
        "embedding tables": table,
        "their gradient and AdamW's moments": 3 * table,
        "towers with gradient and moments": 16 * sizes.dense_weights,
        "best weights so far": table + 4 * sizes.dense_weights,
        "content vectors": sizes.items * sizes.content_dim * 4,
        "side columns": sizes.items * sizes.side * 8,
        "cluster tables": sizes.items * _CLUSTER_TABLES + 8 * primaries**2,
        "activations of a micro-batch": examples * activation_bytes(sizes),
        "item vectors of the validation": sizes.items * sizes.dim * 4,
        **({"CUDA and NCCL": _CONTEXT} if device_is_gpu else {}),
    }


def host(sizes: Sizes, ranks_per_host: int) -> float:
    """What the processes of one host read before it goes to their devices, and the copy that a checkpoint is written from."""
    copy = 4 * sizes.weights * 4 / (sizes.processes if sizes.sharded else 1)
    return ranks_per_host * (sizes.items * (sizes.content_dim + sizes.align_dim) * 4 + 2e9) + copy


def driver(sizes: Sizes) -> float:
    """What evaluate and export hold on the driver's host beside Spark: the model, vectors of all items, the index."""
    return _DRIVER + sizes.items * (4 * sizes.content_dim + 3 * 4 * sizes.dim) + 4 * sizes.weights


@dataclass(frozen=True)
class Limit:
    """Something that must fit."""

    name: str
    need: float
    have: float
    cure: str

    @property
    def share(self) -> float:
        """Need over have: above 1 it does not fit."""
        return self.need / self.have


@dataclass(frozen=True)
class Room:
    """Bytes that there are."""

    device: float
    host: float
    driver: float
    disk: float | None
    ranks_per_host: int


def limits(sizes: Sizes, room: Room, disk: float, gpus: int) -> list[Limit]:
    """What must fit, the fullest first."""
    parts = rank(sizes, gpus > 0)
    largest = max(parts, key=lambda name: parts[name])
    device = f"memory of a {'GPU' if gpus else 'training process'} (most of it: {largest})"
    found = [
        Limit(device, sum(parts.values()), room.device, _cure(largest)),
        Limit("memory of a training host", host(sizes, room.ranks_per_host), room.host, "fewer processes a host, or one with more memory"),
        Limit("memory of the driver's host", driver(sizes), room.driver, "a larger host for evaluate and export"),
    ]
    if room.disk is not None:
        found.append(Limit("disk of the work directory", disk, room.disk, "remove bundles of old runs, fewer methods, or a larger disk"))
    return sorted(found, key=lambda limit: -limit.share)


def _cure(part: str) -> str:
    if part in ("embedding tables", "their gradient and AdamW's moments", "best weights so far"):
        return "train.model.tables=sharded, a smaller train.model.dim, or train.model.user_id=false"
    if part == "activations of a micro-batch":
        return "a larger train.accumulate, a smaller train.batch_size, or more GPUs"
    return "a smaller align.dim, or GPUs with more memory"


def first_to_break(sizes: Sizes, judge: Callable[[Sizes], list[Limit]]) -> tuple[float, Limit]:
    """The factor on users, items and interactions at which something no longer fits (below 1: it does not now), and what that is."""
    low, high = 1e-6, 1e6
    for _ in range(60):
        middle = math.sqrt(low * high)
        if judge(grown(sizes, middle))[0].share > 1:
            high = middle
        else:
            low = middle
    return high, judge(grown(sizes, high))[0]


def grown(sizes: Sizes, factor: float) -> Sizes:
    """The same in another size."""
    changed: Mapping[str, float] = {name: getattr(sizes, name) * factor for name in ("users", "items", "interactions")}
    return dataclasses.replace(sizes, **changed)  # type: ignore[arg-type]
