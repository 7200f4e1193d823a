"""The evaluate stage: every user against the whole catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from esans.evaluate.config import EvaluateConfig
from esans.progress import say
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esans.bundle import BundleWriter
    from esans.evaluate.worker import Counted


class Evaluate(Stage):
    """Exact metrics over the whole catalogue, seen and unavailable items masked, on validation and test, by slice."""

    name: ClassVar[str] = "evaluate"
    code_version: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("prepare", "train", "references")
    config: EvaluateConfig

    @classmethod
    def check(cls, settings: Any) -> None:
        """Raise ConfigError where `evaluate.slices` names a column that the items will not have."""
        if settings.evaluate.slices:
            from esans.retrieval.item_columns import check_names, configured_columns

            check_names(settings.evaluate.slices, configured_columns(settings.prepare.items), "evaluate.slices")

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Tables `metrics` and `per_user`; figures of the test split under their own names, of validation prefixed."""
        from esans.columns import TEST, VALIDATION
        from esans.evaluate.model import evaluate_model
        from esans.retrieval.evaluation import metrics_table
        from esans.retrieval.per_user import TABLE
        from esans.uri import join

        context, method = self.context, self.context.method or "model"
        counted = evaluate_model(
            inputs["train"],
            inputs["prepare"],
            self.config,
            splits=(VALIDATION, TEST),
            method=method,
            scratch_uri=out.scratch_uri,
            per_user_uri=join(out.data_uri, TABLE),
            spark=context.spark if self.config.launch.mode == "spark" else None,
        )
        out.adopt(TABLE)
        rows: list[dict[str, object]] = []
        for split, one in counted.items():
            rows += one.evaluation.rows(method, split, context.seed)
        out.write_arrow("metrics", metrics_table(rows))
        self._report(counted, out)
        self._plot([*inputs["references"].table("metrics").arrow().to_pylist(), *rows])

    def _report(self, counted: Mapping[str, Counted], out: BundleWriter) -> None:
        from esans.columns import TEST

        for split, one in counted.items():
            overall, prefix = one.evaluation.overall, "" if split == TEST else f"{split}."
            if overall.users:
                out.report({prefix + name: value for name, value in one.evaluation.headline().items()})
            if overall.users > 1:
                out.report({f"{prefix}{name}.standard_error": value for name, value in overall.standard_errors().items()})
            out.report({f"{prefix}users": overall.users, f"{prefix}users_per_second": one.users_per_second})
            shown = ", ".join(
                f"{name} {value:.4f}" for name, value in overall.means().items() if name.startswith(("recall", "ndcg", "mrr"))
            )
            say(f"  {split}: {shown} ({overall.users:,} users in {one.seconds:.1f} s)")

    def _plot(self, rows: list[dict[str, object]]) -> None:
        from esans.columns import TEST
        from esans.evaluate.plots import slice_figure
        from esans.retrieval.slices import HISTORY_LENGTH, POPULARITY

        ks = self.config.metrics.ks
        metric = f"recall@{50 if 50 in ks else ks[-1]}"
        self.context.run.figure(slice_figure(rows, POPULARITY, metric, TEST), "recall_by_popularity.png")
        self.context.run.figure(slice_figure(rows, HISTORY_LENGTH, metric, TEST), "recall_by_history.png")
        for name in self.config.slices:
            self.context.run.figure(slice_figure(rows, name, metric, TEST), f"recall_by_{name}.png")
