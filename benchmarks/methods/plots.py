"""Pictures of docs/results.md. Each returns None where no run has what it shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.transforms import Bbox, BboxBase

from benchmarks.growth_plot import growth_figure
from benchmarks.growth_report import most_run
from benchmarks.methods.collect import DATASETS, ENCODINGS, HEADLINE, METRICS, OURS, REFERENCES, WALL, Results
from benchmarks.methods.store import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS, _REFERENCE, _SAMPLER = "tab:red", "tab:gray", "tab:blue"
_BANDS = (*OURS, "uniform", "in_batch", "mixed")
"""Whose spread over seeds is drawn: nineteen bands would hide each other."""
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))
_LABEL_STEPS = [(x * radius, y * radius) for radius in (7, 15, 24, 34, 46) for x, y in _SIDES]
"""Where a label may stand beside its point, in points of type."""


def draw_all(results: Results, folder: Path, growth: Sequence[Row] = ()) -> dict[str, str]:
    """Draw every picture that there is something for; name -> file name under `folder`."""
    pictures: dict[str, Callable[[], Figure | None]] = {
        "encodings": lambda: ratios(results, ENCODINGS, "at equal item encodings per example"),
        "wall": lambda: ratios(results, WALL, "within equal training time"),
        "trade": lambda: trade(results),
        "negatives": lambda: curves(_by_encodings(results), "encoded negatives per example", "symlog"),
        "steps": lambda: curves(_by_steps(results), "training steps", "linear"),
        "growth": lambda: growth_figure(most_run(growth)) if growth else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, make in pictures.items():
        figure = make()
        path = folder / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        figure.savefig(path, dpi=110)
        drawn[name] = path.name
    return drawn


def ratios(results: Results, comparison: str, how: str) -> Figure | None:
    """Bars of the ratio to uniform with 95 % intervals, averaged over data sets, in both metrics."""
    found = [line for line in results.lines(comparison, results.pooled) if set(line.to_uniform) == set(METRICS)]
    if not found:
        return None
    found.sort(key=lambda line: line.to_uniform[METRICS[0]].value)
    figure = _figure(11, 0.32 * len(found) + 1.8)
    for axes, metric in zip(np.ravel(figure.subplots(1, 2, sharey=True)), METRICS, strict=True):
        estimates = [line.to_uniform[metric] for line in found]
        values = 100 * (np.array([each.value for each in estimates]) - 1)
        low, high = (100 * (np.array([getattr(each, side) for each in estimates]) - 1) for side in ("low", "high"))
        errors = np.nan_to_num(np.maximum([values - low, high - values], 0))
        axes.barh([line.method for line in found], values, xerr=errors, color=[_colour(line.method) for line in found], capsize=2)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set(title=metric.replace("recall", "Recall"), xlabel="change against uniform (%), 95 % interval")
    figure.suptitle(f"Against uniform {how}; mean over {', '.join(results.pooled)}")
    return figure


def trade(results: Results) -> Figure | None:
    """Hardness against the false-negative rate of the draws, coloured by Recall@50: a panel a data set, a point a method."""
    points: dict[str, list[tuple[str, float, float, float]]] = {}
    for dataset in DATASETS:
        for method in results.methods:
            numbers = [results.diagnosis(method, name, [dataset]) for name in ("hardness", "false_negative_rate")]
            cell = results.cells[ENCODINGS].get((method, dataset))
            if cell is not None and numbers[0] is not None and numbers[1] is not None:
                recall = float(cell.means[METRICS[0]].mean())
                points.setdefault(dataset, []).append((method, numbers[0], numbers[1], recall))
    if not points:
        return None
    figure, panels = _panels(len(points), 8, 5.8)
    for axes, (dataset, shown) in zip(panels, points.items(), strict=True):
        names = [point[0] for point in shown]
        hard, rate, reached = (np.array([point[column] for point in shown]) for column in (1, 2, 3))
        dots = axes.scatter(hard, rate, c=reached, cmap="viridis", s=60, edgecolor="black", linewidth=0.5, zorder=3)
        if min(rate) > 0 and max(rate) / min(rate) > 10:
            axes.set_yscale("log")
        axes.margins(0.15)
        axes.grid(alpha=0.3)
        title = f"{dataset}: what hard negatives cost"
        axes.set(title=title, xlabel="hardness: mean of s_n - s+ (cosine)", ylabel="false negatives (share of draws)")
        figure.colorbar(dots, ax=axes, label="Recall@50, test")
        figure.draw_without_rendering()
        _label(axes, list(zip(names, hard, rate, strict=True)))
    return figure


def _label(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Put each name beside its point, at the first of a few places where it covers no other name and no other point."""
    figure = axes.figure
    renderer, pixels = figure.canvas.get_renderer(), figure.dpi / 72  # type: ignore[attr-defined]
    dots = axes.transData.transform([point[1:] for point in points])
    taken: list[Bbox] = []
    for (name, x, y), dot in zip(points, dots, strict=True):
        # Measured once: the places differ by a shift alone.
        text = axes.annotate(name, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8, ha="left", va="bottom", zorder=4)
        size = text.get_window_extent(renderer)
        boxes = []
        for step in _LABEL_STEPS:
            left, bottom = (dot[axis] + step[axis] * pixels + (np.sign(step[axis]) - 1) / 2 * size.size[axis] for axis in (0, 1))
            boxes.append(Bbox.from_bounds(left, bottom, size.width, size.height).padded(1))
        clashes = [_clashes(box, taken, dots, axes.bbox) for box in boxes]
        chosen = int(np.argmin(clashes))
        text.set_position(tuple((boxes[chosen].p0 + 1 - dot) / pixels))
        taken.append(boxes[chosen])
        near = np.clip(dot, boxes[chosen].p0, boxes[chosen].p1)
        if np.hypot(*(near - dot)) > 12 * pixels:
            ends = axes.transData.inverted().transform([dot, near])
            axes.plot(*ends.T, color="gray", linewidth=0.5, zorder=2, scalex=False, scaley=False)


def _clashes(box: Bbox, taken: Sequence[Bbox], dots: np.ndarray, frame: BboxBase) -> int:
    """Names and points that a box would cover; what leaves the frame counts twice."""
    inside = frame.contains(*box.p0) and frame.contains(*box.p1)
    return sum(box.overlaps(other) for other in taken) + sum(box.contains(*dot) for dot in dots) + 2 * (not inside)


Curves = dict[str, dict[str, list[tuple[float, float]]]]
"""Data set -> method -> (x, recall) of each run."""


def curves(found: tuple[Curves, str], xlabel: str, scale: str) -> Figure | None:
    """A panel a data set, a line a method: mean over runs of the same x, with their standard deviation as a band for `_BANDS`."""
    by_dataset, split = found
    if not by_dataset:
        return None
    figure, panels = _panels(len(by_dataset), 7.5, 5.2)
    # One style a method in every panel.
    names = sorted({name for methods in by_dataset.values() for name in methods})
    order = sorted(by_dataset, key=DATASETS.index)
    for axes, dataset in zip(panels, order, strict=True):
        methods = by_dataset[dataset]
        for method, points in sorted(methods.items()):
            _band(axes, method, points, names.index(method))
        axes.set_xscale(scale, **({"linthresh": 1} if scale == "symlog" else {}))
        axes.grid(alpha=0.3)
        axes.set(title=f"{dataset}: Recall@50 against {xlabel}", xlabel=xlabel, ylabel=f"Recall@50, {split}")
        axes.legend(fontsize=7, ncols=3)
    return figure


def _band(axes: Axes, method: str, points: Sequence[tuple[float, float]], number: int) -> None:
    grouped: dict[float, list[float]] = defaultdict(list)
    for x, y in points:
        grouped[x].append(y)
    xs = sorted(grouped)
    mean = np.array([np.mean(grouped[x]) for x in xs])
    sd = np.array([np.std(grouped[x], ddof=1) if len(grouped[x]) > 1 else 0.0 for x in xs])
    style = ("-", "--", ":")[number // 10 % 3]
    width = 2.4 if method in OURS else 1.3
    (line,) = axes.plot(xs, mean, style, color=f"C{number % 10}", marker="o", markersize=4, linewidth=width, label=method)
    if method in _BANDS:
        axes.fill_between(xs, mean - sd, mean + sd, color=line.get_color(), alpha=0.15, linewidth=0)


def _by_encodings(results: Results) -> tuple[Curves, str]:
    """Test recall where all those runs were tested, else validation: the two are never mixed in one picture."""
    rows = results.phase("encodings")
    split = "test" if rows and all(row.get("test") for row in rows) else "validation"
    found: Curves = {}
    for row in rows:
        point = (float(row["encodings_per_example"]), float(row[split][METRICS[0]]))
        found.setdefault(row["dataset"], {}).setdefault(_series(row), []).append(point)
    return found, split


def _by_steps(results: Results) -> tuple[Curves, str]:
    """The curves of runs made for it, else those of the seeds."""
    found: Curves = {}
    for row in results.phase("steps") or [row for row in results.phase("seed") if row["dataset"] in HEADLINE]:
        points = [(float(each["steps"]), float(_recall(each))) for each in row.get("curve") or () if _recall(each) is not None]
        if points:
            found.setdefault(row["dataset"], {}).setdefault(_series(row), []).extend(points)
    return found, "validation"


def _recall(point: Row) -> Any:
    """A curve's recall, whether it stands flat or under its split."""
    nested = point.get("validation")
    inner = nested.get(METRICS[0]) if isinstance(nested, dict) else nested
    return next((value for value in (point.get(METRICS[0]), point.get(f"validation {METRICS[0]}"), inner) if value is not None), None)


def _series(row: Row) -> str:
    return f"{row['method']} ({row['variant']})" if row.get("variant") else str(row["method"])


def _colour(method: str) -> str:
    return _OURS if method in (*OURS, "esans_only") else _REFERENCE if method in REFERENCES else _SAMPLER


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, two in a row."""
    columns, rows = min(2, count), -(-count // 2)
    figure = _figure(width * columns, height * rows)
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
