"""What the pictures of docs/concepts.md show of one training step."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.patches import FancyBboxPatch

from esans.negatives.edis import hard_scores, simple_weights, subset_sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.concepts import Step

_QUIET, _INK = "#c9ced6", "#30343b"
_EASY, _HARD, _POSITIVE, _USER = "#4c8dd6", "#d3595f", "#2f8f57", "#7a5bb5"
_GROUPS = {"in_batch": "#8a8f98", "easy": _EASY, "easy_virtual": "#9cc3ee", "hard": _HARD, "hard_virtual": "#eea9ac"}
_LAMBDAS = (-0.3, -0.1, 0.1, 0.3, 0.5)


def save(figure: Figure, path: Path) -> Path:
    """Write an SVG without anything that differs from one run to the next."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "esans", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white", dpi=150)
    path.write_text(re.sub(r"[ \t]+$", "", path.read_text(), flags=re.MULTILINE))
    return path


def flow(stages: Mapping[str, tuple[str, int, Sequence[str]]]) -> Figure:
    """Stages as boxes from left to right, each behind all that it reads; name -> (what it does, row, what it reads)."""
    figure, (axes,) = _figure(1, (11, 3.4))
    depth: dict[str, int] = {}
    for name, (_, _, inputs) in stages.items():
        depth[name] = max((depth[source] + 1 for source in inputs if source in depth), default=0)
    place = {name: (2.2 * depth[name], row) for name, (_, row, _) in stages.items()}
    for name, (about, _, inputs) in stages.items():
        x, y = place[name]
        axes.text(x, y, f"{name}\n", ha="center", va="center", fontsize=10, weight="bold", color=_INK, zorder=3)
        axes.text(x, y - 0.12, "\n".join(textwrap.wrap(about, 22)), ha="center", va="center", fontsize=7, color=_INK, zorder=3)
        box = {"boxstyle": "round,pad=0.02", "facecolor": "#eef3fa", "edgecolor": _EASY, "zorder": 2}
        axes.add_patch(FancyBboxPatch((x - 0.85, y - 0.33), 1.7, 0.66, **box))
        for source in inputs:
            if not _bridged(stages, source, name):
                arrow = {"arrowstyle": "-|>", "color": "#8a8f98", "shrinkA": 0, "shrinkB": 0, "connectionstyle": "arc3,rad=0"}
                axes.annotate("", xy=(x - 0.87, y), xytext=(place[source][0] + 0.87, place[source][1]), arrowprops=arrow)
    axes.set(xlim=(-1, 2.2 * max(depth.values()) + 1), ylim=(-1.4, 1.4))
    return figure


def _bridged(stages: Mapping[str, tuple[str, int, Sequence[str]]], source: str, name: str) -> bool:
    """Whether another input of `name` reads `source` already: its arrow would only cross the others."""
    return any(source in stages[other][2] or _bridged(stages, source, other) for other in stages[name][2] if other != source)


def clusters(step: Step) -> Figure:
    """The catalogue by primaries, and one primary by secondaries."""
    tables = step.sampler("easy")[0].tables
    figure, (left, right) = _figure(2, (10, 4.6))
    primary_N = tables.item_primary_N.numpy()
    left.scatter(*step.map_N2.T, c=primary_N % 20, cmap="tab20", s=4, linewidths=0, rasterized=True)
    centres = np.array([step.map_N2[primary_N == place].mean(0) for place in np.unique(primary_N)])
    left.scatter(*centres.T, marker="+", c=_INK, s=30, linewidths=0.8)
    left.set_title(f"{len(primary_N):,} items in {len(centres)} primaries (colours repeat)", fontsize=9)
    cells = tables.item_cell_N.numpy()
    own = _varied(primary_N, cells)
    inside = np.flatnonzero(primary_N == own)
    content = step.content_NE[inside] - step.content_NE[inside].mean(0)
    plane = content @ np.linalg.svd(content, full_matrices=False)[2][:2].T
    for place, cell in enumerate(np.unique(cells[inside])):
        here = cells[inside] == cell
        right.scatter(*plane[here].T, s=22, color=f"C{place % 10}", label=f"{here.sum()} items")
    right.legend(frameon=False, fontsize=7, loc="best")
    right.set_title(f"one of them, {len(inside)} items, by secondary code", fontsize=9)
    return figure


def _varied(primary_N: np.ndarray, cell_N: np.ndarray) -> int:
    """The primary whose items are spread most evenly over its cells."""

    def entropy(primary: int) -> float:
        share = np.unique(cell_N[primary_N == primary], return_counts=True)[1] / (primary_N == primary).sum()
        return float(-(share * np.log(share)).sum())

    return max(np.unique(primary_N[primary_N >= 0]).tolist(), key=entropy)


def draws(step: Step) -> Figure:
    """Easy and hard negatives of one positive: where they lie, and what they are."""
    row, positive = step.row, int(step.batch.target[step.row])
    tables = step.sampler("easy")[0].tables
    easy, hard = step.sampler("easy")[1].ids[row].numpy(), step.sampler("hard")[1].ids[row].numpy()
    figure, (left, right) = _figure(2, (10, 4.6))
    left.scatter(*step.map_N2.T, color=_QUIET, s=3, linewidths=0, rasterized=True)
    own = tables.item_primary_N.numpy() == int(tables.item_primary_N[positive])
    left.scatter(*step.map_N2[own].T, color=_HARD, s=5, alpha=0.35, linewidths=0, label="the positive's primary")
    for place, drawn in enumerate(easy):
        other = tables.item_primary_N.numpy() == int(tables.item_primary_N[drawn[0]])
        label = "primaries drawn for easy ones" if place == 0 else None
        left.scatter(*step.map_N2[other].T, color=_EASY, s=5, alpha=0.35, linewidths=0, label=label)
    left.scatter(*step.map_N2[easy.ravel()].T, color=_EASY, s=34, edgecolors="white", label="easy")
    left.scatter(*step.map_N2[hard].T, color=_HARD, s=34, edgecolors="white", label="hard")
    left.scatter(*step.map_N2[[positive]].T, color=_POSITIVE, marker="*", s=180, edgecolors="white", label="positive")
    left.legend(frameon=False, fontsize=7)
    left.set_title("drawn from the tables, on the device, anew at every step", fontsize=9)
    _list(right, step, positive, easy, hard)
    return figure


def _list(axes: Axes, step: Step, positive: int, easy: np.ndarray, hard: np.ndarray) -> None:
    axes.axis("off")
    lines = [("positive", _POSITIVE, [positive]), ("hard: its primary, another secondary", _HARD, hard)]
    lines += [(f"easy: nearby primary {place + 1}", _EASY, drawn) for place, drawn in enumerate(easy)]
    height = 1.0
    space = step.space_ND / np.linalg.norm(step.space_ND, axis=1, keepdims=True)
    for head, color, items in lines:
        axes.text(0, height, head, color=color, fontsize=8, weight="bold", va="top")
        for item in sorted(items, key=lambda item: -space[item] @ space[positive]):
            height -= 0.045
            cosine = "" if item == positive else f"{space[item] @ space[positive]:.2f}  "
            axes.text(0.02, height, f"{cosine}{step.titles[item].title()[:52]}", color=_INK, fontsize=8, va="top")
        height -= 0.062
    axes.set_title("cosine with the positive, and title", fontsize=9, loc="left")


def interpolation(step: Step) -> Figure:
    """EDIS: mixes inside one easy cluster, and hard ones moved towards the positive."""
    row, user_D = step.row, step.user_BD[step.row]
    drawn = step.sampler("easy")[1]
    weights_VM = simple_weights(drawn.valid[row : row + 1], torch.Generator().manual_seed(1))[0][0, 0]
    parents_MD = step.vectors_ND[drawn.ids[row, 0]]
    figure, (left, middle, right) = _figure(3, (12, 4.2))
    centred = parents_MD - parents_MD.mean(0)
    axes_D2 = torch.linalg.svd(centred, full_matrices=False)[2][:2].T
    flat_M2, flat_V2 = centred @ axes_D2, weights_VM @ centred @ axes_D2
    for weights_M, point in zip(weights_VM, flat_V2, strict=True):
        for parent in torch.nonzero(weights_M).flatten():
            left.plot(*torch.stack([point, flat_M2[parent]]).T, color=_QUIET, linewidth=0.5, zorder=0)
    left.scatter(*flat_M2.T, color=_EASY, s=60, label=f"{len(parents_MD)} drawn items, encoded")
    left.scatter(*flat_V2.T, facecolors="white", edgecolors=_EASY, s=26, label=f"{len(flat_V2)} virtual ones, free")
    left.legend(frameon=False, fontsize=7)
    left.set_title("easy: mixes of 2 to 5 items of one cluster", fontsize=9)
    score_M = parents_MD @ user_D
    middle.scatter(score_M, torch.full_like(score_M, 1.0), color=_EASY, s=60)
    sizes = torch.tensor(subset_sizes(len(parents_MD)), dtype=torch.float32)
    middle.scatter(weights_VM @ score_M, sizes, facecolors="white", edgecolors=_EASY, s=30)
    middle.set_yticks([1, 2, 3, 4, 5], ["drawn", "of 2", "of 3", "of 4", "of 5"])
    middle.set(xlabel="score: cosine with the user")
    middle.set_title("a mix scores as its parents do, mixed: u.(WE) = W(E.u)", fontsize=9)
    hard_H = step.vectors_ND[step.sampler("hard")[1].ids[row]] @ user_D
    positive = step.context.positive_score[row]
    for score in hard_H:
        line = [float(hard_scores(score.view(1, 1), positive.view(1, 1), torch.tensor([[mix]]))) for mix in _LAMBDAS]
        right.plot(_LAMBDAS, line, color=_HARD, marker="o", markersize=4, linewidth=1)
    right.axhline(float(positive), color=_POSITIVE, linestyle="--", linewidth=1)
    right.text(-0.3, float(positive), "positive", color=_POSITIVE, fontsize=8, va="bottom")
    right.axvline(0, color=_QUIET, linewidth=0.8, zorder=0)
    right.set(xlabel="lambda", ylabel="score of the virtual negative")
    right.set_title("hard: moved towards the positive by lambda (0: the item itself)", fontsize=9)
    for axes in (middle, right):
        axes.axis("on")
    return figure


def loss(step: Step) -> Figure:
    """All terms of one example on the scale of the loss, and each group's share of the gradient."""
    figure, (left, right) = _figure(2, (10, 3.8), widths=(3, 1))
    live = [logits[step.row][torch.isfinite(logits[step.row])] for logits in step.logits]
    mass = torch.stack([torch.logsumexp(logits, 0) for logits in live])
    share = torch.softmax(mass, 0)
    spread = np.random.default_rng(0)
    for place, (group, logits) in enumerate(zip(step.terms, live, strict=True)):
        height = -place + spread.uniform(-0.22, 0.22, len(logits))
        left.scatter(
            logits,
            height,
            color=_GROUPS.get(group.name, _INK),
            s=8 if len(logits) > 100 else 26,
            linewidths=0,
            rasterized=len(logits) > 100,
        )
    positive = float(step.context.positive_score[step.row] / step.context.temperature)
    left.axvline(positive, color=_POSITIVE, linewidth=1.2)
    left.text(positive, 0.45, " positive", color=_POSITIVE, fontsize=8)
    names = [f"{group.name} ({len(logits):,})" for group, logits in zip(step.terms, live, strict=True)]
    left.axis("on")
    left.set_yticks([-place for place in range(len(names))], names)
    left.set(xlabel="logit: cosine / temperature, corrected (in_batch) or weighed (the others)")
    left.set_title("one softmax over the terms of all groups", fontsize=9)
    right.axis("on")
    right.barh([-place for place in range(len(names))], share, color=[_GROUPS.get(group.name, _INK) for group in step.terms])
    right.set_yticks([])
    right.set(xlabel="share of the negatives' gradient", ylim=left.get_ylim())
    for place, value in enumerate(share):
        right.text(float(value), -place, f" {value:.0%}", va="center", fontsize=8)
    right.set_xlim(0, float(share.max()) * 1.3)
    return figure


def _figure(panels: int, size: tuple[float, float], widths: tuple[int, ...] | None = None) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, panels, width_ratios=widths))
    for panel in axes:
        panel.axis("off")
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes
