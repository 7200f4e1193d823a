"""One holder at a time, through deaths and pauses, in real processes on a real filesystem; and on one that is not local."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from esans.retrain.errors import Locked
from esans.retrain.lease import Lease, held

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from esans.retrain.lease import Lease
lease = Lease(sys.argv[1], "other work", float(sys.argv[2])).acquire(float(sys.argv[3]))
print("held", lease.token, flush=True)
sys.stdin.readline()
try:
    lease.verify()
    print("still mine", flush=True)
except Exception as error:
    print(type(error).__name__, flush=True)
lease.release()
"""


@contextmanager
def holder(uri: str, seconds: float, wait: float = 0) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease until it is told to go on."""
    command = [sys.executable, "-c", HOLD, uri, str(seconds), str(wait)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("held")
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def no_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands for an object store here shows the last writer at once."""
    monkeypatch.setattr("esans.retrain.lease._SETTLE", 0.01)


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on this machine, and one on a filesystem that knows neither links nor locks."""
    return str(tmp_path / "lock") if request.param == "file" else f"memory://{uuid.uuid4().hex}/lock"


def test_the_second_contender_leaves_and_is_told_who_holds_it_since_when(place: str) -> None:
    with held(place, "retrain as of 2026-11-20", 60, 0) as first:
        with pytest.raises(
            Locked, match=rf"retrain as of 2026-11-20, process {os.getpid()} on .*, since \d{{4}}-\d\d-\d\dT(.|\n)*--retrain.lock"
        ):
            Lease(place, "me too", 60).acquire()
        first.verify()
    with held(place, "me too", 60, 0) as second:
        assert second.token > first.token


def test_tokens_rise_with_every_holder_and_old_leases_are_cleared_away(place: str) -> None:
    tokens = []
    for turn in range(8):
        with held(place, f"turn {turn}", 60, 0) as lease:
            tokens.append(lease.token)
    assert tokens == sorted(set(tokens))
    assert len(lease._tokens()) <= 6


def test_a_silent_holder_loses_the_lease_after_its_length_and_finds_out_before_it_publishes(place: str) -> None:
    silent = Lease(place, "silent", 60).acquire()
    assert silent._held is not None
    silent._stop.set()  # as a paused process: no more signs of life
    silent._write(replace(silent._held, beat=time.time() - 120))
    with held(place, "next", 60, 0) as lease:
        assert lease.token == silent.token + 1
        with pytest.raises(Locked, match="lost the lease 1; it is held by next"):
            silent.verify()
        lease.verify()


def test_a_holder_that_was_away_while_nobody_came_goes_on_under_a_new_token(place: str) -> None:
    lease = Lease(place, "away", 60).acquire()
    assert lease._held is not None
    lease._write(replace(lease._held, beat=time.time() - 120))
    lease.verify()
    assert lease.token == 2
    with pytest.raises(Locked):
        Lease(place, "other", 60).acquire()
    lease.release()


def test_a_holder_that_is_killed_is_replaced_at_once_on_its_own_machine(tmp_path: Path) -> None:
    with holder(str(tmp_path), 3600) as process:
        with pytest.raises(Locked, match=f"other work, process {process.pid}"):
            Lease(str(tmp_path), "me", 3600).acquire()
        process.kill()
        process.wait()
        with held(str(tmp_path), "me", 3600, 0) as lease:
            assert lease.token == 2


def test_a_paused_holder_cannot_go_on_once_another_has_taken_over(tmp_path: Path) -> None:
    with holder(str(tmp_path), 1) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with held(str(tmp_path), "me", 60, 30) as lease:
            os.kill(process.pid, signal.SIGCONT)
            answer, _ = process.communicate("go on\n", timeout=30)
            assert answer.strip() == "Locked"
            lease.verify()


def test_a_living_holder_keeps_a_short_lease_by_its_heartbeat_and_one_who_waits_gets_it_afterwards(tmp_path: Path) -> None:
    with holder(str(tmp_path), 1) as process:
        time.sleep(2.5)
        with pytest.raises(Locked):
            Lease(str(tmp_path), "me", 1).acquire()
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.close()
        with held(str(tmp_path), "me", 60, 30):
            assert process.stdout is not None
            assert process.stdout.read().strip() == "still mine"


def test_of_many_contenders_one_at_a_time_holds_it(tmp_path: Path) -> None:
    work = (
        "import sys\nfrom pathlib import Path\nfrom esans.retrain.lease import held\n"
        "log = Path(sys.argv[2])\n"
        "for _ in range(3):\n"
        "    with held(sys.argv[1], 'one of many', 60, 60) as lease:\n"
        "        before = log.read_text()\n"
        "        log.write_text(before + f'{lease.token}\\n')\n"
    )
    log = tmp_path / "log"
    log.write_text("")
    command = [sys.executable, "-c", work, str(tmp_path / "lock"), str(log)]
    several = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) for _ in range(4)]
    assert [process.wait(timeout=100) for process in several] == [0] * 4
    tokens = [int(line) for line in log.read_text().split()]
    # Lost updates would show as missing lines.
    assert len(tokens) == 12
    assert tokens == sorted(set(tokens))
