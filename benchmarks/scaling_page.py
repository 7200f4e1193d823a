"""The measured part of docs/scaling.md: what was measured, and what the fitted laws say about a catalogue of ten million items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import machine
from benchmarks.growth import Growth

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TARGET = {"interactions": 1_000_000_000, "users": 100_000_000, "items": 10_000_000}
EXECUTORS, EXECUTOR_CORES = 50, 4
_SPARK = ("prepare", "features", "cluster")


def write_page(path: Path, results: Sequence[Mapping[str, Any]], growths: Mapping[str, Growth]) -> None:
    """Put the tables between the markers of the page. Raises ValueError when they are not there."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} lacks the lines {BEGIN} and {END}")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{measured_part(results, growths)}\n{END}{after}")


def measured_part(results: Sequence[Mapping[str, Any]], growths: Mapping[str, Growth]) -> str:
    """Markdown of both tables and the laws."""
    lines = [f"Measured on {machine()} (`python -m benchmarks.scale_features`); one executor of {results[-1]['cores']} cores.", ""]
    lines += [*_measurements(results), "", *_laws(growths, results), "", *_forecast(results[-1], growths)]
    return "\n".join(lines)


def _measurements(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| interactions | stage | s | rows/s/core | driver GB | executor GB | shuffled GB | spilled GB |"
    yield "|--:|---|--:|--:|--:|--:|--:|--:|"
    for result in results:
        size = result["interactions"]
        for stage, row in result["stages"].items():
            yield (
                f"| {size:,} | {stage} | {row['seconds']:,.0f} | {size / row['seconds'] / result['cores']:,.0f} | {row['driver_gb']:.2f} "
                f"| {row['executor_gb']:.2f} | {row['shuffle_bytes'] / 1e9:.2f} | {row['spilled_bytes'] / 1e9:.2f} |"
            )


def _laws(growths: Mapping[str, Growth], results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    last = results[-1]["interactions"]
    yield "| stage | a (s) | s at the largest size | p | largest error |"
    yield "|---|--:|--:|--:|--:|"
    for name, law in growths.items():
        yield f"| {name} | {law.a:.0f} | {law.seconds(last):,.0f} | {law.p:.2f} | {law.error:.0%} |"


def _forecast(largest: Mapping[str, Any], growths: Mapping[str, Growth]) -> Iterator[str]:
    target, cores = TARGET["interactions"], EXECUTORS * EXECUTOR_CORES
    grown = target / largest["interactions"]
    sizes = ", ".join(f"{value:,} {name}" for name, value in TARGET.items())
    yield f"{sizes}, on {EXECUTORS} executors of {EXECUTOR_CORES} cores. In proportion to the largest measurement where a law has p < 1:"
    yield "what flattens on one executor, as its fixed costs are spread, is no promise over a factor of fifty."
    yield ""
    yield "| stage | core-hours | hours, all cores busy | shuffled GB | of it per executor GB | shuffled GB/s of the whole cluster |"
    yield "|---|--:|--:|--:|--:|--:|"
    total = 0.0
    for stage in _SPARK:
        law = growths[stage]
        seconds = max(law.b * target**law.p, largest["stages"][stage]["seconds"] * grown)
        core_hours = seconds * largest["cores"] / 3600
        hours = law.a / 3600 + core_hours / cores
        shuffled = largest["stages"][stage]["shuffle_bytes"] * grown / 1e9
        total += hours
        yield (
            f"| {stage} | {core_hours:,.0f} | {hours:.2f} | {shuffled:,.0f} | {shuffled / EXECUTORS:,.1f} "
            f"| {shuffled / max(hours * 3600, 1e-9):,.1f} |"
        )
    rows = largest["interactions"] / largest["shuffle_partitions"]
    executor = max(row["executor_gb"] for row in largest["stages"].values())
    driver = max(largest["stages"][stage]["driver_gb"] for stage in _SPARK)
    yield ""
    yield (
        f"Together {total:.2f} hours. With {target / rows:,.0f} shuffle partitions a task sees as many rows as in the largest measurement, "
        f"where an executor of {largest['cores']} cores held {executor:.1f} GB at most, Python workers included, "
        f"and the driver {driver:.1f} GB."
    )
