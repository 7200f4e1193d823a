"""Looks at a run: what they log, what an epoch's record keeps, and that they leave the weights alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from esans.bundle import Bundle
from esans.config import build
from esans.train import watch as watch_module
from esans.train.config import TrainConfig
from esans.train.later import load_later
from esans.train.loader import Loader
from esans.train.plots import negatives
from esans.train.trainer import Trainer
from esans.train.watch import Watch, summary
from esans.train.worker import build_trainer
from tests.train.conftest import prepare_bundle

GROUPS = [{"sampler": "in_batch"}, {"sampler": "easy"}, {"sampler": "hard", "enters_at_epoch": 1}]


def trainer_of(inputs: Mapping[str, Bundle], folder: Path, logged: list[dict[str, float]], log_every: int) -> Trainer:
    config = build(
        TrainConfig,
        {
            "negatives": GROUPS,
            "batch_size": 32,
            "epochs": 2,
            "patience": 0,
            "log_every": log_every,
            "model": {"dim": 8, "hidden": 16},
            "launch": {"threads": 1},
        },
    )
    config.resolve_groups()

    def log(metrics: Mapping[str, float], step: int) -> None:
        logged.append(dict(metrics))

    return build_trainer(config, inputs, 0, 0, 1, torch.device("cpu"), str(folder), log)


def test_a_record_holds_the_mean_over_the_looks_that_measured_something() -> None:
    logged: list[dict[str, float]] = []
    loader = cast(Loader, SimpleNamespace(wait_seconds=0.0))
    watch = Watch(torch.device("cpu"), 2, 8, loader, lambda metrics, step: logged.append(dict(metrics)))
    rates = [None, 0.25, None, math.nan, None, 0.75]
    for place, rate in enumerate(rates):
        figures = {} if rate is None else {"false_negative_rate_easy": torch.tensor(rate), "hardness": torch.tensor(-0.5)}
        watch.see(place, place + 1, torch.tensor(1.0), figures, torch.tensor(0.1))
    assert watch.mean_figures() == {"diag_false_negative_rate_easy": 0.5, "diag_hardness": -0.5}
    assert summary(watch.mean_figures()) == {"hardness": -0.5}
    assert ["false_negative_rate_easy" in look for look in logged] == [True, False, True]
    assert all(math.isfinite(value) for look in logged for value in look.values())


def test_the_first_look_after_a_resume_counts_the_steps_that_this_start_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(watch_module, "time", SimpleNamespace(perf_counter=lambda: now))
    logged: list[dict[str, float]] = []
    loader = cast(Loader, SimpleNamespace(wait_seconds=0.0))
    watch = Watch(torch.device("cpu"), 5, 8, loader, lambda metrics, step: logged.append(dict(metrics)))
    for place in range(3, 15):
        now += 2.0
        watch.see(place, place + 1, torch.tensor(1.0), {}, torch.tensor(0.1))
    assert [look["step_seconds"] for look in logged] == [2.0, 2.0, 2.0]
    assert [look["step_examples_per_second"] for look in logged] == [4.0, 4.0, 4.0]


def test_a_run_keeps_figures_of_every_epoch_and_looking_leaves_the_weights_alone(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path
) -> None:
    inputs = make_inputs(examples=130)
    logged: list[dict[str, float]] = []
    often, seldom = (trainer_of(inputs, tmp_path / str(every), logged, every) for every in (1, 1000))
    for trainer in (often, seldom):
        trainer.train()
    one, two = often.module.state_dict(), seldom.module.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any("later" in name for name in one), "what users choose later is no part of a checkpoint"
    for record in (*often.progress.records, *seldom.progress.records):
        assert record["diag_share_in_batch"] + record["diag_share_easy"] + record["diag_share_easy_virtual"] <= 1 + 1e-5
        assert 0 <= record["diag_false_negative_rate"] <= 1
        assert record["diag_hardness_easy_p10"] <= record["diag_hardness_easy_p50"] <= record["diag_hardness_easy_p90"]
        assert record["diag_effective_negatives"] >= 1
        assert record["seconds_per_step"] > 0
        assert all(math.isfinite(value) for value in record.values())
    first, last = often.progress.records
    assert "diag_share_hard" not in first
    assert "diag_share_hard" in last
    assert set(summary(last)) >= {"hardness", "false_negative_rate"}
    figure = negatives(often.progress.records)
    titles = {axis.get_title() for axis in figure.axes}
    assert {"Hardness: in_batch", "Hardness: hard_virtual", "Gradient share", "False-negative rate"} <= titles
    figure.savefig(tmp_path / "negatives.png")


def test_later_positives_are_the_validation_targets_and_what_is_too_many_is_counted(tmp_path: Path) -> None:
    later = load_later(prepare_bundle(tmp_path / "some", [(7, [1], [4, 2]), (3, [5], list(range(70)))]))
    assert later is not None
    assert later.users_V.tolist() == [3, 7]
    assert later.items_VT.shape == (2, 64)
    assert later.items_VT[1][:3].tolist() == [4, 2, -1]
    assert later.left_out == 6
    assert load_later(prepare_bundle(tmp_path / "none", [])) is None
