"""How prepare, features and cluster grow with the data: four sizes on a real standalone Spark cluster, in client mode.

    python -m benchmarks.scale_features --work /data/scale            1 M to 20 M interactions, one item and one user to 20
    python -m benchmarks.scale_features --work /data/scale --sizes 200000   only this one; nothing is recorded
    python -m benchmarks.scale_features --work /data/scale --docs     rewrite the measured part of docs/scaling.md

Finished sizes are kept in --work and not repeated. Memory is sampled from outside: the driver is the JVM of spark-submit with the Python
process of the job, the executors are all children of the workers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import event_log
from benchmarks.growth import Growth, fit
from benchmarks.standalone import Standalone, standalone, submit

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m benchmarks.scale_features"
SIZES = (1_000_000, 2_700_000, 7_400_000, 20_000_000)
PER_ITEM = PER_USER = 20
STAGES = ("prepare", "features", "align", "cluster")
# Align is torch on one process: it stands between the others, and its time is its own.
COUNTED = ("prepare", "features", "cluster")
CORES, PARTITIONS = 2, 16
DRIVER_HEAP, EXECUTOR_HEAP, WORKER_MEMORY = "1g", "4g", "6g"


def main() -> None:
    """Measure what is not measured yet, print it, fit, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for tables, logs and results; 10 GB at the largest size")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="interactions of each size")
    parser.add_argument("--keep", action="store_true", help="keep each size's tables (for profiling); they go when it is finished")
    parser.add_argument("--docs", action="store_true", help="rewrite docs/scaling.md from the results in --work, and measure nothing")
    arguments = parser.parse_args()
    # A polite kill must not leave the cluster behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(arguments.work).resolve()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    if not arguments.docs:
        measure(work, sizes, keep=arguments.keep)
    results = load(work, sizes)
    for result in results:
        print_result(result)
    if len(results) >= 3:
        growths = growth(results)
        print_growth(growths, results)
        if not arguments.docs and tuple(sizes) == SIZES:
            record_figures(growths, results)
        if arguments.docs:
            from benchmarks.scaling_page import write_page

            write_page(ROOT / "docs" / "scaling.md", results, growths)


def measure(work: Path, sizes: Sequence[int], *, keep: bool) -> None:
    """Run every size that has no result yet; each writes work/<size>.json when all its stages are done."""
    missing = [size for size in sizes if not _result(work, size).is_file()]
    if not missing:
        return
    # The project beside this file, whatever else is installed.
    with standalone(work / "cluster", workers=1, cores=CORES, memory=WORKER_MEMORY, python_path=ROOT) as cluster:
        for size in missing:
            folder = work / str(size)
            result = {
                "interactions": size,
                "items": size // PER_ITEM,
                "users": size // PER_USER,
                "cores": CORES,
                "shuffle_partitions": PARTITIONS,
                "generate": generate(folder, size),
            }
            result["stages"] = {stage: run_stage(cluster, folder, stage) for stage in STAGES}
            _result(work, size).write_text(json.dumps(result, indent=1))
            if not keep:
                shutil.rmtree(folder)


def generate(folder: Path, size: int) -> float:
    """Write the tables of a size unless they are there; seconds it took."""
    done = folder / "generated.json"
    if not done.is_file():
        started = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.generate", "--users", str(size // PER_USER), "--items", str(size // PER_ITEM)]
        command += ["--interactions", str(size), "--out", str(folder / "raw"), "--master", f"local[{CORES}]"]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "generate.log").open("w") as log:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
        done.write_text(json.dumps(round(time.perf_counter() - started, 1)))
    return float(json.loads(done.read_text()))


def run_stage(cluster: Standalone, folder: Path, stage: str) -> dict[str, float]:
    """Submit one stage unless it was measured already; its seconds, peaks and the sums of its event log."""
    done, events = folder / f"{stage}.json", folder / "events" / stage
    if not done.is_file():
        shutil.rmtree(events, ignore_errors=True)
        events.mkdir(parents=True)
        overrides = {
            "work_dir": folder / "run",
            "spark.shuffle_partitions": PARTITIONS,
            "prepare.items.path": folder / "raw" / "items.parquet",
            "prepare.interactions.path": folder / "raw" / "interactions.parquet",
        }
        arguments = ["--config", str(ROOT / "benchmarks" / "scale.yaml"), *[f"--{name}={value}" for name, value in overrides.items()]]
        conf = {
            "spark.driver.memory": DRIVER_HEAP,
            "spark.executor.memory": EXECUTOR_HEAP,
            "spark.executorEnv.PYTHONPATH": str(ROOT),
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": events.as_uri(),
            "spark.eventLog.compress": "false",
            "spark.eventLog.rolling.enabled": "false",
        }
        seconds, peak = submit(cluster, ROOT / "jobs" / f"{stage}.py", arguments, conf, folder / f"{stage}.log")
        found = {"seconds": seconds, "driver_gb": peak.driver / 2**30, "executor_gb": peak.executors / 2**30, **event_log.totals(events)}
        done.write_text(json.dumps(found, indent=1))
        print(f"{folder.name} {stage}: {seconds:.1f} s", flush=True)
    return dict(json.loads(done.read_text()))


def load(work: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Results of the sizes that are finished, smallest first."""
    return [json.loads(_result(work, size).read_text()) for size in sorted(sizes) if _result(work, size).is_file()]


def _result(work: Path, size: int) -> Path:
    return work / f"{size}.json"


def counted_seconds(result: Mapping[str, Any]) -> float:
    """Seconds of prepare, features and cluster together."""
    return float(sum(result["stages"][stage]["seconds"] for stage in COUNTED))


def rows_per_second_core(result: Mapping[str, Any]) -> float:
    """Interactions through all three stages, per second and core."""
    return float(result["interactions"] / counted_seconds(result) / result["cores"])


def driver_gb(result: Mapping[str, Any]) -> float:
    """The largest driver of the three stages."""
    return float(max(result["stages"][stage]["driver_gb"] for stage in COUNTED))


def growth(results: Sequence[Mapping[str, Any]]) -> dict[str, Growth]:
    """The law t = a + b n^p of each stage, and for prepare, features and cluster together under `all`."""
    sizes = [result["interactions"] for result in results]
    found = {stage: fit(sizes, [result["stages"][stage]["seconds"] for result in results]) for stage in STAGES}
    return found | {"all": fit(sizes, [counted_seconds(result) for result in results])}


def print_result(result: Mapping[str, Any]) -> None:
    """A table of one size."""
    size = result["interactions"]
    print(f"\n{size:,} interactions, {result['users']:,} users, {result['items']:,} items (made in {result['generate']:.0f} s)")
    print(f"  {'stage':<10}{'s':>9}{'rows/s/core':>13}{'driver GB':>11}{'exec. GB':>10}{'spilled MB':>12}{'shuffled MB':>13}{'tasks':>7}")
    for stage, row in result["stages"].items():
        rate = size / row["seconds"] / result["cores"]
        memory = f"{row['driver_gb']:>11.2f}{row['executor_gb']:>10.2f}"
        moved = f"{row['spilled_bytes'] / 2**20:>12,.0f}{row['shuffle_bytes'] / 2**20:>13,.0f}{row['tasks']:>7.0f}"
        print(f"  {stage:<10}{row['seconds']:>9.1f}{rate:>13,.0f}{memory}{moved}")
    counted = f"{counted_seconds(result):>9.1f}{rows_per_second_core(result):>13,.0f}{driver_gb(result):>11.2f}"
    print(f"  {'together':<10}{counted}   ({', '.join(COUNTED)})")


def print_growth(growths: Mapping[str, Growth], results: Sequence[Mapping[str, Any]]) -> None:
    """The fits and what they say about the next size."""
    sizes = [result["interactions"] for result in results]
    ahead = sizes[-1] * sizes[-1] // sizes[-2]
    print(f"\nt = a + b n^p, n in interactions; forecast for {ahead:,}")
    for name, found in growths.items():
        law = f"a = {found.a:7.1f} s   b = {found.b:.3g}   p = {found.p:.3f}"
        print(f"  {name:<10} {law}   {found.seconds(ahead):8,.0f} s   at most {found.error:.1%} off")


def record_figures(growths: Mapping[str, Growth], results: Sequence[Mapping[str, Any]]) -> None:
    """Enter the three published figures; the driver's is the largest of all sizes."""
    from benchmarks.figures import record

    record(
        {
            "scale.features.exponent": (round(growths["all"].p, 3), "p in a + b n^p"),
            "scale.features.driver_gb": (round(max(driver_gb(result) for result in results), 2), "GB"),
            "scale.features.rows_per_second_core": (round(rows_per_second_core(results[-1])), "rows/s/core"),
        },
        COMMAND,
    )


if __name__ == "__main__":
    main()
