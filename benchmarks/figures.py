"""benchmarks/figures.json: every published figure, written by the command that measured it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

FIGURES = Path(__file__).with_name("figures.json")


def machine() -> str:
    """Cores, memory and processor of this machine, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {model}, no GPU"


def record(values: Mapping[str, tuple[float, str]], command: str, path: Path = FIGURES) -> None:
    """Enter figures, name -> (value, unit), under the command that measured them; other figures stay."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    for name, (value, unit) in values.items():
        known[name] = {"value": value, "unit": unit, "command": command, "machine": machine(), "date": time.strftime("%Y-%m-%d")}
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
