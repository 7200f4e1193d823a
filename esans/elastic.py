"""Worker processes of one host that are started again when one of them dies: torchrun's agent, with workers forked ready.

torchrun starts each worker as a new interpreter, which imports torch and the project anew. Here the same agent (rendezvous, restarts,
signals) forks its workers from a server that has imported the module of the work once, so a restart takes a fraction of a second.
The server starts no threads and touches no device, which makes forking it safe.

`command` is how one starts.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path

import fsspec
import psutil

from esans import failures
from esans.errors import EsansError
from esans.heartbeat import FOLDER, Silence, last_step, work_over

# Starts before this one, of the same work in the same job.
RESTARTS = "ESANS_RESTARTS"
# Imported by a worker's first calls and not by its module: building an optimiser costs seconds, once a start.
_LATER = ("torch._dynamo", "petastorm.fs_utils")
_OF_LOGGING = ("mlflow", "mlflow.store.tracking.sqlalchemy_store")
# How long ranks that know of a hang have to print their stacks and leave.
_GRACE_SECONDS = 3.0
_LOOK_SECONDS = 0.2
# torchrun's agent gives workers 30 s between SIGTERM and SIGKILL.
_AGENT_SECONDS = 45.0


def restarts() -> int:
    """How often the workers of this job were started before, as a worker knows it."""
    return int(os.environ.get(RESTARTS) or os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)


def run_work(work: str, spec_json: str) -> None:
    """Call `package.module:function` with the spec, in this process."""
    module, _, name = work.partition(":")
    function: Callable[[str], None] = getattr(import_module(module), name)
    function(spec_json)


def run_guarded(work: str, spec_json: str, scratch_uri: str, submission: int = 0) -> None:
    """`run_work` in a process that may be started again: errors are kept, and one that is final ends the next starts at once.

    Args:
        work: `package.module:function`.
        spec_json: its argument.
        scratch_uri: where failures are kept.
        submission: starts of the job before this one, where not torchrun's agent counts them.
    """
    if submission:
        os.environ[RESTARTS] = str(submission)
    if restarts() and failures.final(scratch_uri) is not None:
        sys.exit(1)
    try:
        run_work(work, spec_json)
        work_over()
    except EsansError as error:
        # It names what, where and the cure: a traceback would bury that.
        print(f"error: rank {_rank()}: {error}", file=sys.stderr, flush=True)
        _keep(scratch_uri, error)
        sys.exit(1)
    except Exception as error:
        _keep(scratch_uri, error)
        raise


def _keep(scratch_uri: str, error: Exception) -> None:
    try:
        failures.record(scratch_uri, _rank(), error, last_step())
    except OSError as why:
        # A disk that is full of checkpoints, say: the error itself must be seen all the same.
        print(f"  rank {_rank()}: its error could not be kept for the next start: {why}", file=sys.stderr, flush=True)


def supervise(command: Sequence[str], environment: Mapping[str, str], signs: Path, hang_seconds: float) -> tuple[int, str | None]:
    """Run an agent to its end; end workers that hang and can't do so themselves, because they are stopped.

    SIGTERM and Ctrl-C are passed on, and waited for: the workers write a checkpoint first. An agent that does not end by itself within
    `hang_seconds` and a little more is ended outright, with all below it.

    Args:
        command: the agent's.
        environment: the agent's.
        signs: folder that its workers leave signs of life in.
        hang_seconds: as in LaunchConfig.

    Returns:
        Exit code, and the verdict on the last start where that hung.
    """
    process = subprocess.Popen(command, env={**environment, FOLDER: str(signs)})
    silence = Silence(signs, hang_seconds)
    told = float("inf")
    try:
        while process.poll() is None:
            time.sleep(_LOOK_SECONDS)
            if silence.verdict() is None:
                told = float("inf")
            else:
                told = min(told, time.monotonic())
                if time.monotonic() - told > _GRACE_SECONDS:
                    silence.kill(process.pid)
    except BaseException:
        _end(process, hang_seconds + _AGENT_SECONDS)
        raise
    return process.returncode, silence.verdict()


def _end(agent: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask an agent to end, and end it with its workers where it has not after so many seconds."""
    agent.send_signal(signal.SIGTERM)
    try:
        agent.wait(seconds)
    except subprocess.TimeoutExpired:
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(agent.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        agent.kill()
        agent.wait()


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def command(processes: int, max_restarts: int, work: str, spec_uri: str, scratch_uri: str) -> list[str]:
    """How to start an agent: no `-m`, whose module each worker would run again."""
    call = "import sys; from esans.elastic import agent; sys.exit(agent(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))"
    return [sys.executable, "-c", call, str(processes), str(max_restarts), work, spec_uri, scratch_uri]


def agent(processes: int, max_restarts: int, work: str, spec_uri: str, scratch_uri: str) -> int:
    """Be the agent; the exit code of the first worker that failed after the last restart, or 0."""
    preload = [work.partition(":")[0], *_LATER]
    # Only one process logs, so without restarts there is nothing to save.
    preload += _OF_LOGGING if max_restarts else []
    multiprocessing.set_forkserver_preload(preload)
    # Now, so that its imports go on beside those of the agent.
    forkserver.ensure_running()
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").addFilter(_without_traceback)
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(_without_traceback)
    with fsspec.open(spec_uri, "r") as stream:
        spec_json = stream.read()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        start_method="forkserver",
    )
    try:
        elastic_launch(config, run_guarded)(work, spec_json, scratch_uri)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0


def _without_traceback(record: logging.LogRecord) -> bool:
    # That of the agent says nothing about the worker, whose own stands above.
    record.exc_info = None
    return True
