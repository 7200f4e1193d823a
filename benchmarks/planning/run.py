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
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from benchmarks.planning.measured import measure, save
from esans.settings import Source

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
_SAMPLE_SECONDS = 0.3
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
    raw, out = work / f"raw-{interactions}", work / f"{interactions}.json"
    if not out.is_file() and not (raw / "interactions.parquet" / "_SUCCESS").is_file():
        command = [sys.executable, "-m", "benchmarks.generate", "--users", str(users), "--items", str(items)]
        subprocess.run([*command, "--interactions", str(interactions), "--out", str(raw), "--master", "local[2]"], cwd=ROOT, check=True)
    paths = [f"--prepare.items.path={raw}/items.parquet", f"--prepare.interactions.path={raw}/interactions.parquet"]
    return run(work, str(interactions), [str(HERE / "generated.yaml")], paths, interactions)


def run(work: Path, name: str, configs: list[str], overrides: list[str], interactions: int) -> Path:
    """One pipeline from nothing, in a process of its own; returns the file with what it took."""
    out, folder = work / f"{name}.json", work / name
    if out.is_file():
        return out
    shutil.rmtree(folder, ignore_errors=True)
    overrides = [*overrides, f"--work_dir={folder}", f"--pipeline.methods=[{', '.join(METHODS)}]"]
    arguments = [part for config in configs for part in ("--config", config)] + overrides
    began, before = time.monotonic(), _busy()
    taken = timed([sys.executable, "-m", "esans.cli", "pipeline", *arguments, "--logging.lines=stderr"])
    cores, own = psutil.cpu_count() or 1, sum(stage["processor_seconds"] for stage in taken.values())
    others = max(_busy() - before - own, 0) / ((time.monotonic() - began) * cores)
    measured = measure(Source(tuple(configs), tuple(overrides)), METHODS, interactions)
    measured |= {"cores": cores, "others": others}
    for key in measured["stages"]:
        measured["stages"][key] |= taken[key]
    save(out, measured)
    return out


def _busy() -> float:
    """Seconds that the processors of this machine have worked so far, whoever for."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def timed(command: list[str]) -> dict[str, dict[str, float]]:
    """Run a pipeline that tells of its stages in JSON lines on stderr.

    Returns:
        Stage (and method, from train on) -> seconds on the clock, and of processors, over all its processes, which other work
        on the machine changes less.

    Raises:
        RuntimeError: it failed.
    """
    found: dict[str, dict[str, float]] = {}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        spent = Spent(process.pid)
        before = 0.0
        assert process.stderr is not None
        for line in process.stderr:
            if not line.startswith('{"time"'):
                sys.stderr.write(line)
                continue
            told = json.loads(line)
            if told["event"] == "stage" and told["status"] == "finished":
                now = spent.seconds()
                key = f"{told['stage']}.{told['method']}" if "method" in told else told["stage"]
                found[key] = {"wall_seconds": told["seconds"], "processor_seconds": round(now - before, 2)}
                before = now
                print(f"{key}: {found[key]}", flush=True)
        spent.stop()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[3:])} ended with {process.returncode}")
    return found


class Spent:
    """Seconds of processors that a process and all its descendants have used, those that have ended included; sampled by a thread."""

    def __init__(self, pid: int) -> None:
        self._pid, self._spent, self._ended = pid, dict[tuple[int, float], float](), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def seconds(self) -> float:
        """Until now."""
        self._look()
        with self._lock:
            return sum(self._spent.values())

    def stop(self) -> None:
        """Sample no more."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(self._pid)
            for one in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = one.cpu_times()
                    with self._lock:
                        self._spent[one.pid, one.create_time()] = times.user + times.system


if __name__ == "__main__":
    main()
