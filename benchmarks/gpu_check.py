"""Prove every claim about GPUs on the machine at hand, and write a report: `make gpu-check`.

    python -m benchmarks.gpu_check                 docs/gpu-check.md and docs/gpu-check.json; ends with 3 without a GPU
    python -m benchmarks.gpu_check --device cpu --out FOLDER     rehearse the checks themselves; proves nothing about GPUs

Ends with 0 when nothing failed (what the machine lacks is skipped and said so), with 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.checks import CHECKS, Finding, Setting, Skipped

ROOT = Path(__file__).resolve().parents[1]
NO_GPU = 3
# Sizes of a device that is worth measuring, and of a rehearsal of seconds.
_LARGE = {"items": 1_000_000, "batch": 8_192, "rounds": 20}
_SMALL = {"items": 4_000, "batch": 64, "rounds": 1}


def main() -> None:
    """Run the checks, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", default=",".join(CHECKS), help="names of checks, separated by commas")
    parser.add_argument("--out", type=Path, help="folder of the report; by default docs/ for cuda")
    for name in _LARGE:
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"There is no GPU that torch {torch.__version__} can use: nothing was checked, and no report written.", file=sys.stderr)
        print("`python -m benchmarks.gpu_check --device cpu --out FOLDER` rehearses the checks without one.", file=sys.stderr)
        sys.exit(NO_GPU)
    if options.device == "cpu" and options.out is None:
        parser.error("--device cpu needs --out: a rehearsal is no report of a GPU")
    defaults = _LARGE if options.device == "cuda" else _SMALL
    setting = Setting(options.device, **{name: getattr(options, name) or default for name, default in defaults.items()})
    unknown = set(options.only.split(",")) - set(CHECKS)
    if unknown:
        parser.error(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    report = run(setting, options.only.split(","))
    out = options.out or ROOT / "docs"
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu-check.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "gpu-check.md").write_text(markdown(report))
    print(f"report: {out / 'gpu-check.md'}")
    sys.exit(1 if any(check["state"] == "failed" for check in report["checks"]) else 0)


def run(setting: Setting, names: list[str]) -> dict[str, Any]:
    """The report as plain values; each check is printed when it ends."""
    checks = []
    for name in names:
        began = time.perf_counter()
        found, state = _one(name, setting)
        checks.append({"name": name, "state": state, "text": found.text, "figures": found.figures})
        print(f"{state:<10}{name}: {found.text} ({time.perf_counter() - began:.1f} s)", flush=True)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "rehearsal": setting.device == "cpu",
        "device": _device(setting.device),
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()},
        "setting": vars(setting),
        "checks": checks,
    }


def _one(name: str, setting: Setting) -> tuple[Finding, str]:
    try:
        return CHECKS[name](setting), "rehearsed" if setting.device == "cpu" else "ok"
    except Skipped as lacking:
        return Finding(str(lacking)), "skipped"
    # Whatever a check raises is what it found; the others still run.
    except Exception as error:
        traceback.print_exc()
        return Finding(f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"), "failed"


def _device(device: str) -> str:
    if device == "cpu":
        return "no GPU: rehearsed on the CPU"
    names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return f"{len(names)} x {names[0]}" if len(set(names)) == 1 else ", ".join(names)


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people."""
    title = "# GPU check: rehearsal" if report["rehearsal"] else "# GPU check"
    lead = (
        "The checks ran on a CPU to show that they work. **This says nothing about GPUs.**"
        if report["rehearsal"]
        else f"Run on {report['date']} on {report['device']} by `make gpu-check`."
    )
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rows = [f"| {check['name']} | {check['state']} | {check['text'].replace('|', '/')} |" for check in report["checks"]]
    return "\n".join([title, "", lead, "", f"{versions}.", "", "| claim | state | what was seen |", "|---|---|---|", *rows, ""])


if __name__ == "__main__":
    main()
