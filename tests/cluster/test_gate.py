from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

import pytest

from esans import flow
from esans.bundle import Bundle, BundleWriter
from esans.cli import main
from esans.cluster.config_quality import GateConfig
from esans.cluster.gate import BOUNDS, broken, enforce
from esans.config import build, document, to_dict
from esans.errors import EsansError, GateError
from esans.settings import Settings
from esans.stage import Inputs, Stage
from tests.cluster.helpers import inputs as small_inputs
from tests.cluster.helpers import unit

GOOD = {bound.figure: 1.0 for bound in BOUNDS} | {"hard_pool.topped_up_items": 0.1, "unassigned.share": 0.0, "coherence.cosine_gap": 0.2}


def gate(**keys: float | None) -> GateConfig:
    return build(GateConfig, keys)


def test_a_healthy_build_passes_and_so_does_one_whose_figures_were_not_measured():
    enforce(GOOD, GateConfig(), "here")
    enforce({}, gate(min_stability_ari=0.9, max_false_negatives_hard=1.0), "here")
    enforce({"coherence.cosine_gap": float("nan")}, GateConfig(), "here")


def test_a_value_on_its_bound_passes_and_null_turns_a_bound_off():
    assert broken({"entropy_ratio": 0.5, "largest_over_mean": 10.0, "coherence.cosine_gap": -1e-12}, GateConfig()) == []
    assert broken({"entropy_ratio": 0.1}, gate(min_entropy_ratio=None)) == []


def test_every_broken_bound_is_named_with_its_value_its_key_and_what_to_try():
    with pytest.raises(GateError) as error:
        enforce({**GOOD, "entropy_ratio": 0.3, "false_negatives.easy_vs_uniform": 2.5}, gate(max_false_negatives_easy=2), "the page")
    assert str(error.value) == (
        "cluster: the quality gate is shut, nothing is trained on these clusters: 2 figures are out of bounds.\n"
        "  entropy_ratio = 0.3 is below the least allowed, cluster.gate.min_entropy_ratio = 0.5.\n"
        "    Try: lower cluster.repair.largest so that large primaries are split, or lower cluster.num_primary.\n"
        "  false_negatives.easy_vs_uniform = 2.5 is above the most allowed, cluster.gate.max_false_negatives_easy = 2.\n"
        "    Try: raise cluster.transition_temperature: the curve in quality.html shows what each T_c costs.\n"
        "  To see the clusters: the page.\n"
        "  A bound that is set to null is not checked."
    )
    assert isinstance(error.value, EsansError)


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.key)
def test_each_key_bounds_its_figure_and_every_key_has_a_bound(bound):
    limit, bad = (0.9, 0.5) if bound.lower else (1.0, 1.5)
    off = {other.key: None for other in BOUNDS}
    lines = broken({**GOOD, bound.figure: bad}, gate(**{**off, bound.key: limit}))
    assert len(lines) == 1
    assert f"cluster.gate.{bound.key} = {limit:g}" in lines[0]
    assert {key.name for key in document(GateConfig)} == set(off)


def test_bounds_are_no_part_of_the_fingerprint_so_that_moving_one_builds_nothing_anew():
    settings = [build(Settings, {"cluster": {"gate": keys}}) for keys in ({}, {"min_graph_lift": 3.0})]
    first, second = (to_dict(each.cluster, results_only=True) for each in settings)
    assert first == second


class Ready(Stage):
    """Stands in for a stage: its bundle is ready made."""

    code_version = 1
    made: ClassVar[Mapping[str, Bundle]] = {}
    reached: ClassVar[list[str]] = []

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        self.reached.append(self.name)
        if self.name in self.made:
            for table in self.made[self.name].manifest["tables"]:
                out.write_arrow(table, self.made[self.name].table(table).arrow())
            out.state(self.made[self.name].facts)


class Prepare(Ready):
    """Ready."""

    name = "prepare"


class Features(Ready):
    """Ready."""

    name, inputs = "features", ("prepare",)


class Align(Ready):
    """Ready."""

    name, inputs = "align", ("features",)


class Shards(Ready):
    """Ready."""

    name, inputs = "shards", ("prepare",)


class References(Ready):
    """Ready."""

    name, inputs = "references", ("prepare",)


class Train(Ready):
    """Ready."""

    name, inputs = "train", ("prepare", "features", "align", "cluster", "shards")


@pytest.fixture
def ready(monkeypatch):
    classes = {cls.name: f"{__name__}:{cls.__name__}" for cls in (Prepare, Features, Align, Shards, References, Train)}
    monkeypatch.setattr(flow, "STAGES", {**flow.STAGES, **classes})


def test_on_the_command_line_a_shut_gate_exits_with_1_keeps_the_pages_in_mlflow_and_train_is_not_reached(
    spark, tmp_path, ready, capsys, new_store
):
    from mlflow import MlflowClient

    Ready.made, Ready.reached = small_inputs(tmp_path, unit(200), unit(200, 1)), []
    uri, config = new_store(tmp_path / "work"), tmp_path / "small.yaml"
    config.write_text(
        json.dumps({"work_dir": str(tmp_path / "work"), "tracking": {"system_metrics": False}, "pipeline": {"methods": ["esans"]}})
    )

    def exits(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--config", str(config)])
        return int(stop.value.code or 0), capsys.readouterr().err

    shut = "--cluster.gate.min_graph_lift=1000"
    code, said = exits("pipeline", shut)
    assert code == 1
    assert "error: cluster: the quality gate is shut, nothing is trained on these clusters: 1 figure is out of bounds.\n" in said
    assert "allowed, cluster.gate.min_graph_lift = 1000.\n    Try: check that behaviour takes part" in said
    assert Ready.reached == ["prepare", "features", "align"]
    assert not list((tmp_path / "work" / "cluster").glob("*/manifest.json"))

    assert uri in said
    client = MlflowClient(uri)
    run = client.search_runs(["1"], "tags.stage = 'cluster'")[0]
    kept = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"quality.html", "clusters.html", "quality.json", "cluster_sizes.png", "hardness.png"} <= kept
    assert run.info.run_id in said
    assert run.info.status == "FAILED"
    assert run.data.metrics["coherence.graph_lift"] < 1000


def test_a_finished_bundle_is_held_against_the_bounds_of_today_by_itself_and_by_whoever_reads_it(tmp_path, ready):
    plans = [flow.Plan(build(Settings, {"work_dir": str(tmp_path), "cluster": {"gate": keys}})) for keys in ({}, {"min_graph_lift": 3.0})]
    for name in Train.inputs:
        planned = plans[0].stage(name)
        out = BundleWriter(planned.uri, name, planned.fingerprint)
        out.report({"coherence.graph_lift": 2.0} if name == "cluster" else {})
        bundle = out.finish(code_version=1, config={}, inputs={})
        if name == "cluster":
            made = bundle
    assert flow.run_stage(plans[0], "cluster").uri == made.uri
    for name in ("cluster", "train"):
        with pytest.raises(GateError) as error:
            flow.run_stage(plans[1], name)
        assert "coherence.graph_lift = 2 is below the least allowed, cluster.gate.min_graph_lift = 3." in str(error.value)
        assert f"To see the clusters: quality.html and clusters.html in {made.data_uri}." in str(error.value)
