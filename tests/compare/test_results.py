"""What a comparison says of users, p-values, slices and keys."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esans.bundle import BundleWriter
from esans.compare.results import compare, holm
from esans.compare.runs import CompareError, Entry
from esans.config import build
from esans.references.config import ReferencesConfig
from esans.references.stage import References
from esans.retrieval.paired import paired_bootstrap
from tests.compare.bundles import evaluated, prepare_bundle
from tests.retrieval.small import context, random_users, write_prepare

USERS = 40
IDS = [f"user-{i}" for i in range(USERS)]


def entries(folder: Path, prepare: Any, **values: dict[int, float]) -> list[Entry]:
    return [Entry(name, name, evaluated(folder, name, prepare, users, {"temperature": len(name)})) for name, users in values.items()]


def random_values(seed: int, users: Any = range(USERS)) -> dict[int, float]:
    rng = np.random.default_rng(seed)
    return {int(user): float(value) for user, value in zip(users, rng.random(len(users)), strict=True)}


@given(ps=st.lists(st.floats(0, 1) | st.just(math.nan), max_size=8))
def test_holm_gives_the_smallest_level_at_which_the_step_down_test_rejects(ps: list[float]) -> None:
    corrected = holm(ps)
    known = [p for p in ps if not math.isnan(p)]
    for p, own in zip(ps, corrected, strict=True):
        if math.isnan(p):
            assert math.isnan(own)
            continue
        # Rejected at a level only if every p up to its own passes its step.
        smaller = sorted(q for q in known if q <= p)
        assert own == pytest.approx(min(1.0, max((len(known) - rank) * q for rank, q in enumerate(smaller))))


def test_values_are_paired_by_user_whatever_the_order_of_the_tables(tmp_path: Path) -> None:
    prepare = prepare_bundle(tmp_path, "a", IDS, {})
    first, second = random_values(1), random_values(2)
    shuffled = {user: second[user] for user in np.random.default_rng(0).permutation(USERS).tolist()}
    found = compare(entries(tmp_path, prepare, one=first, three=shuffled), "test", ["recall@50"], resamples=200, seed=3)
    expected = paired_bootstrap(np.array([second[u] for u in range(USERS)]), np.array([first[u] for u in range(USERS)]), 200, 3)
    baseline, cell = found.cells["recall@50"]
    assert baseline.paired is None
    assert cell.paired == expected
    assert cell.holm == expected.p
    assert found.users == USERS


def test_other_users_are_refused_with_their_numbers_and_the_common_ones_compared_when_asked_for(tmp_path: Path) -> None:
    prepare = prepare_bundle(tmp_path, "a", IDS, {})
    both = entries(tmp_path, prepare, one=random_values(1, range(30)), three=random_values(2, range(10, 40)))
    with pytest.raises(CompareError) as refused:
        compare(both, "test", resamples=100)
    assert str(refused.value) == (
        "the runs tested different users: users of the test split: one 30, three 30; 20 are common to all."
        "\n  Compare runs of one split, or add --common-users to compare the common users alone."
    )
    found = compare(both, "test", common_only=True, resamples=100)
    assert found.users == 20
    assert found.cells["recall@50"][0].value.value == pytest.approx(np.mean(list(random_values(1, range(30)).values())[10:]))
    assert found.notes[0] == "Only the 20 users that all runs tested are compared (tested: one 30, three 30)."
    assert {row.slice for row in found.slices} == {"history"}
    apart = entries(tmp_path / "apart", prepare, one=random_values(1, range(5)), three=random_values(2, range(10, 40)))
    with pytest.raises(CompareError, match="no user of the test split is common to all 2 runs"):
        compare(apart, "test", common_only=True)


def test_users_of_two_prepare_bundles_are_matched_by_their_outside_ids(tmp_path: Path) -> None:
    values = random_values(1)
    one = prepare_bundle(tmp_path, "a", IDS, {"split": {"method": "last_basket"}})
    other = prepare_bundle(tmp_path, "b", IDS[::-1], {"split": {"method": "leave_last_out"}})
    both = [
        *entries(tmp_path, one, one=values),
        *entries(tmp_path, other, three={USERS - 1 - user: value for user, value in values.items()}),
    ]
    with pytest.raises(CompareError) as refused:
        compare(both, "test", resamples=100)
    assert "evaluated on 2 different prepare bundles" in str(refused.value)
    assert "40 are common to all. Their configurations differ in prepare.split.method." in str(refused.value)
    (cell,) = compare(both, "test", ["recall@50"], common_only=True, resamples=100).cells["recall@50"][1:]
    assert cell.paired is not None
    assert (cell.paired.difference, cell.paired.low, cell.paired.high) == (0, 0, 0)


def test_only_the_keys_that_differ_are_listed_with_the_seed_among_them(tmp_path: Path) -> None:
    prepare = prepare_bundle(tmp_path, "a", IDS, {})
    both = [
        Entry(name, name, evaluated(tmp_path, name, prepare, random_values(1), train, seed=seed))
        for name, train, seed in (("one", {"lr": 0.1, "epochs": 2}, 0), ("two", {"lr": 0.2, "epochs": 2, "more": {"x": 1}}, 5))
    ]
    found = compare(both, "test", resamples=100)
    assert found.keys == [("train.lr", ["0.1", "0.2"]), ("train.more.x", ["-", "1"]), ("train.seed", ["0", "5"])]


def test_slices_by_history_are_those_of_the_evaluation_and_a_reference_has_no_training_keys(tmp_path: Path) -> None:
    prepare = write_prepare(tmp_path, random_users(5, 60, 48), 48)
    out = BundleWriter(str(tmp_path / "references" / "x"), "references", "x")
    References(build(ReferencesConfig, {"knn": {"neighbours": [5], "similarities": ["cosine"]}}), context(tmp_path)).run(
        {"prepare": prepare}, out
    )
    references = out.finish(code_version=1, config={"a": 1}, inputs={"prepare": prepare.uri})
    both = [Entry(method, method, references) for method in ("popularity", "itemknn")]
    found = compare(both, "test", resamples=100)
    rows = {
        (row["method"], row["label"]): row["value"]
        for row in references.table("metrics").arrow().to_pylist()
        if (row["split"], row["slice"], row["metric"]) == ("test", "history", found.headline)
    }
    cut = [row for row in found.slices if row.slice == "history"]
    assert len(cut) == len(rows) / 2 > 1
    for row in cut:
        for entry, cell in zip(both, row.cells, strict=True):
            assert cell is not None
            assert cell.value.value == pytest.approx(rows[entry.method, row.label], abs=1e-8)
    model = evaluated(tmp_path, "model", prepare, dict.fromkeys(range(60), 0.5), {"lr": 1})
    with_model = compare([*both, Entry("model", "model", model)], "test", ["recall@50"], common_only=True, resamples=100)
    assert with_model.keys == []


def test_a_metric_that_a_run_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    both = entries(tmp_path, prepare_bundle(tmp_path, "a", IDS, {}), one=random_values(1), three=random_values(2))
    with pytest.raises(CompareError) as missing:
        compare(both, "test", ["recall@7"])
    assert str(missing.value) == "run 'one' has no metric 'recall@7' of single users; it has recall@50, mrr."
    with pytest.raises(CompareError, match="run 'one' has no users of split 'validation'"):
        compare(both, "validation")
