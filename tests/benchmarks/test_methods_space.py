"""The search spaces of the methods experiment: legal keys, equal cost, and ablations that change what they name."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import torch

from benchmarks.methods.collect import DATASETS, NO_CATEGORY, SAMPLERS
from benchmarks.methods.protocol import PROTOCOL
from benchmarks.methods.space import ENCODINGS, Defaults, Trial, Values, esans, methods
from benchmarks.methods.studies import ABLATIONS, CLUSTERS
from esans.config import build, merge
from esans.negatives.base import Batch
from esans.negatives.registry import build_loss, build_samplers, build_temperature
from esans.negatives.tables import Catalogue
from esans.train.config import TrainConfig
from tests.negatives.conftest import make_batch, make_clusters

MOVIES = methods("movielens")
TRIALS = 12


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """What all samplers of the experiment may ask for."""
    tables = make_clusters([[5, 3], [6, 2], [4, 8], [10, 1]])
    num_items = len(tables.item_cell_N)
    return Catalogue(
        num_items,
        torch.full((num_items,), 1 / num_items),
        tables,
        num_users=50,
        num_interactions=1000,
        dim=8,
        side={"genre": torch.arange(num_items) % 3},
        neighbours=lambda count: torch.full((num_items, count), -1),
    )


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch([0] * int(PROTOCOL["train"]["batch_size"]))


def tried(method: str, trials: int = TRIALS) -> list[Values]:
    """The defaults, and trials as the experiment draws them."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [MOVIES[method](Defaults()), *(MOVIES[method](Trial(study.ask())) for _ in range(trials))]


def resolved(values: Values) -> TrainConfig:
    """The keys of one run, as the experiment builds them."""
    config = build(TrainConfig, merge({**PROTOCOL["train"], "epochs": 4}, values))
    config.resolve_groups()
    return config


def semantic(values: list[Values]) -> dict[str, Values]:
    return {group["sampler"]: group for group in values}


def test_methods_are_those_that_the_page_tells_of() -> None:
    assert set(MOVIES) == set(SAMPLERS)
    for dataset in DATASETS:
        assert set(SAMPLERS) - set(methods(dataset)) == ({"category"} if dataset in NO_CATEGORY else set())
        assert dataset in PROTOCOL["epochs"]


@pytest.mark.parametrize("method", SAMPLERS)
def test_every_trial_resolves_builds_and_stays_within_the_encodings(method: str, catalogue: Catalogue, batch: Batch) -> None:
    assert PROTOCOL["encodings"] == ENCODINGS
    for values in tried(method):
        config = resolved(values)
        samplers = build_samplers(config.negatives, catalogue)
        build_loss(config.loss, catalogue)
        build_temperature(config.temperature, catalogue)
        cost = sum(sampler.encodings_per_example(batch) for sampler in samplers)
        assert cost <= ENCODINGS or method == "full_softmax", values


@pytest.mark.parametrize("method", SAMPLERS)
def test_every_method_has_something_to_tune_and_repeats_its_trials(method: str) -> None:
    found = tried(method)
    assert found == tried(method)
    assert len({repr(values) for values in found}) > TRIALS / 2


def test_the_published_groups_take_all_their_encodings_and_a_column_of_their_own_for_category() -> None:
    groups = semantic(esans(Defaults())["negatives"])
    assert groups["easy"]["clusters"] * groups["easy"]["per_cluster"] + groups["hard"]["num_negatives"] == ENCODINGS
    columns = {dataset: semantic(methods(dataset)["category"](Defaults())["negatives"])["category"]["column"] for dataset in
               ("movielens", "amazon_beauty")}  # fmt: skip
    assert columns == {"movielens": "genre", "amazon_beauty": "category"}


# What each ablation may change: sampler -> keys. None: the group itself goes.
CHANGES: dict[str, dict[str, set[str] | None]] = {
    "without simple interpolation": {"easy": {"interpolate"}},
    "without hard interpolation": {"hard": {"interpolate"}},
    "without easy groups": {"easy": None},
    "without hard groups": {"hard": None},
    "without in-batch": {"in_batch": None},
    **{f"lambda {mix:g}": {"hard": {"mix"}} for mix in (0.5, 0.3, 0.1, -0.1, -0.3)},
    **{f"(m_c, m_o) = {pair}": {"easy": {"clusters", "per_cluster"}} for pair in ((1, 5), (2, 4), (2, 6), (3, 5))},
    **{f"T_c {value:g}": {"easy": {"transition_temperature"}} for value in (0.05, 0.1, 0.3, 1.0)},
    "other norm of virtuals": {"easy": {"unit_norm"}, "hard": {"unit_norm"}},
    "other detach": {"hard": {"detach_positive"}},
}


def test_the_ablations_are_those_that_are_checked_here_and_names_are_unique() -> None:
    assert set(ABLATIONS) == set(CHANGES)
    assert not set(ABLATIONS) & set(CLUSTERS)


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_ablation_changes_what_it_names_and_nothing_else(name: str, catalogue: Catalogue) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for base in (esans(Defaults()), esans(Trial(study.ask()))):
        changed = {**base, "negatives": ABLATIONS[name](base["negatives"])}
        before, after = semantic(base["negatives"]), semantic(changed["negatives"])
        build_samplers(resolved(changed).negatives, catalogue)
        gone = {sampler for sampler, keys in CHANGES[name].items() if keys is None}
        assert set(before) - set(after) == gone
        for sampler, group in after.items():
            allowed = CHANGES[name].get(sampler) or set()
            assert _differing(before[sampler], group) <= allowed
        _says_what_it_does(name, before, after)


def _differing(one: Values, other: Values) -> set[str]:
    return {key for key in one | other if one.get(key) != other.get(key)}


def _says_what_it_does(name: str, before: dict[str, Values], after: dict[str, Values]) -> None:
    """The values in a name are those of its groups."""
    kind, _, value = name.partition(" ")
    if kind == "lambda":
        assert after["hard"]["mix"] == float(value)
    elif kind == "T_c":
        assert after["easy"]["transition_temperature"] == float(value)
    elif name.startswith("(m_c, m_o)"):
        assert name.endswith(str((after["easy"]["clusters"], after["easy"]["per_cluster"])))
    elif name.startswith("other"):
        changed: Any = [(before[sampler][key], after[sampler][key]) for sampler, keys in CHANGES[name].items() for key in keys or ()]
        assert all(new is not old for old, new in changed)
    elif name.endswith("interpolation"):
        (sampler,) = CHANGES[name]
        assert after[sampler]["interpolate"] is False
