"""`esans plan` against a real run: the shop data, which no constant was fitted on.

    python -m benchmarks.plan_check --work FOLDER

Runs the chain over data/online_retail (or reads what FOLDER has of it) and compares bytes of every part of every bundle, processor
seconds of every stage, and seconds on the clock with the forecast from users, items and interactions alone. Prints all of them, the
losses too. The clock counts what else runs on a machine, so its ratio is entered only where that was next to nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.plan_constants import part_bytes, rest_bytes, seconds_of
from benchmarks.planning.measured import planned
from benchmarks.planning.run import shop
from esans.plan import constants, duration, volume
from esans.plan.sizes import Sizes
from esans.progress import console

WITHIN = 0.25
# Of the machine's processor time, what others may have had for the clock to be a figure.
OTHERS = 0.05
PAGE = Path(__file__).resolve().parents[1] / "docs" / "planning.md"
_MARKS = ("<!-- check -->", "<!-- end of check -->")


def main() -> None:
    """Compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true", help="enter no figure and leave docs/planning.md alone")
    options = parser.parse_args()
    sizes, run = planned(json.loads(shop(options.work.resolve()).read_text()))
    known = constants.load()
    found = compare(sizes, run, known)
    counted = compare(sizes, run, constants.with_examples(known, run["examples"] / run["interactions"]))
    for name, rows in found.items():
        _print(name, rows)
    ratios, told = _ratios(found), _ratios(counted)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}, and {told[name]:.2f} with --examples-per-interaction={run['examples'] / run['interactions']:.2f}")
    idle = run["others"] <= OTHERS
    print(f"others had {run['others']:.1%} of the machine while it ran{'' if idle else ': the clock is shown and enters no figure'}")
    if not idle:
        del found["clock"], ratios["clock"]
    if not options.dry_run:
        from benchmarks.figures import record

        unit = f"forecast / measured, {{}} of the whole chain over online_retail, {len(run['methods'])} methods"
        figures = {
            "plan.error_ratio": (round(ratios["bytes"], 3), unit.format("bytes of all bundles")),
            "plan.error_ratio.seconds": (round(ratios["seconds"], 3), unit.format("processor seconds")),
        }
        known_share = "the share of examples given"
        figures["plan.error_ratio.counted"] = (round(told["bytes"], 3), f"{unit.format('bytes of all bundles')}, {known_share}")
        figures["plan.error_ratio.seconds.counted"] = (round(told["seconds"], 3), f"{unit.format('processor seconds')}, {known_share}")
        if "clock" in ratios:
            figures["plan.error_ratio.clock"] = (round(ratios["clock"], 3), unit.format("seconds on the clock"))
        for name, rows in found.items():
            figures |= {
                f"plan.error_ratio.{name}.{stage}": (round(one[0] / one[1], 3), "forecast / measured")
                for stage, one in rows.items()
                if stage != "together" and "." not in stage
            }
        record(figures, "python -m benchmarks.plan_check --work FOLDER")
        write_page(PAGE, found)


def _ratios(found: Mapping[str, Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    return {name: rows["together"][0] / rows["together"][1] for name, rows in found.items()}


def write_page(page: Path, found: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Put the comparison between the two marks of docs/planning.md."""
    head, _, rest = page.read_text().partition(_MARKS[0])
    _, _, tail = rest.partition(_MARKS[1])
    heads = {"bytes": "bytes", "seconds": "processor s", "clock": "s on the clock"}
    lines = [
        "| stage |" + "".join(f" {heads[name]}, forecast | measured | ratio |" for name in found),
        "|---" + "|--:" * 3 * len(found) + "|",
    ]
    for stage in (*duration.ORDER, "together"):
        cells = []
        for rows in found.values():
            expected, measured = rows[stage]
            cells += [f"{expected:,.0f}", f"{measured:,.0f}", _ratio(expected, measured)]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    page.write_text(f"{head}{_MARKS[0]}\n{chr(10).join(lines)}\n{_MARKS[1]}{tail}")


def _ratio(expected: float, measured: float) -> str:
    if not measured:
        return "-"
    ratio = expected / measured
    return f"{ratio:.2f}" if 1 - WITHIN <= ratio <= 1 + WITHIN else f"**{ratio:.2f}**"


def compare(sizes: Sizes, run: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, dict[str, tuple[float, float]]]:
    """(forecast, measured) by part and stage: `bytes`, `seconds` of processors and on the `clock`; `together` is the sum of the stages."""
    forecast, methods = volume.forecast(sizes, known), len(run["methods"])
    parts: dict[str, tuple[float, float]] = {}
    for name, expected in forecast.items():
        stage, _, part = name.partition(".")
        measured = rest_bytes(run, stage) if part == "rest" else part_bytes(run, name)
        parts[name] = expected, measured * (methods if stage in volume.METHOD_STAGES else 1)
    stages = {stage: _sum([one for name, one in parts.items() if name.startswith(f"{stage}.")]) for stage in duration.ORDER}
    seconds = {
        stage: (expected, seconds_of(run, stage) * (methods if stage in volume.METHOD_STAGES else 1))
        for stage, expected in duration.processor_seconds(sizes, known).items()
    }
    clock = {
        stage: (expected, seconds_of(run, stage, "wall_seconds") * (methods if stage in volume.METHOD_STAGES else 1))
        for stage, expected in duration.seconds(sizes, known, duration.Machines(cores=run["cores"], gpus=0)).items()
    }
    return {
        "bytes": {**parts, **stages, "together": _sum(list(stages.values()))},
        "seconds": {**seconds, "together": _sum(list(seconds.values()))},
        "clock": {**clock, "together": _sum(list(clock.values()))},
    }


def _sum(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


def _print(name: str, rows: Mapping[str, tuple[float, float]]) -> None:
    table = Table("what", box=None, pad_edge=False)
    for column in (f"{name}, forecast", "measured", "ratio", ""):
        table.add_column(column, justify="right")
    for what, (expected, measured) in rows.items():
        ratio = expected / measured if measured else float("nan")
        outside = "" if 1 - WITHIN <= ratio <= 1 + WITHIN else "outside 25 %"
        table.add_row(what, f"{expected:,.0f}", f"{measured:,.0f}", f"{ratio:.2f}" if measured else "-", outside if measured else "")
    console.print(table)
    console.print()


if __name__ == "__main__":
    main()
