"""One training run of the experiment, in this process: it can stop after any epoch and go on, and remembers its best weights twice."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from esans.bundle import Bundle
from esans.columns import TEST
from esans.config import build
from esans.evaluate.users import evaluate_users
from esans.negatives.tables import Catalogue as NegativesCatalogue
from esans.retrieval.config import MetricsConfig
from esans.retrieval.encode import encode_catalogue
from esans.retrieval.evaluation import Catalogue, Evaluation
from esans.retrieval.metrics import user_metrics
from esans.retrieval.ragged import Ragged
from esans.retrieval.users import UserBatch
from esans.train.config import TrainConfig
from esans.train.trainer import Trainer
from esans.train.watch import DIAGNOSIS, summary
from esans.train.worker import build_trainer

if TYPE_CHECKING:
    from benchmarks.methods.store import Store

Keep = Callable[[UserBatch, Ragged], None]
RANKED_METRICS = MetricsConfig(ks=[50, 200], ndcg_k=50)


@dataclass
class Tested:
    """Test metrics of one set of weights, over all users and by user."""

    means: dict[str, float]
    users: np.ndarray
    recall50: np.ndarray
    recall200: np.ndarray

    def row(self) -> dict[str, float]:
        """What a row of the store holds."""
        return dict(self.means)


@dataclass
class Fit:
    """A run that goes epoch by epoch. `values` are keys under `train`; what all methods share stands in protocol.yaml."""

    inputs: Mapping[str, Bundle]
    values: Mapping[str, Any]
    seed: int
    wall_steps: float = math.inf
    """Steps that fit into the time of the comparison at equal wall time."""
    files: dict[str, Any] | None = None
    """Shard files that were read already, shared between the runs of a data set."""
    catalogue: NegativesCatalogue | None = None
    """In place of the one of the bundles."""
    trainer: Trainer = field(init=False)
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = build(TrainConfig, self.values)
        config.resolve_groups()
        self._scratch = tempfile.TemporaryDirectory()
        self.trainer = build_trainer(
            config, self.inputs, self.seed, 0, 1, torch.device("cpu"), self._scratch.name, self._log, self.catalogue
        )
        if self.files is not None:
            self.trainer.loader.kept = self.files
        self._within: dict[str, Tensor] = {}
        self._within_epoch = -1
        self._tested: Tested | None = None

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append((step, dict(metrics)))

    def advance(self, epochs: int) -> float:
        """Train until `epochs` epochs are done or patience has run out; the best validation metric so far."""
        while self.trainer.progress.epoch < epochs and not self.trainer.finished:
            record = self.trainer.next_epoch()
            if record["step"] <= self.wall_steps:
                self._within, self._within_epoch = self.trainer.best_weights, self.trainer.progress.best_epoch
        return self.trainer.progress.best

    @property
    def best(self) -> dict[str, float]:
        """The record of the best epoch."""
        return self.trainer.progress.records[self.trainer.progress.best_epoch]

    def diagnosis(self) -> dict[str, Any]:
        """What the last epoch's looks at the negatives found."""
        return diagnosis_of(self.trainer.progress.records[-1])

    def test(self) -> Tested:
        """Test metrics of the best epoch. Called for the winner's seeds only."""
        if self._tested is None:
            self._tested = self._test(self.trainer.best_weights)
        return self._tested

    def test_within_wall(self) -> tuple[int, Tested] | None:
        """Epoch and test metrics of the best epoch within `wall_steps`; None when not one epoch fits."""
        if not self._within:
            return None
        if self._within_epoch == self.trainer.progress.best_epoch:
            return self._within_epoch, self.test()
        return self._within_epoch, self._test(self._within)

    def _test(self, weights: Mapping[str, Tensor]) -> Tested:
        model = copy.deepcopy(self.trainer.model)
        model.load_state_dict(dict(weights))
        return evaluate_model(model.eval(), self.inputs["prepare"])


def diagnosis_of(record: Mapping[str, float]) -> dict[str, Any]:
    """The figures of all groups together from an epoch's record, and the gradient share of each."""
    prefix = f"{DIAGNOSIS}share_"
    shares = {name.removeprefix(prefix): value for name, value in record.items() if name.startswith(prefix)}
    return {**summary(record), "shares": shares}


def evaluate_model(model: Any, prepare: Bundle, split: str = TEST) -> Tested:
    """Exact metrics over the whole catalogue for every user of a split."""
    with torch.inference_mode():
        vectors, catalogue = encode_catalogue(model, torch.device("cpu")), Catalogue.read(prepare)
        table = prepare.table("histories")
        return measure_users(lambda config, keep: evaluate_users(model, vectors, table, split, catalogue, config, on_batch=keep))


def measure_users(evaluate: Callable[[MetricsConfig, Keep], Evaluation]) -> Tested:
    """Means and per-user recalls of an evaluation."""
    users: list[Tensor] = []
    recalls: dict[str, list[Tensor]] = {"recall@50": [], "recall@200": []}

    def keep(batch: UserBatch, ranks: Ragged) -> None:
        found = user_metrics(ranks, RANKED_METRICS.ks, RANKED_METRICS.ndcg_k)
        users.append(batch.users)
        for name, parts in recalls.items():
            parts.append(found[name])

    overall = evaluate(RANKED_METRICS, keep).overall
    errors = overall.standard_errors()
    means = {name: value for name, value in overall.means().items() if not name.startswith("hit_rate")}
    means |= {"se50": errors["recall@50"], "se200": errors["recall@200"]}
    arrays = [torch.cat(parts).float().numpy() for parts in recalls.values()]
    return Tested(means, torch.cat(users).numpy(), *arrays)


def keep_ranks(store: Store, key: str, tested: Tested) -> None:
    """Keep the recall of every test user for paired tests."""
    store.put_ranks(key, user_idx=tested.users, recall50=tested.recall50, recall200=tested.recall200)
