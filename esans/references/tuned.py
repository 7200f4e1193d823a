"""ALS and BPR tuned on the validation split: a stated number of settings, drawn at random from a stated space."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from esans.errors import DataError
from esans.progress import Bar, say
from esans.references.cooccurrence import train_matrix
from esans.references.factors import Als, AlsSetting, Bpr, BprSetting
from esans.references.measure import validation_recall
from esans.references.names import ALS, BPR, Reference
from esans.references.packages import require_implicit
from esans.retrieval.evaluation import Catalogue
from esans.retrieval.users import UserBatch

if TYPE_CHECKING:
    import pyarrow as pa

    from esans.bundle import Bundle
    from esans.references.config import AlsConfig, BprConfig

Setting = TypeVar("Setting", AlsSetting, BprSetting)
Model = TypeVar("Model", Als, Bpr)
Option = TypeVar("Option")


@dataclass(frozen=True)
class Tried(Generic[Setting]):
    """A setting, its validation recall (0 where its vectors were not finite), and the seconds it took to train and rank."""

    setting: Setting
    recall: float
    seconds: float


def tune_als(
    prepare: Bundle, users: Sequence[UserBatch], catalogue: Catalogue, config: AlsConfig, seed: int
) -> tuple[Als, list[Tried[AlsSetting]]]:
    """Train ALS with `config.trials` settings on the train split, and keep what recalls most for the given validation users.

    Returns:
        the best model, which gives the scorer of a batch of users, and the trials, best first.

    Raises:
        ConfigError: the package implicit is not installed.
        DataError: the train split is empty, or no setting gives finite vectors.
    """
    require_implicit(ALS)
    train = train_matrix(prepare, ALS, config.max_interactions).users_items
    return _best(ALS, als_settings(config, seed), lambda setting: Als(train, setting, seed), users, catalogue, config.tune_by)


def tune_bpr(
    prepare: Bundle, users: Sequence[UserBatch], catalogue: Catalogue, config: BprConfig, seed: int
) -> tuple[Bpr, list[Tried[BprSetting]]]:
    """As `tune_als`, with BPR."""
    require_implicit(BPR)
    train = train_matrix(prepare, BPR, config.max_interactions).users_items
    return _best(BPR, bpr_settings(config, seed), lambda setting: Bpr(train, setting, seed), users, catalogue, config.tune_by)


def als_settings(config: AlsConfig, seed: int) -> list[AlsSetting]:
    """`config.trials` settings of ALS."""
    return [
        AlsSetting(
            weighting=_choice(config.weightings, row[0]),
            alpha=_log_uniform(config.alpha, row[1]),
            factors=_choice(config.factors, row[2]),
            regularization=_log_uniform(config.regularization, row[3]),
            iterations=_integer(config.iterations, row[4]),
        )
        for row in _hypercube(config.trials, 5, seed)
    ]


def bpr_settings(config: BprConfig, seed: int) -> list[BprSetting]:
    """`config.trials` settings of BPR."""
    return [
        BprSetting(
            factors=_choice(config.factors, row[0]),
            learning_rate=_log_uniform(config.learning_rate, row[1]),
            regularization=_log_uniform(config.regularization, row[2]),
            iterations=round(_log_uniform(config.iterations, row[3])),
        )
        for row in _hypercube(config.trials, 4, seed)
    ]


def trials_table(trials: Sequence[Tried[Setting]]) -> pa.Table:
    """Every setting tried with its `validation_recall` and `seconds`, best first."""
    import pyarrow as pa

    rows = [{**dataclasses.asdict(trial.setting), "validation_recall": trial.recall, "seconds": trial.seconds} for trial in trials]
    return pa.Table.from_pylist(rows)


def _best(
    reference: Reference,
    settings: Iterable[Setting],
    train: Callable[[Setting], Model],
    users: Sequence[UserBatch],
    catalogue: Catalogue,
    k: int,
) -> tuple[Model, list[Tried[Setting]]]:
    from implicit.recommender_base import ModelFitError

    settings = list(settings)
    trials: list[Tried[Setting]] = []
    best: tuple[float, Model] | None = None
    with Bar(f"{reference.title} on validation", len(settings), "settings") as bar:
        for setting in settings:
            started = time.perf_counter()
            recall = 0.0
            try:
                model = train(setting)
            except ModelFitError as error:
                say(f"  {reference.title} left out ({setting}): {error}")
            else:
                recall = validation_recall(model, users, catalogue, k)
                best = (recall, model) if best is None or recall > best[0] else best  # the first tried wins a tie
            trials.append(Tried(setting, recall, time.perf_counter() - started))
            bar.update(len(trials), f"best recall@{k} {best[0] if best else 0.0:.4f}")
    if best is None:
        raise DataError(
            f"{reference.title}: none of the {len(trials)} settings gave finite vectors.\n"
            f"Narrow the ranges of {reference.section}, or set {reference.switch}=false."
        )
    return best[1], sorted(trials, key=lambda trial: -trial.recall)


def _hypercube(rows: int, columns: int, seed: int) -> np.ndarray:
    """(rows, columns) in [0, 1): a Latin hypercube, each column with one number in every [i / rows, (i + 1) / rows)."""
    rng = np.random.default_rng(seed)
    cells = rng.permuted(np.tile(np.arange(rows)[:, None], (1, columns)), axis=0)
    drawn: np.ndarray = (cells + rng.random((rows, columns))) / rows
    return drawn


def _choice(options: Sequence[Option], share: float) -> Option:
    return options[min(int(share * len(options)), len(options) - 1)]


def _log_uniform(interval: tuple[float, float], share: float) -> float:
    low, high = interval
    return float(low * (high / low) ** share)


def _integer(interval: tuple[int, int], share: float) -> int:
    low, high = interval
    return min(low + int(share * (high - low + 1)), high)
