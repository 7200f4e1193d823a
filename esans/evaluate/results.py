"""What a comparison of methods is made of: their bundles, and one row a method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esans.bundle import Bundle
from esans.columns import TEST
from esans.retrieval.slices import ALL

# Shown names of the metrics that the tables hold, in order.
HEADLINE = {"recall@10": "Recall@10", "recall@50": "Recall@50", "recall@200": "Recall@200", "ndcg@50": "NDCG@50", "mrr": "MRR"}
REFERENCE_NAMES = {"popularity": "popularity", "itemknn": "item-kNN", "als": "ALS", "bpr": "BPR"}


@dataclass(frozen=True)
class MethodResult:
    """A trained method: its evaluate bundle, and its train bundle for curves and speed."""

    name: str
    evaluate_bundle: Bundle
    train_bundle: Bundle | None = None


@dataclass(frozen=True)
class Row:
    """One line of the comparison: test metrics over all users, with standard errors; speed where something was trained."""

    name: str
    values: Mapping[str, float]
    errors: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    users: int
    is_reference: bool = False
    examples_per_second: float | None = None
    seconds: float | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "method": self.name,
            **self.values,
            "standard_errors": dict(self.errors),
            "intervals": {metric: list(ends) for metric, ends in self.intervals.items()},
            "users": self.users,
            "examples_per_second": self.examples_per_second,
            "seconds": self.seconds,
            "note": self.note,
        }


@dataclass(frozen=True)
class Comparison:
    """Everything that the terminal table and the report show."""

    results: Sequence[MethodResult]
    references: Bundle | None = None
    cluster: Bundle | None = None
    split: str = TEST
    metric_rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of all `metrics` tables, references first, their `method` replaced by the shown name."""

    @classmethod
    def read(cls, results: Sequence[MethodResult], references: Bundle | None, cluster: Bundle | None = None) -> Comparison:
        """Read the metrics tables; their size grows with methods and slices only."""
        rows: list[dict[str, Any]] = []
        if references is not None:
            for row in references.table("metrics").arrow().to_pylist():
                rows.append({**row, "method": REFERENCE_NAMES.get(row["method"], row["method"])})
        for result in results:
            rows += [{**row, "method": result.name} for row in result.evaluate_bundle.table("metrics").arrow().to_pylist()]
        return cls(results, references, cluster, TEST, rows)

    @property
    def rows(self) -> list[Row]:
        """One row a method: references first, then the methods in their order."""
        trained = {result.name: result for result in self.results}
        names = dict.fromkeys(row["method"] for row in self.metric_rows)
        return [self._row(name, trained.get(name)) for name in names]

    @property
    def slices(self) -> list[str]:
        """Ways of cutting that a table has, in order, without that of all users."""
        return [name for name in dict.fromkeys(row["slice"] for row in self.metric_rows) if name != ALL]

    def _row(self, name: str, result: MethodResult | None) -> Row:
        mine = [row for row in self.metric_rows if (row["method"], row["split"], row["slice"]) == (name, self.split, ALL)]
        figures = result.train_bundle.figures if result is not None and result.train_bundle is not None else {}
        knn = str(self.references.facts.get("item_knn", "")) if self.references is not None and name == REFERENCE_NAMES["itemknn"] else ""
        return Row(
            name=name,
            values={row["metric"]: row["value"] for row in mine},
            errors={row["metric"]: row["standard_error"] for row in mine},
            intervals={row["metric"]: (row["low"], row["high"]) for row in mine if _finite(row.get("low"))},
            users=mine[0]["users"] if mine else 0,
            is_reference=result is None,
            examples_per_second=figures.get("examples_per_second"),
            seconds=figures.get("train_seconds"),
            note=knn,
        )

    @property
    def beyond(self) -> dict[str, str]:
        """Shown names of the metrics of what lists hold, where a table has them, with hit rates."""
        names = dict.fromkeys(row["metric"] for row in self.metric_rows if row["slice"] == ALL)
        shown = {"hit_rate": "Hit rate", "coverage": "Coverage", "novelty": "Novelty", "popularity_lift": "Popularity lift"}
        return {name: f"{shown[kind]}@{k}" for name in names for kind, _, k in [name.partition("@")] if kind in shown}

    @property
    def headline_metric(self) -> str:
        """The metric of the plots: recall@50 where it was computed."""
        recalls = [row["metric"] for row in self.metric_rows if row["metric"].startswith("recall@")]
        return "recall@50" if "recall@50" in recalls or not recalls else recalls[-1]


def _finite(value: float | None) -> bool:
    # A bundle of an earlier version has no intervals.
    return value is not None and math.isfinite(value)
