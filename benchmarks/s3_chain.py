"""The whole chain on S3 URIs, against a local S3 server:   python -m benchmarks.s3_chain

Raw tables, every bundle, checkpoints, the model, the index, the report and MLflow's artifacts lie in buckets; the job's own folder is
empty at the start and must hold nothing at the end. Spark reads and writes through Hadoop's S3A where this installation has its jars,
else through its Python workers (esans/lake.py); the figure's unit says which it was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.figures import record
from benchmarks.local_s3 import LocalS3, local_s3
from benchmarks.processes import free_port, service, wait_for
from esans.flow import STAGES

ROOT = Path(__file__).resolve().parents[1]
# Name of the file, and the key of its path below prepare.
_TABLES = {"items": "items", "interactions": "interactions", "text_emb": "items.extra.text_emb"}
_ASK = """
from esans.lake import hadoop_uri
from esans.spark import SparkConfig, open_session
print("through", hadoop_uri(open_session(SparkConfig(master="local[1]"), "ask"), "s3://bucket/x"))
"""


def main() -> None:
    """Run the chain, check where its results are, print what was found and record the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1, help="training epochs (1)")
    parser.add_argument("--processes", type=int, default=2, help="training processes (2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="esans-s3-") as name:
        folder = Path(name)
        with local_s3(folder / "server") as store:
            client = _client(store)
            client.create_bucket(Bucket="mlflow")
            for table in _TABLES:
                client.upload_file(str(ROOT / "data" / "online_retail" / f"{table}.parquet"), store.bucket, f"raw/{table}.parquet")
            env = {**os.environ, **store.env, "PYTHONPATH": str(ROOT)}
            started = time.perf_counter()
            empty = folder / "empty"
            empty.mkdir()
            code = _run(folder, empty, store, env, options)
            seconds = time.perf_counter() - started
            problems = _problems(client, store.bucket, empty, code)
            through = _through(env)
            requests = Counter(
                word for line in store.log.read_text(errors="replace").splitlines() for word in _VERBS if f'"{word} /' in line
            )
    for line in problems:
        print(f"not on S3: {line}")
    print(f"requests: {dict(requests)}; {seconds:.0f} s")
    whole = float(not problems)
    unit = f"1 = raw tables, 9 stages, checkpoints, model, index, report and MLflow artifacts on s3:// URIs; Spark through {through}"
    record({"s3.end_to_end": (whole, unit)}, "python -m benchmarks.s3_chain")
    print(f"s3.end_to_end = {whole:g} ({unit})")
    sys.exit(0 if whole else 1)


_VERBS = ("GET", "HEAD", "PUT", "POST", "DELETE")


def _client(store: LocalS3) -> Any:
    import boto3

    keys = {"aws_access_key_id": store.env["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": store.env["AWS_SECRET_ACCESS_KEY"]}
    return boto3.client("s3", endpoint_url=store.url, region_name=store.env["AWS_DEFAULT_REGION"], **keys)


def _run(folder: Path, empty: Path, store: LocalS3, env: dict[str, str], options: argparse.Namespace) -> int:
    """The pipeline over an MLflow server whose artifacts are on S3; its exit code."""
    port, log = free_port(), folder / "mlflow.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", "s3://mlflow"]
    with service(command, log, {**env, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}) as process:
        wait_for(f"http://127.0.0.1:{port}/health", "OK", process, log, seconds=180)
        job = [sys.executable, str(ROOT / "jobs" / "pipeline.py"), "--config", str(ROOT / "conf" / "quickstart.yaml")]
        job += [f"--work_dir=s3a://{store.bucket}/work", f"--tracking.uri=http://127.0.0.1:{port}", "--pipeline.methods=[esans]"]
        job += [f"--prepare.{key}.path=s3a://{store.bucket}/raw/{table}.parquet" for table, key in _TABLES.items()]
        job += [f"--train.epochs={options.epochs}", f"--train.launch.processes={options.processes}"]
        return subprocess.run(job, cwd=empty, env=env, check=False).returncode


def _problems(client: Any, bucket: str, empty: Path, code: int) -> list[str]:
    """What is not where it should be."""
    keys = {name: _keys(client, name) for name in (bucket, "mlflow")}
    finished = {key.split("/")[1] for key in keys[bucket] if key.endswith("/manifest.json") and key.count("/") == 3}
    found = [f"the pipeline ended with {code}"] if code else []
    found += [f"the bundle of {stage}" for stage in STAGES if stage not in finished]
    for what, part in (("checkpoints", "/scratch/checkpoints/"), ("the index", "/index.faiss"), ("the model", "/model/weights.pt")):
        found += [] if any(part in key for key in keys[bucket]) else [what]
    found += [] if any(key.startswith("work/reports/") for key in keys[bucket]) else ["the report"]
    found += [] if any(key.endswith("MLmodel") for key in keys["mlflow"]) else ["MLflow's artifacts"]
    return found + [f"{path.relative_to(empty)} lies on this host" for path in empty.rglob("*") if path.is_file()]


def _keys(client: Any, bucket: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [found["Key"] for page in pages for found in page.get("Contents", [])]


def _through(env: dict[str, str]) -> str:
    """How this installation's Spark reaches S3."""
    done = subprocess.run([sys.executable, "-c", _ASK], env=env, capture_output=True, text=True, check=True)
    told = next(line for line in done.stdout.splitlines() if line.startswith("through")).removeprefix("through ")
    return "its Python workers and s3fs (no S3A jars here)" if told == "None" else f"Hadoop ({told.partition('://')[0]})"


if __name__ == "__main__":
    main()
