"""Popularity, item-kNN, ALS and BPR as rows of the experiment, tuned with as many trials, and as many seeds where chance plays a part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.methods.fit import Tested, keep_ranks, measure_users
from benchmarks.methods.protocol import PROTOCOL
from benchmarks.methods.store import Store
from esans.bundle import Bundle
from esans.columns import TEST, VALIDATION
from esans.progress import say
from esans.references.config import AlsConfig, BprConfig, KnnConfig
from esans.references.cooccurrence import train_matrix
from esans.references.factors import Als, Bpr
from esans.references.knn import KnnScorer, tune
from esans.references.measure import tuning_users
from esans.references.names import ALS, BPR, ITEM_KNN
from esans.references.tuned import tune_als, tune_bpr
from esans.retrieval.evaluation import Catalogue, evaluate_batches
from esans.retrieval.scorers import Scorer, StaticScorer
from esans.retrieval.users import UserBatch, user_batches

ScorerOf = Callable[[UserBatch], Scorer]
_USERS = 512


def measure(dataset: str, method: str, inputs: Mapping[str, Bundle], store: Store, trials: int, seeds: int) -> None:
    """Enter one reference of a data set, unless it is in the store; popularity and item-kNN know no chance and have one seed."""
    number = seeds if method in ("als", "bpr") else 1
    keys = ["/".join([PROTOCOL["version"], "reference", dataset, method, f"s{seed}"]) for seed in range(number)]
    if all(store.find(key) is not None for key in keys):
        return
    prepare, catalogue = inputs["prepare"], Catalogue.read(inputs["prepare"])
    started = time.time()
    for seed, (params, scorer_of) in enumerate(_models(method, prepare, catalogue, trials, number)):
        if store.find(keys[seed]) is not None:
            continue
        validation, test = (_tested(scorer_of, prepare, split, catalogue) for split in (VALIDATION, TEST))
        keep_ranks(store, keys[seed], test)
        row = {"phase": "reference", "dataset": dataset, "method": method, "variant": "", "seed": seed, "params": params, "wall": None}
        row |= {"validation": validation.row(), "test": test.row(), "trials": trials, "train_seconds": time.time() - started}
        store.append({"key": keys[seed], **row, "protocol": PROTOCOL["version"], "date": time.strftime("%Y-%m-%d")})
        say(f"{dataset} {method} seed {seed}: test recall@50 {test.means['recall@50']:.4f}, @200 {test.means['recall@200']:.4f}; {params}")


def _models(method: str, prepare: Bundle, catalogue: Catalogue, trials: int, seeds: int) -> Iterator[tuple[dict[str, Any], ScorerOf]]:
    """The tuned model of each seed, with its setting; only the first is tuned."""
    tuning_seed = int(PROTOCOL["tuning_seed"])
    if method == "popularity":
        popularity = catalogue.counts.float()
        yield {}, lambda batch: StaticScorer(popularity, len(batch))
        return
    users = tuning_users(prepare, int(PROTOCOL["train"]["validation_users"]), _USERS)
    if method == "itemknn":
        knn = KnnConfig(trials=trials)
        matrix = train_matrix(prepare, ITEM_KNN, knn.max_interactions, knn.max_user_items)
        tried, similarities = tune(matrix, users, catalogue, knn, tuning_seed)
        best = tried[0].choice
        yield {"setting": str(best)}, lambda batch: KnnScorer(batch, similarities, best.half_life, catalogue.counts)
    elif method == "als":
        als = AlsConfig(trials=trials)
        setting = tune_als(prepare, users, catalogue, als, tuning_seed)[1][0].setting
        train = train_matrix(prepare, ALS, als.max_interactions).users_items
        yield from ((asdict(setting), Als(train, setting, seed)) for seed in range(seeds))
    else:
        bpr = BprConfig(trials=trials)
        chosen = tune_bpr(prepare, users, catalogue, bpr, tuning_seed)[1][0].setting
        train = train_matrix(prepare, BPR, bpr.max_interactions).users_items
        yield from ((asdict(chosen), Bpr(train, chosen, seed)) for seed in range(seeds))


def _tested(scorer_of: ScorerOf, prepare: Bundle, split: str, catalogue: Catalogue) -> Tested:
    batches = user_batches(prepare.table("histories"), split, _USERS)
    return measure_users(lambda config, keep: evaluate_batches(batches, scorer_of, catalogue, config, on_batch=keep))
