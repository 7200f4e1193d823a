"""kill -9 in the middle of a stage leaves no result, and the next run completes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from esans.bundle import Bundle
from esans.flow import Plan
from esans.settings import Source
from tests.integration.processes import ROOT, run_job, succeeded


def kill_when(command: list[str], half_way: Callable[[], bool], seconds: float = 240) -> int:
    """Start a process group, kill it outright as soon as `half_way` holds, and return its exit code."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + seconds
    try:
        while not half_way():
            assert process.poll() is None, (process.stdout or sys.stdin).read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    return process.returncode


def test_a_killed_stage_leaves_no_manifest_and_the_next_run_completes(retail_slice: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(retail_slice), f"--work_dir={tmp_path}"]
    uri = Plan(Source((str(retail_slice),), (f"--work_dir={tmp_path}",)).load()).stage("prepare").uri
    folder = Path(uri.removeprefix("file://"))

    def half_way() -> bool:
        # A finished table and no manifest: the stage has written something and not everything.
        return any(folder.glob("attempt-*/items/_SUCCESS"))

    code = kill_when([sys.executable, "jobs/prepare.py", *arguments], half_way)
    assert code == -signal.SIGKILL
    attempts = set(folder.glob("attempt-*"))
    assert len(attempts) == 1
    assert Bundle.find(uri) is None

    succeeded(run_job("prepare", *arguments))
    bundle = Bundle.open(uri)
    assert Path(bundle.data_uri.removeprefix("file://")) not in attempts
    assert bundle.table("interactions").rows > 0
    assert "up to date" in succeeded(run_job("prepare", *arguments))
