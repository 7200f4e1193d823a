"""What a training step costs: methods at equal encodings, its parts, streaming against memory, two processes, ways of encoding items.

    python -m benchmarks.train_step --data ../shared/data --work data/loader [--parts methods,streaming,ranks,encoding] [--dry-run]
    python -m benchmarks.train_step --items 1000000
    python -m benchmarks.train_step --device cuda --batch 8192 --items 10000000 --peak-tflops 67 --peak-gbs 3350

Without `--items`, over the shards of online_retail; with it, `methods` and `ranks` over a made-up catalogue of that size. All are ratios
within one run, steps or epochs in turns. Every method encodes 15 item vectors an example beyond its positive: uniform 15 draws, mixed 15
draws beside in-batch, esans 10 easy and 5 hard ones beside in-batch, all drawn for each example. The CPU takes `--threads` threads.
`--peak-tflops` and `--peak-gbs` are the device's own, from its data sheet; then the share that the step reaches is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import FIGURES, record
from benchmarks.training import breakdown, compare, encoding, ranks, streaming
from benchmarks.training.ranks import Setting
from benchmarks.training.setting import METHODS, MadeUp, batches_of, config_of, trainer_of
from esans.bundle import Bundle
from esans.train.trainer import Trainer

Figures = dict[str, tuple[float, str]]

# The catalogue of the figures without a suffix. A step with 16 vectors an example and 1,024 examples encodes as many items only
# where the catalogue is larger than that: a small one is encoded as a whole by every method.
HEADLINE = 1_000_000


def methods(options: argparse.Namespace, inputs: dict[str, Bundle]) -> Figures:
    """Steps of the three methods in turns: times, memory and parts."""
    # A dense optimiser walks the whole table at every step, which hides all else where the catalogue is large.
    tables = "sparse_adam" if options.items and options.device == "cpu" else "adamw"
    keys = {"optimizer": {"tables": tables}, "launch": {"threads": options.threads}}
    configs = {name: config_of(groups, options.batch, **keys) for name, groups in METHODS.items()}
    if options.items:
        world = MadeUp(options.items, options.batch, options.device)
        trainers, batches = {name: world.trainer(config) for name, config in configs.items()}, world.batches(4)
    else:
        trainers = {name: trainer_of(config, inputs, device=options.device) for name, config in configs.items()}
        batches = batches_of(trainers["uniform"], 4)
    times = compare.step_times(trainers, batches, options.rounds)
    kept = {name: compare.memory(trainer, batches[0]) for name, trainer in trainers.items()}
    items = trainers["uniform"].model.num_items
    say(f"{items:,} items, {options.batch} examples a step, {tables} for tables, on {options.device}")
    say(markdown(["method", "ms a step", "examples/s", "x uniform", "x mixed", "MB"], compare.table(times, kept, options.batch)))
    found = {name: breakdown.parts(trainer, batches, max(2, options.rounds // 4)) for name, trainer in trainers.items()}
    say(markdown(["part of a step", *(f"{name}, ms" for name in found)], breakdown.table(found)))
    if options.peak_tflops and options.peak_gbs:
        _shares(trainers, batches[0], times, options)
    suffix = "" if options.items == HEADLINE and options.device == "cpu" else f".{f'{items}_items' if options.items else 'online_retail'}"
    return {
        f"train.esans_vs_mixed{suffix}": (compare.ratio(times, "esans", "mixed"), "ratio"),
        f"train.esans_vs_uniform{suffix}": (compare.ratio(times, "esans", "uniform"), "ratio"),
        f"train.esans_vs_mixed_memory{suffix}": (kept["esans"] / kept["mixed"], "ratio"),
        f"train.esans_vs_uniform_memory{suffix}": (kept["esans"] / kept["uniform"], "ratio"),
    }


def _shares(trainers: dict[str, Trainer], batch: Any, times: dict[str, list[float]], options: argparse.Namespace) -> None:
    rows = []
    for name, trainer in trainers.items():
        flops, moved = breakdown.used(trainer, batch)
        seconds = statistics.median(times[name])
        tflops, speed = flops / seconds / 1e12, moved / seconds / 1e9
        rows.append([name, f"{tflops:.2f}", f"{tflops / options.peak_tflops:.1%}", f"{speed:,.0f}", f"{speed / options.peak_gbs:.1%}"])
    say(markdown(["method", "TFLOP/s", "of the peak", "GB/s, estimated", "of the peak"], rows))


def streams(options: argparse.Namespace, inputs: dict[str, Bundle]) -> Figures:
    """Epochs from shards and from memory in turns."""
    config = config_of(METHODS["esans"], options.batch, examples_per_epoch=options.examples, launch={"threads": options.threads})
    against, waited = streaming.measure(trainer_of(config, inputs, device=options.device), max(2, options.rounds // 7))
    say(f"streaming runs at {against:.3f} x the speed of training from memory and waits {waited:.2%} of its time for batches")
    return {"train.streaming_vs_memory": (against, "ratio"), "train.data_wait_share": (waited, "share")}


def processes(options: argparse.Namespace, inputs: dict[str, Bundle]) -> Figures:
    """Two processes on a core each against one on one core: the same step, and as many examples a process."""
    batch, items = options.batch, options.items
    one, two = Setting(1, batch, items=items), Setting(2, batch, items=items)
    settings = {"one process": one, "two": two, "two, no gather": Setting(2, batch, False, items=items)}
    if not items:
        settings |= {
            "two, apart": Setting(2, batch, apart=True),
            "one, twice the batch": Setting(1, 2 * batch),
            "two, half": Setting(2, batch // 2),
        }
    found = ranks.measure(inputs, list(settings.values()), options.steps, max(1, options.rounds // 10))
    speed = {name: found[setting].examples_per_second for name, setting in settings.items()}
    rows = [
        [name, setting.rank_batch, f"{speed[name]:,.0f}", f"{speed[name] / speed['one process']:.2f}"] for name, setting in settings.items()
    ]
    say(markdown(["processes", "examples each", "examples/s", "x one process"], rows))
    say(
        markdown(
            ["part of a step", *(f"{name}, ms" for name in settings)],
            breakdown.table({name: dict(found[setting].parts) for name, setting in settings.items()}),
        )
    )
    suffix = f".{items}_items" if items else ""
    figures = {
        f"train.two_ranks_speedup_same_rank_batch{suffix}": speed["two"] / speed["one process"],
        f"train.two_ranks_speedup_no_gather{suffix}": speed["two, no gather"] / speed["one process"],
    }
    if not items:
        figures |= {
            # The very same optimiser step: as many examples, and each user against the positives of all of them.
            "train.two_ranks_speedup": speed["two"] / speed["one, twice the batch"],
            "train.two_ranks_speedup_half_batches": speed["two, half"] / speed["one process"],
            "train.two_ranks_apart": speed["two, apart"] / speed["one process"],
        }
    return {name: (value, "ratio") for name, value in figures.items()}


def encodings(options: argparse.Namespace) -> None:
    """The three ways of encoding a step's items, over sizes of the catalogue."""
    header = ["items", "distinct in a step", "distinct, ms", "each draw, ms", "catalogue, ms", "as chosen, ms", "fastest"]
    say(markdown(header, encoding.measure(options.batch, max(3, options.rounds // 4), options.device)))


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def say(text: str) -> None:
    """Shown at once."""
    print(text, flush=True)


def main() -> None:
    """Measure, print, and enter the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with online_retail/")
    parser.add_argument("--work", type=Path, help="folder for bundles, made where they are missing")
    parser.add_argument("--items", type=int, default=0, help="size of a made-up catalogue, in place of --data")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the training step on a CPU")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40, help="of a run of the part `ranks`")
    parser.add_argument("--examples", type=int, help="of an epoch of the part `streaming`; all by default")
    parser.add_argument("--parts", default="methods", help="of methods, streaming, ranks, encoding")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, in the precision of the towers")
    parser.add_argument("--peak-gbs", type=float, default=0.0, help="of the device's memory")
    parser.add_argument("--dry-run", action="store_true", help="enter no figures")
    options = parser.parse_args()
    wanted = options.parts.split(",")
    if not options.items and wanted != ["encoding"] and not (options.data and options.work):
        parser.error("give --data and --work, or --items")
    torch.set_num_threads(options.threads)
    inputs: dict[str, Bundle] = {}
    if options.data and options.work:
        from benchmarks.methods.data import bundles

        inputs = bundles("online_retail", options.data, options.work)
    found: Figures = {}
    if "methods" in wanted:
        found |= methods(options, inputs)
    if "streaming" in wanted:
        found |= streams(options, inputs)
    if "ranks" in wanted:
        found |= processes(options, inputs)
    if "encoding" in wanted:
        encodings(options)
    print(json.dumps({name: round(value, 3) for name, (value, _) in found.items()}, indent=1))
    if not options.dry_run and found:
        record(found, f"python -m benchmarks.train_step {' '.join(sys.argv[1:])}", FIGURES)


if __name__ == "__main__":
    main()
