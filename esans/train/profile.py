"""Where the time of a step goes: torch.profiler over a few steps, with the parts of a step by name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from esans.negatives import groups
from esans.train.trainer import Trainer

# Steps before the first that is profiled: the first ones make the optimiser's state and fill the allocator's pools.
WARM_UP = 10
_OPERATORS = 60


@contextmanager
def parts_of_steps(trainer: Trainer, around: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
    """Run each part of the trainer's steps inside `around(its name)`: users, draws, items, scores, terms, loss, backward, optimiser."""
    module, negatives = trainer.module, trainer.module.negatives
    places: list[tuple[Any, str, str]] = [
        (module.model, "shared_inputs", "item inputs"),
        (module, "encode_users", "users"),
        (module, "encode", "items"),
        (groups, "_scores", "scores"),
        (negatives.loss, "logits", "loss"),
        (negatives.loss, "forward", "loss"),
        (torch.autograd, "backward", "backward"),
        (trainer.optimizer, "step", "optimiser"),
    ]
    for sampler in negatives.samplers:
        places += [(sampler, "propose", f"draws: {sampler.name}"), (sampler, "refine", f"terms: {sampler.name}")]
    undo = [_wrap(owner, name, part, around) for owner, name, part in places]
    try:
        yield
    finally:
        for put_back in undo:
            put_back()


def _wrap(owner: Any, name: str, part: str, around: Callable[[str], AbstractContextManager[Any]]) -> Callable[[], None]:
    own, method = vars(owner).get(name), getattr(owner, name)

    @wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with around(part):
            return method(*args, **kwargs)

    setattr(owner, name, wrapped)
    # A method of the class shows again once the instance's own attribute is gone.
    return (lambda: delattr(owner, name)) if own is None else (lambda: setattr(owner, name, own))


def profile_steps(trainer: Trainer, steps: int, keep: Callable[[str, str], None]) -> None:
    """Let `train` profile so many steps once, a few steps after it begins; the training itself does not change.

    Args:
        trainer: of the rank that is profiled, before it trains.
        steps: at least 1.
        keep: takes a text and the path it is kept under: `profile/trace.json`, which chrome://tracing and Perfetto open, and
            `profile/operators.txt`, the operators and parts that took longest.
    """
    step, run = trainer.train_step, _profiling(trainer, steps, keep)
    next(run)

    @wraps(step)
    def stepping(*args: Any) -> Any:
        result = step(*args)
        if next(run, None) is None:
            trainer.train_step = step  # type: ignore[method-assign]
        return result

    trainer.train_step = stepping  # type: ignore[assignment, method-assign]


def _profiling(trainer: Trainer, steps: int, keep: Callable[[str, str], None]) -> Iterator[bool]:
    """Each `next` ends one step; ends itself once the texts are kept."""
    for _ in range(WARM_UP + 1):
        yield True
    on_gpu = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, record_shapes=True) as seen, parts_of_steps(trainer, record_function):
        for _ in range(steps):
            yield True
        if on_gpu:
            torch.cuda.synchronize(trainer.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        keep(path.read_text(), "profile/trace.json")
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    keep(f"{steps} steps\n{seen.key_averages().table(sort_by=order, row_limit=_OPERATORS)}\n", "profile/operators.txt")
