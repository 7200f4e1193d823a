"""What a run builds on: the champion of a real registry, its bundles by URI, and full or incremental by rule."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from esans.bundle import BundleWriter
from esans.config import to_dict
from esans.export.aliases import CHAMPION
from esans.retrain.base import STAGES, Base, ChampionLost, find_base
from esans.retrain.plan import RunPlan, dated
from esans.settings import Settings, Source

NAME = "shop"
DAY = datetime.date(2026, 11, 20)
METHOD = "in_batch"


def settings(*over: str) -> Settings:
    """Of the as-of day, as a run makes them before it knows the champion."""
    source = Source((), over)
    return Source((), (*over, *dated(source.load(METHOD), DAY))).load(METHOD)


@pytest.fixture
def client(tmp_path: Path, new_store: Callable[[Path], str]) -> MlflowClient:
    """A registry whose champion was made of a whole chain of bundles, as of four days ago; its last full run is six days old."""
    made_with, uris = settings(), {}
    for stage in STAGES:
        out = BundleWriter(str(tmp_path / stage / "x"), stage, "x")
        out.state({"num_items": 1000})
        config = to_dict(getattr(made_with, stage), results_only=True)
        uris[stage] = out.finish(code_version=1, config=config, inputs=uris if stage == "train" else {}).uri
    export = BundleWriter(str(tmp_path / "export" / "x"), "export", "x")
    bundle = export.finish(code_version=1, config={}, inputs={"prepare": uris["prepare"], "train": uris["train"]})
    client = MlflowClient(new_store(tmp_path))
    client.create_registered_model(NAME)
    tags = {"bundle": bundle.uri, "as_of": "2026-11-16", "full_as_of": "2026-11-14", "full_items": "980", "retrain_state": "file:///state"}
    client.create_model_version(NAME, "file:///models/1", tags=tags)
    client.set_registered_model_alias(NAME, CHAMPION, "1")
    return client


def base(client: MlflowClient) -> Base:
    found = find_base(client, NAME)
    assert found is not None
    return found


def test_the_champion_is_found_with_every_bundle_that_it_was_made_of(client: MlflowClient, tmp_path: Path) -> None:
    found = base(client)
    assert (found.version, found.as_of, found.full_as_of, found.full_items) == (
        "1",
        datetime.date(2026, 11, 16),
        datetime.date(2026, 11, 14),
        980,
    )
    assert found.bundles == {stage: f"file://{tmp_path}/{stage}/x" for stage in (*STAGES, "export")}
    assert Base.parse(found.dump()) == found
    assert find_base(client, "no such model") is None


@pytest.mark.parametrize("gone", ["export", "train"])
def test_a_champion_without_its_bundles_is_an_error_that_says_what_to_do(client: MlflowClient, tmp_path: Path, gone: str) -> None:
    shutil.rmtree(tmp_path / gone)
    with pytest.raises(ChampionLost, match=r"shop@champion is version 1, whose bundle .*\n.*Bring the bundles back"):
        find_base(client, NAME)


@pytest.mark.parametrize(
    ("over", "items", "kind", "reason"),
    [
        ([], 1000, "incremental", "6 days since the last full run, 2.0% new items"),
        ([], 2000, "full", "51.0% of the items are new"),
        (["--retrain.full.every_days=6"], 1000, "full", "6 days since the last full run, retrain.full.every_days = 6"),
        (["--train.model.dim=32"], 1000, "full", "the configuration changed: train.model.dim"),
        (["--train.epochs=3"], 1000, "incremental", "the configuration is the same"),
    ],
)
def test_a_day_is_trained_on_top_of_the_champion_unless_a_rule_says_otherwise(
    client: MlflowClient, over: list[str], items: int, kind: str, reason: str
) -> None:
    plan = RunPlan.decide(settings(*over), base(client), DAY, items)
    assert plan.kind == kind
    assert reason in plan.reason
    assert RunPlan.parse(plan.dump()) == plan


def test_a_champion_that_no_retraining_made_is_followed_by_a_full_run_that_keeps_its_ids(client: MlflowClient) -> None:
    for tag in ("as_of", "full_as_of", "full_items", "retrain_state"):
        client.delete_model_version_tag(NAME, "1", tag)
    plan = RunPlan.decide(settings(), base(client), DAY, 1000)
    assert plan.kind == "full"
    found = plan.settings(Source((), ()), METHOD, DAY)
    assert found.prepare.previous == base(client).bundles["prepare"]
    assert found.train.warm_start is None
    assert plan.lineage(DAY, 1000) == {"full_as_of": "2026-11-20", "full_items": "1000"}


def test_an_incremental_run_names_every_bundle_and_one_epoch_and_goes_back_to_the_same_full_run(client: MlflowClient) -> None:
    plan = RunPlan.decide(settings(), base(client), DAY, 1000)
    found: Any = plan.settings(Source((), ()), METHOD, DAY)
    bundles = base(client).bundles
    for stage in ("prepare", "features", "align", "cluster"):
        assert getattr(found, stage).previous == bundles[stage]
    assert (found.train.warm_start, found.train.epochs, found.cluster.assign_only) == (bundles["train"], 1, True)
    assert not found.export.registry.register
    assert plan.lineage(DAY, 1000) == {"full_as_of": "2026-11-14", "full_items": "980"}
    assert plan.settings(Source((), ("--retrain.incremental_epochs=null",)), METHOD, DAY).train.epochs == settings().train.epochs
