"""What is trained in the measurements of a step: three methods of equal encodings, over a data set's bundles or a made-up catalogue."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, cast

import numpy as np
import torch

from benchmarks.growth_world import cluster_tables
from esans.bundle import Bundle
from esans.cluster.config import ClusterConfig
from esans.config import build
from esans.model.towers import TwoTower
from esans.negatives.base import Batch
from esans.negatives.tables import Catalogue
from esans.train.config import TrainConfig
from esans.train.loader import Loader
from esans.train.step import TrainStep
from esans.train.trainer import Trainer
from esans.train.validation import ValidationUsers
from esans.train.worker import build_negatives, build_trainer

# 15 item vectors an example beyond its positive, whose vector every method needs: the published 2 x 5 easy and 5 hard draws,
# or as many uniform ones, each example's own.
METHODS: dict[str, list[dict[str, Any]]] = {
    "uniform": [{"sampler": "uniform", "num_negatives": 15}],
    "mixed": [{"sampler": "in_batch"}, {"sampler": "uniform", "num_negatives": 15}],
    "esans": [{"sampler": "in_batch"}, {"sampler": "easy"}, {"sampler": "hard"}],
}
HISTORY, KNOWN, CONTENT = 100, 200, 256
_HISTORY_MEAN = 42  # places of a history that hold an item, as on online_retail
_SKEW = 2  # item i is chosen in proportion to i^(1/2 - 1)
_PRIMARIES, _SECONDARIES = 1000, 8


def config_of(groups: Sequence[Mapping[str, Any]], batch: int, **keys: Any) -> TrainConfig:
    """A resolved configuration: defaults but for the negatives, the batch and `keys`."""
    config = build(TrainConfig, {"negatives": list(groups), "batch_size": batch, **keys})
    config.resolve_groups()
    return config


def trainer_of(config: TrainConfig, inputs: Mapping[str, Bundle], rank: int = 0, world_size: int = 1, device: str = "cpu") -> Trainer:
    """The trainer of a method over the bundles of a data set, in training mode."""
    trainer = build_trainer(config, inputs, 0, rank, world_size, torch.device(device), tempfile.mkdtemp(), _silent)
    trainer.module.train()
    return trainer


def batches_of(trainer: Trainer, count: int | None = None) -> list[Batch]:
    """The first batches of an epoch, kept in memory; all by default."""
    stream = trainer.loader.epoch(0)
    found = list(islice(stream, count))
    cast(Any, stream).close()
    return found


@dataclass
class MadeUp:
    """A catalogue of any size with examples: skewed popularity, a thousand primary clusters, content of 256 floats an item."""

    items: int
    batch: int
    """Examples of a step in this process."""
    device: str
    rank: int = 0
    world_size: int = 1

    def trainer(self, config: TrainConfig) -> Trainer:
        """The trainer of a method, in training mode; it has no examples to read and no users to validate on."""
        torch.manual_seed(0)
        device = torch.device(self.device)
        with device:
            model = TwoTower(config.model, self.items, 1, HISTORY, CONTENT, [24])
        model.set_content(*self.content)
        module = TrainStep(model, build_negatives(config, self.catalogue).to(device))
        nothing = cast(Loader, _Nothing(self.rank, self.world_size))
        trainer = Trainer(config, module, nothing, cast(ValidationUsers, None), device, 0, tempfile.mkdtemp(), _silent)
        trainer.module.train()
        return trainer

    def batches(self, count: int) -> list[Batch]:
        """Examples of users who choose by popularity."""
        return list(islice(self._stream(), count))

    def _stream(self) -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(1 + self.rank)
        while True:
            uniform = torch.rand((self.batch, KNOWN + 1), generator=draw, dtype=torch.float64)
            chosen = (uniform**_SKEW * self.items).long()
            length_B1 = (torch.rand((self.batch, 1), generator=draw) * 2 * _HISTORY_MEAN).long()
            empty = torch.arange(HISTORY)[None, :] < HISTORY - length_B1
            target = chosen[:, -1]
            batch = Batch(
                torch.zeros(self.batch, dtype=torch.int64),
                chosen[:, :HISTORY].masked_fill(empty, -1),
                target,
                torch.ones(self.batch),
                torch.cat([chosen[:, : KNOWN - 1], target[:, None]], 1).sort(1).values,
                self.items,
            )
            for name in ("user_idx", "history", "target", "weight", "known"):
                setattr(batch, name, getattr(batch, name).to(self.device))
            yield batch

    @cached_property
    def content(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Content vectors and side codes, shared by the methods."""
        with torch.device(self.device):
            return torch.randn(self.items, CONTENT), torch.randint(24, (self.items, 1))

    @cached_property
    def catalogue(self) -> Catalogue:
        """Popularity and clusters."""
        edges = np.linspace(0, 1, self.items + 1) ** (1 / _SKEW)
        random = np.random.default_rng(0)
        primaries = min(_PRIMARIES, self.items // 50)
        c1, c2 = np.arange(self.items) % primaries, random.integers(0, _SECONDARIES, self.items)
        clusters = cluster_tables(c1, c2, random.standard_normal((primaries, 16)) / 4, ClusterConfig())
        return Catalogue(self.items, torch.from_numpy(np.diff(edges)).float(), clusters.to(self.device))


@dataclass
class _Nothing:
    rank: int
    world_size: int
    wait_seconds: float = 0.0

    def steps(self, epoch: int) -> int:
        return 1


def _silent(values: Mapping[str, float], step: int = 0) -> None:
    """No tracking server."""
