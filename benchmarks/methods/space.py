"""The methods of the experiment, and what is tuned of each. The first trial of every method is its defaults.

A method gets at most `encodings` item vectors per example beyond the positive (15, what the published groups take); pools that
a batch shares count once a batch. Keys are those of `train`, as in conf/experiments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import optuna

Values = dict[str, Any]
ENCODINGS = 15


class Suggest(Protocol):
    """Where the value of a tuned key comes from."""

    def log(self, name: str, default: float, low: float, high: float) -> float:
        """A positive number, its logarithm uniform."""

    def linear(self, name: str, default: float, low: float, high: float) -> float:
        """A number."""

    def choice(self, name: str, default: Any, options: list[Any]) -> Any:
        """One of a few."""


class Defaults:
    """Every key at its default."""

    def log(self, name: str, default: float, low: float, high: float) -> float:
        """The default."""
        return default

    def linear(self, name: str, default: float, low: float, high: float) -> float:
        """The default."""
        return default

    def choice(self, name: str, default: Any, options: list[Any]) -> Any:
        """The default."""
        return default


class Trial:
    """Values of an Optuna trial."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def log(self, name: str, default: float, low: float, high: float) -> float:
        """Log-uniform."""
        return self._trial.suggest_float(name, low, high, log=True)

    def linear(self, name: str, default: float, low: float, high: float) -> float:
        """Uniform."""
        return self._trial.suggest_float(name, low, high)

    def choice(self, name: str, default: Any, options: list[Any]) -> Any:
        """Each as likely."""
        return self._trial.suggest_categorical(name, options)


IN_BATCH: Values = {"sampler": "in_batch"}


def _softmax(s: Suggest) -> Values:
    """What every softmax loss tunes."""
    start = s.log("temperature", 0.1, 0.04, 0.25)
    return {"temperature": {"temperature": s.choice("temperature_is", "learned", ["learned", "fixed"]), "start": start}}


def uniform(s: Suggest) -> Values:
    """15 draws an example."""
    return _softmax(s) | {"negatives": [{"sampler": "uniform", "num_negatives": ENCODINGS}]}


def popularity(s: Suggest) -> Values:
    """15 draws an example by popularity, corrected."""
    power = s.choice("power", 0.75, [0.5, 0.75, 1.0])
    return _softmax(s) | {"negatives": [{"sampler": "popularity", "num_negatives": ENCODINGS, "power": power}]}


def in_batch(s: Suggest) -> Values:
    """The other positives of the batch, corrected by train counts."""
    return _softmax(s) | {"negatives": [IN_BATCH]}


def mixed(s: Suggest) -> Values:
    """In-batch beside uniform draws that the batch shares; the largest pool costs 4 encodings an example."""
    pool = s.choice("pool", 1024, [256, 1024, 4096])
    return _softmax(s) | {"negatives": [IN_BATCH, {"sampler": "uniform", "num_negatives": pool, "shared": True}]}


def cross_batch(s: Suggest) -> Values:
    """In-batch beside vectors of earlier batches, once the towers have settled: earlier, they learn to tell fresh vectors from old ones."""
    capacity, enters = s.choice("capacity", 4096, [1024, 2048, 4096]), s.choice("enters_at_epoch", 2.0, [1.0, 2.0, 4.0])
    return _softmax(s) | {"negatives": [IN_BATCH, {"sampler": "cross_batch", "capacity": capacity, "enters_at_epoch": enters}]}


def midx(s: Suggest) -> Values:
    """In-batch beside 15 query-aware draws over the clusters."""
    return _softmax(s) | {"negatives": [IN_BATCH, {"sampler": "midx", "num_negatives": ENCODINGS}]}


def category(column: str) -> Callable[[Suggest], Values]:
    """10 uniform draws and 5 of the positive's category."""

    def values(s: Suggest) -> Values:
        near = {"sampler": "category", "column": column, "num_negatives": 5, "log_weight": s.linear("log_weight", 0.0, -3.0, 1.0)}
        return _softmax(s) | {"negatives": [{"sampler": "uniform", "num_negatives": ENCODINGS - 5}, near]}

    return values


def gbce(s: Suggest) -> Values:
    """Calibrated binary cross-entropy over 15 uniform draws."""
    loss = {"loss": "gbce", "calibration": s.linear("calibration", 0.2, 0.0, 1.0)}
    return _softmax(s) | {"loss": loss, "negatives": [{"sampler": "uniform", "num_negatives": ENCODINGS}]}


def ada_tau(s: Suggest) -> Values:
    """A temperature for every user, over 15 draws an example or 1,024 that the batch shares, as published."""
    pool = s.choice("pool", "shared", ["shared", "own"])
    draws = {"num_negatives": 1024, "shared": True} if pool == "shared" else {"num_negatives": ENCODINGS}
    temperature = {"temperature": "ada_tau", "beta": s.log("beta", 1.0, 0.3, 3.0)}
    return {"temperature": temperature, "loss": {"loss": "ada_tau"}, "negatives": [{"sampler": "uniform", **draws}]}


def full_softmax(s: Suggest) -> Values:
    """Every item: the reference that sampling estimates."""
    return _softmax(s) | {"negatives": [{"sampler": "full_softmax"}]}


def _semantic(s: Suggest, **fixed: Any) -> list[Values]:
    """The published groups with EDIS; `fixed` pins what an ablation changes."""

    def pick(name: str, ask: Callable[[], Any]) -> Any:
        return fixed[name] if name in fixed else ask()

    unit_norm = s.choice("unit_norm", True, [True, False])
    easy_weight, hard_weight = s.linear("easy_log_weight", 0.0, -3.0, 2.0), s.linear("hard_log_weight", 0.0, -4.0, 1.0)
    easy = {
        "sampler": "easy",
        "clusters": pick("clusters", lambda: 2),
        "per_cluster": pick("per_cluster", lambda: 5),
        "transition_temperature": pick("transition_temperature", lambda: s.log("transition_temperature", 0.1, 0.05, 1.0)),
        "interpolate": pick("easy_interpolate", lambda: True),
        "unit_norm": pick("unit_norm", lambda: unit_norm),
        "log_weight": easy_weight,
        "virtual_log_weight": easy_weight,
    }
    hard = {
        "sampler": "hard",
        "num_negatives": 5,
        "interpolate": pick("hard_interpolate", lambda: True),
        "mix": pick("mix", lambda: s.linear("mix", 0.1, -0.3, 0.5)),
        "unit_norm": pick("unit_norm", lambda: unit_norm),
        "detach_positive": pick("detach_positive", lambda: s.choice("detach_positive", False, [False, True])),
        "log_weight": hard_weight,
        "virtual_log_weight": hard_weight,
    }
    return [easy, hard]


def esans(s: Suggest) -> Values:
    """The published semantic groups beside corrected in-batch negatives."""
    return _softmax(s) | {"negatives": [IN_BATCH, *_semantic(s)]}


def esans_only(s: Suggest) -> Values:
    """The published semantic groups alone."""
    return _softmax(s) | {"negatives": _semantic(s)}


# Pools of the methods that choose by score. A pool that the batch shares costs its size over 1,024 encodings an example, so it
# may be far larger; drawing one an example is what the papers do. (negatives kept, candidates of one pool).
_OWN, _SHARED = "example", "shared"


def _beside(s: Suggest, group: Values) -> Values:
    """A group that the papers train alone, here alone or beside in-batch negatives, whichever is better on validation."""
    alone = s.choice("beside", "in_batch", ["in_batch", "nothing"]) == "nothing"
    return _softmax(s) | {"negatives": [group] if alone else [IN_BATCH, group]}


def _pool_per_pick(s: Suggest, sampler: str) -> Values:
    return _chosen(s, sampler, {"1 of 15": (1, 15), "3 of 5": (3, 5), "4 of 512, shared": (4, 512)})


def _one_pool(s: Suggest, sampler: str) -> Values:
    return _chosen(s, sampler, {"5 of 15": (5, 15), "8 of 15": (8, 15), "8 of 1024, shared": (8, 1024)})


def _chosen(s: Suggest, sampler: str, sizes: dict[str, tuple[int, int]]) -> Values:
    """A group that keeps some of scored candidates; `sizes` are (kept, candidates) by what they are called, the first the default."""
    kept = s.choice("kept", next(iter(sizes)), list(sizes))
    number, candidates = sizes[kept]
    return {
        "sampler": sampler,
        "num_negatives": number,
        "candidates": candidates,
        "pool": _SHARED if kept.endswith("shared") else _OWN,
        "log_weight": s.linear("log_weight", 0.0, -2, 3),
    }


def dns(s: Suggest) -> Values:
    """The hardest of a pool."""
    group = _pool_per_pick(s, "dns")
    return _beside(s, {**group, "top": s.choice("top", 1, [1, 3, 5])})


def mixgcf(s: Suggest) -> Values:
    """The hardest of a pool after mixing with the positive."""
    return _beside(s, _pool_per_pick(s, "mixgcf"))


def ahns(s: Suggest) -> Values:
    """The candidate whose score fits the positive's best."""
    keys = {"alpha": s.linear("alpha", 0.5, 0.1, 1.0), "beta": s.log("beta", 0.5, 0.1, 4.0)}
    return _beside(s, {**_pool_per_pick(s, "ahns"), **keys})


def simans(s: Suggest) -> Values:
    """Candidates near the positive's score."""
    keys = {"a": s.log("a", 0.5, 0.05, 5.0), "b": s.linear("b", 0.0, -4.0, 2.0)}
    return _beside(s, {**_one_pool(s, "simans"), **keys})


def fairneg(s: Suggest) -> Values:
    """Candidates by score and by groups that are served worse."""
    keys = {"hardness": s.linear("hardness", 0.4, 0.1, 0.9), "rate": s.log("rate", 0.2, 0.02, 1.0), "update_every": 16}
    return _beside(s, {**_one_pool(s, "fairneg"), **keys})


def mochi(s: Suggest) -> Values:
    """A pool, and unit-norm mixes of its hardest."""
    shared = s.choice("pool", _OWN, [_OWN, _SHARED]) == _SHARED
    sizes = {"candidates": 1024, "hardest": 32, "pool": _SHARED} if shared else {"candidates": 15, "hardest": 8, "pool": _OWN}
    return _beside(s, {"sampler": "mochi", **sizes, "log_weight": s.linear("log_weight", 0.0, -2, 3)})


def esans_plus(s: Suggest) -> Values:
    """The published groups at a large weight that fades, beside in-batch negatives, sparing likely false negatives.

    Semantic negatives teach fastest at the start and hold later training back: their log-weight starts high and falls in a
    straight line until `to_epoch`. 10 easy and 5 hard encodings an example, as published.
    """
    weight = s.linear("log_weight", 2.0, 0.5, 3.5)
    fading = {"start": weight, "end": s.choice("end", -6.0, [-6.0, -3.0, -1.0]), "to_epoch": s.choice("to_epoch", 2.0, [2.0, 3.0, 4.0])}
    spared = s.choice("spare_neighbours", 20, [0, 20])
    both = {"log_weight": fading, "virtual_log_weight": fading, "spare_neighbours": spared}
    transition = s.log("transition_temperature", 0.1, 0.05, 1.0)
    easy = {"sampler": "easy", "clusters": 2, "per_cluster": 5, "transition_temperature": transition, **both}
    hard = {"sampler": "hard", "num_negatives": 5, "mix": s.linear("mix", 0.1, -0.3, 0.5), **both}
    return _softmax(s) | {"negatives": [IN_BATCH, easy, hard]}


def methods(dataset: str) -> dict[str, Callable[[Suggest], Values]]:
    """Every method that can be run on a data set, the cheapest claims first: a run that is stopped early has compared those."""
    found: dict[str, Callable[[Suggest], Values]] = {
        "uniform": uniform,
        "in_batch": in_batch,
        "mixed": mixed,
        "esans": esans,
        "esans_plus": esans_plus,
        "full_softmax": full_softmax,
        "midx": midx,
        "esans_only": esans_only,
        "cross_batch": cross_batch,
        "popularity": popularity,
        "gbce": gbce,
        "ada_tau": ada_tau,
        "dns": dns,
        "simans": simans,
        "mixgcf": mixgcf,
        "ahns": ahns,
        "mochi": mochi,
        "fairneg": fairneg,
    }
    if dataset in CATEGORY_COLUMNS:
        found["category"] = category(CATEGORY_COLUMNS[dataset])
    return found


# The side column that says an item's category; the shop has none.
CATEGORY_COLUMNS = {"movielens": "genre", "amazon_beauty": "category"}
