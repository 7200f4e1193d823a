"""What benchmarks/retrain_replay.py found, as lines and as a picture."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def describe(arm: str, rows: list[dict[str, Any]], first: datetime.date) -> str:
    """How many nights were published, and means on the next day: over all nights, and over those whose challenger was refused.

    Args:
        arm: its name.
        rows: one a night, as `next_day_recall` makes them.
        first: the first night that counts.
    """

    def means(rows: list[dict[str, Any]]) -> str:
        names = ("champion", "challenger", "popularity")
        return ", ".join(f"{name} {sum(row[name] for row in rows) / len(rows):.4f}" for name in names)

    rows = [row for row in rows if row["night"] >= str(first)]
    refused = [row for row in rows if row["outcome"] != "published"]
    kept = f"; the {len(refused)} refused ones: {means(refused)}" if refused else ""
    published = f"{len(rows) - len(refused)} of {len(rows)} nights with a day of sales to follow published"
    return f"{arm}: {published}; recall@50 on that day: {means(rows)}{kept}"


def plot(results: Mapping[str, list[dict[str, Any]]], faults: Mapping[datetime.date, str], path: Path) -> None:
    """Quality on the next day, and seconds, by night; a line at each fault."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    colours = {"incremental": "#1f77b4", "full": "#ff7f0e"}
    for name, rows in results.items():
        labels = [row["night"][5:] for row in rows]
        top.plot(labels, [row["champion"] for row in rows], marker="o", color=colours[name], label=f"{name}: champion")
        top.plot(labels, [row["challenger"] for row in rows], marker="x", linestyle=":", color=colours[name], label=f"{name}: challenger")
        bottom.plot(labels, [row["seconds"] for row in rows], marker="o", color=colours[name], label=f"{name}: whole run")
        bottom.plot(
            labels, [row["train_seconds"] for row in rows], marker=".", linestyle="--", color=colours[name], label=f"{name}: training"
        )
    any_rows = next(iter(results.values()))
    top.plot([row["night"][5:] for row in any_rows], [row["popularity"] for row in any_rows], color="#999999", label="popularity")
    for fault, text in faults.items():
        for axes in (top, bottom):
            axes.axvline(str(fault)[5:], color="#cccccc", zorder=0)
        bottom.annotate(text, (str(fault)[5:], 1.0), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=8, color="#666666")
    top.set_ylabel("Recall@50 on the next day")
    bottom.set_ylabel("seconds of the last run")
    bottom.set_ylim(bottom=0)
    bottom.tick_params(axis="x", rotation=45)
    for axes in (top, bottom):
        axes.legend(fontsize=8, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
