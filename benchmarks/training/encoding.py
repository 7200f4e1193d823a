"""Encoding of a step's items: the distinct ones, one for each draw, or the whole catalogue, over sizes of the catalogue."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.training.setting import CONTENT, HISTORY, METHODS, config_of
from esans.model.towers import TwoTower
from esans.negatives.groups import NegativeGroups
from esans.train.step import TrainStep

SIZES = (2_000, 4_000, 8_000, 16_000, 32_000, 128_000, 1_000_000)


def measure(batch: int, rounds: int, device: str = "cpu") -> list[list[Any]]:
    """Rows: items, distinct items of the step, ms forward and back of the three ways and of the step's own choice, the fastest way."""
    return [_row(items, batch, rounds, torch.device(device)) for items in SIZES]


def _row(items: int, batch: int, rounds: int, device: torch.device) -> list[Any]:
    torch.manual_seed(0)
    with device:
        model = TwoTower(config_of(METHODS["uniform"], batch).model, items, 1, HISTORY, CONTENT, [24])
        model.set_content(torch.randn(items, CONTENT), torch.randint(24, (items, 1)))
        ids = [torch.randint(items, (batch,)), torch.randint(items, (batch, 15))]
    # A table's dense gradient costs the same in every way and would hide the rest.
    for part in (model.item_inputs.id_embedding, *model.item_inputs.side_embeddings):
        cast(Any, part).sparse = True
    step = TrainStep(model, cast(NegativeGroups, torch.nn.Module()))
    flat = torch.cat([part.flatten() for part in ids])
    distinct = len(flat.unique())
    ways: dict[str, Callable[[], Tensor]] = {
        "distinct": lambda: _distinct(model, flat),
        "each draw": lambda: model.encode_items(flat),
        "catalogue": lambda: F.embedding(flat, model.encode_inputs(model.item_inputs.whole())),
        "chosen": lambda: torch.cat([part.flatten(0, -2) for part in step.encode(ids)]),
    }
    if items > 16 * len(flat):
        # Known to be the slowest by far.
        del ways["catalogue"]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            model.zero_grad()
            started = time.perf_counter()
            way().sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                times[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(seconds) * 1e3 for name, seconds in times.items()}
    fastest = min((name for name in middle if name != "chosen"), key=lambda name: middle[name])
    shown = [f"{middle[name]:.1f}" if name in middle else "-" for name in ("distinct", "each draw", "catalogue", "chosen")]
    return [f"{items:,}", f"{distinct:,}", *shown, fastest]


def _distinct(model: TwoTower, flat: Tensor) -> Tensor:
    found, place = flat.unique(return_inverse=True)
    return F.embedding(place, model.encode_items(found))
