"""Seconds of every stage: a fixed part and one that grows, measured as time of processors; on GPUs, not measured yet, by arithmetic."""

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
    "evaluate": lambda s, h: s.users * h["test_users_per_user"],
    "export": lambda s, _: s.users + s.items,
}
ORDER = ("prepare", "features", "align", "cluster", "shards", "references", "train", "evaluate", "export")
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


def processor_seconds(sizes: Sizes, constants: Mapping[str, Any]) -> dict[str, float]:
    """Stage -> seconds of processors on CPUs, over all cores and, from train on, over the methods."""
    shares, law = constants["shares"], constants["seconds"]
    found = {stage: law[stage]["fixed"] + law[stage]["each"] * quantity(sizes, shares) for stage, quantity in GROWS_WITH.items()}
    found["train"] = law["train"]["fixed"] + steps(sizes, shares) * _step_processor_seconds(sizes, law["train"])
    found["evaluate"] += ranking_flops(sizes, shares) * constants["assumed"]["processor_seconds_per_flop"]
    return {stage: found[stage] * (len(sizes.methods) if stage in METHOD_STAGES else 1) for stage in ORDER}


def seconds(sizes: Sizes, constants: Mapping[str, Any], machines: Machines) -> dict[str, float]:
    """Stage -> seconds on the clock. What a stage does before and after its rows is as long on any cluster."""
    law, measured_cores, busy = constants["seconds"], constants["cores"], constants["assumed"]["share_of_cores_busy"]
    found = {}
    for stage, spent in processor_seconds(sizes, constants).items():
        fixed = law[stage]["fixed"] * (len(sizes.methods) if stage in METHOD_STAGES else 1)
        cores = machines.cores if stage in SPARK_STAGES else measured_cores
        if stage == "evaluate" and machines.gpus:
            spent -= ranking_flops(sizes, constants["shares"]) * constants["assumed"]["processor_seconds_per_flop"] * len(sizes.methods)
        found[stage] = fixed / measured_cores + (spent - fixed) / (cores * busy)
    if machines.gpus:
        stepping = steps(sizes, constants["shares"]) * step_seconds(sizes, constants, machines)
        found["train"] = (law["train"]["fixed"] / measured_cores + stepping) * len(sizes.methods)
        speed = constants["assumed"]["tflops"] * 1e12 * constants["assumed"]["share_reached"] * machines.gpus
        found["evaluate"] += ranking_flops(sizes, constants["shares"]) / speed * len(sizes.methods)
    return found


def step_seconds(sizes: Sizes, constants: Mapping[str, Any], machines: Machines) -> float:
    """One optimiser step, on the clock."""
    assumed, table_bytes = constants["assumed"], swept_bytes(sizes)
    if not machines.gpus:
        return _step_processor_seconds(sizes, constants["seconds"]["train"]) / (constants["cores"] * assumed["share_of_cores_busy"])
    if machines.examples_per_second:
        return sizes.batch / (machines.examples_per_second * machines.gpus)
    rank_batch = sizes.batch / machines.gpus
    flops = rank_batch * step_flops(sizes)
    moved = table_bytes / (machines.gpus if sizes.sharded else 1) + rank_batch * activation_bytes(sizes)
    speed, bandwidth = assumed["tflops"] * 1e12, assumed["gigabytes_per_second"] * 1e9
    return float(max(flops / speed, moved / bandwidth) / assumed["share_reached"] + assumed["step_overhead_seconds"])


def _step_processor_seconds(sizes: Sizes, law: Mapping[str, float]) -> float:
    return sizes.batch * (law["each_example"] + law["each_vector"] * sizes.negatives) + swept_bytes(sizes) * law["each_table_byte"]


def ranking_flops(sizes: Sizes, shares: Shares) -> float:
    """Scores of every test user with every item, one method."""
    return sizes.users * shares["test_users_per_user"] * sizes.items * 2 * sizes.dim


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
