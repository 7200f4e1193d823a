"""Works through the cells and studies of the experiment, several processes of one thread each."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from typing import Any

REFERENCES = ("popularity", "itemknn", "als", "bpr")


def run(arguments: argparse.Namespace) -> None:
    """Work through all cells with `--jobs` processes."""
    if arguments.steps == "report":
        return
    # One thread a process; spawned ones read these before torch starts its own.
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    from benchmarks.methods.data import DATASETS, bundles, sizes
    from benchmarks.methods.protocol import PROTOCOL
    from benchmarks.methods.store import Store

    arguments.deadline = time.time() + 60 * arguments.minutes
    arguments.work.mkdir(parents=True, exist_ok=True)
    cells = [tuple(cell.split("/")) for cell in arguments.only.split(",") if cell] or _all_cells(DATASETS)
    store = Store(arguments.store)
    for dataset in dict.fromkeys(dataset for dataset, _ in cells):
        key = f"{PROTOCOL['version']}/data/{dataset}"
        inputs = bundles(dataset, arguments.data, arguments.work)
        if store.find(key) is None:
            row = {"key": key, "protocol": PROTOCOL["version"], "phase": "data", "dataset": dataset, "method": ""}
            store.append({**row, **sizes(inputs)})
    tasks = _tasks(arguments, cells)
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.jobs, maxtasksperchild=None) as pool:
        for _ in pool.imap_unordered(_run_task, [(arguments, task) for task in tasks], chunksize=1):
            pass


def _all_cells(datasets: Sequence[str]) -> list[tuple[str, ...]]:
    from benchmarks.methods.space import methods

    return [(dataset, method) for dataset in datasets for method in methods(dataset)]


def _tasks(arguments: argparse.Namespace, cells: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    steps = arguments.steps.split(",")
    datasets = list(dict.fromkeys(dataset for dataset, _ in cells))
    tasks: list[tuple[str, ...]] = []
    if "references" in steps:
        tasks += [("references", dataset, method) for dataset in datasets for method in REFERENCES]
    if "seeds" in steps:
        tasks += [("seeds", *cell) for cell in cells]
    if "ablations" in steps:
        tasks += [("ablations", dataset, name) for dataset in datasets for name in _ablations()]
    if "encodings" in steps:
        tasks += [("encodings", dataset) for dataset in datasets]
    if "longer" in steps:
        tasks += [("longer", dataset, method) for dataset in datasets for method in _longer()]
    if "controls" in steps:
        tasks += [("controls", dataset, method) for dataset in datasets for method in _controls()]
    return tasks


def _ablations() -> list[str]:
    from benchmarks.methods.studies import ABLATIONS, CLUSTERS

    return [*ABLATIONS, *CLUSTERS]


def _longer() -> tuple[str, ...]:
    from benchmarks.methods.studies import LONGER

    return LONGER


def _controls() -> tuple[str, ...]:
    from benchmarks.methods.studies import ALONE

    return ("in_batch", *ALONE)


_FILES: dict[str, Any] = {}


def _run_task(work: tuple[argparse.Namespace, tuple[str, ...]]) -> None:
    arguments, task = work
    if time.time() > arguments.deadline:
        return
    import torch

    from benchmarks.methods import references, studies
    from benchmarks.methods.cell import Cell
    from benchmarks.methods.data import bundles
    from benchmarks.methods.space import methods
    from benchmarks.methods.store import Store

    torch.set_num_threads(1)
    store, (kind, dataset, *rest) = Store(arguments.store), task
    inputs = bundles(dataset, arguments.data, arguments.work)
    if kind == "references":
        references.measure(dataset, rest[0], inputs, store, arguments.trials, arguments.seeds)
        return

    def cell(method: str) -> Cell:
        files = _FILES.setdefault(dataset, {})
        return Cell(dataset, method, methods(dataset)[method], inputs, store, arguments.work, arguments.trials, files)

    if kind == "seeds":
        cell(rest[0]).run(arguments.seeds)
    elif kind == "ablations":
        studies.ablate(cell("esans"), arguments.ablation_seeds, rest)
    elif kind == "longer":
        studies.longer(cell(rest[0]), 1)
    elif kind == "controls":
        studies.controls(cell(rest[0]), arguments.ablation_seeds)
    else:
        studies.encodings(cell("uniform"), cell("mixed"), cell("esans"), 1)
