"""What tuning chose: the settings of every method on every data set, short enough to read and whole enough to copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.methods.collect import DATASETS, REFERENCES, Results
from benchmarks.methods.verdict import markdown


def winners(results: Results) -> list[str]:
    """The section: a row for each method and data set; a method that stands beside in-batch negatives shows them."""
    table = []
    for method in results.methods:
        if method in REFERENCES:
            continue
        for dataset in DATASETS:
            rows = results.phase("seed", method=method, dataset=dataset, variant="")
            if rows and rows[0].get("params"):
                table.append([f"`{method}`", dataset, *settings(rows[0]["params"])])
    if not table:
        return []
    return [
        "## Settings that tuning chose",
        "",
        "The keys of `train`, by validation recall. Methods whose authors train them alone may stand beside in-batch negatives here, and",
        "most winners do: their rows say how good that combination is, not how good the method is alone.",
        "",
        *markdown(["method", "data set", "groups of negatives", "temperature", "loss"], table),
        "",
    ]


def settings(params: Mapping[str, Any]) -> list[str]:
    """Groups, temperature and loss of a winner."""
    groups = "; ".join(_group(group) for group in params.get("negatives", ()))
    return [groups, _named(params.get("temperature"), "temperature"), _named(params.get("loss"), "loss")]


def _group(group: Mapping[str, Any]) -> str:
    # Virtual negatives weigh what their groups weigh, in every space.
    kept = {name: value for name, value in group.items() if name != "virtual_log_weight" or value != group.get("log_weight")}
    return _named(kept, "sampler")


def _named(values: Any, kind: str) -> str:
    if not isinstance(values, Mapping):
        return str(values or "")
    rest = ", ".join(f"{name} {_short(value)}" for name, value in values.items() if name != kind)
    return f"{values.get(kind, '')}{f' ({rest})' if rest else ''}".strip()


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return f"{_short(value['start'])} to {_short(value['end'])} by epoch {_short(value['to_epoch'])}"
    return str(value)
