"""Seconds of every stage: a fixed part and one that grows, both measured; on GPUs, where nothing was measured, by arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from esans.plan.sizes import Sizes
from esans.plan.volume import METHOD_STAGES, Shares, examples

# What a stage's time grows with.
GROWS_WITH: Mapping[str, Callable[[Sizes, Shares], float]] = {
    "prepare": lambda s, _: s.interactions,
    "features": lambda s, _: s.interactions,
    "align": lambda s, _: s.items * s.align_epochs,
    "cluster": lambda s, _: s.items,
    "shards": examples,
    "references": lambda s, h: s.interactions,
    "evaluate": lambda s, h: s.users * h["test_users_per_user"] * s.items,
    "export": lambda s, _: s.users + s.items,
}
SPARK_STAGES = ("prepare", "features", "cluster", "shards", "references")


@dataclass(frozen=True)
class Machines:
    """What it runs on."""

    cores: int
    """Of Spark's executors together."""
    gpus: int
    """0 trains on the CPU, as many cores as were measured."""
    examples_per_second: float | None = None
    """Of one GPU, where somebody has measured it."""


def steps(sizes: Sizes, shares: Shares) -> float:
    """Optimiser steps of a method, all epochs."""
    return sizes.epochs * max(examples(sizes, shares) / sizes.batch, 1)


def seconds(sizes: Sizes, constants: Mapping[str, Any], machines: Machines) -> dict[str, float]:
    """Stage -> seconds; those from train on summed over the methods."""
    shares, measured_cores = constants["shares"], constants["cores"]
    found = {}
    for stage, quantity in GROWS_WITH.items():
        law = constants["seconds"][stage]
        rate = measured_cores / machines.cores if stage in SPARK_STAGES else 1.0
        found[stage] = law["fixed"] + law["each"] * quantity(sizes, shares) * rate
    found["train"] = steps(sizes, shares) * step_seconds(sizes, constants, machines)
    order = ["prepare", "features", "align", "cluster", "shards", "references", "train", "evaluate", "export"]
    return {stage: found[stage] * (len(sizes.methods) if stage in METHOD_STAGES else 1) for stage in order}


def step_seconds(sizes: Sizes, constants: Mapping[str, Any], machines: Machines) -> float:
    """One optimiser step."""
    table_bytes = swept_bytes(sizes)
    if not machines.gpus:
        law = constants["seconds"]["train"]
        return float(sizes.batch * (law["each_example"] + law["each_vector"] * sizes.negatives) + table_bytes * law["each_table_byte"])
    if machines.examples_per_second:
        return sizes.batch / (machines.examples_per_second * machines.gpus)
    assumed = constants["assumed"]
    rank_batch = sizes.batch / machines.gpus
    flops = rank_batch * step_flops(sizes)
    moved = table_bytes / (machines.gpus if sizes.sharded else 1) + rank_batch * activation_bytes(sizes)
    speed, bandwidth = assumed["tflops"] * 1e12, assumed["gigabytes_per_second"] * 1e9
    return float(max(flops / speed, moved / bandwidth) / assumed["share_reached"] + assumed["step_overhead_seconds"])


def swept_bytes(sizes: Sizes) -> float:
    """What AdamW reads and writes of the tables in a step: weights, gradient and two moments, all rows."""
    return sizes.table_rows * sizes.dim * 4 * 7


def step_flops(sizes: Sizes) -> float:
    """Of one example, forward and backward: towers over every item vector it needs, and scores over the batch."""
    tower = 2 * (sizes.content_dim * sizes.dim + 2 * sizes.dim * sizes.hidden)
    return 3 * ((2 + sizes.negatives) * tower + 2 * sizes.dim * (sizes.batch / max(sizes.processes, 1) + sizes.negatives))


def activation_bytes(sizes: Sizes) -> float:
    """Of one example, kept from forward to backward: inputs and hidden layers of its item vectors, history, scores."""
    vectors = (2 + sizes.negatives) * (sizes.content_dim + 3 * sizes.dim + sizes.hidden) * 4
    scores = 3 * 4 * (sizes.batch / max(sizes.processes, 1) / sizes.accumulate + sizes.negatives)
    return vectors + scores + 8 * (sizes.history + sizes.known) + 4 * sizes.history * sizes.dim
