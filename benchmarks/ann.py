"""Recall and queries per second of every kind of index at several settings, on items of the generated world.

    python -m benchmarks.ann [--items 100000] [--users 20000]

Items are the generator's text vectors (benchmarks/world.py: interests in families, with noise; 128 floats, unit norm); queries are the
means of what its users chose. Prints a table, draws docs/images/ann.png, and enters ann.* into benchmarks/figures.json; the figures
"at default" are of the kind and setting that an export of that size takes by itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Literal

import torch

from benchmarks.figures import record
from benchmarks.vectors import item_vectors, user_vectors
from benchmarks.world import World
from esans.export.ann import EXACT, Measured, Truth, ann_figure, default_of, measure_settings
from esans.export.config import IndexConfig
from esans.export.index import build_index, index_kind
from esans.retrieval.keys import tie_order

KINDS: tuple[Literal["flat", "hnsw", "ivf", "ivfpq"], ...] = ("flat", "hnsw", "ivf", "ivfpq")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "ann.png"


def main() -> None:
    """Measure, print, draw and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    world = World(arguments.users, arguments.items, 20 * arguments.users, arguments.seed)
    config = IndexConfig()
    vectors = item_vectors(world)
    queries = torch.from_numpy(user_vectors(world, vectors))
    queries = queries[tie_order(torch.arange(len(queries))).argsort()[: config.measured_users]]
    truth = Truth(queries, torch.from_numpy(vectors), config.measured_k)
    rows: list[Measured] = []
    built: dict[str, float] = {}
    for kind in KINDS:
        started = time.perf_counter()
        index = build_index(vectors, IndexConfig(kind=kind), arguments.seed)
        built[kind] = time.perf_counter() - started
        rows += [row for row in measure_settings(index, IndexConfig(kind=kind), kind, truth) if row.kind != EXACT or kind == "flat"]
        print(f"{kind} built in {built[kind]:.1f} s", flush=True)
    _print(rows, built)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    ann_figure(rows).savefig(PICTURE, dpi=110)
    chosen = index_kind(config, len(vectors))
    figures = {}
    for kind in KINDS:
        row = default_of([row for row in rows if row.kind == kind])
        names = [f"ann.{kind}", *(["ann"] if kind == chosen else [])]
        for name in names:
            figures |= {f"{name}.recall_at_default": (row.recall, f"share of the exact first {row.k}")}
            figures |= {f"{name}.qps_at_default": (row.queries_per_second, f"queries/s, {kind} over {row.items:,} items")}
        figures |= {f"ann.{kind}.build_seconds": (built[kind], "s")}
    record(figures, f"python -m benchmarks.ann --items {arguments.items} --users {arguments.users} --seed {arguments.seed}")


def _print(rows: list[Measured], built: dict[str, float]) -> None:
    first = rows[0]
    print(f"\n{first.items:,} items, {first.queries:,} queries in one batch, {first.threads} threads, k = {first.k}\n")
    print("| index | setting | recall | queries/s | built in |\n|---|---|--:|--:|--:|")
    for row in rows:
        setting = f"{row.setting} {row.value}" if row.setting else ""
        mark = " (default)" if row.is_default and setting else ""
        seconds = f"{built[row.kind]:.1f} s" if row.is_default else ""
        print(f"| {row.kind} | {setting}{mark} | {row.recall:.4f} | {row.queries_per_second:,.0f} | {seconds} |")


if __name__ == "__main__":
    main()
