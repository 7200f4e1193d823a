"""The references stage: what a model must be compared with before anyone believes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from esans.progress import say
from esans.references.config import ReferencesConfig
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from esans.bundle import BundleWriter


class References(Stage):
    """Popularity and item-kNN (tuned on validation), measured exactly as the models are.

    Similarities and popularity come from the train split alone, for validation and for test; the history that item-kNN
    reads, and the items that are masked, are all positives before the split's targets.
    """

    name: ClassVar[str] = "references"
    code_version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("prepare",)
    config: ReferencesConfig

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Tables `metrics`, `per_user` and `tuning`; facts with the winning setting."""
        from esans.references.measure import ITEM_KNN, POPULARITY, Measure
        from esans.retrieval.evaluation import Catalogue
        from esans.retrieval.scorers import StaticScorer

        prepare = inputs["prepare"]
        catalogue = Catalogue.read(prepare)
        with Measure(prepare, catalogue, self.config, out, self.context.run) as measure:
            popularity = catalogue.counts.float()
            measure(POPULARITY, lambda batch: StaticScorer(popularity, len(batch)))
            if self._knn_is_possible(catalogue.num_items):
                measure(ITEM_KNN, self._tuned_knn(inputs, catalogue, out))

    def _knn_is_possible(self, num_items: int) -> bool:
        if self.config.item_knn and num_items > self.config.knn.max_items:
            say(f"  item-kNN left out: {num_items:,} items are more than references.knn.max_items = {self.config.knn.max_items:,}")
            return False
        return self.config.item_knn

    def _tuned_knn(self, inputs: Inputs, catalogue: Catalogue, out: BundleWriter) -> ScorerOf:
        from esans.references.cooccurrence import train_matrix
        from esans.references.knn import KnnScorer, tune
        from esans.references.measure import tuning_table, tuning_users

        config, prepare = self.config.knn, inputs["prepare"]
        matrix = train_matrix(prepare, config)
        users = tuning_users(prepare, config.tuning_users, self.config.user_batch)
        trials, similarities = tune(matrix, users, catalogue, config)
        best = trials[0].choice
        say(f"  item-kNN: {best} (validation recall@{config.tune_by} {trials[0].recall:.4f}, {len(trials)} settings tried)")
        out.write_arrow("tuning", tuning_table(trials))
        out.state(
            {"item_knn": str(best), "item_knn_tuned_on": f"validation recall@{config.tune_by}", "item_knn_similarities_from": "train"}
        )
        self.context.run.params({"item_knn": str(best)})
        out.report({"item_knn_users_share": matrix.share_of_users, "item_knn_users_left_out": matrix.users_left_out})
        return lambda batch: KnnScorer(batch, similarities, best.half_life, catalogue.counts)


if TYPE_CHECKING:
    from collections.abc import Callable

    from esans.retrieval.evaluation import Catalogue
    from esans.retrieval.scorers import Scorer
    from esans.retrieval.users import UserBatch

    ScorerOf = Callable[[UserBatch], Scorer]
