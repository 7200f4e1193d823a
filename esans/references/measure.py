"""Measure one reference on both splits and keep its rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from esans.columns import TEST, VALIDATION
from esans.errors import DataError
from esans.progress import say
from esans.references.names import ITEM_KNN, Reference
from esans.retrieval.evaluation import Catalogue, evaluate_batches, metrics_table
from esans.retrieval.metrics import ranking_metrics
from esans.retrieval.per_user import TABLE, PerUserFile
from esans.retrieval.topk import rank_and_retrieve
from esans.retrieval.users import UserBatch, sampled_users, user_batches
from esans.uri import join

if TYPE_CHECKING:
    import pyarrow as pa

    from esans.bundle import Bundle, BundleWriter
    from esans.references.config import ReferencesConfig
    from esans.references.knn import Trial
    from esans.retrieval.scorers import Scorer
    from esans.tracking import Run


class Measure:
    """Evaluates scorers one after the other; the tables are written when the block ends."""

    def __init__(self, prepare: Bundle, catalogue: Catalogue, config: ReferencesConfig, out: BundleWriter, run: Run, seed: int) -> None:
        self._prepare, self._catalogue, self._config, self._out, self._run = prepare, catalogue, config, out, run
        self._seed = seed
        self._rows: list[dict[str, object]] = []
        self._per_user = PerUserFile(join(out.data_uri, TABLE), config.metrics)

    def __enter__(self) -> Measure:
        self._per_user.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._per_user.__exit__(kind, error, trace)
        if kind is None:
            self._out.adopt(TABLE)
            self._out.write_arrow("metrics", metrics_table(self._rows))

    def __call__(self, method: str, scorer_of: Callable[[UserBatch], Scorer]) -> None:
        """Evaluate on validation and test; figures `<method>.<metric>` are those of test."""
        histories = self._prepare.table("histories")
        for split in (VALIDATION, TEST):
            started = time.time()
            evaluation = evaluate_batches(
                user_batches(histories, split, self._config.user_batch),
                scorer_of,
                self._catalogue,
                self._config.metrics,
                item_chunk=self._config.item_chunk,
                on_batch=self._per_user.keeper(method, split),
            )
            self._rows += evaluation.rows(method, split, self._seed)
            prefix = f"{method}." if split == TEST else f"{method}.validation."
            if evaluation.overall.users:
                self._out.report({prefix + name: value for name, value in evaluation.headline().items()})
            self._out.report({f"{prefix}users": evaluation.overall.users, f"{prefix}seconds": time.time() - started})
            shown = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.overall.means().items() if name.startswith("recall"))
            say(f"  {method} on {split}: {shown} ({evaluation.overall.users:,} users)")


def tuning_users(prepare: Bundle, most: int, batch_size: int, reference: Reference = ITEM_KNN) -> list[UserBatch]:
    """At most about `most` validation users, chosen by a hash of their index.

    Raises:
        DataError: there are no validation users.
    """
    total = int(prepare.facts["num_validation_users"])
    if not total:
        raise DataError(
            f"histories: no user has validation targets, so {reference.title} cannot be tuned.\n"
            f"Change prepare.split, or set {reference.switch}=false."
        )
    return sampled_users(prepare.table("histories"), VALIDATION, total, most, batch_size)


def validation_recall(scorer_of: Callable[[UserBatch], Scorer], users: Sequence[UserBatch], catalogue: Catalogue, k: int) -> float:
    """Mean recall@k over the given users, ranked over the whole catalogue; NaN without users."""
    sums = None
    for batch in users:
        ranks, _ = rank_and_retrieve(scorer_of(batch), catalogue.num_items, batch.targets, batch.seen, catalogue.available)
        part = ranking_metrics(ranks, [k], k)
        sums = part if sums is None else sums.add(part)
    return sums.means()[f"recall@{k}"] if sums is not None else float("nan")


def tuning_table(trials: Sequence[Trial]) -> pa.Table:
    """The `tuning` table: every setting tried with its validation recall, best first."""
    import pyarrow as pa

    rows = [
        {
            "similarity": trial.choice.similarity,
            "neighbours": trial.choice.k,
            "side": trial.choice.side,
            "half_life": trial.choice.half_life,
            "validation_recall": trial.recall,
        }
        for trial in trials
    ]
    types = [pa.string(), pa.int64(), pa.string(), pa.float64(), pa.float64()]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(zip(rows[0], types, strict=True))))
