"""One worker killed -9 at a random step, twenty times over a run, against the same run undisturbed; with one rank and with two.

    python -m benchmarks.chaos --data ../shared/data --work data/chaos [--dry-run]

The run restarts by itself (train.launch.max_restarts). What is compared is every tensor of the last checkpoint. Lost and repeated are
examples along the lineage of those weights (esans.train.lineage), against the examples of the shards as pyarrow reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import record
from benchmarks.methods.data import bundles
from esans.bundle import Bundle, BundleWriter
from esans.config import build, to_dict
from esans.tracking import TrackingConfig, start_run
from esans.train.checkpoint import Checkpoints
from esans.train.config import TrainConfig
from esans.train.launch import launch
from esans.train.lineage import Start, digests_of, lost_and_repeated, read
from esans.train.worker import WorkerSpec
from esans.uri import join

KEYS: Mapping[str, Any] = {
    "negatives": [{"sampler": "in_batch"}, {"sampler": "uniform", "num_negatives": 16}],
    "patience": 0,
    "log_every": 20,
    "validation_users": 500,
    "model": {"dim": 32, "hidden": 64},
}
# The run must not end before the last kill is struck.
_LEAST_LEFT = 10


class Killer(threading.Thread):
    """Ends one worker outright each time a run reaches the next of its steps.

    Args:
        scratch_uri: of the run; its record of steps tells how far it is, and the workers' process ids.
        steps: before which of them, rising.
        seed: chooses the rank.
    """

    def __init__(self, scratch_uri: str, steps: list[int], seed: int) -> None:
        super().__init__(daemon=True, name="killer")
        self.scratch_uri, self.steps, self.random = scratch_uri, steps, random.Random(seed)
        self.kills: list[tuple[float, int]] = []
        """When, and which process."""

    def run(self) -> None:
        """Wait for each step, and strike."""
        for step in self.steps:
            group = self._reached(step)
            victim = self.random.choice(group)
            os.kill(victim.pid, signal.SIGKILL)
            self.kills.append((time.time(), victim.pid))

    def _reached(self, step: int) -> list[Start]:
        last = self.kills[-1][0] if self.kills else 0.0
        while True:
            time.sleep(0.01)
            group = [start for start in read(self.scratch_uri) if start.began > last and start.steps]
            if group and len(group) == group[0].world_size and max(max(start.steps) for start in group) >= step:
                return group


@dataclass
class Run:
    """What a run left."""

    folder: Path
    spec: WorkerSpec
    seconds: float
    kills: list[tuple[float, int]]

    def records(self) -> list[dict[str, float]]:
        """Of the epochs."""
        return list(json.loads((self.folder / "scratch" / "result.json").read_text())["records"])

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor of the last checkpoint: weights, best weights, optimiser, guard, generators."""
        uri = str(self.folder / "scratch" / "checkpoints")
        manifest = json.loads((Path(uri) / Checkpoints(uri, {}).names()[-1] / "manifest.json").read_text())
        return _tensors(Checkpoints(uri, manifest["config"]).load())

    def seconds_to_resume(self) -> list[float]:
        """From each kill to the end of the first step after it."""
        firsts = sorted(min(step.ended for step in start.steps.values()) for start in read(self.spec.scratch_uri) if start.steps)
        return [next(first for first in firsts if first > when) - when for when, _ in self.kills]


def train(folder: Path, inputs: Mapping[str, Bundle], config: TrainConfig, steps: list[int], seed: int) -> Run:
    """Train to the end, killed before these steps."""
    shutil.rmtree(folder, ignore_errors=True)
    with start_run(
        TrackingConfig(uri=f"sqlite:///{folder.parent}/mlflow.db", system_metrics=False), str(folder.parent), folder.name
    ) as run:
        spec = WorkerSpec(
            config=to_dict(config),
            inputs={name: bundle.uri for name, bundle in inputs.items()},
            model_uri=str(folder / "model"),
            scratch_uri=str(folder / "scratch"),
            seed=0,
            run_id=run.run_id,
            tracking_uri=run.tracking_uri,
        )
        killer = Killer(spec.scratch_uri, steps, seed)
        killer.start()
        started = time.time()
        launch(spec.dump(), config.launch, spec.scratch_uri, None)
    return Run(folder, spec, time.time() - started, killer.kills)


def measure(inputs: Mapping[str, Bundle], work: Path, ranks: int, options: argparse.Namespace) -> dict[str, float]:
    """One run undisturbed and one killed, with so many ranks."""
    elastic = {"processes": ranks, "threads": 1, "mode": "torchrun", "max_restarts": options.kills + 5}
    keys = {**KEYS, "epochs": options.epochs, "batch_size": options.batch_size, "launch": elastic}
    config = build(TrainConfig, {**keys, "checkpoint": {"every_steps": options.every_steps, "record_steps": True}})
    config.resolve_groups()
    whole = train(work / f"whole-{ranks}", inputs, config, [], options.seed)
    total = int(whole.records()[-1]["step"])
    steps = sorted(random.Random(options.seed + ranks).sample(range(2, total - _LEAST_LEFT), options.kills))
    killed = train(work / f"killed-{ranks}", inputs, config, steps, options.seed)
    lost, repeated = lost_and_repeated(read(killed.spec.scratch_uri), total, digests_of(inputs["shards"].table("examples")))
    one, two = whole.state(), killed.state()
    differing = sum(not torch.equal(one[name], two[name]) for name in one)
    losses = [abs(a["loss"] - b["loss"]) for a, b in zip(whole.records(), killed.records(), strict=True)]
    waits = killed.seconds_to_resume()
    print(f"{ranks} rank(s), {total} steps, killed before steps {steps}: {len(killed.kills)} kills, {lost} lost, {repeated} repeated")
    print(f"  {differing} of {len(one)} tensors differ; loss differs by at most {max(losses):.3g}; {whole.seconds:.0f} s undisturbed")
    print(f"  {killed.seconds:.0f} s killed; seconds to the first step: median {statistics.median(waits):.2f}, max {max(waits):.2f}")
    return {
        "kills": len(killed.kills),
        "lost": lost,
        "repeated": repeated,
        "bitwise_equal": float(not differing and one.keys() == two.keys()),
        "loss_difference": max(losses),
        "seconds": statistics.median(waits),
        "seconds_max": max(waits),
    }


def few_shards(inputs: Mapping[str, Bundle], folder: Path, files: int) -> dict[str, Bundle]:
    """The same bundles with the first files of the examples only, so that twenty starts fit in minutes."""
    shutil.rmtree(folder, ignore_errors=True)
    old = inputs["shards"]
    out = BundleWriter(str(folder), "shards", "few")
    target = Path(join(out.data_uri, "examples").removeprefix("file://"))
    target.mkdir(parents=True)
    for uri in old.table("examples").file_uris[:files]:
        source = Path(uri.removeprefix("file://"))
        shutil.copy(source, target / source.name)
    rows = out.adopt("examples").rows
    out.write_arrow("target_counts", old.table("target_counts").arrow())
    out.state({**old.facts, "num_examples": rows})
    return {**inputs, "shards": out.finish(code_version=1, config={}, inputs={})}


def _tensors(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {path: state}
    inner = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {name: tensor for key, value in inner for name, tensor in _tensors(value, f"{path}.{key}").items()}


def main() -> None:
    """Measure, print, and enter the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with online_retail/")
    parser.add_argument("--work", type=Path, required=True, help="folder for bundles, made where they are missing, and for the runs")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--files", type=int, default=3, help="files of examples, about 16 thousand each")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--every-steps", type=int, default=5, help="between two checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the steps and the ranks")
    parser.add_argument("--dry-run", action="store_true", help="enter no figures")
    options = parser.parse_args()
    work = options.work.resolve()
    inputs = few_shards(bundles("online_retail", options.data, options.work), work / "chaos" / "shards", options.files)
    found = {ranks: measure(inputs, work / "chaos", ranks, options) for ranks in options.ranks}
    if not options.dry_run:
        record(figures(found), f"python -m benchmarks.chaos {' '.join(sys.argv[1:])}")


def figures(found: Mapping[int, Mapping[str, float]]) -> dict[str, tuple[float, str]]:
    """The figures: kills of each run, sums of what was lost and repeated, bits with one rank, loss with two, the slower resumption."""
    several = {
        "chaos.kills": (min(one["kills"] for one in found.values()), "kills a run"),
        "chaos.lost": (sum(one["lost"] for one in found.values()), "examples"),
        "chaos.repeated": (sum(one["repeated"] for one in found.values()), "examples"),
        "chaos.seconds_to_resume": (max(one["seconds"] for one in found.values()), "s, median"),
        "chaos.seconds_to_resume_max": (max(one["seconds_max"] for one in found.values()), "s"),
    }
    if 1 in found:
        several["chaos.bitwise_equal"] = (found[1]["bitwise_equal"], "1 or 0, one rank")
    if 2 in found:
        several["chaos.two_ranks_loss_difference"] = (found[2]["loss_difference"], "largest of the epochs")
    return several


if __name__ == "__main__":
    main()
