"""What the index loses against exact search, and how fast it answers, at several settings of its search: table `ann` of an export."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from esans.export.index import index_kind, setting_of, use_setting
from esans.progress import say
from esans.retrieval.flat import FlatSearch
from esans.retrieval.topk import exact_topk

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from esans.bundle import BundleWriter
    from esans.export.config import IndexConfig

EXACT = "exact"


@dataclass(frozen=True)
class Measured:
    """One setting of one index: the share of the exact first k that it returns, and queries per second of one batch."""

    kind: str
    setting: str
    """Name of what the search is set by: efSearch or nprobe; empty where there is nothing to set."""
    value: int
    is_default: bool
    recall: float
    queries_per_second: float
    k: int
    queries: int
    items: int
    threads: int


class Truth:
    """The exact first k of (q, d) queries among (n, d) vectors, found once for all settings, by torch or by faiss's flat search.

    `seconds` is what that took, on the device of the vectors or the GPU that faiss sees.
    """

    def __init__(self, queries: Tensor, vectors: Tensor, k: int, search: Literal["torch", "faiss"] = "torch") -> None:
        self.k, self.items = min(k, len(vectors)), len(vectors)
        flat = FlatSearch(vectors) if search == "faiss" else None
        started = time.perf_counter()
        scores, _ = exact_topk(queries, vectors, self.k) if flat is None else flat.topk(queries, self.k)
        # Items whose score equals the exact k-th best count as found: which of several equal items comes last is no loss.
        self._worst = scores[:, -1:].cpu().numpy() - 1e-5
        self.seconds = time.perf_counter() - started
        self._asked = np.ascontiguousarray(queries.cpu().numpy())

    def __len__(self) -> int:
        return len(self._asked)

    def measure(self, index: Any) -> tuple[float, float]:
        """Recall of an index as it is set, and its queries per second."""
        index.search(self._asked[:1], self.k)  # the first call allocates
        started = time.perf_counter()
        scores, ids = index.search(self._asked, self.k)
        seconds = time.perf_counter() - started
        found = ((scores >= self._worst) & (ids >= 0)).sum(1)
        return float(found.mean() / self.k), len(self) / max(seconds, 1e-9)


def measure_settings(index: Any, config: IndexConfig, kind: str, truth: Truth) -> list[Measured]:
    """The index at every multiple of its default setting that `measured_settings` names, and exact search; the default is set after.

    Args:
        index: what `build_index` gave.
        config: its configuration.
        kind: flat, hnsw, ivf or ivfpq.
        truth: exact answers.
    """
    import faiss

    shared = {"k": truth.k, "queries": len(truth), "items": truth.items, "threads": faiss.omp_get_max_threads()}
    name, default, most = setting_of(index, config, kind)
    rows = [Measured(EXACT, "", 0, False, 1.0, len(truth) / max(truth.seconds, 1e-9), **shared)]
    for value in _values(default, most, config.measured_settings, truth.k if kind == "hnsw" else 1) if name else [0]:
        use_setting(index, kind, value)
        recall, speed = truth.measure(index)
        rows.append(Measured(kind, name, value, value == default, recall, speed, **shared))
    use_setting(index, kind, default)
    return rows


def measure_export(
    index: Any, config: IndexConfig, queries: Tensor, vectors: Tensor, out: BundleWriter, figure: Callable[[Figure, str], None]
) -> None:
    """Measure the index of an export: table `ann`, figures of the setting that is served, and the plot `ann.png`.

    Args:
        index: what `build_index` gave for `vectors`.
        config: its configuration.
        queries: (q, d) user vectors.
        vectors: (n, d) of the items that may be recommended, on the same device.
        out: the bundle being written.
        figure: keeps a picture with the run.
    """
    kind = index_kind(config, len(vectors))
    rows = measure_settings(index, config, kind, Truth(queries, vectors, config.measured_k, config.exact_search))
    served = default_of(rows)
    at = f" at {served.setting} {served.value}" if served.setting else ""
    name = f"recall@{config.measured_k}"
    say(f"  {kind} index of {served.items:,} items: {name} {served.recall:.4f}, {served.queries_per_second:,.0f} queries/s{at}")
    out.write_arrow("ann", ann_table(rows))
    out.report({f"index_{name}": served.recall, "index_queries_per_second": served.queries_per_second})
    out.state({"index": kind, "indexed_items": served.items, "dim": vectors.shape[1]})
    figure(ann_figure(rows), "ann.png")


def default_of(rows: Sequence[Measured]) -> Measured:
    """The row of the index as it is served."""
    return next(row for row in rows if row.is_default)


def _values(default: int, most: int, multiples: Sequence[float], least: int) -> list[int]:
    # HNSW looks at k candidates at least, whatever it is set to.
    wanted = {max(least, min(round(default * multiple), most)) for multiple in multiples}
    return sorted(wanted | {default})


def ann_table(rows: Sequence[Measured]) -> pa.Table:
    """Table `ann`: one row a setting."""
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(row) for row in rows])


def ann_figure(rows: Sequence[Measured]) -> Figure:
    """Recall over queries per second, one line a kind with its settings; further up and right is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        speeds, recalls = [row.queries_per_second for row in mine], [row.recall for row in mine]
        axes.plot(speeds, recalls, marker="o", markersize=4, label=f"{kind} ({mine[0].setting})" if mine[0].setting else kind)
        for row in mine:
            if row.setting:
                axes.annotate(str(row.value), (row.queries_per_second, row.recall), xytext=(4, -11), textcoords="offset points", fontsize=8)
            if row.is_default and row.setting:
                axes.plot(row.queries_per_second, row.recall, marker="o", markersize=9, fillstyle="none", color="black")
    first = rows[0]
    axes.set(
        xscale="log",
        xlabel=f"queries per second ({first.threads} threads, batches of {first.queries:,})",
        ylabel=f"recall@{first.k} against exact search",
        title=f"{first.items:,} items; a ring marks what is served",
    )
    axes.legend(frameon=False)
    return figure
