"""Faults for workers in real processes, each struck once over all starts of a job."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esans.train.guard import TrainingDiverged

VARIABLE = "ESANS_TEST_FAULTS"
WORK = "tests.train.faults:run"


# Faults of other moments than the beginning of a step: in the write of the checkpoint of that step; after all work, whose step is 0.
KILLED_IN_WRITE, LINGERS = "killed in write", "lingers"


def plan(folder: Path, *faults: tuple[int, int, str]) -> str:
    """The value of the environment variable: (rank, step before which it strikes, what) in the order they come."""
    return json.dumps({"folder": str(folder), "faults": faults})


def run(spec_json: str) -> None:
    """Train with the faults that the environment names."""
    from esans.train import trainer
    from esans.train.checkpoint import Checkpoints
    from esans.train.worker import run_worker

    kept, written = trainer.Trainer.train_step, Checkpoints._write

    def faulty(self: Any, *args: Any) -> Any:
        for what in _due(self.rank, self.progress.step + 1):
            _strike(what)
        return kept(self, *args)

    def torn(self: Any, name: str, tensors: Any, skeleton: Any, step: int, best: bool) -> None:
        if KILLED_IN_WRITE in _due(self.rank, step, KILLED_IN_WRITE):
            _strike("SIGKILL")
        written(self, name, tensors, skeleton, step, best)

    trainer.Trainer.train_step = faulty  # type: ignore[method-assign]
    Checkpoints._write = torn  # type: ignore[method-assign]
    if any(what == KILLED_IN_WRITE for _, _, what in json.loads(os.environ[VARIABLE])["faults"]):
        # As on another host than that of the rank killed: the agent, which would be quicker, lets this one meet the loss itself.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run_worker(spec_json)
    if LINGERS in _due(int(os.environ["RANK"]), 0, LINGERS):
        time.sleep(1000)


def _due(at_rank: int, at_step: int, *of: str) -> Iterator[str]:
    """Faults that strike now, in order; each is marked as struck when it is given out."""
    planned = json.loads(os.environ[VARIABLE])
    for place, (rank, step, what) in enumerate(planned["faults"]):
        wanted = what in of if of else what not in (KILLED_IN_WRITE, LINGERS)
        if wanted and (rank, step) == (at_rank, at_step) and _first(Path(planned["folder"]) / f"fault-{place}"):
            yield what


def _first(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _strike(what: str) -> None:
    if what == "sleep":
        time.sleep(1000)
    elif what == "diverged":
        raise TrainingDiverged("the loss is not finite")
    elif what == "bug":
        raise ValueError("a shape is wrong")
    else:
        os.kill(os.getpid(), getattr(signal, what))
