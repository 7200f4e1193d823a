"""What a person calls a run, as the bundles that its evaluation wrote: MLflow run ids and names, bundle URIs, an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from esans.bundle import Bundle
from esans.errors import EsansError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Stages whose bundles hold `metrics` and `per_user`.
EVALUATED = ("evaluate", "references")
# A pipeline run names its methods and their evaluations in tags, also those that were up to date and so have no run under it.
EVALUATION_TAG = "evaluation."
_MOST_RUNS = 200


class CompareError(EsansError):
    """Runs cannot be found, or cannot stand side by side."""


@dataclass(frozen=True)
class Entry:
    """One method of one evaluated bundle, under the name that it is shown by."""

    name: str
    method: str
    bundle: Bundle

    @property
    def key(self) -> tuple[str, str]:
        """What makes two entries the same."""
        return self.bundle.uri, self.method

    @property
    def prepare_uri(self) -> str:
        """The prepare bundle whose users were ranked."""
        return str(self.bundle.manifest["inputs"].get("prepare", ""))

    def train_bundle(self) -> Bundle | None:
        """The bundle of the model that was evaluated; None for a reference, or where it is gone."""
        uri = self.bundle.manifest["inputs"].get("train")
        return Bundle.find(uri) if uri else None


class Finder:
    """Finds entries by what a person typed.

    Args:
        client: of MLflow.
        experiment: name of the experiment that run names are looked up in.
    """

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.client, self.experiment = client, experiment

    def find(self, wanted: str) -> list[Entry]:
        """Entries of one run id, run name or bundle URI; several for a pipeline run and for the references.

        Raises:
            CompareError: there is none, or it has no evaluation.
        """
        if "/" in wanted:
            bundle = Bundle.find(wanted)
            if bundle is None:
                raise CompareError(f"{wanted}: no finished bundle is there (it has no manifest.json).")
            return _entries_of(bundle, wanted)
        return self._of_run(self._run(wanted), wanted)

    def search(self, text: str) -> list[Entry]:
        """Entries of all evaluations of the experiment that pass an MLflow filter, oldest first.

        Raises:
            CompareError: the experiment or matching evaluations are not there, the filter is refused, or more than 200 runs pass it.
        """
        from mlflow.exceptions import MlflowException

        chosen = " and ".join(filter(None, ["attributes.status = 'FINISHED'", text]))
        try:
            found = list(
                self.client.search_runs([self._experiment_id()], chosen, max_results=_MOST_RUNS + 1, order_by=["attributes.start_time ASC"])
            )
        except MlflowException as error:
            raise CompareError(f"MLflow refuses the filter {text!r}: {error.message}") from None
        if len(found) > _MOST_RUNS:
            raise CompareError(f"more than {_MOST_RUNS} runs of experiment {self.experiment!r} pass the filter {text!r}: narrow it.")
        evaluated = [run for run in found if run.data.tags.get("stage") in EVALUATED]
        if not evaluated:
            raise CompareError(
                f"experiment {self.experiment!r}: {len(found)} finished runs pass the filter {text!r}, and none of them is an "
                "evaluation (their tag stage is evaluate or references)."
            )
        return [entry for run in evaluated for entry in self._of_run(run, run.info.run_name)]

    def _experiment_id(self) -> str:
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            known = ", ".join(sorted(found.name for found in self.client.search_experiments()))
            raise CompareError(f"no experiment {self.experiment!r} at {self.client.tracking_uri}. Known: {known}.")
        return str(experiment.experiment_id)

    def _run(self, wanted: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(wanted)
        except MlflowException:
            pass
        quoted = wanted.replace("'", "")
        found = self.client.search_runs(
            [self._experiment_id()], f"attributes.run_name = '{quoted}'", max_results=_MOST_RUNS, order_by=["attributes.start_time DESC"]
        )
        finished = [run for run in found if run.info.status == "FINISHED"]
        if finished:
            return finished[0]
        state = f"; {len(found)} of that name did not finish" if found else ""
        raise CompareError(
            f"{wanted!r} is no run id or run name in experiment {self.experiment!r} at {self.client.tracking_uri}{state}. "
            "Name another store with --tracking.uri or --work_dir, another experiment with --experiment; a bundle is named by its URI."
        )

    def _of_run(self, run: Any, wanted: str) -> list[Entry]:
        tags = run.data.tags
        if tags.get("stage") in EVALUATED:
            return _entries_of(_opened(tags.get("bundle", ""), wanted), wanted)
        order = tags.get("methods", "").split(",")
        named = [tags[EVALUATION_TAG + method] for method in order if EVALUATION_TAG + method in tags]
        if named:
            return [entry for uri in named for entry in _entries_of(_opened(uri, wanted), wanted)]
        entries = [entry for below in self._evaluations_below(run) for entry in self._of_run(below, wanted)]
        if not entries:
            kind = tags.get("stage") or tags.get("kind") or "unknown"
            raise CompareError(
                f"run {wanted!r} (stage {kind}) has no evaluation: name an evaluate or pipeline run, or run `esans evaluate`."
            )
        return entries

    def _evaluations_below(self, run: Any) -> list[Any]:
        """Evaluate runs under a pipeline run, or of a train run's bundle."""
        clause = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        if run.data.tags.get("stage") == "train":
            clause = f"params.`input.train` = '{run.data.tags.get('bundle', '')}'"
        return list(
            self.client.search_runs(
                [run.info.experiment_id],
                f"tags.stage = 'evaluate' and attributes.status = 'FINISHED' and {clause}",
                max_results=_MOST_RUNS,
                order_by=["attributes.start_time ASC"],
            )
        )


def collect(finder: Finder, runs: Sequence[str], search: str | None, baseline: str | None) -> list[Entry]:
    """All entries, the baseline first, each once, under names of their own.

    Args:
        finder: where to look.
        runs: ids, names or URIs.
        search: an MLflow filter, "" for the whole experiment; None for no search.
        baseline: one of the entries by its name or method, or a run to add; the first entry by default.

    Raises:
        CompareError: something is not found, fewer than two entries are left, or the baseline is not one entry.
    """
    found = [entry for wanted in runs for entry in finder.find(wanted)]
    if search is not None:
        found += finder.search(search)
    entries = _named(found)
    if baseline is not None:
        first = [entry for entry in entries if baseline in (entry.name, entry.method)] or finder.find(baseline)
        if len(first) != 1:
            raise CompareError(f"--baseline {baseline!r} stands for {len(first)} evaluations ({_names(first)}): name one of them.")
        entries = _named([*first, *entries])
    if len(entries) < 2:
        raise CompareError(f"only {len(entries)} evaluation is left to compare ({_names(entries) or 'none'}): name two runs or more.")
    return entries


def _named(entries: Sequence[Entry]) -> list[Entry]:
    """Each entry once: by its method, and where methods repeat by the start of the bundle's fingerprint too."""
    first: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        first.setdefault(entry.key, entry)
    once = list(first.values())
    methods = [entry.method for entry in once]
    return [
        replace(
            entry,
            name=entry.method if methods.count(entry.method) == 1 else f"{entry.method} {str(entry.bundle.manifest['fingerprint'])[:6]}",
        )
        for entry in once
    ]


def _names(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in entries)


def _opened(uri: str, wanted: str) -> Bundle:
    bundle = Bundle.find(uri) if uri else None
    if bundle is None:
        raise CompareError(f"run {wanted!r}: its bundle {uri or '(no tag bundle)'} is gone or was never finished.")
    return bundle


def _entries_of(bundle: Bundle, wanted: str) -> list[Entry]:
    if not (bundle.has("metrics") and bundle.has("per_user")):
        raise CompareError(
            f"{wanted}: a {bundle.manifest['stage']} bundle without the tables metrics and per_user; name an evaluate or references bundle."
        )
    methods = bundle.table("metrics").arrow(["method"]).column(0).unique().to_pylist()
    return [Entry(method, method, bundle) for method in methods]
