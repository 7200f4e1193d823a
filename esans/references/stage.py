"""The references stage: what a model must be compared with before anyone believes it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from esans.progress import say
from esans.references.config import ReferencesConfig
from esans.references.names import ALS, BPR, ITEM_KNN, POPULARITY
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from esans.bundle import BundleWriter


class References(Stage):
    """Popularity, item-kNN and, where asked for, ALS and BPR (tuned on validation), measured exactly as the models are.

    Similarities, item vectors and popularity come from the train split alone, for validation and for test; the history that
    item-kNN and ALS read, and the items that are masked, are all positives before the split's targets. BPR has the user
    vectors of training: it has no way to read what came after.
    """

    name: ClassVar[str] = "references"
    code_version: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("prepare",)
    config: ReferencesConfig

    @classmethod
    def outside_inputs(cls, config: ReferencesConfig) -> dict[str, Any]:
        """Nothing but a look at what is installed, here because a pipeline asks for this before it runs its first stage."""
        _require_packages(config)
        return {}

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Tables `metrics` and `per_user`, the trials in `tuning`, `tuning_als`, `tuning_bpr`; facts with the winning settings."""
        from esans.references.measure import Measure
        from esans.retrieval.evaluation import Catalogue
        from esans.retrieval.scorers import StaticScorer

        _require_packages(self.config)
        prepare = inputs["prepare"]
        catalogue = Catalogue.read(prepare)
        with Measure(prepare, catalogue, self.config, out, self.context.run, self.context.seed) as measure:
            popularity = catalogue.counts.float()
            measure(POPULARITY, lambda batch: StaticScorer(popularity, len(batch)))
            if self._knn_is_possible(catalogue.num_items):
                measure(ITEM_KNN.method, self._tuned_knn(inputs, catalogue, out))
            if self.config.als:
                measure(ALS.method, self._tuned_factors(ALS, self.config.als_search, prepare, catalogue, out))
            if self.config.bpr:
                measure(BPR.method, self._tuned_factors(BPR, self.config.bpr_search, prepare, catalogue, out))

    def _knn_is_possible(self, num_items: int) -> bool:
        if self.config.item_knn and num_items > self.config.knn.max_items:
            say(f"  item-kNN left out: {num_items:,} items are more than references.knn.max_items = {self.config.knn.max_items:,}")
            return False
        return self.config.item_knn

    def _tuned_knn(self, inputs: Inputs, catalogue: Catalogue, out: BundleWriter) -> ScorerOf:
        from esans.references.cooccurrence import train_matrix
        from esans.references.knn import KnnScorer, tune
        from esans.references.measure import tuning_table, tuning_users

        config, prepare, started = self.config.knn, inputs["prepare"], time.perf_counter()
        matrix = train_matrix(prepare, ITEM_KNN, config.max_interactions, config.max_user_items)
        users = tuning_users(prepare, config.tuning_users, self.config.user_batch)
        trials, similarities = tune(matrix, users, catalogue, config, self.context.seed)
        best = trials[0].choice
        say(f"  item-kNN: {best} (validation recall@{config.tune_by} {trials[0].recall:.4f}, {len(trials)} settings tried)")
        out.write_arrow("tuning", tuning_table(trials))
        out.state(
            {"item_knn": str(best), "item_knn_tuned_on": f"validation recall@{config.tune_by}", "item_knn_similarities_from": "train"}
        )
        self.context.run.params({"item_knn": str(best)})
        out.report({"itemknn.trials": len(trials), "itemknn.tuning_seconds": time.perf_counter() - started})
        out.report({"item_knn_users_share": matrix.share_of_users, "item_knn_users_left_out": matrix.users_left_out})
        return lambda batch: KnnScorer(batch, similarities, best.half_life, catalogue.counts)

    def _tuned_factors(
        self, reference: Reference, config: SearchConfig, prepare: Bundle, catalogue: Catalogue, out: BundleWriter
    ) -> ScorerOf:
        from esans.references.measure import tuning_users
        from esans.references.tuned import trials_table, tune_als, tune_bpr

        tune: Any = tune_als if reference is ALS else tune_bpr
        users = tuning_users(prepare, config.tuning_users, self.config.user_batch, reference)
        model, trials = tune(prepare, users, catalogue, config, self.context.seed)
        out.write_arrow(f"tuning_{reference.method}", trials_table(trials))
        users_from = "history before the split" if reference is ALS else "train"
        self._state_winner(reference, config, trials, out, users_from)
        scorer_of: ScorerOf = model
        return scorer_of

    def _state_winner(
        self, reference: Reference, config: SearchConfig, trials: Sequence[Tried[Any]], out: BundleWriter, users_from: str
    ) -> None:
        name, best, judge = reference.method, trials[0], f"validation recall@{config.tune_by}"
        say(
            f"  {reference.title}: {best.setting} ({judge} {best.recall:.4f}, {len(trials)} settings tried; user vectors from {users_from})"
        )
        out.state({name: str(best.setting), f"{name}_tuned_on": judge, f"{name}_items_from": "train", f"{name}_users_from": users_from})
        self.context.run.params({name: str(best.setting)})
        out.report({f"{name}.trials": len(trials), f"{name}.tuning_seconds": sum(trial.seconds for trial in trials)})


def _require_packages(config: ReferencesConfig) -> None:
    from esans.references.packages import require_implicit

    for reference, wanted in ((ALS, config.als), (BPR, config.bpr)):
        if wanted:
            require_implicit(reference)


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esans.bundle import Bundle
    from esans.references.config import SearchConfig
    from esans.references.names import Reference
    from esans.references.tuned import Tried
    from esans.retrieval.evaluation import Catalogue
    from esans.retrieval.scorers import Scorer
    from esans.retrieval.users import UserBatch

    ScorerOf = Callable[[UserBatch], Scorer]
