"""Sections of the page beside its tables: what to take from it, controls, ablations seed by seed, settings, groups that enter late."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.methods.advice import advice
from benchmarks.methods.collect import HEADLINE, METRICS, Results
from benchmarks.methods.report import write
from benchmarks.methods.store import Row, Store
from benchmarks.methods.tables import ablation_table, change_of, controls_table
from benchmarks.methods.verdict import reasons
from benchmarks.methods.winners import settings, winners
from tests.benchmarks.test_methods_report import add_tested, run_row

RECALLS = {"uniform": 0.2, "in_batch": 0.3, "midx": 0.3, "esans": 0.3, "esans_only": 0.1}


def reached(recall: float) -> dict[str, float]:
    return dict.fromkeys(METRICS, recall)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three data sets where in_batch and midx lead and a fourth where item-kNN does."""
    store = Store(tmp_path / "runs")
    for dataset in (*HEADLINE, "basket_completion"):
        for method, recall in RECALLS.items():
            for seed in range(3):
                add_tested(store, dataset, method, seed, recall)
            costs = {"seconds_per_step": 0.02 if method == "midx" else 0.01, "uniform_seconds_per_step": 0.01}
            store.append(run_row(f"cost/{dataset}/{method}", "cost", dataset, method, **costs))
        add_tested(store, dataset, "itemknn", 0, 0.5 if dataset == "basket_completion" else 0.15, phase="reference")
    return store


def test_the_page_begins_with_who_leads_the_cheapest_of_them_who_loses_and_where_a_reference_is_ahead(store: Store) -> None:
    for dataset in ("movielens", "basket_completion"):
        for method, recall in (("uniform", 0.4), ("in_batch", 0.44)):
            store.append(run_row(f"long/{dataset}/{method}", "steps", dataset, method, test=reached(recall), epochs=40))
    text = "\n".join(advice(Results(store, resamples=300)))
    assert "can't be told from it. The cheapest of these, `in_batch`, costs 1.00 times a step of `uniform`: start there." in text
    assert "Below `uniform` here, so not worth their cost: `esans_only` (-" in text
    ahead = r"On basket_completion `itemknn` \(0\.05\) is ahead of every trained method: 0\.\d+, the best of them `(in_batch|midx|esans)`"
    assert re.search(ahead, text)
    assert "With 4 times the epochs `in_batch` reaches 0.4400: the budget is not all of it." in text
    assert "% (2 data sets)" in text
    assert "`in_batch` +" in text


def test_runs_that_the_budget_ended_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed, best in enumerate((9, 9, 4)):
        store.append(run_row(f"s{seed}", "seed", "movielens", "uniform", seed=seed, test=reached(0.2), epochs=10, best_epoch=best))
    assert Results(store, resamples=10).ended_by_budget(["movielens"]) == (2, 3)


def test_an_ablation_is_compared_with_the_same_seeds_and_not_with_the_mean_of_all() -> None:
    full: list[Row] = [{"seed": seed, "test": reached(recall)} for seed, recall in enumerate((0.30, 0.32, 0.34))]
    cells = change_of([{"seed": 0, "test": reached(0.31)}], full)
    assert cells == ["+0.0100 ± 0.0283", "+0.0100 ± 0.0283", "test"]
    assert change_of([{"seed": 2, "test": reached(0.24)}], full)[0] == "**-0.1000 ± 0.0283**"
    assert change_of([{"seed": 1, "test": reached(0.35)}], full, base=[{"seed": 1, "test": reached(0.345)}])[0] == "+0.0050 ± 0.0283"
    assert change_of([{"seed": 7, "test": reached(0.35)}], full)[0] == "no seed in common"


def test_rebuilt_clusters_compare_with_those_of_all_modalities_where_these_were_run(store: Store) -> None:
    for kind, recall in (("all", 0.29), ("text", 0.28)):
        row = run_row(f"a/{kind}", "ablation", "movielens", "esans", variant=f"clusters: {kind}", test=reached(recall))
        store.append(row)
    text = ablation_table(Results(store, resamples=10))
    line = next(line for line in text if "clusters: text" in line and line.startswith("|"))
    assert line.startswith("| `esans`: clusters: text (against all) | movielens | 1 | **-0.0100 ±")


def test_controls_stand_beside_in_batch_of_the_same_seeds(store: Store) -> None:
    assert controls_table(Results(store, resamples=10)) == []
    base = store.find("seed/movielens/in_batch/1")
    assert base is not None
    for seed in (1,):
        twice = reached(2 * base["test"]["recall@50"])
        store.append(run_row(f"c/{seed}", "controls", "movielens", "in_batch", variant="in-batch and 15 uniform", seed=seed, test=twice))
    text = controls_table(Results(store, resamples=10))
    assert any(line.startswith("| in-batch and 15 uniform | movielens | 1 |") and line.endswith("| +100.0 % |") for line in text)
    assert any(line.startswith("| `esans` | movielens | 1 |") for line in text)
    said = next(line for line in advice(Results(store, resamples=50)) if "plain uniform draws" in line)
    assert "change its Recall@50 by +100.0 %, and `esans`" in said
    assert said.endswith("(1 pairs of runs).")


def test_settings_of_a_winner_are_short_and_whole(store: Store) -> None:
    params = {
        "negatives": [
            {"sampler": "in_batch"},
            {"sampler": "easy", "unit_norm": True, "log_weight": {"start": 2.25, "end": -1.0, "to_epoch": 2.0}, "virtual_log_weight": 1},
            {"sampler": "hard", "log_weight": -1.11873, "virtual_log_weight": -1.11873},
        ],
        "temperature": {"temperature": "fixed", "start": 0.07461},
    }
    groups, temperature, loss = settings(params)
    assert groups == "in_batch; easy (unit_norm true, log_weight 2.25 to -1 by epoch 2, virtual_log_weight 1); hard (log_weight -1.12)"
    assert (temperature, loss) == ("fixed (start 0.0746)", "")
    assert any("| `uniform` | movielens |" in line for line in winners(Results(store, resamples=10)))


def test_a_method_whose_tested_weights_are_older_than_its_last_group_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for dataset in HEADLINE:
        for seed in range(2):
            add_tested(store, dataset, "uniform", seed, 0.2)
    rows = []
    for dataset in HEADLINE:
        for seed in range(2):
            add_tested(store, dataset, "cross_batch", seed, 0.1)
            rows.append(f"seed/{dataset}/cross_batch/{seed}")
    results = Results(store, resamples=50)
    for key in rows:
        row = next(row for row in results.rows if row["key"] == key)
        row |= {"best_epoch": 1, "params": {"negatives": [{"sampler": "in_batch"}, {"sampler": "cross_batch", "enters_at_epoch": 2.0}]}}
    (line,) = [line for line in reasons(results) if line.startswith("- `cross_batch`")]
    assert line.endswith("In 6 of 6 runs the tested weights are of epochs before its last group entered: with it validation recall fell.")


def test_equal_time_says_how_many_epochs_it_pays_for_and_where_none_fits(store: Store, tmp_path: Path) -> None:
    store.append(run_row("slow", "seed", "movielens", "full_softmax", test=reached(0.2), wall=None))
    write(store, tmp_path / "page.md", tmp_path / "images", resamples=20)
    text = (tmp_path / "page.md").read_text()
    within = text[text.index("### Within equal training time: movielens") :]
    assert "| `uniform` | 3 | 5.00 |" in within
    assert "| `midx` | 3 | 2.50 |" in within
    assert "| `full_softmax` | 0 |  | no whole epoch fits |" in within
