"""The schedules in conf/schedule, each read by what would run it, or by its rules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from esans.commands.retrain import _own

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "schedule"
# An interpreter that has Airflow, whose pins do not fit those of this project.
AIRFLOW_PYTHON = os.environ.get("ESANS_AIRFLOW_PYTHON", "")


def test_the_crontab_runs_once_a_night_in_utc_and_reports_the_exit_code() -> None:
    lines = [line for line in (FOLDER / "crontab").read_text().splitlines() if line and not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    jobs = [line for line in lines if not re.match(r"[A-Z_]+=", line)]
    assert variables["CRON_TZ"] == "UTC"
    (job,) = jobs
    fields, command = job.split(maxsplit=5)[:5], job.split(maxsplit=5)[5]
    for field, (low, high) in zip(fields, [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)], strict=True):
        assert field == "*" or low <= int(field) <= high
    assert fields[2:] == ["*", "*", "*"]
    assert "%" not in command, "cron reads a percent sign as a new line"
    assert "esans retrain --catch-up --config" in command
    subprocess.run(["sh", "-n", "-c", command], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_service_and_its_timer(tmp_path: Path) -> None:
    for name in ("esans-retrain.service", "esans-retrain.timer"):
        text = (FOLDER / name).read_text()
        # It also looks whether the program is there, which it is not on this machine.
        (tmp_path / name).write_text(text.replace("/opt/esans/.venv/bin/esans", "/bin/true").replace("User=esans\n", ""))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True, check=False
    )
    ours = [line for line in found.stderr.splitlines() if "esans-retrain" in line]
    assert found.returncode == 0, found.stderr
    assert ours == []


def test_the_timer_says_when_and_catches_up() -> None:
    text = (FOLDER / "esans-retrain.timer").read_text()
    assert "OnCalendar=*-*-* 02:15:00 UTC" in text
    assert "Persistent=true" in text


def test_the_cron_job_of_kubernetes_never_runs_twice_at_a_time_and_says_what_it_needs() -> None:
    job: dict[str, Any] = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    spec = job["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["timeZone"] == "Etc/UTC"
    assert len(spec["schedule"].split()) == 5
    inner = spec["jobTemplate"]["spec"]
    pod = inner["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "a policy for exit codes needs it"
    (container,) = pod["containers"]
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    assert {name for one in container["volumeMounts"] for name in [one["name"]]} == {one["name"] for one in pod["volumes"]}
    (rule,) = inner["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2, 3, 4]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    program, command, *arguments = container["command"]
    assert (program, command) == ("esans", "retrain")
    as_of, catch_up, rest = _own(arguments)
    assert (as_of, catch_up) == (None, True)
    assert rest[0] == "--config"


@pytest.mark.skipif(not AIRFLOW_PYTHON, reason="ESANS_AIRFLOW_PYTHON names no interpreter that has Airflow")
def test_airflow_imports_the_dag_and_maps_exit_codes(tmp_path: Path) -> None:
    check = """
import sys
from datetime import datetime, UTC
from airflow.exceptions import AirflowException, AirflowFailException
import airflow_dag
(task,) = airflow_dag.dag.tasks
assert airflow_dag.dag.max_active_runs == 1 and airflow_dag.dag.catchup and task.retries == 2
seen = []
class Done:
    returncode = 0
def run(command, **_):
    seen.append(command)
    return Done
airflow_dag.subprocess.run = run
night = datetime(2026, 11, 21, 2, 15, tzinfo=UTC)
airflow_dag.retrain(data_interval_end=night)
assert seen[0][-2:] == ["--as-of", "2026-11-20"], seen
for code, error in ((1, AirflowException), (4, AirflowFailException), (5, AirflowException)):
    Done.returncode = code
    try:
        airflow_dag.retrain(data_interval_end=night)
        sys.exit(f"{code} was taken for a success")
    except AirflowException as raised:
        assert type(raised) is error, (code, raised)
print("imported")
"""
    shutil.copy(FOLDER / "airflow_dag.py", tmp_path)
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([AIRFLOW_PYTHON, "-c", check], env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip().endswith("imported")


def test_the_dag_is_python_that_compiles() -> None:
    subprocess.run([sys.executable, "-c", f"compile(open({str(FOLDER / 'airflow_dag.py')!r}).read(), 'dag', 'exec')"], check=True)
