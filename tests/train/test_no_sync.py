"""Nothing in a step waits for the device: every method of conf/experiments on the path of a GPU, its operators looked at one by one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esans.columns import EASY_IDS, EXPOSED, HARD_IDS
from esans.config import build
from esans.model.config import ModelConfig
from esans.model.towers import TwoTower
from esans.negatives.base import Batch
from esans.negatives.tables import Catalogue
from esans.train.config import TrainConfig
from esans.train.step import TrainStep
from esans.train.trainer import Trainer
from esans.train.worker import build_negatives
from tests.negatives.conftest import make_clusters

EXPERIMENTS = sorted(Path("conf/experiments").glob("*.yaml"))
ROWS, PLACES = 32, 6
# Operators whose result or its shape the host has to wait for.
WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "unique", "masked_select", "multinomial", "bincount", "equal", "_coalesce")


class Waits(TorchDispatchMode):
    """Counts operators that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        sized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if sized or name in WAITING or "unique" in name or _by_mask(name, args):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def _by_mask(name: str, args: Any) -> bool:
    """Indexing by a bool tensor looks for the places that are True, except where one value is written to them."""
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    masks = [place for place in args[1] if isinstance(place, Tensor) and place.dtype == torch.bool]
    return bool(masks) and not (name != "index" and args[2].numel() == 1)


# All else that a step may do; sparse tables are left out, since summing the gradients of repeated rows waits.
EXTRAS = {"accumulate": 4, "precision": "bf16", "optimizer": {"schedule": "cosine", "final_share": 0.1}}


def config_of(path: Path | None, **extras: Any) -> TrainConfig:
    keys = yaml.safe_load(path.read_text())["train"] if path else {}
    config = build(TrainConfig, {**keys, "batch_size": ROWS, **extras})
    config.resolve_groups()
    for group in config.negatives:
        group["enters_at_epoch"] = 0.0
    return config


def step_of(config: TrainConfig, device: str, sparse_catalogue: bool = False) -> tuple[TrainStep, Batch]:
    """A step on the path of a GPU, and a batch with every column that a sampler may ask for."""
    torch.manual_seed(0)
    clusters = make_clusters([[60, 50], [60, 30], [70, 90]], dim=8)
    total = len(clusters.item_cell_N)
    columns = {EASY_IDS: (2, 2, 5), HARD_IDS: (2, 5), EXPOSED: (4,)}
    catalogue = Catalogue(total, torch.full((total,), 1 / total), clusters.to(torch.device(device)), ROWS, 10 * ROWS, columns, 8)
    catalogue.side = {"category": torch.arange(total) % 5 + 1}
    towers = ModelConfig(dim=8, hidden=16, user_id=True)
    model = TwoTower(towers, total, ROWS, 2 if sparse_catalogue else 16, content_dim=4, side_sizes=[3])
    model.set_content(torch.randn(total, 4), torch.arange(total)[:, None] % 3)
    history = torch.randint(-1, total, (ROWS, model.history_length))
    target = torch.randint(total, (ROWS,))
    extra = {name: torch.randint(total, (ROWS, torch.Size(shape).numel())) for name, shape in columns.items()}
    batch = Batch(torch.arange(ROWS), history, target, torch.ones(ROWS), target[:, None].expand(-1, 3).contiguous(), total, extra)
    for name in ("user_idx", "history", "target", "weight", "known"):
        setattr(batch, name, getattr(batch, name).to(device))
    batch.extra = {name: values.to(device) for name, values in extra.items()}
    bf16 = config.precision == "bf16"
    return TrainStep(model, build_negatives(config, catalogue), dynamic_shapes=False, bf16=bf16).to(device).train(), batch


def run(step: TrainStep, batch: Batch, config: TrainConfig, watching: Any) -> None:
    """Two of the trainer's steps, the first unwatched: it makes the optimiser's state."""
    device = batch.target.device
    loader = SimpleNamespace(rank=0, world_size=1, steps=lambda epoch: 10)
    trainer = Trainer(config, step, loader, None, device, 0, "", lambda metrics, step: None)  # type: ignore[arg-type]

    def once() -> None:
        trainer.train_step(batch, 1, 0, 2, False)

    once()
    with watching:
        once()


@pytest.mark.parametrize("few_places", [False, True], ids=["whole catalogue", "rows"])
@pytest.mark.parametrize("path", [None, *EXPERIMENTS], ids=lambda path: path.stem if path else "default")
def test_no_operator_of_a_step_makes_the_host_wait(path: Path | None, few_places: bool) -> None:
    config = config_of(path)
    step, batch = step_of(config, "cpu", few_places)
    waits = Waits()
    run(step, batch, config, waits)
    assert not waits.seen


@pytest.mark.parametrize("few_places", [False, True], ids=["whole catalogue", "rows"])
def test_micro_batches_falling_step_sizes_and_bf16_do_not_make_it_wait_either(few_places: bool) -> None:
    config = config_of(None, **EXTRAS)
    step, batch = step_of(config, "cpu", few_places)
    waits = Waits()
    run(step, batch, config, waits)
    assert not waits.seen


def test_the_watch_sees_what_waits() -> None:
    waits, values = Waits(), torch.tensor([1.0, 0.0, 2.0])
    with waits:
        values[values > 0].sum().item()
        values.nonzero()
        values.unique()
        values.masked_fill(values > 0, 0.0)
    assert set(waits.seen) == {"index", "_local_scalar_dense", "nonzero", "_unique2"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("extras", [{}, EXTRAS], ids=["plain", "extras"])
@pytest.mark.parametrize("path", [None, *EXPERIMENTS], ids=lambda path: path.stem if path else "default")
def test_a_gpu_never_makes_the_host_wait_in_a_step(path: Path | None, extras: dict[str, Any]) -> None:
    config = config_of(path, **extras)
    step, batch = step_of(config, "cuda")

    class Strict:
        def __enter__(self) -> None:
            torch.cuda.set_sync_debug_mode("error")

        def __exit__(self, *_: object) -> None:
            torch.cuda.set_sync_debug_mode("default")

    run(step, batch, config, Strict())
