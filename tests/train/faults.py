"""Faults for workers in real processes, each struck once over all starts of a job."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from esans.train.guard import TrainingDiverged

VARIABLE = "ESANS_TEST_FAULTS"
WORK = "tests.train.faults:run"


def plan(folder: Path, *faults: tuple[int, int, str]) -> str:
    """The value of the environment variable: (rank, step before which it strikes, what) in the order they come."""
    return json.dumps({"folder": str(folder), "faults": faults})


def run(spec_json: str) -> None:
    """Train with the faults that the environment names."""
    from esans.train import trainer
    from esans.train.worker import run_worker

    planned = json.loads(os.environ[VARIABLE])
    kept = trainer.Trainer.train_step

    def faulty(self: Any, *args: Any) -> Any:
        for place, (rank, step, what) in enumerate(planned["faults"]):
            if self.rank == rank and self.progress.step + 1 == step and _first(Path(planned["folder"]) / f"fault-{place}"):
                _strike(self, what)
        return kept(self, *args)

    trainer.Trainer.train_step = faulty  # type: ignore[method-assign]
    run_worker(spec_json)


def _first(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _strike(trainer: Any, what: str) -> None:
    if what == "sleep":
        time.sleep(1000)
    elif what == "diverged":
        raise TrainingDiverged("the loss is not finite")
    elif what == "bug":
        raise ValueError("a shape is wrong")
    else:
        os.kill(os.getpid(), getattr(signal, what))
