"""One evaluation of one method on one split: exact ranks of all users, summed by slice, whatever scored the items."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esans.retrieval.config import MetricsConfig
from esans.retrieval.intervals import drawn_metrics, ends
from esans.retrieval.metrics import MetricSums
from esans.retrieval.ragged import Ragged
from esans.retrieval.recommended import Recommended
from esans.retrieval.scorers import Scorer
from esans.retrieval.slices import EVERYBODY, SliceKey, Slices
from esans.retrieval.sums import SliceSums, group_of
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
    """Sums of one method on one split; parts add up exactly, so processes may share the users in any way.

    Memory: about 80 kB a slice, and for each item 18 bytes and 2 for each cut by items; it does not grow with the users.
    """

    def __init__(self, catalogue: Catalogue, config: MetricsConfig, slices: Slices | None = None) -> None:
        self.catalogue, self.config = catalogue, config
        self.slices = slices or Slices.build(catalogue.counts, config)
        self.keys = self.slices.keys
        self.by_slice = SliceSums(len(self.keys), config.ks, config.ndcg_k)
        self.recommended = Recommended(catalogue.counts, catalogue.available)

    def add(self, batch: UserBatch, ranks: Ragged, ids: Tensor) -> None:
        """Take in a batch of users: the ranks of their targets and their (B, k) best items, -1 for none."""
        group = group_of(batch.users)
        for place in self.slices.places(batch.targets.rows, batch.targets.values, batch.seen.lengths):
            self.by_slice.add(place, ranks, group)
        self.recommended.add(ids, batch.targets, group)

    def reduce(self, device: torch.device | str = "cpu") -> Evaluation:
        """The sums of all ranks of torch.distributed, in place; nothing happens when it is not initialised. One all-reduce of int64."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            flat = torch.cat([sums.flatten() for sums in self._sums]).to(device)
            dist.all_reduce(flat)
            covered = self.recommended.covered.to(device)
            dist.all_reduce(covered, op=dist.ReduceOp.MAX)
            self._fill(flat.cpu(), covered.cpu())
        return self

    def state(self) -> dict[str, Tensor]:
        """Everything that was counted, to be written by one process and taken up by another."""
        sums = torch.cat([sums.flatten() for sums in self._sums])
        return {"sums": sums, "covered": self.recommended.covered, "available": self.catalogue.available}

    def take(self, state: Mapping[str, Tensor]) -> Evaluation:
        """Take up what another process counted with the same catalogue, config and slices, in place."""
        self._fill(state["sums"], state["covered"])
        return self

    @property
    def _sums(self) -> list[Tensor]:
        return [*self.by_slice.tensors, self.recommended.sums]

    def _fill(self, flat: Tensor, covered: Tensor) -> None:
        for sums, part in zip(self._sums, flat.split([sums.numel() for sums in self._sums]), strict=True):
            sums.copy_(part.view_as(sums))
        self.recommended.covered = covered

    @property
    def sums(self) -> dict[SliceKey, MetricSums]:
        """The sums of every slice."""
        return {key: self.by_slice.of_slice(place) for place, key in enumerate(self.keys)}

    @property
    def overall(self) -> MetricSums:
        """All users."""
        return self.by_slice.of_slice(self.keys.index(EVERYBODY))

    def headline(self) -> dict[str, float]:
        """Metrics over all users, what their lists hold, and the share of targets that were masked and so could not be found."""
        sums = self.overall
        unreachable = int(sums.histogram[0]) / sums.targets if sums.targets else 0.0
        lists = {name: value for name, value in self.recommended.values(self.config.ndcg_k).items() if math.isfinite(value)}
        return {**sums.means(), **lists, "unreachable_targets": unreachable}

    def rows(self, method: str, split: str, seed: int = 0) -> list[dict[str, object]]:
        """Rows of the `metrics` table: one a slice and metric, with intervals; slices without users are left out.

        `seed` is that of the draws. Coverage, novelty and popularity lift are there for all users only.
        """
        drawn = drawn_metrics(self.by_slice, self.recommended, self.config, seed)
        result: list[dict[str, object]] = []
        for place, (key, sums) in enumerate(self.sums.items()):
            if not sums.users:
                continue
            shared = {"method": method, "split": split, "slice": key.slice, "place": key.place, "label": key.label}
            values, errors = sums.means(), sums.standard_errors()
            if key == EVERYBODY:
                values |= self.recommended.values(self.config.ndcg_k)
            for metric, value in values.items():
                low, high = ends(drawn.get((place, metric)), sums.users, self.config.confidence)
                numbers = {"value": value, "standard_error": errors.get(metric, math.nan), "low": low, "high": high}
                result.append({**shared, "metric": metric, **numbers, "users": sums.users, "targets": sums.targets})
        return result


def metrics_table(rows: list[dict[str, object]]) -> pa.Table:
    """The `metrics` table of a bundle."""
    import pyarrow as pa

    text, number, count = pa.string(), pa.float64(), pa.int64()
    names = ["method", "split", "slice", "place", "label", "metric", "value", "standard_error", "low", "high", "users", "targets"]
    types = [text, text, text, pa.int32(), text, text, number, number, number, number, count, count]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(zip(names, types, strict=True))))


def evaluate_batches(
    batches: Iterable[UserBatch],
    scorer_of: Callable[[UserBatch], Scorer],
    catalogue: Catalogue,
    config: MetricsConfig,
    *,
    slices: Slices | None = None,
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
        slices: in place of those of the config, with columns of the items for example.
        item_chunk: items scored at a time; changes memory, never results.
        device: where scores live.
        on_batch: called with each batch and its ranks, to keep rows by user.

    Returns:
        Sums over these users alone; `reduce` adds the other ranks.
    """
    evaluation = Evaluation(catalogue, config, slices)
    available = catalogue.available.to(device)
    for batch in batches:
        targets, seen = batch.targets.to(device), batch.seen.to(device)
        scorer = scorer_of(batch)
        ranks, ids = rank_and_retrieve(scorer, catalogue.num_items, targets, seen, available, config.ndcg_k, item_chunk)
        evaluation.add(batch, ranks, ids)
        if on_batch is not None:
            on_batch(batch, ranks)
    return evaluation
