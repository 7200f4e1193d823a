"""The evaluate stage: every user against the whole catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from esans.evaluate.config import EvaluateConfig
from esans.progress import say
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from esans.bundle import BundleWriter
    from esans.retrieval.evaluation import Evaluation


class Evaluate(Stage):
    """Exact metrics over the whole catalogue, seen and unavailable items masked, on validation and test, by slice."""

    name: ClassVar[str] = "evaluate"
    code_version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("prepare", "train", "references")
    config: EvaluateConfig

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Tables `metrics` and `per_user`; figures of the test split under their own names, of validation prefixed."""
        from functools import partial

        from esans.columns import TEST, VALIDATION
        from esans.evaluate.users import evaluate_users
        from esans.model import load
        from esans.retrieval.encode import encode_catalogue, pick_device
        from esans.retrieval.evaluation import Catalogue, metrics_table
        from esans.retrieval.per_user import PerUserFile

        config, prepare = self.config, inputs["prepare"]
        device = pick_device(config.device, "evaluate.device")
        with inputs["train"].local("model") as folder:
            model = load(folder, device)
        model.eval()
        catalogue, method = Catalogue.read(prepare), self.context.method or "model"
        vectors = encode_catalogue(model, device)
        rows: list[dict[str, object]] = []
        with PerUserFile(out, config.metrics) as per_user:
            for split in (VALIDATION, TEST):
                evaluate = partial(
                    evaluate_users,
                    model,
                    vectors,
                    prepare.table("histories"),
                    split,
                    catalogue,
                    config.metrics,
                    user_batch=config.user_batch,
                    item_chunk=config.item_chunk,
                    device=device,
                    on_batch=per_user.keeper(method, split),
                )
                evaluation = self._timed(split, out, evaluate)
                rows += evaluation.rows(method, split)
        out.write_arrow("metrics", metrics_table(rows))
        self._plot([*inputs["references"].table("metrics").arrow().to_pylist(), *rows])

    def _timed(self, split: str, out: BundleWriter, evaluate: Callable[[], Evaluation]) -> Evaluation:
        import time

        from esans.columns import TEST

        started = time.time()
        evaluation = evaluate()
        seconds, users = time.time() - started, evaluation.overall.users
        prefix = "" if split == TEST else f"{split}."
        if users:
            out.report({prefix + name: value for name, value in evaluation.headline().items()})
            out.report(
                {f"{prefix}{name}.standard_error": value for name, value in evaluation.overall.standard_errors().items() if users > 1}
            )
        out.report({f"{prefix}users": users, f"{prefix}users_per_second": users / max(seconds, 1e-9)})
        shown = ", ".join(
            f"{name} {value:.4f}" for name, value in evaluation.overall.means().items() if name.startswith(("recall", "ndcg", "mrr"))
        )
        say(f"  {split}: {shown} ({users:,} users in {seconds:.1f} s)")
        return evaluation

    def _plot(self, rows: list[dict[str, object]]) -> None:
        from esans.columns import TEST
        from esans.evaluate.plots import slice_figure
        from esans.retrieval.slices import HISTORY_LENGTH, POPULARITY

        ks = self.config.metrics.ks
        metric = f"recall@{50 if 50 in ks else ks[-1]}"
        self.context.run.figure(slice_figure(rows, POPULARITY, metric, TEST), "recall_by_popularity.png")
        self.context.run.figure(slice_figure(rows, HISTORY_LENGTH, metric, TEST), "recall_by_history.png")
