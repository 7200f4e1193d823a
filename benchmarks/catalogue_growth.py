"""Does the gain of a sampler grow with the catalogue? Made worlds of 1e4 to 1e6 items; see growth_world for what is in them.

    python -m benchmarks.catalogue_growth [--items 10000,100000,1000000] [--content 0,0.5,0.9] [--steps N] [--tune-steps N] [--seeds S]

Every method gets the same towers (id, content, history), optimiser, batches, number of steps and tuning trials. At most 15 item
encodings an example beyond the positive: uniform, midx and esans use them all; in_batch needs none, that being its point; mixed is
in_batch beside a pool of 2,048 uniform draws shared by the batch, 4 an example. midx and esans stand beside in_batch, as in
conf/experiments. full_softmax encodes all items and runs where there are 1e4 at most. Users are 100,000 at most, so the largest
catalogues have fewer events an item.

Trials: each method has six points (temperature; for esans with the weight of its semantic groups), judged by Recall@50
of validation targets, each on its own world (--tune-items, by default the smallest of --items; --tune-content) with the first
seed, after --tune-steps steps. The winner's setting serves everywhere. Then every cell is trained and judged on test targets: held-out last
items of users, ranked over the whole catalogue but for what the user has seen.

Each result is one JSON line in --work; what is there is not run again, and processes with other --items may share the folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.growth_report import SUMMARY, growth_rows, growth_table, most_run
from benchmarks.growth_world import EVENTS, LATENT, MODALITIES, GrowthWorld, msac
from esans.config import build
from esans.model.towers import TwoTower
from esans.negatives.base import Batch
from esans.negatives.tables import Catalogue
from esans.train.config import TrainConfig
from esans.train.optimizer import build_optimizer, build_schedule, clip_gradients
from esans.train.step import TrainStep
from esans.train.worker import build_negatives

ROOT = Path(__file__).resolve().parents[1]
DRAWS = 15
BATCH = 512
LARGEST_POOL = 2_048
LARGEST_FULL = 10_000
HISTORY = 15
KS = (50, 200)
# A block of scores of this many items and users fits the cache.
_ITEMS, _USERS = 4_096, 256
VALIDATION_USERS, TEST_USERS = 2_000, 4_000
# Events of a user that training may see: the last but one is for validation, the last for the test.
_TRAIN = EVENTS - 2
_FIRST = 3

Groups = list[dict[str, Any]]
TEMPERATURES = (0.05, 0.08, 0.12, 0.2, 0.3, 0.45)
# (temperature, log-weight of all semantic terms)
ESANS_POINTS = ((0.08, 0.0), (0.12, 0.0), (0.2, 0.0), (0.3, 0.0), (0.12, -3.0), (0.2, -3.0))
_IN_BATCH = {"sampler": "in_batch"}


def _esans(weight: float) -> Groups:
    weights = {"log_weight": weight, "virtual_log_weight": weight}
    return [_IN_BATCH, {"sampler": "easy", "clusters": 2, "per_cluster": 5, **weights}, {"sampler": "hard", "num_negatives": 5, **weights}]


_PLAIN: dict[str, Groups] = {
    "uniform": [{"sampler": "uniform", "num_negatives": DRAWS}],
    "in_batch": [_IN_BATCH],
    "mixed": [_IN_BATCH, {"sampler": "uniform", "shared": True, "num_negatives": min(DRAWS * BATCH, LARGEST_POOL)}],
    "midx": [_IN_BATCH, {"sampler": "midx", "num_negatives": DRAWS}],
    "full_softmax": [{"sampler": "full_softmax"}],
}
METHODS: dict[str, list[tuple[float, Groups]]] = {
    **{name: [(temperature, groups) for temperature in TEMPERATURES] for name, groups in _PLAIN.items()},
    "esans": [(temperature, _esans(weight)) for temperature, weight in ESANS_POINTS],
}
"""The tuning trials of each method: temperature and groups of negatives."""


@dataclass(frozen=True)
class Budget:
    """What every method gets."""

    steps: int
    learning_rate: float = 0.005
    table_learning_rate: float = 0.02
    dim: int = 32


class Scene:
    """One catalogue with one content share: what all methods are trained and judged on."""

    def __init__(self, items: int, content: float, seed: int, folder: Path) -> None:
        self.items, self.seed = items, seed
        world = GrowthWorld(items, seed)
        self.events = torch.from_numpy(world.load_events(folder))
        vectors = world.content(content)
        self.content = torch.from_numpy(vectors.reshape(items, -1))
        self.clusters = msac(vectors, seed)
        self.known = self.events[:, :_TRAIN].sort(1).values
        counts = torch.bincount(self.events[:, _FIRST:_TRAIN].reshape(-1).long(), minlength=items)
        self.probability = (counts.double() / counts.sum()).float()

    def catalogue(self, dim: int) -> Catalogue:
        """What samplers know."""
        return Catalogue(self.items, self.probability, self.clusters, len(self.events), len(self.events) * (_TRAIN - _FIRST), dim=dim)

    def batches(self, steps: int, seed: int) -> Iterator[Batch]:
        """Examples at random: an event of a user, with what the user chose before it."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            user = torch.randint(len(self.events), (BATCH,), generator=generator)
            place = torch.randint(_FIRST, _TRAIN, (BATCH,), generator=generator)
            target = self.events[user, place].long()
            yield Batch(user, self.history(user, place), target, torch.ones(BATCH), self.known[user].long())

    def history(self, user: Tensor, place: Tensor) -> Tensor:
        """(n, HISTORY) int64: the events before `place`, padded at the left with -1."""
        column = place[:, None] - HISTORY + torch.arange(HISTORY)
        return torch.where(column >= 0, self.events[user[:, None], column.clamp_min(0)].long(), -1)

    @cached_property
    def users(self) -> tuple[Tensor, Tensor]:
        """Validation and test users, no user in both; whose held-out item they have chosen before are left out."""
        order = torch.from_numpy(np.random.default_rng([self.seed, 9]).permutation(len(self.events)))
        third = min(len(order) // 3, 2 * VALIDATION_USERS)
        first, second = order[:third], order[third : third + 2 * TEST_USERS]
        return self._fresh(first, _TRAIN)[:VALIDATION_USERS], self._fresh(second, _TRAIN + 1)[:TEST_USERS]

    def _fresh(self, users: Tensor, place: int) -> Tensor:
        seen = (self.events[users, :place] == self.events[users, place : place + 1]).any(1)
        return users[~seen]


def train(scene: Scene, temperature: float, groups: Groups, budget: Budget, seed: int) -> tuple[TwoTower, float]:
    """The trained towers, and seconds per step."""
    torch.manual_seed(seed)
    config = train_config(temperature, groups, budget)
    model = TwoTower(config.model, scene.items, len(scene.events), HISTORY, MODALITIES * LATENT, [])
    model.set_content(scene.content, None)
    module = TrainStep(model, build_negatives(config, scene.catalogue(budget.dim))).train()
    optimizer = build_optimizer(module, config.optimizer)
    schedule, generator = build_schedule(optimizer, config.optimizer), torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    for place, batch in enumerate(scene.batches(budget.steps, seed)):
        loss_B, _ = module(batch, generator, place / budget.steps, False)
        optimizer.zero_grad()
        loss_B.mean().backward()
        clip_gradients(module, config.optimizer)
        optimizer.step()
        schedule.step()
    return model.eval(), (time.perf_counter() - started) / budget.steps


def train_config(temperature: float, groups: Groups, budget: Budget) -> TrainConfig:
    """The configuration of one training, as a YAML file would give it."""
    values = {
        "negatives": groups,
        "temperature": {"temperature": "fixed", "start": temperature},
        "batch_size": BATCH,
        "model": {"dim": budget.dim, "hidden": 2 * budget.dim, "side": False},
        "optimizer": {
            "tables": "sparse_adam",
            "learning_rate": budget.learning_rate,
            "table_learning_rate": budget.table_learning_rate,
            "warmup_steps": min(50, budget.steps // 4),
        },
    }
    config = build(TrainConfig, values)
    config.resolve_groups()
    return config


@torch.no_grad()
def ranks(model: TwoTower, scene: Scene, users: Tensor, place: int) -> Tensor:
    """(n,) int64 rank of each user's event at `place` over the whole catalogue without what the user chose before, 1 for the best.

    A tie counts for the other item. One product of all pairs, an item chunk at a time.
    """
    places = torch.full((len(users),), place)
    user_BD = model.encode_users(scene.history(users, places), users)
    target, seen_BS = scene.events[users, place].long(), scene.events[users, :place].long()
    target_B = (user_BD * model.encode_items(target)).sum(1)
    # A hair below, so that the target, whose product of another shape may differ in the last bit, does not beat itself.
    bar_B = target_B - 1e-6
    above_B = torch.zeros(len(users), dtype=torch.int64)
    for start in range(0, scene.items, _ITEMS):
        chunk = model.encode_items(torch.arange(start, min(start + _ITEMS, scene.items)))
        for rows in torch.arange(len(users)).split(_USERS):
            # In place: a block of scores stays in the cache.
            above_B[rows] += (user_BD[rows] @ chunk.T).ge_(bar_B[rows, None]).sum(1).long()
    # Of what was seen each item counts once.
    ranked_BS = seen_BS.sort(1).values
    fresh_BS = torch.ones_like(ranked_BS, dtype=torch.bool)
    fresh_BS[:, 1:] = ranked_BS[:, 1:] != ranked_BS[:, :-1]
    scores_BS = (model.encode_items(ranked_BS.reshape(-1)).view(*ranked_BS.shape, -1) * user_BD[:, None]).sum(-1)
    return above_B - ((scores_BS >= bar_B[:, None]) & fresh_BS).sum(1)


def main() -> None:
    """Tune, run what is missing, draw and print."""
    arguments = parse()
    arguments.work.mkdir(parents=True, exist_ok=True)
    store, budget = Store(arguments.work / "cells.jsonl"), Budget(arguments.steps)
    tune_items = arguments.tune_items or min(arguments.items)
    run_trials(store, Budget(arguments.tune_steps), tune_items, arguments)
    for seed in range(arguments.seeds):
        for items in arguments.items:
            for content in arguments.content:
                run_cell(store, budget, items, content, seed, tune_items, arguments)
    rows = growth_rows(arguments.work)
    arguments.summary.parent.mkdir(parents=True, exist_ok=True)
    arguments.summary.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(growth_table(rows)))
    if arguments.plot:
        from benchmarks.growth_plot import growth_figure

        arguments.plot.parent.mkdir(parents=True, exist_ok=True)
        growth_figure(most_run(rows)).savefig(arguments.plot, dpi=110)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=_list(int), default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--content", type=_list(float), default=[0.0, 0.5, 0.9])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tune-steps", type=int, default=500, help="of the tuning trials")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", type=_list(str), default=["uniform", "mixed", "in_batch", "midx", "esans", "full_softmax"])
    parser.add_argument("--tune-items", type=int, default=None, help="catalogue of the tuning trials; by default the smallest of --items")
    parser.add_argument("--tune-content", type=float, default=0.5, help="content share of the tuning trials")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "catalogue_growth")
    parser.add_argument("--summary", type=Path, default=SUMMARY, help="what docs/results.md is made from")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "results" / "growth.png")
    return parser.parse_args()


def _list(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


class Store:
    """JSON lines, one result each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """All results so far, other processes' among them."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.is_file() else []

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result with these values, or None."""
        return next((record for record in self.records() if key.items() <= record.items()), None)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append, in one write, so that processes may share the file."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def run_trials(store: Store, budget: Budget, items: int, arguments: argparse.Namespace) -> None:
    """Every trial of every method that has none yet, on validation targets."""
    content, scene = arguments.tune_content, None
    for method in arguments.methods:
        for trial, (temperature, groups) in enumerate(METHODS[method]):
            key = {"kind": "trial", "items": items, "content": content, "method": method, "trial": trial, "steps": budget.steps}
            if store.find(key) or skipped(method, items):
                continue
            scene = scene or Scene(items, content, 0, arguments.work / "worlds")
            model, seconds = train(scene, temperature, groups, budget, seed=0)
            found = ranks(model, scene, scene.users[0], _TRAIN)
            store.add({**key, **measured(found), "seconds_per_step": seconds, "temperature": temperature, "groups": groups})
            print(f"trial {method} {trial}: Recall@50 {measured(found)['recall@50']:.4f}, {1e3 * seconds:.0f} ms a step", flush=True)


def best_trial(store: Store, method: str, items: int, content: float, steps: int) -> int:
    """The number of the method's best trial."""
    key = {"kind": "trial", "items": items, "content": content, "method": method, "steps": steps}
    trials = [record for record in store.records() if key.items() <= record.items()]
    return int(max(trials, key=lambda record: record["recall@50"])["trial"])


def run_cell(store: Store, budget: Budget, items: int, content: float, seed: int, tune_items: int, arguments: argparse.Namespace) -> None:
    """Every method on one catalogue, one content share, one seed."""
    scene = None
    for method in arguments.methods:
        key = {"kind": "cell", "items": items, "content": content, "seed": seed, "method": method, "steps": budget.steps}
        if skipped(method, items) or store.find(key):
            continue
        scene = scene or Scene(items, content, seed, arguments.work / "worlds")
        trial = best_trial(store, method, tune_items, arguments.tune_content, arguments.tune_steps)
        temperature, groups = METHODS[method][trial]
        model, seconds = train(scene, temperature, groups, budget, seed)
        found = ranks(model, scene, scene.users[1], _TRAIN + 1)
        hits = {f"hits@{k}": "".join("1" if rank <= k else "0" for rank in found.tolist()) for k in KS}
        store.add({**key, "trial": trial, **measured(found), "seconds_per_step": seconds, **hits})
        print(f"{items:,} items, content {content:g}, seed {seed}, {method}: {measured(found)}, {1e3 * seconds:.0f} ms a step", flush=True)


def skipped(method: str, items: int) -> bool:
    """Whether the method is out of reach for so many items."""
    return method == "full_softmax" and items > LARGEST_FULL


def measured(found: Tensor) -> dict[str, float]:
    """Recall@k of one target a user."""
    return {f"recall@{k}": round(float((found <= k).double().mean()), 6) for k in KS}


if __name__ == "__main__":
    main()
