"""The flow: which stage follows which, what is up to date, and the pipeline that runs what is not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from esans.bundle import Bundle, BundleWriter, digest
from esans.config import flatten, to_dict
from esans.errors import BundleError
from esans.observe import Seen, observed
from esans.progress import headline, say
from esans.redaction import redact_values
from esans.settings import Settings
from esans.stage import Stage, StageContext
from esans.tracking import Run, start_run
from esans.uri import canonical, join

# In order. Names are words of the house; classes are imported when asked for.
STAGES: Mapping[str, str] = {
    "prepare": "esans.prepare.stage:Prepare",
    "features": "esans.features.stage:Features",
    "align": "esans.align.stage:Align",
    "cluster": "esans.cluster.stage:Cluster",
    "shards": "esans.shards.stage:Shards",
    "references": "esans.references.stage:References",
    "train": "esans.train.stage:Train",
    "evaluate": "esans.evaluate.stage:Evaluate",
    "export": "esans.export.stage:Export",
}
METHOD_STAGES = ("train", "evaluate", "export")
# What runs by its own command alone, never in a pipeline.
ON_DEMAND: Mapping[str, str] = {"recommend": "esans.recommend.stage:Recommend"}


def stage_class(name: str) -> type[Stage]:
    """The class of a stage by its name."""
    module, _, cls = {**STAGES, **ON_DEMAND}[name].partition(":")
    found: type[Stage] = getattr(import_module(module), cls)
    return found


@dataclass(frozen=True)
class Planned:
    """A stage as these settings would run it."""

    name: str
    fingerprint: str
    uri: str
    config: dict[str, Any]
    """The keys that the fingerprint covers."""
    inputs: dict[str, str]
    """URIs of the bundles it reads."""
    outside: dict[str, Any]
    """What it reads besides bundles, as it is now: names, sizes and digests of files."""


class Plan:
    """Fingerprints and URIs of every stage under one configuration, computed when asked for.

    Raises:
        ConfigError: sections contradict each other.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._planned: dict[str, Planned] = {}
        for name in STAGES:
            stage_class(name).check(settings)

    def stage(self, name: str) -> Planned:
        """The plan of one stage; its inputs are planned first."""
        if name not in self._planned:
            self._planned[name] = self._plan(name)
        return self._planned[name]

    def _plan(self, name: str) -> Planned:
        cls = stage_class(name)
        section = getattr(self.settings, name)
        upstream = {source: self.stage(source) for source in cls.inputs_for(section)}
        # A secret is neither written to the manifest nor part of what a result depends on: a new password changes no bundle.
        covered = redact_values(to_dict(section, results_only=True), by_value=False)
        previous, outside = cls.previous_uri(section), cls.outside_inputs(section)
        fingerprint = digest(
            {
                "stage": name,
                "code_version": cls.code_version,
                "config": covered,
                "seed": self.settings.seed,
                "inputs": {source: planned.fingerprint for source, planned in upstream.items()},
                "outside": outside,
                "previous": previous,
            }
        )
        uri = join(canonical(self.settings.work_dir), name, fingerprint)
        inputs = {source: planned.uri for source, planned in upstream.items()}
        if previous:
            inputs["previous"] = canonical(previous)
        return Planned(name, fingerprint, uri, covered, inputs, outside)


def run_stage(plan: Plan, name: str, parent: Run | None = None, label: str = "") -> Bundle:
    """Run one stage, or return its bundle when it is up to date.

    Raises:
        BundleError: an input bundle is missing; the message says which stage to run first.
        EsansError: whatever a stage raises that refuses a finished bundle of its own, this one or an input.
    """
    settings, planned = plan.settings, plan.stage(name)
    labels = {"stage": name} | ({"method": settings.method} if settings.method and name in METHOD_STAGES else {})
    about = {"pipeline_run_id": parent.run_id if parent else "", "fingerprint": planned.fingerprint, "bundle": planned.uri}
    with observed(settings.logging, settings.work_dir, Seen("stage", labels=labels, about=about)) as seen:
        return _run_or_find(plan, name, parent, label, seen)


def _run_or_find(plan: Plan, name: str, parent: Run | None, label: str, seen: Seen) -> Bundle:
    settings, planned = plan.settings, plan.stage(name)
    title = f"{label}{name}" + (f" ({settings.method})" if settings.method and name in METHOD_STAGES else "")
    done = Bundle.find(planned.uri)
    if done is not None:
        stage_class(name).accept(getattr(settings, name), done)
        seen.status, seen.rows = "up_to_date", rows_of(done)
        say(f"{title}: up to date  {planned.uri}")
        return done
    inputs = {source: _open_input(name, source, uri) for source, uri in planned.inputs.items()}
    for source in stage_class(name).inputs_for(getattr(settings, name)):
        stage_class(source).accept(getattr(settings, source), inputs[source])
    headline(title)
    cls = stage_class(name)
    run_name = f"{name}-{settings.method}" if settings.method and name in METHOD_STAGES else name
    with start_run(settings.tracking, settings.work_dir, run_name, parent.run_id if parent else None) as run:
        seen.run_id = run.run_id
        run.tag(
            stage=name,
            fingerprint=planned.fingerprint,
            code_version=str(cls.code_version),
            bundle=planned.uri,
            method=settings.method or "",
        )
        run.params(flatten({**planned.config, "seed": settings.seed}, f"{name}."))
        run.params({f"input.{source}": uri for source, uri in planned.inputs.items()} | flatten(planned.outside, "source."))
        context = StageContext(
            seed=settings.seed,
            work_dir=settings.work_dir,
            spark_config=settings.spark,
            tracking_config=settings.tracking,
            run=run,
            method=settings.method or "",
        )
        out = BundleWriter(planned.uri, name, planned.fingerprint)
        out.state({"mlflow_run_id": run.run_id, "method": settings.method or "", "seed": settings.seed, "sources": planned.outside})
        started = time.time()
        cls(getattr(settings, name), context).run(inputs, out)
        bundle = out.finish(code_version=cls.code_version, config=planned.config, inputs=planned.inputs)
        run.metrics({**out.figures, "seconds": time.time() - started})
    seen.rows = rows_of(bundle)
    rows = ", ".join(f"{table} {count:,}" for table, count in seen.rows.items())
    say(f"{title}: done in {time.time() - started:.1f} s" + (f"; rows: {rows}" if rows else ""))
    return bundle


def rows_of(bundle: Bundle) -> dict[str, int]:
    """Rows of each table."""
    return {table: int(entry["rows"]) for table, entry in bundle.manifest["tables"].items()}


def _open_input(name: str, source: str, uri: str) -> Bundle:
    bundle = Bundle.find(uri)
    if bundle is None:
        hint = (
            "check the URI in the config"
            if source == "previous"
            else f"run `esans {source}` with the same config first, or `esans pipeline`"
        )
        raise BundleError(f"{name} needs the {source} bundle, and {uri} is not finished: {hint}.")
    return bundle
