"""Champion and challenger over the same users, in the item space of today; and which of them may be published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from esans.bundle import BundleWriter
from esans.config import build
from esans.retrain.config import GateConfig
from esans.retrain.contender import Contender, contender
from esans.retrain.gates import CHALLENGER, CHAMPION, absolute, against_champion, index_recall, sane_vectors
from esans.retrain.judge import POPULARITY, Judgement, judge
from esans.retrieval.evaluation import Catalogue
from esans.retrieval.ragged import Ragged
from esans.retrieval.users import UserBatch
from esans.table import Table
from tests.retrieval.small import LISTS, Stub

ITEMS, USERS = 60, 150
DAYS = [date(2026, 11, 19), date(2026, 11, 20)]
IDS = pa.array([f"item-{place}" for place in range(ITEMS)])


def models(old_items: int = ITEMS, shuffle: int | None = None) -> tuple[Contender, Contender]:
    """A challenger that knows all items, and a champion with the same vectors for the first `old_items`, numbered in its own order."""
    new = Stub(ITEMS)
    old, order = Stub(ITEMS), torch.arange(old_items)
    if shuffle is not None:
        order = torch.from_numpy(np.random.default_rng(shuffle).permutation(old_items))
    old.vectors, old.num_items = new.vectors[order], old_items
    counts = np.arange(ITEMS)
    own = IDS.take(pa.array(order.numpy()))
    return contender(CHALLENGER, new, IDS, counts, IDS, USERS), contender(CHAMPION, old, own, counts[order.numpy()], IDS, USERS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these sums on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def window(tmp_path: Path) -> Table:
    """Users who go on to what lies close to their history, on two days."""
    rng, stub, rows = np.random.default_rng(0), Stub(ITEMS), []
    for day in DAYS:
        for user in range(USERS):
            history = rng.choice(ITEMS, 4, replace=False)
            near = torch.argsort(stub.vectors @ stub.vectors[history].mean(0), descending=True).numpy()
            targets = [int(item) for item in near if item not in history][: rng.integers(1, 12) : 3]
            rows.append({"user_idx": user, "split": str(day), "history": history.tolist(), "targets": targets, "seen": history.tolist()})
    out = BundleWriter(str(tmp_path / "window"), "window", "x")
    types = [("user_idx", pa.int64()), ("split", pa.string()), ("history", LISTS), ("targets", LISTS), ("seen", LISTS)]
    return out.write_arrow("users", pa.Table.from_pylist(rows, schema=pa.schema(types)))


def catalogue() -> Catalogue:
    return Catalogue(torch.ones(ITEMS, dtype=torch.bool), torch.arange(ITEMS))


CONFIG = build(GateConfig, {"k": 5, "min_users": 10, "slice_min_users": 20, "resamples": 500})


def judged(window: Table, *contenders: Contender) -> Judgement:
    return judge(window, DAYS, contenders, catalogue(), CONFIG, user_batch=64)


def test_a_champion_with_the_same_vectors_under_other_numbers_gets_the_same_ranks(window: Table) -> None:
    found = judged(window, *models(shuffle=3))
    for key in found.keys:
        for metric in ("recall", "ndcg"):
            assert np.array_equal(found.by_user(CHALLENGER, key, metric), found.by_user(CHAMPION, key, metric), equal_nan=True)
    assert len(found.users) == 2 * USERS
    assert list(found.by_day(CHALLENGER, "recall")) == [str(day) for day in DAYS]
    assert all(one.passed is not False for one in against_champion(found, CONFIG, 0))


def test_the_challenger_beats_popularity_and_random_vectors(window: Table) -> None:
    challenger, champion = models()
    found = judged(window, challenger, champion)
    everybody = found.keys[0]
    assert found.by_user(CHALLENGER, everybody, "recall").mean() > 2 * found.by_user(POPULARITY, everybody, "recall").mean()
    assert all(one.passed for one in absolute(found, ITEMS, CONFIG))


def test_a_worse_challenger_is_refused_overall_and_in_its_slices(window: Table) -> None:
    challenger, champion = models()
    noise = torch.nn.functional.normalize(torch.randn(challenger.vectors_ND.shape, generator=torch.Generator().manual_seed(1)), dim=1)
    found = judged(window, replace(challenger, vectors_ND=noise), champion)
    verdicts = against_champion(found, CONFIG, 0)
    bad = [one for one in verdicts if one.passed is False]
    assert {one.key for one in bad} == {"margin", "slice_margin"}
    assert any(one.what.startswith("recall@5, history") for one in bad)
    overall = next(one for one in verdicts if one.what == "recall@5")
    assert overall.low < overall.high < 0
    assert "recall@5 = " in overall.describe()
    assert overall.describe().endswith("(retrain.gate.margin)")


def test_a_slightly_worse_challenger_passes_within_the_margin_and_not_without_it(window: Table) -> None:
    challenger, champion = models()
    shaken = challenger.vectors_ND + 0.05 * torch.randn(challenger.vectors_ND.shape, generator=torch.Generator().manual_seed(2))
    found = judged(window, replace(challenger, vectors_ND=torch.nn.functional.normalize(shaken, dim=1)), champion)
    overall = {margin: against_champion(found, replace(CONFIG, margin=margin), 0)[0] for margin in (0.0, 0.2)}
    assert overall[0.0].passed is False
    assert overall[0.2].passed


def test_items_that_the_champion_does_not_know_are_not_returned_and_leave_its_histories(window: Table) -> None:
    challenger, champion = models(old_items=30)
    batch = UserBatch(torch.tensor([0, USERS + 5]), *(Ragged.from_lists([[1, 40, 2], [45, 50]]) for _ in range(3)))
    mine = champion.translate(batch)
    assert mine.history.lengths.tolist() == [2, 0]
    assert mine.users.tolist() == [0, -1]
    found = judged(window, challenger, champion)
    covered = found.judged[CHAMPION].covered
    assert covered is not None
    assert not covered[30:].any()
    assert found.judged[CHAMPION].without_history > 0


def test_users_without_a_known_history_get_the_popular_items_as_in_serving() -> None:
    _, champion = models(old_items=30)
    batch = UserBatch(torch.tensor([0]), *(Ragged.from_lists([[45]]) for _ in range(3)))
    vectors, lost = champion.users(batch)
    assert lost.tolist() == [True]
    scores = champion.scorer(vectors, lost).chunk(0, ITEMS)[0]
    assert scores.argmax() == 29
    assert champion.scorer(vectors, lost).pairs(torch.tensor([0]), torch.tensor([29])) == scores[29]


def test_a_window_of_few_users_or_none_is_refused(window: Table) -> None:
    found = judged(window, *models())
    (enough, *_) = absolute(found, ITEMS, replace(CONFIG, min_users=USERS + 1))
    assert enough.passed is False
    nobody = judge(window, [date(2026, 1, 1)], models(), catalogue(), CONFIG)
    assert [one.passed for one in absolute(nobody, ITEMS, CONFIG)] == [False]
    assert against_champion(nobody, CONFIG, 0) == []


def test_a_model_that_recommends_the_same_to_everybody_is_refused(window: Table) -> None:
    _, champion = models()
    same = Stub(ITEMS)
    same.vectors = torch.nn.functional.normalize(torch.ones_like(same.vectors) + 1e-3 * same.vectors, dim=1)
    found = judged(window, contender(CHALLENGER, same, IDS, np.arange(ITEMS), IDS, USERS), champion)
    bad = {one.key for one in absolute(found, ITEMS, replace(CONFIG, min_catalogue_share=0.9)) if not one.passed}
    assert {"min_catalogue_share", "min_user_spread"} <= bad


def test_vectors_must_be_finite_of_norm_1_and_not_all_alike() -> None:
    good = torch.nn.functional.normalize(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    assert all(one.passed for one in sane_vectors(good, "item"))
    broken = good.clone()
    broken[3, 1] = torch.nan
    assert [one.value for one in sane_vectors(broken, "item") if not one.passed] == [1]
    assert [one.passed for one in sane_vectors(2 * good, "item")] == [True, False, True]
    assert [one.passed for one in sane_vectors(good[:1].expand(20, -1), "item")] == [True, True, False]


def test_the_recall_of_the_index_is_that_of_the_export_bundle() -> None:
    assert index_recall({"index_recall@50": 0.95, "index_queries_per_second": 10.0}, CONFIG).passed
    assert index_recall({"index_recall@50": 0.85}, CONFIG).passed is False
    assert index_recall({}, CONFIG).passed is False
