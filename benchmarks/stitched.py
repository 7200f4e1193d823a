"""What it costs to let Spark join the drawn negatives to the examples, against drawing them on the training device.

python -m benchmarks.stitched                 online_retail as in the quickstart; writes benchmarks/figures.json
python -m benchmarks.stitched --work FOLDER   keep the bundles; a second run goes on from the clusters that are there

Bytes and seconds are of the same examples in the same run, the fastest of some repeats; training runs on one thread of the processor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.figures import record
from esans.bundle import Bundle
from esans.flow import Plan, run_stage
from esans.settings import Settings, Source

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m benchmarks.stitched"
# By draws joined to each example; without any they are made on the training device.
METHODS = {0: "esans", 1: "esans_stitched"}


def main() -> None:
    """Measure, enter and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", help="folder for the bundles, kept")
    parser.add_argument("--repeats", type=int, default=2, help="times that shards are made and an epoch is trained; the fastest counts")
    arguments = parser.parse_args()
    work = str(Path(arguments.work).resolve()) if arguments.work else None
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(work or folder, arguments.repeats)
    record(figures, COMMAND)
    for name, (value, unit) in sorted(figures.items()):
        print(f"{name} = {value} {unit}")


def measure(folder: str, repeats: int) -> dict[str, tuple[float, str]]:
    """Every figure by name, with its unit."""
    for name in ("prepare", "features", "align", "cluster"):
        run_stage(Plan(settings(folder, 0)), name)
    seconds: dict[int, list[float]] = {draws: [] for draws in METHODS}
    epochs: dict[int, list[float]] = {draws: [] for draws in METHODS}
    sizes: dict[int, float] = {}
    # In turn, so that what slows the machine down for a while meets both of them.
    for _ in range(repeats):
        for draws in METHODS:
            plan = Plan(settings(folder, draws))
            shards = run_anew(plan, "shards")
            seconds[draws].append(shards.manifest["seconds"])
            epochs[draws] += run_anew(plan, "train").table("epochs").arrow()["seconds"].to_pylist()
            examples = shards.table("examples")
            sizes[draws] = sum(file.bytes for file in examples.files) / examples.rows
    figures = {
        "bytes_per_example": (round(sizes[0], 1), "B"),
        "bytes_per_draw": (round(sizes[1] - sizes[0], 1), "B"),
        "bytes_ratio": (round(sizes[1] / sizes[0], 3), "ratio"),
        "shards_seconds_ratio": (round(min(seconds[1]) / min(seconds[0]), 3), "ratio"),
        "step_time_ratio": (round(min(epochs[1]) / min(epochs[0]), 3), "ratio"),
    }
    return {f"stitched.{name}": value for name, value in figures.items()}


def settings(folder: str, draws: int) -> Settings:
    """The quickstart with so many draws joined to each example."""
    keys = {
        "work_dir": folder,
        "spark.driver_memory": "2g",
        "shards.stitch.draws": draws,
        "train.epochs": 1,
        "train.patience": 0,
        "train.launch.threads": 1,
        "train.validation_users": 100,
        "tracking.system_metrics": "false",
    }
    return Source(("conf/quickstart.yaml",), tuple(f"--{name}={value}" for name, value in keys.items())).load(METHODS[draws])


def run_anew(plan: Plan, name: str) -> Bundle:
    """The bundle of a stage, made now even where there is one."""
    shutil.rmtree(plan.stage(name).uri.removeprefix("file://"), ignore_errors=True)
    return run_stage(plan, name)


if __name__ == "__main__":
    main()
