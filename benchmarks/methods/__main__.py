"""The methods experiment: every method tuned alike on validation, its seeds on the test split, and the page that compares them.

python -m benchmarks.methods --data ../shared/data --trials 10 --seeds 5                    everything that is not measured yet
python -m benchmarks.methods --data ../shared/data --only movielens/esans,movielens/uniform  some cells
python -m benchmarks.methods --steps report                                                 the page and the figures alone

It may be stopped at any moment and goes on where it was: --work holds the bundles and the MLflow store, --store what was measured.
Each of --jobs processes has one thread. The protocol is docs/protocol.md; the page is docs/results.md.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.methods.work import run

HERE = Path(__file__).parent
STEPS = ("references", "seeds", "controls", "ablations", "encodings", "longer", "report")


def main() -> None:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that holds movielens, online_retail, amazon_beauty"
    )
    parser.add_argument("--trials", type=int, default=10, help="settings tried of each method, its defaults among them")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each winner on the test split")
    parser.add_argument("--work", type=Path, default=Path("work/methods"), help="folder for bundles and the MLflow store")
    parser.add_argument("--store", type=Path, default=HERE / "runs", help="folder of what was measured")
    parser.add_argument("--only", default="", help="DATASET/METHOD, comma separated, in this order; by default all")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"which of {', '.join(STEPS)}")
    parser.add_argument("--ablation-seeds", type=int, default=2, help="seeds of each ablation and control")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes, one thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing new after so many minutes")
    arguments = parser.parse_args()
    run(arguments)
    if "report" not in arguments.steps.split(","):
        return
    from benchmarks.methods import report
    from benchmarks.methods.collect import Results
    from benchmarks.methods.store import Store
    from esans.progress import say

    store = Store(arguments.store)
    report.write(store)
    missing = Results(store).missing()
    if missing:
        say(f"docs/results.md is written; {len(missing)} cells are not run: benchmarks/figures.json waits until none is missing")
    else:
        report.record(store, arguments.trials, arguments.seeds)


if __name__ == "__main__":
    main()
