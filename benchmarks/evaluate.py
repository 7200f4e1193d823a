"""Users ranked in a second over the whole catalogue, exactly, with all slices: one process, and two that share the users.

    python -m benchmarks.evaluate [--items 50000] [--users 4000] [--processes 1 2]

Histories come from the generated world (benchmarks/world.py), the model is a two-tower of 64 dimensions with its first weights: what
it learned would not change the work. Enters eval.* into benchmarks/figures.json.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import pyarrow as pa
import torch

from benchmarks.figures import record
from benchmarks.vectors import histories
from benchmarks.world import World
from esans.bundle import Bundle, BundleWriter
from esans.config import build
from esans.evaluate import evaluate_model
from esans.evaluate.config import EvaluateConfig
from esans.model import TwoTower, save
from esans.model.config import ModelConfig

_HISTORY = 50


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    world = World(arguments.users, arguments.items, 20 * arguments.users, 0)
    command = f"python -m benchmarks.evaluate --items {arguments.items} --users {arguments.users} --dim {arguments.dim}"
    with tempfile.TemporaryDirectory() as folder:
        prepare, model = prepare_bundle(folder, world), train_bundle(folder, world, arguments.dim)
        found = {}
        for processes in arguments.processes:
            config = build(EvaluateConfig, {"launch": {"processes": processes}})
            counted = evaluate_model(model, prepare, config)["test"]
            found[processes] = counted.evaluation.state()["sums"]
            users = counted.evaluation.overall.users
            print(f"{processes} processes: {users:,} users in {counted.seconds:.1f} s, {counted.users_per_second:,.0f} users/s", flush=True)
            name = "eval.users_per_second" + ("" if processes == 1 else f".{processes}_processes")
            unit = f"users/s over {world.items:,} items, {arguments.dim} dimensions, {processes} process(es)"
            record({name: (counted.users_per_second, unit)}, f"{command} --processes {' '.join(map(str, arguments.processes))}")
    same = all(torch.equal(sums, found[arguments.processes[0]]) for sums in found.values())
    print(f"integer sums of all runs are {'the same' if same else 'NOT the same'}")


def prepare_bundle(folder: str, world: World) -> Bundle:
    """The tables of a prepare bundle that an evaluation reads."""
    out = BundleWriter(f"{folder}/prepare", "prepare", "x")
    table, counts = histories(world, _HISTORY)
    index = np.arange(world.items)
    out.write_arrow("items", pa.table({"item_idx": index, "available": np.ones(world.items, bool)}))
    out.write_arrow("popularity", pa.table({"item_idx": index, "count": counts}))
    out.write_arrow("histories", table)
    out.state({"num_items": world.items, "num_users": world.users, "num_test_users": len(table)})
    return out.finish(code_version=1, config={}, inputs={})


def train_bundle(folder: str, world: World, dim: int) -> Bundle:
    """A bundle with an untrained model."""
    torch.manual_seed(0)
    out = BundleWriter(f"{folder}/train", "train", "x")
    with out.local("model") as target:
        save(TwoTower(ModelConfig(dim=dim, hidden=dim), world.items, world.users, _HISTORY, 0, []), target)
    return out.finish(code_version=1, config={}, inputs={})


if __name__ == "__main__":
    main()
