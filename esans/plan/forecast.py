"""Everything that `esans plan` says, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from esans.plan import duration, memory, volume
from esans.plan.duration import SPARK_STAGES, Machines
from esans.plan.memory import Room
from esans.plan.sizes import Sizes

# Of a Spark executor.
CORES, MEMORY_GB = 4, 16
_BYTES_PER_PARTITION = 128e6


@dataclass(frozen=True)
class Prices:
    """In any currency, an hour."""

    gpu: float
    core: float


def forecast(sizes: Sizes, constants: Mapping[str, Any], machines: Machines, room: Room, prices: Prices) -> dict[str, Any]:
    """The whole plan, in bytes, seconds and the currency of the prices."""
    bytes_of = volume.forecast(sizes, constants)
    disk = sum(bytes_of.values())
    seconds = duration.seconds(sizes, constants, machines)
    executors = max(math.ceil(machines.cores / CORES), 1)
    spark_hours = sum(seconds[stage] for stage in SPARK_STAGES) / 3600
    torch_hours = sum(seconds.values()) / 3600 - spark_hours

    def judge(other: Sizes) -> list[memory.Limit]:
        return memory.limits(other, room, sum(volume.forecast(other, constants).values()), machines.gpus)

    factor, broken = memory.first_to_break(sizes, judge)
    return {
        "sizes": asdict(sizes),
        "examples": volume.examples(sizes, constants["shares"]),
        "bytes": bytes_of,
        "bytes_of_stages": _by_stage(bytes_of),
        "disk": disk,
        "rank_memory": memory.rank(sizes, machines.gpus > 0),
        "steps": duration.steps(sizes, constants["shares"]),
        "step_seconds": duration.step_seconds(sizes, constants, machines),
        "seconds": seconds,
        "executors": executors,
        "executor_cores": CORES,
        "executor_memory_gb": MEMORY_GB,
        "shuffle_partitions": _partitions(bytes_of, machines.cores),
        "spark_hours": spark_hours,
        "torch_hours": torch_hours,
        "price": spark_hours * machines.cores * prices.core + torch_hours * machines.gpus * prices.gpu,
        "limits": [{**asdict(limit), "share": limit.share} for limit in judge(sizes)],
        "first_to_break": {"factor": factor, "name": broken.name, "cure": broken.cure},
        "training_time_is": _basis(machines),
    }


def cores_for(hours: float, sizes: Sizes, constants: Mapping[str, Any]) -> int:
    """Cores, whole executors, with which the Spark stages end within so many hours; at least one executor."""
    spent = duration.processor_seconds(sizes, constants)
    fixed = sum(constants["seconds"][stage]["fixed"] for stage in SPARK_STAGES)
    growing = (sum(spent[stage] for stage in SPARK_STAGES) - fixed) / constants["assumed"]["share_of_cores_busy"]
    return CORES * max(math.ceil(growing / max(hours * 3600 - fixed / constants["cores"], 60) / CORES), 1)


def _by_stage(bytes_of: Mapping[str, float]) -> dict[str, float]:
    stages: dict[str, float] = {}
    for name, size in bytes_of.items():
        stage = name.partition(".")[0]
        stages[stage] = stages.get(stage, 0.0) + size
    return stages


def _partitions(bytes_of: Mapping[str, float], cores: int) -> int:
    # What a shuffle moves is about what the examples take before they are compressed; three tasks a core at least.
    return int(max(3 * cores, 3 * bytes_of["shards.examples"] / _BYTES_PER_PARTITION))


def _basis(machines: Machines) -> str:
    if not machines.gpus:
        return "measured on CPU cores"
    if machines.examples_per_second:
        return "from the examples a second that you gave"
    return "assumed from the data sheet of a GPU and a share of it that nobody has measured: run `make gpu-check`"
