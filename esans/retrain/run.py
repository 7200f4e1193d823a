"""One as-of day: checks, stages, gates, publication and report, under the lease."""

from __future__ import annotations

import datetime
import time
import traceback
from typing import Any

from esans import observe
from esans.bundle import Bundle
from esans.config import flatten, to_dict
from esans.errors import ConfigError, DataError, EsansError
from esans.flow import Plan, run_stage
from esans.observe import Seen, observed
from esans.progress import headline, say
from esans.retrain.base import AS_OF, STATE, Base, find_base
from esans.retrain.drift import empty_by_nature, findings, is_empty
from esans.retrain.errors import DataRefused, GateRefused, Locked
from esans.retrain.lease import Lease, held
from esans.retrain.measures import samples
from esans.retrain.notify import notify
from esans.retrain.plan import RunPlan, dated, method_of
from esans.retrain.record import Record
from esans.retrain.report import write_page
from esans.retrain.state import DATA_REFUSED, FAILED, GATE_REFUSED, NOTHING, PUBLISHED, State
from esans.roots import check_bundle
from esans.settings import Settings, Source
from esans.spark import open_session, unreadable_file
from esans.tracking import Run, resolve_uri, start_run
from esans.uri import join

STAGES = ("prepare", "features", "align", "cluster", "shards", "train", "export")


class Retraining:
    """One as-of day under one configuration.

    Raises:
        ConfigError: the settings name several methods or no times.
    """

    def __init__(self, source: Source, as_of: datetime.date) -> None:
        written = source.load()
        self.method = method_of(written)
        self.source, self.as_of, self.settings = source, as_of, source.load(self.method)
        if self.settings.prepare.interactions.columns.timestamp is None:
            raise ConfigError("retraining needs prepare.interactions.columns.timestamp: it works by calendar days (UTC).")
        self.dated = Source(source.files, (*source.overrides, *dated(self.settings, as_of))).load(self.method)
        self.state = State.of(self.settings, as_of)
        self.name = self.settings.export.registry.name
        self.record = Record(as_of, self.state.config_digest, self.name, self.method, self.state.uri)

    def done(self) -> dict[str, Any] | None:
        """The report of an earlier run that still holds; None where there is something to do.

        A refused day is tried again once its raw data have changed.
        """
        report = self.state.read("report")
        if report is None or report["outcome"] in (PUBLISHED, NOTHING):
            return report
        return report if report["sources"] == self._sources() else None

    def run(self) -> dict[str, Any]:
        """Do what is to do and return the report. The webhook is told of every ending but "done before" and "locked".

        Raises:
            Locked: another process retrains.
            DataRefused: the day's data; nothing was changed.
            GateRefused: the challenger; nothing was changed.
            EsansError: whatever stopped it; nothing was changed, and the next run goes on from the stages that are done.
        """
        lock = self.settings.retrain.lock
        with held(join(self.state.root, "lock"), f"retrain as of {self.as_of}", lock.lease_seconds, lock.wait_seconds) as lease:
            # It may have been done while this one waited.
            done = self.done()
            if done is not None:
                return done
            about: dict[str, Any] = {"as_of": str(self.as_of)}
            seen = Seen("retrain", labels={"model": self.name, "method": self.method}, about=about)
            with observed(self.settings.logging, self.settings.work_dir, seen):
                try:
                    self._run(lease)
                    report = self._finish()
                except Locked:
                    raise
                except BaseException as error:
                    self._failed(error)
                    raise
                finally:
                    seen.run_id = self.record.mlflow_run_id or ""
                    about |= {"outcome": self.record.outcome, "mode": self.record.mode, "champion": self.record.champion}
                return report

    def _run(self, lease: Lease) -> None:
        headline(f"retrain {self.name} as of {self.as_of} ({self.method})")
        from mlflow import MlflowClient

        client = MlflowClient(resolve_uri(self.settings.tracking, self.settings.work_dir))
        base = find_base(client, self.name)
        self.record.champion_before = self.record.champion = base.version if base else None
        if base is not None and base.state != self.state.uri and base.as_of is not None and base.as_of > self.as_of:
            self._nothing(f"version {base.version} of {self.name} serves, as of {base.as_of}: older data are not published over it.")
            return
        self.record.sources = self._sources()
        kept = self.state.read("plan")
        if kept is not None and base is not None and base.state == self.state.uri:
            # It was published before it was cut off: only the report is missing.
            plan = RunPlan.parse(kept)
        else:
            found = self._check_data(base)
            if found is None:
                return
            plan = self._plan(kept, base, found["items"]["rows"])
        self.record.mode, self.record.why = plan.kind, plan.reason
        self.record.base = plan.base.dump() if plan.base else None
        say(f"  {plan.kind} run: {plan.reason}")
        settings = plan.settings(self.source, self.method, self.as_of)
        with start_run(settings.tracking, settings.work_dir, f"retrain-{self.as_of}") as run:
            self.record.mlflow_run_id = run.run_id
            run.tag(kind="retrain", as_of=str(self.as_of), method=self.method, mode=plan.kind)
            run.params(flatten(to_dict(settings.retrain), "retrain."))
            bundles = self._stages(settings, run)
            self._judge_and_publish(client, run, settings, bundles, base, plan, lease)

    def _sources(self) -> dict[str, Any]:
        """Fingerprints of the raw tables."""
        from esans.prepare.fingerprint import outside_inputs

        try:
            return outside_inputs(self.dated.prepare)
        except DataError as error:
            raise self._refused(str(error)) from None

    def _plan(self, kept: dict[str, Any] | None, base: Base | None, items: int) -> RunPlan:
        """The plan of the first attempt, kept while the same model serves: a later attempt finds the stages that it finished."""
        if kept is not None:
            plan = RunPlan.parse(kept)
            if (plan.base.version if plan.base else None) == (base.version if base else None):
                return plan
        plan = RunPlan.decide(self.dated, base, self.as_of, items)
        self.state.write("plan", plan.dump())
        return plan

    def _check_data(self, base: Base | None) -> dict[str, Any] | None:
        """The profile of the data; None where there is nothing to do. Raises DataRefused where it should not be trained on."""
        from esans.retrain.profile import profile

        config, since = self.settings.retrain, time.time()
        earlier = _earlier_profile(base)
        spark = open_session(self.settings.spark, "esans")
        try:
            found = profile(spark, self.dated.prepare, self.as_of, config.drift.reference_days, earlier)
        except DataError as error:
            raise self._refused(str(error)) from None
        except Exception as error:
            file = unreadable_file(error)
            if file is None:
                raise
            raise self._refused(f"cannot read {file}: it is corrupt or cut short.") from None
        self.state.write("profile", found)
        self.record.timed("checks", since)
        if is_empty(found, self.as_of):
            natural = empty_by_nature(found, self.as_of, config.drift.reference_days)
            if config.empty_day == "skip" or (config.empty_day == "auto" and natural):
                self._nothing(f"{self.as_of:%A} {self.as_of} has no interactions" + (", like that weekday before it." if natural else "."))
                return None
            raise self._refused(f"interactions: no row of {self.as_of:%A} {self.as_of}, which is not usual (retrain.empty_day).")
        self.record.drift = findings(found, earlier, config.drift, self.as_of)
        bad = [one for one in self.record.drift if one.passed is False]
        if bad:
            raise self._refused("\n  ".join(one.describe() for one in bad))
        say(f"  data of {self.as_of}: {len(self.record.drift)} checks passed")
        return dict(found)

    def _refused(self, why: str) -> DataRefused:
        self.record.outcome = DATA_REFUSED
        return DataRefused(
            f"data as of {self.as_of} refused:\n  {why}\n  Nothing was changed. Mend the data and run again, or move the bound."
        )

    def _stages(self, settings: Settings, run: Run) -> dict[str, Bundle]:
        plan, bundles = Plan(settings), {}
        for place, name in enumerate(STAGES):
            since = time.time()
            try:
                bundles[name] = run_stage(plan, name, run, f"[{place + 1}/{len(STAGES)}] ")
            except DataError as error:
                if name != "prepare":
                    raise
                raise self._refused(str(error)) from None
            self.record.timed(name, since)
            self.record.bundles[name] = bundles[name].uri
        return bundles

    def _judge_and_publish(
        self, client: Any, run: Run, settings: Settings, bundles: dict[str, Bundle], base: Base | None, plan: RunPlan, lease: Lease
    ) -> None:
        from esans.retrain.publish import publish, register_challenger
        from esans.retrain.trial import trial

        if base is not None and base.bundles["export"] == bundles["export"].uri:
            # An earlier attempt ended between the alias and the report.
            self._published(base.version, "the earlier attempt had published it")
            return
        since = time.time()
        found = trial(settings, bundles, base, self.as_of, self.state.uri)
        self.record.gates, self.record.by_day = found.verdicts, found.by_day
        self.record.timed("gates", since)
        run.metrics({f"gate.{place:02d}": one.value for place, one in enumerate(found.verdicts) if one.value == one.value})
        bad = [one for one in found.verdicts if one.passed is False]
        if bad:
            self.record.outcome = GATE_REFUSED
            lines = "\n  ".join(one.describe() for one in bad)
            raise GateRefused(f"the challenger as of {self.as_of} is not published:\n  {lines}\n  Nothing was changed.")
        since = time.time()
        lease.verify()
        lineage = plan.lineage(self.as_of, int(bundles["prepare"].facts["num_items"]))
        tags = {AS_OF: str(self.as_of), STATE: self.state.uri, **lineage}
        version = register_challenger(client, run, settings, bundles["export"], bundles["prepare"], tags)
        self.record.challenger = version
        before = publish(client, self.name, version, lease)
        self.record.timed("publish", since)
        self._published(version, f"champion until now: {before or 'none'}")

    def _published(self, version: str, note: str) -> None:
        self.record.outcome, self.record.champion, self.record.challenger = PUBLISHED, version, version
        self.record.message = f"version {version} of {self.name} serves as of {self.as_of} ({note})"

    def _nothing(self, why: str) -> None:
        self.record.outcome, self.record.message = NOTHING, why

    def _finish(self) -> dict[str, Any]:
        document = self.record.document()
        write_page(join(self.state.uri, "report.html"), document)
        self.state.forget("failure")
        self.state.write("report", document)
        say(f"{self.record.outcome}: {self.record.message}")
        say(f"report:  {join(self.state.uri, 'report.html').removeprefix('file://')}")
        self._tell(document)
        return document

    def _tell(self, document: dict[str, Any]) -> None:
        observe.report(self.settings.logging, samples(document))
        notify(self.settings.retrain.notify, document)

    def _failed(self, error: BaseException) -> None:
        """Report a refusal; keep a failure apart, so that the next run tries again. Never hides the error itself."""
        try:
            if isinstance(error, DataRefused | GateRefused):
                self.record.message = str(error)
                self._finish()
                return
            self.record.outcome = FAILED
            self.record.message = str(error) if isinstance(error, EsansError) else "".join(traceback.format_exception_only(error)).strip()
            document = self.record.document()
            self.state.write("failure", document)
            self._tell(document)
        except Exception as second:
            say(f"the report could not be written: {second}")


def _earlier_profile(base: Base | None) -> dict[str, Any] | None:
    """The profile that the champion's run wrote."""
    import json

    import fsspec

    if base is None or base.state is None:
        return None
    # It is a tag of the registry, which others may write.
    check_bundle(base.state)
    try:
        with fsspec.open(join(base.state, "profile.json"), "r") as stream:
            return dict(json.load(stream))
    except FileNotFoundError:
        return None
