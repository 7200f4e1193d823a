"""`esans compare`: evaluated runs side by side, tested against one of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from esans.errors import ConfigError
from esans.settings import Source

if TYPE_CHECKING:
    from esans.compare.results import Comparison
    from esans.settings import Settings

_ABOUT = """Evaluated runs side by side: metrics with intervals, paired p-values against the first run or --baseline, slices,
pictures, and the configuration keys that differ.

RUN is an MLflow run id, a run name (the newest finished run of that name), or the URI of an evaluate or references bundle.
A pipeline run stands for the evaluations of its methods, a train run for the evaluation of its model."""


def run(arguments: list[str]) -> None:
    """Compare, print, write the page, and keep all of it in an MLflow run."""
    options, overrides = _parser().parse_known_intermixed_args(arguments)
    if not options.runs and options.experiment is None and options.filter is None:
        raise ConfigError("name two runs or more, or --experiment NAME with --filter: see `esans compare --help`.")
    settings = Source(tuple(options.config), tuple(overrides)).load()

    from esans.compare.results import compare
    from esans.compare.runs import Finder, collect
    from esans.tracking import connect, resolve_uri

    experiment = options.experiment or settings.tracking.experiment
    finder = Finder(connect(resolve_uri(settings.tracking, settings.work_dir)), experiment)
    searched = None if options.runs and options.filter is None else options.filter or ""
    entries = collect(finder, options.runs, searched, options.baseline)
    wanted = [metric.strip() for metric in options.metrics.split(",") if metric.strip()]
    comparison = compare(entries, options.split, wanted, common_only=options.common_users, resamples=options.resamples, seed=settings.seed)
    _show(comparison, settings, experiment, options)


def _show(comparison: Comparison, settings: Settings, experiment: str, options: argparse.Namespace) -> None:
    from esans.compare.page import page
    from esans.compare.terminal import tables
    from esans.progress import console, say
    from esans.uri import canonical, join, write_text

    shown = list(tables(comparison))
    for table in shown:
        console.print(table, soft_wrap=False)
    for note in comparison.notes:
        say(note)
    path = canonical(options.out) if options.out else join(canonical(settings.work_dir), "reports", "compare.html")
    text = page(comparison)
    write_text(path, text)
    say(f"page:    {path.removeprefix('file://')}")
    if options.no_log:
        return
    from esans.config import to_dict
    from esans.tracking import TrackingConfig, start_run

    tracking = TrackingConfig(**{**to_dict(settings.tracking), "experiment": experiment, "system_metrics": False})
    with start_run(tracking, settings.work_dir, "compare") as run:
        run.tag(kind="compare", baseline=comparison.names[0], runs=", ".join(comparison.names), split=comparison.split)
        run.text(text, "comparison.html")
        run.text(json.dumps(comparison.as_dict(), indent=1), "comparison.json")
        run.text(_plain_text(shown, comparison.notes), "comparison.txt")
    say(f"run:     {run.run_id} in experiment {experiment}")


def _plain_text(shown: Sequence[object], notes: Sequence[str]) -> str:
    import io

    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=80).print(*shown, *notes, sep="\n", markup=False)
    return stream.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="esans compare",
        usage="esans compare RUN RUN... [options] [--section.key=value ...]",
        description=_ABOUT,
        epilog="--work_dir=DIR, --tracking.uri=URI and other keys of the configuration say whose MLflow store is asked.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="run id, run name or bundle URI")
    add("--experiment", metavar="NAME", help="MLflow experiment of run names and --filter (default: tracking.experiment)")
    add(
        "--filter",
        metavar="TEXT",
        help="add all evaluations of the experiment that pass this MLflow filter, e.g. \"tags.method = 'esans'\"",
    )
    add("--baseline", metavar="RUN", help="what the others are tested against: a shown name, a method, or a run (default: the first)")
    add("--split", default="test", choices=("test", "validation"), help="users of which split (default: test)")
    add(
        "--metrics",
        default="",
        metavar="A,B",
        help="e.g. recall@50,mrr (default: recall@10, @50, @200, ndcg@50 and mrr, as far as all have them)",
    )
    add("--common-users", action="store_true", help="where runs tested different users, compare those that all of them tested")
    add("--resamples", type=_at_least_100, default=10_000, metavar="N", help="draws of each bootstrap, at least 100 (default: 10000)")
    add("--out", metavar="FILE", help="where the HTML page goes (default: WORK_DIR/reports/compare.html)")
    add("--no-log", action="store_true", help="keep nothing in MLflow")
    add("--config", action="append", default=[], metavar="FILE", help="YAML file, for work_dir and tracking")
    return parser


def _at_least_100(text: str) -> int:
    number = int(text)
    if number < 100:
        raise argparse.ArgumentTypeError("must be at least 100")
    return number
