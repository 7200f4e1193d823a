"""Plots of what draws cost, and plots as inline SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from esans.cluster.hardness import Drawn

# Text and axes are drawn in this colour and then handed to the page's own.
_INK = "#0a0b0c"
_COLORS = {"easy": "#4c8dd6", "hard": "#e0803f", "uniform": "#8a8f98", "positive": "#4fa86a"}


@dataclass(frozen=True)
class CurvePoint:
    """What easy draws at one temperature cost, and how hard they are."""

    temperature: float
    ratio: float
    """False negatives over those of uniform draws."""
    hardness: float
    """Mean score of the draws."""
    effective: float
    """Primaries that a draw really chooses among."""


@contextmanager
def plot_style() -> Iterator[None]:
    """Inside the block figures are made so that `svg` can hand their colours to a page."""
    import matplotlib

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK)
    look = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    with matplotlib.rc_context({**ink, **look, "svg.fonttype": "none", "svg.hashsalt": "esans"}):
        yield


def curve_figure(curve: Sequence[CurvePoint], others: Mapping[str, tuple[float, float]], about: str) -> Figure:
    """The price of hardness: false negatives over uniform ones against the mean score of what is drawn.

    Args:
        curve: easy draws over T_c.
        others: kind -> (mean score, ratio) of draws that do not depend on T_c.
        about: what the scores are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(curve, key=lambda point: point.temperature)
    axes.plot([point.hardness for point in ordered], [point.ratio for point in ordered], marker="o", color=_COLORS["easy"], label="easy")
    for place, point in enumerate(ordered):
        above = (0, 7 if place % 2 == 0 else -14)
        where = (point.hardness, point.ratio)
        axes.annotate(f"{point.temperature:g}", where, xytext=above, textcoords="offset points", fontsize=8, ha="center")
    for name, (hardness, ratio) in others.items():
        axes.plot(hardness, ratio, marker="s", linestyle="none", color=_COLORS.get(name, "#a578c9"), label=name)
    axes.set(xlabel=f"mean {about}", ylabel="false negatives, in times of uniform draws", ylim=(0, None))
    axes.legend(title="draws; numbers: T$_c$")
    return figure


def hardness_figure(drawn: Drawn) -> Figure:
    """Share of draws of each kind that score at most so much."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    levels = np.linspace(0, 1, 201)
    for name, scores in drawn.scores.items():
        if len(scores):
            axes.plot(np.quantile(scores, levels), levels, color=_COLORS.get(name), label=name)
    axes.set(xlabel=drawn.about, ylabel="share of draws", ylim=(0, 1))
    axes.legend()
    return figure


def svg(figure: Figure) -> str:
    """A figure as SVG to stand in a page, without addresses, in the page's own ink."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.S)
    drawn = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", drawn)
    drawn = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", drawn, count=1), count=1)
    drawn = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", drawn)
    return drawn.replace(_INK, "currentColor").replace("#000000", "currentColor")
