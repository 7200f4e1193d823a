"""One evaluation of one method on one split: exact ranks of all users, summed by slice, whatever scored the items."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esans.retrieval.config import MetricsConfig
from esans.retrieval.metrics import MetricSums, ranking_metrics, reduce_sums
from esans.retrieval.ragged import Ragged
from esans.retrieval.scorers import Scorer
from esans.retrieval.slices import EVERYBODY, SliceKey, Slices
from esans.retrieval.topk import ITEM_CHUNK, rank_and_retrieve
from esans.retrieval.users import UserBatch

if TYPE_CHECKING:
    import pyarrow as pa

    from esans.bundle import Bundle


@dataclass(frozen=True)
class Catalogue:
    """What an evaluation knows of the items: (N,) bool who may be recommended, and (N,) int64 train positives."""

    available: Tensor
    counts: Tensor

    @classmethod
    def read(cls, prepare: Bundle) -> Catalogue:
        """From the prepare bundle. Memory: 9 bytes an item."""
        size = int(prepare.facts["num_items"])
        available = prepare.table("items").dense("item_idx", "available", size, dtype=bool)
        counts = prepare.table("popularity").dense("item_idx", "count", size, dtype="int64")
        return cls(torch.from_numpy(available), torch.from_numpy(counts))

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.available)


class Evaluation:
    """Sums of one method on one split; parts add up exactly, so processes may share the users in any way."""

    def __init__(self, catalogue: Catalogue, config: MetricsConfig) -> None:
        self.catalogue, self.config = catalogue, config
        self.slices = Slices.build(catalogue.counts, config.popularity_buckets, config.history_edges)
        self.sums: dict[SliceKey, MetricSums] = {key: MetricSums.zero(config.ks, config.ndcg_k) for key in self.slices.keys}
        self.covered = torch.zeros(catalogue.num_items, dtype=torch.uint8)

    def add(self, batch: UserBatch, ranks: Ragged, ids: Tensor) -> None:
        """Take in a batch of users: the ranks of their targets and their (B, k) best items, -1 for none."""
        for key, part in self.slices.cut(ranks, batch.targets, batch.seen.lengths):
            self.sums[key].add(ranking_metrics(part, self.config.ks, self.config.ndcg_k))
        flat = ids.flatten().cpu()
        self.covered[flat[flat >= 0]] = 1

    def reduce(self, device: torch.device | str = "cpu") -> Evaluation:
        """The sums of all ranks of torch.distributed, in place; nothing happens when it is not initialised."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            named = {f"{key.slice}/{key.place:06d}": sums for key, sums in self.sums.items()}
            reduced = reduce_sums(named, device)
            self.sums = {key: reduced[f"{key.slice}/{key.place:06d}"] for key in self.sums}
            covered = self.covered.to(device)
            dist.all_reduce(covered, op=dist.ReduceOp.MAX)
            self.covered = covered.cpu()
        return self

    @property
    def overall(self) -> MetricSums:
        """All users."""
        return self.sums[EVERYBODY]

    def headline(self) -> dict[str, float]:
        """Metrics over all users, their coverage@k, and the share of targets that were masked and so could not be found."""
        sums = self.overall
        unreachable = int(sums.histogram[0]) / sums.targets if sums.targets else 0.0
        available = int(self.catalogue.available.sum())
        coverage = int(self.covered.sum()) / available if available else 0.0
        return {**sums.means(), f"coverage@{self.config.ndcg_k}": coverage, "unreachable_targets": unreachable}

    def rows(self, method: str, split: str) -> list[dict[str, object]]:
        """Rows of the `metrics` table: one a slice and metric; slices without users are left out."""
        result: list[dict[str, object]] = []
        for key, sums in self.sums.items():
            errors = sums.standard_errors()
            shared = {"method": method, "split": split, "slice": key.slice, "place": key.place, "label": key.label}
            for metric, value in sums.means().items() if sums.users else ():
                values = {"metric": metric, "value": value, "standard_error": errors[metric]}
                result.append({**shared, **values, "users": sums.users, "targets": sums.targets})
        return result


def metrics_table(rows: list[dict[str, object]]) -> pa.Table:
    """The `metrics` table of a bundle."""
    import pyarrow as pa

    text, number, count = pa.string(), pa.float64(), pa.int64()
    names = ["method", "split", "slice", "place", "label", "metric", "value", "standard_error", "users", "targets"]
    types = [text, text, text, pa.int32(), text, text, number, number, count, count]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(zip(names, types, strict=True))))


def evaluate_batches(
    batches: Iterable[UserBatch],
    scorer_of: Callable[[UserBatch], Scorer],
    catalogue: Catalogue,
    config: MetricsConfig,
    *,
    item_chunk: int = ITEM_CHUNK,
    device: torch.device | str = "cpu",
    on_batch: Callable[[UserBatch, Ragged], None] | None = None,
) -> Evaluation:
    """Rank the whole catalogue for every user of `batches`, seen and unavailable items masked.

    Args:
        batches: users, on the CPU.
        scorer_of: the scores of one batch, on `device`.
        catalogue: the items.
        config: metrics and slices.
        item_chunk: items scored at a time; changes memory, never results.
        device: where scores live.
        on_batch: called with each batch and its ranks, to keep rows by user.

    Returns:
        Sums over these users alone; `reduce` adds the other ranks.
    """
    evaluation = Evaluation(catalogue, config)
    available = catalogue.available.to(device)
    for batch in batches:
        targets, seen = batch.targets.to(device), batch.seen.to(device)
        scorer = scorer_of(batch)
        ranks, ids = rank_and_retrieve(scorer, catalogue.num_items, targets, seen, available, config.ndcg_k, item_chunk)
        evaluation.add(batch, ranks, ids)
        if on_batch is not None:
            on_batch(batch, ranks)
    return evaluation
