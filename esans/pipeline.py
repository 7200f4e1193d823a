"""The pipeline: every stage in order under one parent run, for each method in turn, and the report that compares them."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import fsspec

from esans.bundle import Bundle
from esans.config import flatten, to_dict
from esans.errors import ConfigError
from esans.evaluate.report import Comparison, MethodResult, print_table, write_report
from esans.flow import METHOD_STAGES, STAGES, Plan, run_stage, stage_class
from esans.observe import Seen, observed
from esans.progress import headline, say
from esans.settings import Settings, Source
from esans.tracking import Run, resolve_uri, start_run
from esans.uri import canonical, join, write_text

SHARED_STAGES = tuple(name for name in STAGES if name not in METHOD_STAGES)


def run(source: Source) -> list[MethodResult]:
    """Run what is not up to date and write the report to <work_dir>/reports/<pipeline.name>.html.

    Raises:
        ConfigError: no method is named, a method is unknown, or this is one of several torchrun processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("the pipeline starts its own training processes: run it without torchrun and set train.launch.processes.")
    settings = source.load()
    if not settings.pipeline.methods:
        raise ConfigError("pipeline.methods is empty: name at least one file of conf/experiments, such as [uniform].")
    by_method = {method: source.load(method) for method in settings.pipeline.methods}
    started = time.time()
    seen = Seen("pipeline", labels={"pipeline": settings.pipeline.name}, about={"methods": list(by_method)})
    with observed(settings.logging, settings.work_dir, seen):
        return _run(settings, by_method, seen, started)


def _run(settings: Settings, by_method: dict[str, Settings], seen: Seen, started: float) -> list[MethodResult]:
    if _up_to_date(by_method):
        say("every stage is up to date")
        seen.status = "up_to_date"
        return _finish(settings, _collect(by_method, None), None, started)
    with start_run(settings.tracking, settings.work_dir, settings.pipeline.name) as parent:
        seen.run_id = parent.run_id
        parent.tag(kind="pipeline", methods=",".join(by_method))
        parent.params(flatten(to_dict(settings)))
        results = _collect(by_method, parent)
        return _finish(settings, results, parent, started)


def _up_to_date(by_method: dict[str, Settings]) -> bool:
    """Whether every bundle is there. Raises where a stage refuses its own under the configuration of today."""
    plans = [Plan(settings) for settings in by_method.values()]
    # All of them are planned before one is looked for: what a later stage lacks on this machine shows before the first one runs.
    uris = [plan.stage(name).uri for plan in plans for name in STAGES]
    if not all(Bundle.find(uri) is not None for uri in uris):
        return False
    for name in SHARED_STAGES:
        stage_class(name).accept(getattr(plans[0].settings, name), Bundle.open(plans[0].stage(name).uri))
    return True


def _collect(by_method: dict[str, Settings], parent: Run | None) -> list[MethodResult]:
    shared_plan = Plan(next(iter(by_method.values())))
    total = len(SHARED_STAGES) + len(METHOD_STAGES) * len(by_method)
    for place, name in enumerate(SHARED_STAGES):
        run_stage(shared_plan, name, parent, f"[{place + 1}/{total}] ")
    results = []
    place = len(SHARED_STAGES)
    for method, settings in by_method.items():
        plan = Plan(settings)
        bundles = {}
        for name in METHOD_STAGES:
            place += 1
            bundles[name] = run_stage(plan, name, parent, f"[{place}/{total}] ")
        results.append(MethodResult(name=method, evaluate_bundle=bundles["evaluate"], train_bundle=bundles["train"]))
    return results


def _mlflow() -> str:
    """The mlflow command of this environment, as short as it can be typed from here."""
    command = Path(sys.executable).with_name("mlflow")
    return str(command.relative_to(Path.cwd())) if command.is_relative_to(Path.cwd()) else str(command)


def summary(results: list[MethodResult], references: Bundle) -> dict[str, dict[str, float]]:
    """The table for machines: method -> metric -> mean over the test users, standard errors as `<metric>_se`."""
    rows = Comparison.read(results, references).rows
    return {row.name: {**row.values, **{f"{name}_se": error for name, error in row.errors.items()}} for row in rows}


def _finish(settings: Settings, results: list[MethodResult], parent: Run | None, started: float) -> list[MethodResult]:
    plan = Plan(settings)
    references, cluster = Bundle.open(plan.stage("references").uri), Bundle.open(plan.stage("cluster").uri)
    path = join(canonical(settings.work_dir), "reports", f"{settings.pipeline.name}.html")
    write_report(path, results, references, cluster)
    write_text(path.replace(".html", ".json"), json.dumps(summary(results, references), indent=1))
    headline("results")
    print_table(results, references)
    if parent is not None:
        for result in results:
            parent.metrics(
                {f"{result.name}_{name}": value for name, value in result.evaluate_bundle.figures.items() if "@" in name or name == "mrr"}
            )
        # What `esans compare` finds a pipeline run by: an evaluation that was up to date has no run under this one.
        parent.tag(report=path, **{f"evaluation.{result.name}": result.evaluate_bundle.uri for result in results})
        with fsspec.open(path, "r") as page:
            parent.text(page.read(), "report.html")
    say(f"report:  {path.removeprefix('file://')}")
    say(f"runs:    {_mlflow()} ui --backend-store-uri {resolve_uri(settings.tracking, settings.work_dir)}")
    say(f"done in {time.time() - started:.0f} s")
    return results
