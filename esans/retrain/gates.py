"""Whether a challenger may be published: sanity of its vectors, its index, and non-inferiority to the champion by slice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from esans.retrain.config import GateConfig
from esans.retrain.judge import POPULARITY, Judgement
from esans.retrieval.paired import PairedResult, paired_bootstrap
from esans.retrieval.slices import ALL

CHAMPION, CHALLENGER = "champion", "challenger"
_KEY = "retrain.gate"
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Verdict:
    """One figure of the challenger against its bound; `passed` is None where it is shown and not judged. Ends are NaN without interval."""

    what: str
    value: float
    bound: str
    key: str
    passed: bool | None
    champion: float = math.nan
    low: float = math.nan
    high: float = math.nan
    users: int = 0

    def describe(self) -> str:
        """For messages and reports."""
        return f"{self.what} = {self.value:.4g}, wanted {self.bound} ({_KEY}.{self.key})"


def sane_vectors(vectors_ND: Tensor, what: str) -> list[Verdict]:
    """Whether (N, D) vectors are finite, of norm 1 and not all alike; the rows that the model does not know are left out before."""
    bad = int((~vectors_ND.isfinite()).any(1).sum())
    found = [Verdict(f"{what} vectors that are not finite", bad, "0", "metrics", bad == 0)]
    if bad or not len(vectors_ND):
        return found
    off = float((vectors_ND.norm(dim=1) - 1).abs().max())
    spread = float((vectors_ND - vectors_ND.mean(0)).square().sum(1).mean())
    return [
        *found,
        Verdict(f"{what} vectors: largest distance of a norm from 1", off, f"<= {_NORM_TOLERANCE:g}", "metrics", off <= _NORM_TOLERANCE),
        Verdict(f"{what} vectors: mean squared distance from their mean", spread, "> 0", "metrics", spread > 1e-6),
    ]


def index_recall(figures: object, config: GateConfig) -> Verdict:
    """Overlap of the index with exact search, from the figures of the export bundle."""
    found = [value for name, value in dict(figures).items() if str(name).startswith("index_recall@")]  # type: ignore[call-overload]
    value = float(found[0]) if found else math.nan
    return Verdict("recall of the index", value, f">= {config.min_index_recall:g}", "min_index_recall", value >= config.min_index_recall)


def absolute(judgement: Judgement, num_available: int, config: GateConfig) -> list[Verdict]:
    """What must hold with and without a champion."""
    users = len(np.unique(judgement.users))
    enough = Verdict("users in the window", users, f">= {config.min_users}", "min_users", users >= config.min_users)
    if not users:
        return [enough]
    everybody = judgement.keys[0]
    recall = float(np.nanmean(judgement.by_user(CHALLENGER, everybody, "recall")))
    popular = float(np.nanmean(judgement.by_user(POPULARITY, everybody, "recall")))
    covered = judgement.judged[CHALLENGER].covered
    share = int(covered.sum()) / max(num_available, 1) if covered is not None else 0.0
    spread, least = judgement.spread[CHALLENGER], config.min_over_popularity * popular
    return [
        enough,
        Verdict(
            f"recall@{config.k}",
            recall,
            f">= {least:.4g} ({config.min_over_popularity:g} x popularity)",
            "min_over_popularity",
            recall >= least,
            users=users,
        ),
        Verdict(
            "share of the catalogue that is recommended",
            share,
            f">= {config.min_catalogue_share:g}",
            "min_catalogue_share",
            share >= config.min_catalogue_share,
        ),
        Verdict(
            "spread of the user vectors", spread, f">= {config.min_user_spread:g}", "min_user_spread", spread >= config.min_user_spread
        ),
    ]


def against_champion(judgement: Judgement, config: GateConfig, seed: int) -> list[Verdict]:
    """Non-inferiority over all users, and no slice that is surely worse."""
    return list(_against(judgement, config, seed)) if len(judgement.users) else []


def _against(judgement: Judgement, config: GateConfig, seed: int) -> Iterator[Verdict]:
    for metric in config.metrics:
        for key in judgement.keys:
            challenger, champion = (judgement.by_user(name, key, metric) for name in (CHALLENGER, CHAMPION))
            if not len(challenger) or np.isnan(challenger).all():
                continue
            found = paired_bootstrap(challenger, champion, config.resamples, seed, config.level)
            shown = f"{metric}@{config.k}" + ("" if key[0] == ALL else f", {key[0]} {key[1]}")
            yield _overall(shown, found, config) if key[0] == ALL else _slice(shown, found, config)


def _overall(shown: str, found: PairedResult, config: GateConfig) -> Verdict:
    least = -config.margin * found.mean_b
    bound = f"difference from the champion surely >= {least:.4g} ({config.margin:.0%} of {found.mean_b:.4g})"
    return _verdict(shown, found, bound, "margin", found.low >= least)


def _slice(shown: str, found: PairedResult, config: GateConfig) -> Verdict:
    least = -config.slice_margin * found.mean_b
    bound = f"difference from the champion not surely < {least:.4g} ({config.slice_margin:.0%} of {found.mean_b:.4g})"
    return _verdict(shown, found, bound, "slice_margin", None if found.users < config.slice_min_users else found.high >= least)


def _verdict(shown: str, found: PairedResult, bound: str, key: str, passed: bool | None) -> Verdict:
    return Verdict(shown, found.mean_a, bound, key, passed, found.mean_b, found.low, found.high, found.users)
