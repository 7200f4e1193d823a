"""Champion, challenger and the most popular items over the same users and days: every metric of every user, by slice."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from esans.config import build
from esans.retrain.config import GateConfig
from esans.retrain.contender import Contender
from esans.retrieval.config import MetricsConfig
from esans.retrieval.evaluation import Catalogue
from esans.retrieval.metrics import user_metrics
from esans.retrieval.scorers import Scorer, StaticScorer
from esans.retrieval.slices import Slices
from esans.retrieval.topk import rank_and_retrieve
from esans.retrieval.users import UserBatch, user_batches

if TYPE_CHECKING:
    from esans.table import Table

POPULARITY = "popularity"
DAY = "day"


@dataclass
class Judged:
    """What one contender did; rows are (user, day)."""

    name: str
    values: dict[tuple[str, str], dict[str, list[np.ndarray]]] = field(default_factory=dict)
    """(slice, label) -> metric -> (n,) values, NaN where the user has no target in the slice."""
    covered: Tensor | None = None
    """(N,) bool: items that were recommended to somebody."""
    without_history: int = 0
    """Rows that were answered with popular items, for want of a history that the model knows."""

    def add(self, key: tuple[str, str], metrics: Mapping[str, Tensor]) -> None:
        """Take in a batch."""
        into = self.values.setdefault(key, {})
        for name, value in metrics.items():
            into.setdefault(name, []).append(value.numpy())

    def metric(self, key: tuple[str, str], name: str) -> np.ndarray:
        """(n,) values of a metric."""
        return np.concatenate(self.values[key][name]) if key in self.values else np.zeros(0)


@dataclass
class Judgement:
    """All contenders over one window."""

    users: np.ndarray
    """(n,) user index of every row."""
    days: np.ndarray
    """(n,) ISO date of every row."""
    judged: dict[str, Judged]
    keys: list[tuple[str, str]]
    """(slice, label) of every slice, in order; the first is everybody."""
    spread: dict[str, float]
    """Mean squared distance of user vectors from their mean, by contender."""

    def by_user(self, name: str, key: tuple[str, str], metric: str) -> np.ndarray:
        """Mean over the days of each user, (u,) in the order of the user index; NaN where the slice holds nothing of the user."""
        values = self.judged[name].metric(key, metric)
        _, place = np.unique(self.users, return_inverse=True)
        there = ~np.isnan(values)
        counts = np.bincount(place, weights=there)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.bincount(place, weights=np.where(there, values, 0.0)) / np.where(counts > 0, counts, np.nan))

    def by_day(self, name: str, metric: str) -> dict[str, float]:
        """Mean over the users of each day."""
        values = self.judged[name].metric(self.keys[0], metric)
        return {str(day): float(values[self.days == day].mean()) for day in np.unique(self.days)}


@torch.inference_mode()
def judge(
    table: Table,
    days: Sequence[datetime.date],
    contenders: Sequence[Contender],
    catalogue: Catalogue,
    config: GateConfig,
    *,
    user_batch: int = 512,
    item_chunk: int = 4096,
    device: torch.device | str = "cpu",
) -> Judgement:
    """Rank the catalogue of today for every (user, day) of a window, for each contender and by popularity.

    Args:
        table: of `write_window`.
        days: its days.
        contenders: models, on `device`.
        catalogue: items of today, with their train counts.
        config: cut-off and slices.
        user_batch: rows ranked at a time.
        item_chunk: items ranked at a time.
        device: where scores live.
    """
    cuts = {"ks": [config.k], "popularity_buckets": config.popularity_buckets, "history_edges": config.history_edges}
    slices = Slices.build(catalogue.counts, build(MetricsConfig, cuts))
    judged = {name: Judged(name) for name in [*(one.name for one in contenders), POPULARITY]}
    available = {one.name: (catalogue.available & one.known_N).to(device) for one in contenders} | {
        POPULARITY: catalogue.available.to(device)
    }
    popular = catalogue.counts.double().to(device) / max(int(catalogue.counts.max()), 1)
    totals = {one.name: torch.zeros(one.vectors_ND.shape[1], dtype=torch.float64) for one in contenders}
    users, stamps = [], []
    for day in days:
        for batch in user_batches(table, str(day), user_batch):
            users.append(batch.users.numpy())
            stamps += [str(day)] * len(batch)
            scorers: dict[str, Scorer] = {POPULARITY: StaticScorer(popular, len(batch))}
            for one in contenders:
                vectors, lost = one.users(batch, device)
                judged[one.name].without_history += int(lost.sum())
                totals[one.name] += vectors.double().cpu().sum(0)
                scorers[one.name] = one.scorer(vectors, lost)
            for name, scorer in scorers.items():
                _rank(judged[name], scorer, batch, slices, available[name], config.k, item_chunk, device)
    spread = {name: 1.0 - float((total / max(len(stamps), 1)).square().sum()) for name, total in totals.items()}
    keys = [(key.slice, key.label) for key in slices.keys]
    return Judgement(np.concatenate(users) if users else np.zeros(0, np.int64), np.array(stamps), judged, keys, spread)


def _rank(
    into: Judged, scorer: Scorer, batch: UserBatch, slices: Slices, available: Tensor, k: int, item_chunk: int, device: torch.device | str
) -> None:
    targets, seen = batch.targets.to(device), batch.seen.to(device)
    ranks, ids = rank_and_retrieve(scorer, len(available), targets, seen, available, k, item_chunk)
    keys = slices.keys[:1] if into.name == POPULARITY else slices.keys
    places = torch.stack(list(slices.places(ranks.rows, batch.targets.values, batch.seen.lengths)))
    for place, key in enumerate(keys):
        metrics = user_metrics(ranks.keep((places == place).any(0)), [k], k)
        into.add((key.slice, key.label), {"recall": metrics[f"recall@{k}"], "ndcg": metrics[f"ndcg@{k}"]})
    covered = torch.zeros(len(available), dtype=torch.bool) if into.covered is None else into.covered
    flat = ids.flatten().cpu()
    covered[flat[flat >= 0]] = True
    into.covered = covered
