"""Run by the Python of .venv-sharded: two processes train with replicated and with sharded tables, and write what came out.

python tests/train/sharded_ranks.py FOLDER      FOLDER/spec.json: inputs by stage, and the config's values
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from esans.bundle import Bundle
from esans.config import build
from esans.model.files import save
from esans.model.sharded import ShardedTable, sharded_tables, whole_state
from esans.train.config import TrainConfig
from esans.train.trainer import Trainer
from esans.train.worker import build_trainer


class Killed(Exception):
    """In place of a signal."""


def trainer_of(spec: dict[str, Any], tables: str, scratch: Path, rank: int) -> tuple[Trainer, list[Tensor]]:
    """A trainer, and the list that each step's loss goes to."""
    config = build(TrainConfig, {**spec["config"], "model": {**spec["config"]["model"], "tables": tables}})
    config.resolve_groups()
    inputs = {name: Bundle.open(uri) for name, uri in spec["inputs"].items()}
    trainer = build_trainer(config, inputs, 0, rank, 2, torch.device("cpu"), str(scratch), lambda values, step: None)
    losses: list[Tensor] = []
    step = trainer.train_step

    def noted(*args: Any) -> tuple[dict[str, Tensor], Tensor]:
        if trainer.progress.step == spec.get("kill_at"):
            raise Killed
        figures, loss = step(*args)
        losses.append(loss)
        return figures, loss

    trainer.train_step = noted  # type: ignore[method-assign]
    return trainer, losses


def run(spec: dict[str, Any], name: str, tables: str, folder: Path, rank: int, scratch: str = "") -> None:
    """Train to the end, or until killed; write losses, records and the model."""
    trainer, losses = trainer_of(spec, tables, folder / (scratch or name), rank)
    try:
        progress = trainer.train()
    except Killed:
        return
    own = {name: len(table.rows) for name, table in sharded_tables(trainer.module).items()}
    weights = whole_state(trainer.model)
    (folder / f"{name}-{rank}.json").write_text(
        json.dumps({"losses": torch.stack(losses).tolist(), "records": progress.records, "own": own, "optimizer": moments(trainer)})
    )
    if rank == 0:
        save(trainer.model, folder / f"model-{name}", weights)


def moments(trainer: Trainer) -> int:
    """Numbers that the optimiser keeps in this process."""
    return sum(value.numel() for state in trainer.optimizer.state.values() for value in state.values())


def odd_table() -> None:
    """Rows that do not divide evenly: the same draws as a replicated table, rows where they belong, also for ranks that ask for none."""
    torch.manual_seed(3)
    table = ShardedTable(11, 8, torch.device("cpu"))
    table.draw()
    after = torch.rand(1)
    torch.manual_seed(3)
    whole = torch.nn.init.normal_(torch.empty(11, 8), std=0.3 / 8**0.5)
    assert torch.equal(after, torch.rand(1)), "the generator moved on as far"
    assert len(table.rows) == (6 if dist.get_rank() == 0 else 5)
    gathered = table.gather()
    assert (gathered is None) == (dist.get_rank() > 0)
    assert gathered is None or torch.equal(gathered, whole)
    ids = torch.tensor([10, 0, 5, 5, 6]) if dist.get_rank() else torch.empty(0, dtype=torch.int64)
    rows = table(ids)
    assert torch.equal(rows, whole[ids])
    rows.sum().backward()  # type: ignore[no-untyped-call]
    # The mean over two processes, as DistributedDataParallel gives it.
    counts = torch.bincount(torch.tensor([10, 0, 5, 5, 6]), minlength=11)[table.first : table.end]
    assert table.weight.grad is not None
    assert table.weight.grad.view(-1, 8)[:, 0].tolist() == (counts / 2).tolist(), (
        "the mean over two processes, as DistributedDataParallel gives it"
    )


def work(rank: int, folder: str, meet: str) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    path = Path(folder)
    spec = json.loads((path / "spec.json").read_text())
    odd_table()
    run(spec, "replicated", "replicated", path, rank)
    run(spec, "sharded", "sharded", path, rank)
    run({**spec, "kill_at": 24}, "killed", "sharded", path, rank)
    run(spec, "resumed", "sharded", path, rank, scratch="killed")
    dist.destroy_process_group()


if __name__ == "__main__":
    # Imported once, before the processes part.
    for name in ("torch._dynamo", "torchrec.distributed.embedding"):
        import_module(name)
    with tempfile.TemporaryDirectory() as place:
        mp.start_processes(work, (sys.argv[1], f"{place}/meet"), nprocs=2, start_method="fork")
