"""Pictures of an evaluation: recall by popularity of the target, and by length of the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esans.retrieval.slices import COLD, HISTORY_LENGTH, POPULARITY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {
    POPULARITY: "by train count of the target",
    HISTORY_LENGTH: "by distinct earlier items of the user",
    COLD: "of cold targets and the others",
}


@dataclass(frozen=True)
class Line:
    """One method's values over the buckets of a slice, with standard errors."""

    name: str
    labels: list[str]
    values: list[float]
    errors: list[float]


def title_of(slice_name: str) -> str:
    """How pictures call a way of cutting; a column of the items goes by its name."""
    return _TITLES.get(slice_name, f"by {slice_name} of the target")


def slice_lines(rows: Sequence[Mapping[str, Any]], slice_name: str, metric: str, split: str) -> list[Line]:
    """Rows of `metrics` tables as one line a method, in the order of the rows."""
    lines: dict[str, Line] = {}
    for row in sorted(rows, key=lambda row: int(row["place"])):
        if (row["slice"], row["metric"], row["split"]) == (slice_name, metric, split):
            line = lines.setdefault(row["method"], Line(row["method"], [], [], []))
            line.labels.append(row["label"])
            line.values.append(row["value"])
            line.errors.append(row["standard_error"])
    order = list(dict.fromkeys(row["method"] for row in rows))
    return sorted(lines.values(), key=lambda line: order.index(line.name))


def slice_figure(rows: Sequence[Mapping[str, Any]], slice_name: str, metric: str, split: str) -> Figure:
    """One line a method over the buckets of a slice, with bars of one standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = figure.subplots()
    draw_lines(axes, slice_lines(rows, slice_name, metric, split))
    axes.set(title=f"{metric} {title_of(slice_name)}", ylabel=metric, ylim=(0, None))
    return figure


def draw_lines(axes: Axes, lines: Sequence[Line], colors: Mapping[str, str] | None = None) -> None:
    """Lines with error bars over a shared categorical axis; methods may lack buckets."""
    labels = list(dict.fromkeys(label for line in lines for label in line.labels))
    for line in lines:
        places = [labels.index(label) for label in line.labels]
        errors = [error if error == error else 0.0 for error in line.errors]  # NaN for a slice of one user
        color = colors.get(line.name) if colors else None
        axes.errorbar(places, line.values, yerr=errors, marker="o", markersize=4, linewidth=1.6, capsize=2, label=line.name, color=color)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    if lines:
        axes.legend(frameon=False)
