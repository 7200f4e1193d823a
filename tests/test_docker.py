"""Dockerfiles, as far as they can be tested without a container engine."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
ENTRYPOINT = ROOT / "docker" / "spark-entrypoint.sh"


def instructions(file: Path) -> list[tuple[str, str]]:
    """(keyword, rest) of each instruction, continued lines joined, comments left out."""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")))
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint comes with the dev extra on Linux x86-64 only")
    done = subprocess.run([hadolint, "--config", ROOT / ".hadolint.yaml", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_bases_are_pinned_users_are_not_root_and_nothing_is_fetched_by_add(file: Path) -> None:
    parsed = instructions(file)
    bases = [rest.split()[0] for keyword, rest in parsed if keyword == "FROM"]
    assert all(re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", base) for base in bases)
    assert not [rest for keyword, rest in parsed if keyword == "ADD"]
    users = [rest for keyword, rest in parsed if keyword == "USER"]
    assert users[-1] not in ("root", "0", "0:0")
    assert not re.search(r"(?i)(password|secret|token|api_key)\s*=", file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_copied_exists_and_passes_the_dockerignore(file: Path) -> None:
    let_in = [line[1:].strip() for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for keyword, rest in instructions(file):
        if keyword != "COPY" or "--from=" in rest:
            continue
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), f"{source} is kept out by .dockerignore"


def test_services_have_a_health_check() -> None:
    assert "HEALTHCHECK" in [keyword for keyword, _ in instructions(ROOT / "docker" / "Dockerfile.spark")]


def entrypoint(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """The Spark image's entry point with stand-ins for Spark's own programs, which print what they were asked."""
    fake = tmp_path / "spark" / "bin"
    fake.mkdir(parents=True, exist_ok=True)
    for program in (fake / "spark-class", fake / "spark-submit", tmp_path / "java"):
        # A program that still runs cannot be written.
        if not program.exists():
            program.write_text('#!/bin/sh\necho "$(basename "$0") $*"\nsleep "${LINGER:-0}"\n')
            program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SPARK_HOME": str(tmp_path / "spark"), "TMPDIR": str(tmp_path), **environ}
    return subprocess.Popen([str(ENTRYPOINT), *arguments], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], "spark-class org.apache.spark.deploy.master.Master --port 7077 --webui-port 8080"),
        (["worker", "spark://m:7077"], "spark-class org.apache.spark.deploy.worker.Worker --webui-port 8081 spark://m:7077"),
        (["submit", "--master", "x", "a b.py"], "spark-submit --master x a b.py"),
        (["echo", "anything else"], "anything else"),
    ],
)
def test_the_entry_point_starts_the_role_it_is_given(tmp_path: Path, arguments: list[str], shown: str) -> None:
    assert entrypoint(tmp_path, *arguments).communicate(timeout=20)[0] == f"{shown}\n"


def test_an_executor_pod_gets_its_java_options_in_order(tmp_path: Path) -> None:
    names = ("DRIVER_URL", "EXECUTOR_ID", "EXECUTOR_CORES", "APPLICATION_ID", "EXECUTOR_POD_IP", "RESOURCE_PROFILE_ID", "EXECUTOR_POD_NAME")
    environ = {f"SPARK_{name}": name.lower() for name in names} | {"SPARK_EXECUTOR_MEMORY": "2g"}
    options = {f"SPARK_JAVA_OPT_{place}": f"-Dp{place}=a b" for place in range(11)}
    shown = entrypoint(tmp_path, "executor", **environ, **options).communicate(timeout=20)[0]
    assert shown.startswith("java " + " ".join(f"-Dp{place}=a b" for place in range(11)) + " -Xms2g -Xmx2g -cp ")
    assert "--driver-url driver_url --executor-id executor_id --cores executor_cores" in shown


def test_a_job_is_always_healthy_and_a_master_without_a_page_is_not(tmp_path: Path) -> None:
    if shutil.which("python") is None:
        pytest.skip("the image has `python`; this machine does not")
    running = entrypoint(tmp_path, "submit", "x", LINGER="20")
    try:
        _wait_for_role(tmp_path, "submit")
        assert entrypoint(tmp_path, "health").wait(timeout=20) == 0
        (tmp_path / "esans-role").write_text("master")
        with socket.socket() as closed:  # bound and not listening: nobody else can answer there
            closed.bind(("127.0.0.1", 0))
            assert entrypoint(tmp_path, "health", SPARK_MASTER_WEBUI_PORT=str(closed.getsockname()[1])).wait(timeout=20) != 0
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def _wait_for_role(folder: Path, role: str) -> None:
    for _ in range(200):
        if (folder / "esans-role").exists() and (folder / "esans-role").read_text().strip() == role:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {role}")
