"""Time and score `make quickstart` as a newcomer meets it: from a fresh clone, with nothing installed.

python -m benchmarks.quickstart            clone, cold run, second run, basket completion; writes benchmarks/figures.json
python -m benchmarks.quickstart --here     score the finished quickstart in ./work only; no timings
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import record

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m benchmarks.quickstart"
BASKETS = "jobs/pipeline.py --config conf/quickstart.yaml --config conf/basket_completion.yaml --pipeline.name=basket_completion"
# Names in the report -> names of the figures.
METHODS = {"uniform": "uniform", "mixed": "mixed", "esans": "esans", "item-kNN": "itemknn", "popularity": "popularity"}


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="score the finished quickstart in ./work instead of cloning")
    arguments = parser.parse_args()
    if arguments.here:
        score(ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "esans"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        cold = timed(["make", "quickstart"], clone)
        again = timed(["make", "quickstart"], clone)
        record({"quickstart.seconds_cold": (cold, "s"), "quickstart.seconds_uptodate": (again, "s")}, COMMAND)
        timed([str(clone / ".venv/bin/python"), *BASKETS.split()], clone)
        score(clone)


def timed(command: list[str], folder: Path) -> float:
    """Wall seconds of a command without the virtual environment of this process. Raises when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
    environment["PATH"] = os.pathsep.join(part for part in environment["PATH"].split(os.pathsep) if not part.startswith(sys.prefix))
    environment["PIP_NO_CACHE_DIR"] = "1"
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    seconds = round(time.perf_counter() - started, 1)
    print(f"{' '.join(command)}: {seconds} s", flush=True)
    return seconds


def score(folder: Path) -> None:
    """Enter Recall@50 of the reports that lie in a clone."""
    figures = {f"quickstart.recall50.{METHODS[name]}": (row["recall@50"], "recall") for name, row in report(folder, "quickstart").items()}
    baskets = report(folder, "basket_completion")
    figures |= {f"quickstart.basket_completion.recall50.{METHODS[name]}": (row["recall@50"], "recall") for name, row in baskets.items()}
    record(figures, COMMAND)
    for name, (value, _) in sorted(figures.items()):
        print(f"{name} = {value:.4f}")


def report(folder: Path, name: str) -> dict[str, dict[str, float]]:
    """The machine-readable table of one pipeline; empty when it has not run."""
    path = folder / "work" / "reports" / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


if __name__ == "__main__":
    main()
