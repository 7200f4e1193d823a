"""Run the chain once over tables of a size, or over the shop data, and keep what it took.

python -m benchmarks.planning.run --work FOLDER --users 4000 --items 4000 --interactions 100000
python -m benchmarks.planning.run --work FOLDER --shop
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from benchmarks.planning.measured import measure, save
from esans.flow import METHOD_STAGES, STAGES
from esans.settings import Source

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
_SAMPLE_SECONDS = 0.2
METHODS = ["uniform", "esans"]
# The quickstart's own settings, with as many epochs as are said, and the embedding that large catalogues take.
SHOP = [
    "--features.behaviour.encoder=landmarks",
    "--align.epochs=4",
    "--references.item_knn=false",
    "--train.epochs=2",
    "--train.patience=0",
    "--tracking.system_metrics=false",
]


def main() -> None:
    """Run and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shop", action="store_true", help="data/online_retail in place of made-up tables")
    for name in ("users", "items", "interactions"):
        parser.add_argument(f"--{name}", type=int, default=0)
    options = parser.parse_args()
    if options.shop:
        shop(options.work.resolve())
    else:
        made(options.work.resolve(), options.users, options.items, options.interactions)


def shop(work: Path) -> Path:
    """Run over data/online_retail, keep; returns the file with what it took."""
    interactions = pq.ParquetFile(ROOT / "data" / "online_retail" / "interactions.parquet").metadata.num_rows
    return run(work, "shop", [str(ROOT / "conf" / "quickstart.yaml")], SHOP, interactions)


def made(work: Path, users: int, items: int, interactions: int) -> Path:
    """Make the tables, run, keep; returns the file with what it took."""
    raw = work / f"raw-{interactions}"
    if not (raw / "interactions.parquet" / "_SUCCESS").is_file():
        command = [sys.executable, "-m", "benchmarks.generate", "--users", str(users), "--items", str(items)]
        subprocess.run([*command, "--interactions", str(interactions), "--out", str(raw), "--master", "local[2]"], cwd=ROOT, check=True)
    paths = [f"--prepare.items.path={raw}/items.parquet", f"--prepare.interactions.path={raw}/interactions.parquet"]
    return run(work, str(interactions), [str(HERE / "generated.yaml")], paths, interactions)


def run(work: Path, name: str, configs: list[str], overrides: list[str], interactions: int) -> Path:
    """One pipeline from nothing, in a process of its own; returns the file with what it took."""
    out = work / f"{name}.json"
    if out.is_file():
        return out
    folder = work / name
    done = work / f"{name}.stages.json"
    taken = json.loads(done.read_text()) if done.is_file() else {}
    if not taken:
        shutil.rmtree(folder, ignore_errors=True)
    overrides = [*overrides, f"--work_dir={folder}", f"--pipeline.methods=[{', '.join(METHODS)}]"]
    arguments = [part for config in configs for part in ("--config", config)] + overrides
    for stage, method in [*((stage, "") for stage in STAGES if stage not in METHOD_STAGES), *product(METHOD_STAGES, METHODS)]:
        command = [sys.executable, "-m", "esans.cli", stage, *arguments, *([f"--method={method}"] if method else [])]
        key = f"{stage}.{method}" if method else stage
        # A run that was cut short goes on behind its last finished stage.
        if key not in taken:
            taken[key] = timed(command)
            done.write_text(json.dumps(taken, indent=1))
            print(f"{key}: {taken[key]}", flush=True)
    measured = measure(Source(tuple(configs), tuple(overrides)), METHODS, interactions)
    for key, found in taken.items():
        measured["stages"][key] |= found
    save(out, measured)
    return out


def timed(command: list[str]) -> dict[str, float]:
    """Run a stage to its end: seconds on the clock, and of processors, over all its processes, which what else runs here hardly changes."""
    began, spent = time.perf_counter(), {}
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                top = psutil.Process(process.pid)
                for one in [top, *top.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        times = one.cpu_times()
                        spent[one.pid, one.create_time()] = times.user + times.system
            time.sleep(_SAMPLE_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[3:])} ended with {process.returncode}")
    return {"wall_seconds": round(time.perf_counter() - began, 2), "processor_seconds": round(sum(spent.values()), 2)}


if __name__ == "__main__":
    main()
