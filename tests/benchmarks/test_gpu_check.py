"""The GPU check itself works: rehearsed on the CPU, it says that it is a rehearsal, and it can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu import checks
from benchmarks.gpu.checks import CHECKS, Finding, Setting, Skipped

ROOT = Path(__file__).resolve().parents[2]
SMALL = Setting("cpu", items=400, batch=32, rounds=1)
# The one on executors starts a cluster.
QUICK = [name for name in CHECKS if name != "encoders on executors"]


def test_every_check_but_the_cluster_runs_through_on_a_cpu_and_is_only_a_rehearsal() -> None:
    report = gpu_check.run(SMALL, QUICK)
    assert [(check["name"], check["state"]) for check in report["checks"]] == [(name, "rehearsed") for name in QUICK]
    assert report["checks"][0]["figures"]["methods"] >= 15
    assert report["rehearsal"]
    assert "This says nothing about GPUs" in gpu_check.markdown(report)


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_the_encoder_runs_on_executors() -> None:
    assert "64 texts encoded on cpu by executors" in CHECKS["encoders on executors"](SMALL).text


@pytest.mark.skipif(torch.cuda.is_available(), reason="what it says without a GPU; with one it would run all its checks for minutes")
def test_without_a_gpu_it_says_so_ends_with_3_and_writes_nothing(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gpu-check.md").read_text()
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == gpu_check.NO_GPU == 3
    assert "nothing was checked" in done.stderr
    assert not (tmp_path / "out").exists()
    assert (ROOT / "docs" / "gpu-check.md").read_text() == page


def test_a_claim_that_does_not_hold_fails_and_what_is_lacking_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(setting: Setting) -> Finding:
        raise AssertionError("the host waits\nfor | the device")

    def lacking(setting: Setting) -> Finding:
        raise Skipped("needs two GPUs")

    monkeypatch.setattr(gpu_check, "CHECKS", {"one": broken, "two": lacking, "three": lambda setting: Finding("fine")})
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "--out", str(tmp_path), "--only", "one,two,three"])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 1
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    assert [check["state"] for check in report["checks"]] == ["failed", "skipped", "rehearsed"]
    assert "| one | failed | AssertionError: the host waits for / the device |" in (tmp_path / "gpu-check.md").read_text()


def test_losses_far_apart_are_not_taken_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_BF16_APART", 0.0)
    with pytest.raises(AssertionError, match="in bfloat16"):
        checks.bf16(SMALL)
