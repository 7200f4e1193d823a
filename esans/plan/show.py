"""The plan as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from esans.plan.duration import SPARK_STAGES, Machines
from esans.progress import console, headline, say


def show(plan: Mapping[str, Any], machines: Machines) -> None:
    """Print the tables and what to do."""
    sizes = plan["sizes"]
    headline(f"{sizes['users']:,.0f} users, {sizes['items']:,.0f} items, {sizes['interactions']:,.0f} interactions")
    _stages(plan, machines)
    say(
        f"Spark: {plan['executors']:,} executors of {plan['executor_cores']} cores and {plan['executor_memory_gb']} GB, "
        f"spark.shuffle_partitions={plan['shuffle_partitions']:,}"
    )
    say(f"training: {plan['examples']:,.0f} examples, {plan['steps']:,.0f} steps a method of {plan['step_seconds'] * 1e3:,.1f} ms,")
    say(f"  {plan['training_time_is']}")
    say(f"together: {size(plan['disk'])}, {hours(sum(plan['seconds'].values()))}, {plan['price']:,.2f} at the given rates")
    _memory(plan, machines)
    _limits(plan)


def _stages(plan: Mapping[str, Any], machines: Machines) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "on", "bundle", "most of it", "time"):
        table.add_column(name, justify="right" if name in ("bundle", "time") else "left")
    for stage, seconds in plan["seconds"].items():
        parts = {name: found for name, found in plan["bytes"].items() if name.startswith(f"{stage}.")}
        largest = max(parts, key=lambda name: parts[name]).partition(".")[2] if parts else ""
        where = f"{machines.cores} cores" if stage in SPARK_STAGES else (f"{machines.gpus} GPUs" if machines.gpus else "CPU")
        table.add_row(stage, where, size(plan["bytes_of_stages"].get(stage, 0.0)), largest, hours(seconds))
    console.print(table)


def _memory(plan: Mapping[str, Any], machines: Machines) -> None:
    table = Table(box=None, pad_edge=False, title_justify="left", title=f"memory of a {'GPU' if machines.gpus else 'training process'}")
    table.add_column("what")
    table.add_column("", justify="right")
    for name, found in sorted(plan["rank_memory"].items(), key=lambda part: -part[1]):
        table.add_row(name, size(found))
    table.add_row("together", size(sum(plan["rank_memory"].values())))
    console.print(table)


def _limits(plan: Mapping[str, Any]) -> None:
    for limit in plan["limits"]:
        verdict = "DOES NOT FIT" if limit["share"] > 1 else "fits"
        say(f"{verdict}: {limit['name']}: {size(limit['need'])} of {size(limit['have'])}")
        if limit["share"] > 1:
            say(f"  -> {limit['cure']}")
    broken = plan["first_to_break"]
    if broken["factor"] >= 1:
        say(f"first to stop fitting: {broken['name']}, at {broken['factor']:,.1f} x these sizes. Then: {broken['cure']}.")
    else:
        say(f"all would fit at {broken['factor']:.2g} x these sizes; the first to break there is {broken['name']}.")


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit in ("B", "kB") else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError


def hours(seconds: float) -> str:
    """Seconds in the unit that fits."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
