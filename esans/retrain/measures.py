"""What a schedule's monitoring is told of a run, as samples of the file of metrics (docs/operations.md)."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Any

from esans.metrics_file import Sample
from esans.retrain.state import EXIT_CODES, PUBLISHED

_RESULTS = {True: "passed", False: "refused", None: "shown"}


def samples(document: Mapping[str, Any]) -> list[Sample]:
    """Samples of a report as `esans.retrain.run` makes it; what a run that ended early does not know is left out, and stays as it was."""
    model = {"model": str(document["model"])}
    found = [Sample("esans_retrain_exit_code", document["exit_code"], model)]
    found += [
        Sample("esans_retrain_outcome", float(document["outcome"] == outcome), {**model, "outcome": outcome}) for outcome in EXIT_CODES
    ]
    found += [
        Sample("esans_retrain_part_seconds", seconds, {**model, "part": part})
        for part, seconds in document["seconds"].items()
        if part != "all"
    ]
    for what, verdicts in (("gates", document["gates"]), ("data", document["drift"])):
        if verdicts:
            counts = Counter(_RESULTS[one["passed"]] for one in verdicts)
            found += [
                Sample("esans_retrain_checks", counts[result], {**model, "what": what, "result": result}) for result in _RESULTS.values()
            ]
    if str(document["champion"]).isdigit():
        found.append(Sample("esans_champion_version", int(document["champion"]), model))
    if document["outcome"] == PUBLISHED:
        day = datetime.datetime.fromisoformat(document["as_of"]).replace(tzinfo=datetime.UTC)
        found.append(Sample("esans_champion_as_of_timestamp_seconds", day.timestamp(), model))
    return found
