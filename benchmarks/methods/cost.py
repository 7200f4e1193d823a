"""What a step costs, beside a step of `uniform`: processor seconds of one thread, in turns, so that other work beside it counts little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import islice

from benchmarks.methods.fit import Fit
from benchmarks.methods.space import Defaults, Values, uniform
from esans.negatives.base import Batch

_ROUNDS, _STEPS = 4, 3
# By this epoch every group of every space has entered.
_ALL_ENTERED = 4


def steps_within(fit_of: Callable[[Values], Fit], values: Values) -> tuple[float, float]:
    """Processor seconds of a step of the method, and of `uniform`: the median over rounds in which both take turns."""
    fits = [fit_of(values), fit_of(uniform(Defaults()))]
    batches: list[list[Batch]] = [list(islice(fit.trainer.loader.epoch(0), _STEPS)) for fit in fits]
    seconds: list[list[float]] = [[], []]
    for turn in range(_ROUNDS + 1):
        for fit, part, found in zip(fits, batches, seconds, strict=True):
            started = time.process_time()
            for place, batch in enumerate(part):
                fit.trainer.train_step(batch, _ALL_ENTERED, place, _STEPS, False)
            if turn:
                found.append((time.process_time() - started) / _STEPS)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
