"""Whether secrets leak: the whole chain runs with canaries where people keep secrets, then every byte it wrote is searched for them.

    python -m benchmarks.canaries --work FOLDER [--dry-run]

Canaries stand in the variables of object stores, MLflow and a webhook, in the tracking URI and the address of a webhook, in options of the
raw tables and in Spark's settings, as they are and as `${env:NAME}`. After the chain come runs that fail: a retraining whose data are
refused, a wrong value under a secret key, a database that is not there, and a server that is away. Searched are the work folder (tables
column by column), MLflow's database, artifacts and log, Spark's event logs, and what every process printed: for each canary as it is, in
base64 and as in a URL.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.processes import free_port, service, wait_for

ROOT = Path(__file__).resolve().parents[1]
# Name of the canary -> the variable that holds it.
VARIABLES = {
    "object store": "AWS_SECRET_ACCESS_KEY",
    "session": "AWS_SESSION_TOKEN",
    "MLflow": "MLFLOW_TRACKING_PASSWORD",
    "webhook": "ESANS_WEBHOOK_SECRET",
    "reference in an option": "WAREHOUSE_LOGIN",
    "reference in a setting": "STORE_LOGIN",
}
LITERALS = ("tracking URI", "option", "setting of Spark", "value of a wrong type", "database", "address")
USERS, ITEMS, EVENTS, DIM = 120, 60, 12, 8
# Jobs of seconds never repay the optimising compiler.
QUICK = "-XX:TieredStopAtLevel=1"


def main() -> None:
    """Run, search, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is written; emptied first")
    parser.add_argument("--dry-run", action="store_true", help="enter no figure")
    options = parser.parse_args()
    canaries, outputs = run(options.work.resolve())
    leaks = search(options.work / "searched", canaries)
    files = sum(1 for path in (options.work / "searched").rglob("*") if path.is_file())
    for path, name in leaks:
        print(f"LEAK: {name} in {path}")
    print(f"{len(canaries)} canaries, {outputs} processes, {files} files searched: {len(leaks)} leaks")
    if not options.dry_run:
        from benchmarks.figures import record

        unit = f"(file, canary) pairs, {len(canaries)} canaries"
        record({"security.canaries_leaked": (len(leaks), unit)}, "python -m benchmarks.canaries --work FOLDER")
    sys.exit(1 if leaks else 0)


def run(work: Path, store: Path | None = None, java_options: str = QUICK) -> tuple[dict[str, str], int]:
    """Run the chain and the failing runs; what they write is in work/searched.

    Args:
        work: emptied first.
        store: an MLflow database without runs to copy, which saves the server from making one.
        java_options: of Spark's driver.

    Returns:
        The canaries by name, and how many processes ran.

    Raises:
        RuntimeError: a run ended otherwise than it should: then nothing can be said.
    """
    shutil.rmtree(work, ignore_errors=True)
    searched = work / "searched"
    searched.mkdir(parents=True)
    canaries = {name: f"canary{uuid.uuid4().hex}" for name in (*VARIABLES, *LITERALS)}
    work_dir = searched / "work"
    config = write_inputs(work / "inputs", work_dir, canaries, java_options)
    port = free_port()
    environment = {**os.environ, **{variable: canaries[name] for name, variable in VARIABLES.items()}, "PYTHONPATH": str(ROOT)}
    environment["MLFLOW_TRACKING_URI"] = f"http://esans:{canaries['tracking URI']}@127.0.0.1:{port}"
    process = Runs(searched, config, environment)
    with mlflow(searched / "mlflow", port, store):
        process.run("pipeline", 0, "pipeline")
        process.run("doctor", None, "doctor")
        # Refused, for want of data on that day, and told to a webhook that is away.
        process.run("retrain", 3, "retrain", "--as-of=2026-01-01")
    process.run("printed", 0, "pipeline", "--print_config")
    process.run("wrong-type", 2, "prepare", f"--prepare.items.options.password=[{canaries['value of a wrong type']}]")
    database = f"--prepare.items.options.url=jdbc:postgresql://me:{canaries['database']}@127.0.0.1:1/x"
    absent = [
        "--prepare.items.path=null",
        "--prepare.items.table=x",
        "--prepare.items.snapshot=v1",
        "--prepare.items.format=jdbc",
        database,
    ]
    process.run("server-away", 1, "prepare", "--seed=1")
    process.run("no-database", 1, "prepare", *absent, f"--tracking.uri=sqlite:///{work_dir}/other.db")
    return canaries, process.count


class Runs:
    """Processes of `esans` whose output is kept."""

    def __init__(self, folder: Path, config: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.config, self.environment, self.count = folder, config, environment, 0

    def run(self, name: str, expected: int | None, command: str, *arguments: str) -> None:
        """Run a command to its end. Raises RuntimeError when its exit code is another than expected."""
        full = [sys.executable, "-m", "esans.cli", command, "--config", str(self.config), *arguments]
        done = subprocess.run(full, cwd=ROOT, env=dict(self.environment), capture_output=True, text=True, timeout=1800, check=False)
        for stream in ("stdout", "stderr"):
            (self.folder / f"{name}.{stream}").write_text(getattr(done, stream))
        self.count += 1
        if expected is not None and done.returncode != expected:
            raise RuntimeError(f"{name} ended with {done.returncode}, not {expected}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


@contextlib.contextmanager
def mlflow(folder: Path, port: int, store: Path | None) -> Iterator[None]:
    """An MLflow server; it lets everybody in, and so takes the password that it is given."""
    folder.mkdir()
    if store is not None:
        shutil.copy(store, folder / "mlflow.db")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with service(command, folder / "server.log", environment) as process:
        wait_for(f"http://127.0.0.1:{port}/health", "OK", process, folder / "server.log", seconds=180)
        yield


def write_inputs(folder: Path, work_dir: Path, canaries: Mapping[str, str], java_options: str = QUICK) -> Path:
    """A catalogue and events just large enough for every stage, and the configuration with its canaries."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    kind = random.integers(0, 4, ITEMS)
    vectors = random.normal(size=(4, DIM))[kind] + 0.3 * random.normal(size=(ITEMS, DIM))
    items = {"item_id": [f"i{item}" for item in range(ITEMS)], "title": [f"thing {item}" for item in range(ITEMS)]}
    pq.write_table(pa.table({**items, "vector": list(vectors.astype(np.float32))}), folder / "items.parquet")
    user = np.repeat(np.arange(USERS), EVENTS)
    events = {
        "user_id": [f"u{one}" for one in user],
        "item_id": [f"i{one}" for one in random.integers(0, ITEMS, USERS * EVENTS)],
        "timestamp": 1_700_000_000 + np.tile(np.arange(EVENTS), USERS) * 86_400 + user,
        "event": ["purchase"] * (USERS * EVENTS),
    }
    pq.write_table(pa.table(events), folder / "interactions.parquet")
    path = folder / "canaries.yaml"
    path.write_text(yaml.safe_dump(settings(folder, work_dir, canaries, java_options)))
    return path


def settings(folder: Path, work_dir: Path, canaries: Mapping[str, str], java_options: str) -> dict[str, Any]:
    """The configuration: one epoch of one method, in a process of its own, which reads its spec from a file."""
    spark = {
        "spark.hadoop.fs.s3a.secret.key": canaries["setting of Spark"],
        "spark.hadoop.fs.s3a.session.token": f"${{env:{VARIABLES['reference in a setting']}}}",
    }
    columns = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp", "event": "event"}
    return {
        "work_dir": str(work_dir),
        "spark": {
            "master": "local[2]",
            "driver_memory": "1g",
            "shuffle_partitions": 2,
            "java_options": java_options,
            "conf": spark,
        },
        "tracking": {"system_metrics": False, "deliver_seconds": 1.0},
        "pipeline": {"methods": ["uniform"]},
        "logging": {"lines": "both", "metrics_file": str(work_dir.parent / "metrics" / "esans.prom")},
        "prepare": {
            "items": {
                "path": str(folder / "items.parquet"),
                "columns": {"item_id": "item_id", "title": "title", "text_vector": "vector"},
                "options": {"password": canaries["option"]},
            },
            "interactions": {
                "path": str(folder / "interactions.parquet"),
                "columns": columns,
                "options": {"token": f"${{env:{VARIABLES['reference in an option']}}}"},
            },
            "events": {"positives": {"purchase": 1.0}},
        },
        "features": {"behaviour": {"dim": 8}},
        "align": {"epochs": 1, "dim": 8},
        "cluster": {"min_cluster_size": 5},
        "references": {"item_knn": False},
        "retrain": {"notify": {"url": f"http://127.0.0.1:1/services/{canaries['address']}", "retries": 0}},
        "train": {"epochs": 1, "batch_size": 128, "model": {"dim": 8, "hidden": 8}, "launch": {"mode": "torchrun", "threads": 1}},
    }


def search(folder: Path, canaries: Mapping[str, str]) -> list[tuple[Path, str]]:
    """(file below `folder`, name of the canary) of every canary that stands in one."""
    forms = {name: _forms(canary) for name, canary in canaries.items()}
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            contents = [str(path).encode(), *_contents(path)]
            found += [(path, name) for name, wanted in forms.items() if any(form in content for form in wanted for content in contents)]
    return found


def _forms(canary: str) -> list[bytes]:
    # Of base64, which depends on what stands before, the part that does not.
    encoded = [base64.b64encode(b"x" * shift + canary.encode())[4:-4] for shift in range(3)]
    return [canary.encode(), quote(canary).encode(), *encoded]


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what is compressed in it."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        for column in pq.read_table(path).columns:
            yield "\n".join(map(str, column.to_pylist())).encode()
    elif path.suffix == ".zstd":
        yield pa.CompressedInputStream(str(path), "zstd").read()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield archive.read(name)


if __name__ == "__main__":
    main()
