"""`esans doctor`: what this machine has, what is wrong with it, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from esans.commands.arguments import parse
from esans.doctor.line import Line
from esans.errors import ConfigError
from esans.progress import console
from esans.redaction import redact
from esans.settings import Settings

_ABOUT = """What this machine has, what is wrong with it, and what to do. Ends with 1 where a line fails.

  --spark            also start a Spark session under this configuration (some seconds)
  --need-gb=N        disk space that work_dir must have, in GB (5); `esans plan` says how much your data take
  --json             the lines for machines"""
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def run(arguments: list[str]) -> None:
    """Look at everything, print a line each, and exit with 1 where one fails."""
    flags = {name: f"--{name}" in arguments for name in ("spark", "json")}
    need = [argument for argument in arguments if argument.startswith("--need-gb")]
    rest = [argument for argument in arguments if argument not in ("--spark", "--json", *need)]
    source = parse(rest, "esans doctor", _ABOUT)
    if source is None:
        return
    lines = []
    for line in examine(source.load(), _gigabytes(need), flags["spark"]):
        lines.append(line)
        if not flags["json"]:
            _print(line)
    if flags["json"]:
        from esans.doctor.services import as_json

        print(redact(as_json(lines)))
    if any(line.state == "fail" for line in lines):
        sys.exit(1)


def examine(settings: Settings, need_gb: float | None = None, start_spark: bool = False) -> Iterator[Line]:
    """Every line in order, each as soon as it is known."""
    from esans.doctor import accelerators, machine, services

    yield machine.python()
    yield machine.pins()
    yield machine.java()
    yield services.spark(settings.spark, start_spark)
    yield from accelerators.gpus(settings.train.launch)
    yield accelerators.faiss(accelerators.count())
    yield machine.memory(settings.spark.driver_memory)
    yield from machine.work_dir(settings.work_dir, machine.NEED_GB if need_gb is None else need_gb)
    yield services.mlflow(settings.tracking, settings.work_dir)
    yield machine.extras()


def _gigabytes(given: list[str]) -> float | None:
    if not given:
        return None
    text = given[-1].partition("=")[2]
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--need-gb={text}: must be a number of GB, such as --need-gb=50.") from None


def _print(line: Line) -> None:
    console.print(f"{line.state:<5}", style=_STYLES[line.state], end="")
    console.print(f" {line.name:<9} {redact(line.found)}", markup=False)
    if line.cure:
        console.print(f"                -> {redact(line.cure)}", markup=False)
