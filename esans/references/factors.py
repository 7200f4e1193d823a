"""Matrix factorisation as references: ALS and BPR of the library `implicit`, trained on the train split, scored exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from esans.references.cooccurrence import Bm25
from esans.references.knn import history_matrix
from esans.retrieval.scorers import DotScorer
from esans.retrieval.users import UserBatch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from esans.references.config import Weighting

_TINY = 1e-30


@dataclass(frozen=True)
class AlsSetting:
    """One setting of ALS: confidence of a purchase (`alpha` times its weight), dimensions, L2 penalty, iterations."""

    weighting: Weighting
    alpha: float
    factors: int
    regularization: float
    iterations: int

    def __str__(self) -> str:
        start = f"{self.factors} factors, {self.weighting} confidence times {self.alpha:.3g}"
        return f"{start}, regularization {self.regularization:.3g}, {self.iterations} iterations"


@dataclass(frozen=True)
class BprSetting:
    """One setting of BPR: dimensions, step of SGD, L2 penalty, passes over the data."""

    factors: int
    learning_rate: float
    regularization: float
    iterations: int

    def __str__(self) -> str:
        start = f"{self.factors} factors, learning rate {self.learning_rate:.3g}"
        return f"{start}, regularization {self.regularization:.3g}, {self.iterations} iterations"


class FactorScorer:
    """Inner products of (B, d) users and (N, d) items of any length, exact up to rounding the factors.

    `DotScorer` wants short vectors: they are scaled to norms of at most 1, and the scores back. A user whose vector is zero
    (nothing known) has equal scores.
    """

    def __init__(self, users_BD: Tensor, items: ItemFactors) -> None:
        users_BD = users_BD.double()
        norms_B = torch.linalg.vector_norm(users_BD, dim=1).clamp_min(_TINY)
        self._dot = DotScorer(users_BD / norms_B[:, None], items.scaled_ND)
        self._scale_B = norms_B * items.scale

    def chunk(self, start: int, stop: int) -> Tensor:
        """(B, stop - start) float64."""
        return self._dot.chunk(start, stop) * self._scale_B[:, None]

    def pairs(self, rows: Tensor, items: Tensor) -> Tensor:
        """(n,) float64."""
        return self._dot.pairs(rows, items) * self._scale_B[rows]


class ItemFactors:
    """(N, d) float64 item vectors divided by the largest of their norms, and that norm."""

    def __init__(self, factors_ND: np.ndarray) -> None:
        items_ND = torch.from_numpy(factors_ND).double()
        self.scale = max(float(torch.linalg.vector_norm(items_ND, dim=1).max()), _TINY)
        self.scaled_ND = items_ND / self.scale


class Als:
    """ALS with confidences (Hu, Koren and Volinsky 2008); calling it gives the scores of a batch of users.

    A user's vector is solved anew from the distinct earlier items of the batch, with the item vectors as trained: the same
    history as item-kNN reads, for users of any split.

    Args:
        train: (users, N) binary CSR.
        setting: hyperparameters.
        seed: of the initial vectors. With it the result is the same for any number of threads.

    Raises:
        implicit.recommender_base.ModelFitError: the vectors are not finite.
    """

    def __init__(self, train: sp.csr_matrix, setting: AlsSetting, seed: int) -> None:
        from implicit.cpu.als import AlternatingLeastSquares

        self._bm25 = Bm25.of(train) if setting.weighting == "bm25" else None
        with _one_blas_thread():
            self.model = AlternatingLeastSquares(
                factors=setting.factors,
                regularization=setting.regularization,
                alpha=setting.alpha,
                iterations=setting.iterations,
                num_threads=torch.get_num_threads(),
                random_state=seed,
            )
            self.model.fit(self._confidence(train), show_progress=False)
        self._items = ItemFactors(self.model.item_factors)

    def __call__(self, batch: UserBatch) -> FactorScorer:
        """Scores by vectors of the users' histories."""
        return FactorScorer(torch.from_numpy(self.user_vectors(batch)), self._items)

    def user_vectors(self, batch: UserBatch) -> np.ndarray:
        """(B, factors) float32."""
        history = history_matrix(batch, len(self._items.scaled_ND), None)
        with _one_blas_thread():
            vectors: np.ndarray = self.model.recalculate_user(np.arange(len(batch)), self._confidence(history))
        return vectors

    def _confidence(self, users_items: sp.csr_matrix) -> sp.csr_matrix:
        return self._bm25.weigh(users_items) if self._bm25 is not None else users_items


class Bpr:
    """Matrix factorisation with item biases by the BPR loss (Rendle et al. 2009); calling it gives the scores of a batch of users.

    Negatives are drawn in proportion to train interactions, never among the user's own, as the library does it. There is no
    fold-in: users have the vectors of training, so what they did after the train split is not read, at test neither. Users
    without train interactions have a zero vector beside the item bias: they get the items of largest bias.

    Args:
        train: (users, N) binary CSR, rows by user index.
        setting: hyperparameters.
        seed: of the initial vectors and of the draws. One thread trains: several would race, and each run differ.

    Raises:
        implicit.recommender_base.ModelFitError: the vectors are not finite.
    """

    def __init__(self, train: sp.csr_matrix, setting: BprSetting, seed: int) -> None:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        with _one_blas_thread():
            self.model = BayesianPersonalizedRanking(
                factors=setting.factors,
                learning_rate=setting.learning_rate,
                regularization=setting.regularization,
                iterations=setting.iterations,
                num_threads=1,
                random_state=seed,
            )
            self.model.fit(train, show_progress=False)
        self._items = ItemFactors(self.model.item_factors)

    def __call__(self, batch: UserBatch) -> FactorScorer:
        """Scores by the users' vectors of training."""
        return FactorScorer(torch.from_numpy(self.model.user_factors)[batch.users], self._items)


def _one_blas_thread() -> AbstractContextManager[object]:
    # implicit runs its own threads over users; threads of BLAS inside each of them slow it down ten times, and it warns of them.
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1, "blas")
    return limits
