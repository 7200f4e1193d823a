"""Write esans/plan/constants.json: what `esans plan` counts with, measured on the chain over made-up tables of two sizes.

    python -m benchmarks.plan_constants --work FOLDER

FOLDER keeps what was run (benchmarks/planning/run.py makes what is missing). Factors on bytes are the means over both sizes. Seconds
are those of processors, over all processes of a stage, which other work on the machine changes less than the clock, and still by half:
measure when little runs. They are a fixed part and one that grows, the line through both sizes; how prepare, features and cluster grow
is what benchmarks/scale_features.py measured up to 20 million interactions. The shop data, which benchmarks/plan_check.py compares with,
has no part in it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import machine
from benchmarks.planning.measured import planned
from benchmarks.planning.run import made
from esans.plan.constants import FILE
from esans.plan.duration import GROWS_WITH, ranking_flops, swept_bytes
from esans.plan.sizes import Sizes
from esans.plan.volume import LAWS

COMMAND = "python -m benchmarks.plan_constants --work FOLDER"
SIZES = ((1_500, 1_500, 30_000), (6_000, 6_000, 120_000))
CORES = 2
# Nobody has measured these here: a data sheet (H100 SXM, dense bfloat16 and HBM3), and a share of it that such steps are thought to reach.
ASSUMED: dict[str, Any] = {
    "tflops": 989.0,
    "gigabytes_per_second": 3350.0,
    "share_reached": 0.25,
    "step_overhead_seconds": 0.005,
    "share_of_cores_busy": 0.75,
    "processor_seconds_per_swept_byte": 1e-10,
    "processor_seconds_per_flop": 4e-11,
    "source": "data sheet of the NVIDIA H100 SXM; all else is assumed, never measured here",
}
# Core seconds of a further interaction, or item for cluster: from 7.4 to 20 million interactions on 2 cores, docs/scaling.md
# (python -m benchmarks.scale_features). Both cores are taken to be busy all the time.
SCALING = {
    "prepare": 2 * (223 - 148) / 12_600_000,
    "features": 2 * (310 - 170) / 12_600_000,
    "cluster": 2 * (128 - 74) / 630_000,
}
Run = tuple[Sizes, Mapping[str, Any]]


def main() -> None:
    """Run what is missing, fit, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    runs = [planned(json.loads(made(options.work.resolve(), *size).read_text())) for size in SIZES]
    constants = fit(runs)
    options.out.write_text(json.dumps(constants, indent=1, sort_keys=True) + "\n")
    print(json.dumps(constants, indent=1, sort_keys=True))


def fit(runs: Sequence[Run]) -> dict[str, Any]:
    """The constants of two runs."""
    shares = {
        "examples_per_interaction": _mean([run["examples"] / run["interactions"] for _, run in runs]),
        "test_users_per_user": _mean([run["test_users"] / run["users"] for _, run in runs]),
        "activity_spread": _mean([run["activity_spread"] for _, run in runs]),
    }
    return {
        "command": COMMAND,
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "measured_on": [{name: run[name] for name in ("users", "items", "interactions", "examples")} for _, run in runs],
        "cores": CORES,
        "shares": shares,
        "volume": {name: _mean([part_bytes(run, name) / law(sizes, shares) for sizes, run in runs]) for name, law in LAWS.items()},
        "rest": {stage: _mean([rest_bytes(run, stage) for _, run in runs]) for stage in _stages(runs[0][1])},
        "seconds": _seconds(runs, shares),
        "growth_of_prepare_features_cluster": "python -m benchmarks.scale_features",
        "assumed": ASSUMED,
    }


def _seconds(runs: Sequence[Run], shares: Mapping[str, float]) -> dict[str, dict[str, float]]:
    found = {}
    for stage, quantity in GROWS_WITH.items():
        points = [(quantity(sizes, shares), seconds_of(run, stage) - _ranking(stage, sizes, shares)) for sizes, run in runs]
        each, fixed = _line(points)
        if stage in SCALING:
            # So little data shows what a stage costs at all, not what a million rows more cost.
            each = SCALING[stage]
            fixed = max(_plain_mean([second - each * size for size, second in points]), 0.0)
        found[stage] = {"fixed": fixed, "each": each}
    return {**found, "train": _train(runs)}


def _ranking(stage: str, sizes: Sizes, shares: Mapping[str, float]) -> float:
    """Of the evaluation, the part that grows with users x items, which is nothing yet at these sizes: by arithmetic."""
    return ranking_flops(sizes, shares) * ASSUMED["processor_seconds_per_flop"] if stage == "evaluate" else 0.0


def _train(runs: Sequence[Run]) -> dict[str, float]:
    """Seconds = fixed + steps x (batch x (each_example + each_vector x item vectors of an example) + bytes swept x each_table_byte).

    The last is assumed: tables of this size are swept in less time than can be told from the rest.
    """
    from scipy.optimize import nnls

    rows, seconds, sweep = [], [], ASSUMED["processor_seconds_per_swept_byte"]
    for sizes, run in runs:
        steps = sizes.epochs * run["examples"] / sizes.batch
        for method, vectors in run["negatives"].items():
            rows.append([1.0, steps * sizes.batch, steps * sizes.batch * vectors])
            seconds.append(run["stages"][f"train.{method}"]["processor_seconds"] - steps * swept_bytes(sizes) * sweep)
    # Columns of like size, or the solver sees nothing but the largest; and errors relative to what was measured.
    scale = [max(column) or 1.0 for column in zip(*rows, strict=True)]
    scaled = [[value / top / second for value, top in zip(row, scale, strict=True)] for row, second in zip(rows, seconds, strict=True)]
    solved, _ = nnls(scaled, [1.0] * len(seconds))
    names = ("fixed", "each_example", "each_vector")
    fitted = {name: float(value / top) for name, value, top in zip(names, solved, scale, strict=True)}
    return {**fitted, "each_table_byte": sweep}


def _stages(run: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in run["stages"]))


def _of(run: Mapping[str, Any], stage: str) -> list[Mapping[str, Any]]:
    """The stage, or each method's."""
    return [found for name, found in run["stages"].items() if name.partition(".")[0] == stage]


def seconds_of(run: Mapping[str, Any], stage: str, which: str = "processor_seconds") -> float:
    """Of processors, or `wall_seconds`: of the stage, or of the mean method."""
    return _plain_mean([found[which] for found in _of(run, stage)])


def part_bytes(run: Mapping[str, Any], name: str) -> float:
    """Bytes of `stage.part`: of the stage, or of the mean method."""
    stage, _, part = name.partition(".")
    return _plain_mean([found["bytes"].get(part, 0) for found in _of(run, stage)])


def rest_bytes(run: Mapping[str, Any], stage: str) -> float:
    """Bytes of a stage that no law covers: of the stage, or of the mean method."""
    known = {name.partition(".")[2] for name in LAWS if name.startswith(f"{stage}.")}
    return _plain_mean([sum(size for part, size in found["bytes"].items() if part not in known) for found in _of(run, stage)])


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(slope, start) of the line through two points, neither below 0."""
    (x, small), (y, large) = points
    slope = max((large - small) / (y - x), 0.0)
    start = small - slope * x
    return (slope, start) if start >= 0 else (_plain_mean([small / x, large / y]), 0.0)


def _mean(values: Sequence[float]) -> float:
    """Geometric: the factor that is off by the same factor both ways."""
    return float(math.exp(_plain_mean([math.log(value) for value in values]))) if all(values) else _plain_mean(values)


def _plain_mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


if __name__ == "__main__":
    main()
