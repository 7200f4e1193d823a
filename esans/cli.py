"""The command line: `esans STAGE --config conf/X.yaml [--section.key=value ...]`, and what jobs/*.py call."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from esans.config import Key, document, to_dict
from esans.environment import check_pins, check_python
from esans.errors import ConfigError, EsansError
from esans.negatives.registry import CONFIGS
from esans.settings import Settings, Source
from esans.spark import unreadable_file

if TYPE_CHECKING:
    from esans.stage import Stage

_USAGE = """usage: {program} [--config FILE.yaml ...] [--section.key=value ...] [--print_config] [--help]

{about}

  --config FILE      YAML file; given twice, the later one wins key by key
  --section.key=V    overrides one key; V is read as YAML
  --print_config     print the configuration that would run, and stop
  --help             print this and every key with its type, default and unit

Keys:"""


def run_stage(stage: type[Stage], argv: Sequence[str] | None = None) -> None:
    """Entry point of one job: parse, run the stage, and exit with 0, 1 (data or run) or 2 (configuration)."""
    _guarded(lambda: _run_stage(stage.name, (stage.__doc__ or "").strip().splitlines()[0], _arguments(argv)))


def run_pipeline(argv: Sequence[str] | None = None) -> None:
    """Entry point of jobs/pipeline.py: every stage in order, skipping what is up to date."""
    _guarded(lambda: _run_pipeline(_arguments(argv)))


def main(argv: Sequence[str] | None = None) -> None:
    """The `esans` command: its first argument is a stage, `pipeline`, `validate` or `deliver`."""
    arguments = _arguments(argv)
    _guarded(lambda: _dispatch(arguments))


def _arguments(argv: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if argv is None else argv)


def _dispatch(arguments: list[str]) -> None:
    from esans.flow import STAGES

    commands = {
        "pipeline": "every stage in order, skipping what is up to date",
        "validate": "check both raw tables and print a report",
        "deliver": "send MLflow what it could not be sent before: esans deliver WORK_DIR",
    }
    command = arguments[0] if arguments else "--help"
    if command in STAGES:
        from esans.flow import stage_class

        _run_stage(command, (stage_class(command).__doc__ or "").strip().splitlines()[0], arguments[1:])
    elif command == "pipeline":
        _run_pipeline(arguments[1:])
    elif command == "validate":
        _run_validate(arguments[1:])
    elif command == "deliver":
        _run_deliver(arguments[1:])
    elif command in ("--help", "-h", "help"):
        print("usage: esans COMMAND [--config FILE.yaml ...] [--section.key=value ...]\n\ncommands:")
        for name in STAGES:
            print(f"  {name:<10} the {name} stage alone")
        for name, about in commands.items():
            print(f"  {name:<10} {about}")
        print("\n`esans COMMAND --help` lists every key.")
    else:
        raise ConfigError(f"unknown command {command!r}. Known: {', '.join([*STAGES, *commands])}.")


def _run_stage(name: str, about: str, arguments: list[str]) -> None:
    source = _parse(arguments, f"esans {name}", about)
    if source is None:
        return
    settings = source.load()
    check_pins()
    from esans.flow import Plan
    from esans.flow import run_stage as run

    starting = {"align": settings.align.launch, "train": settings.train.launch}
    if name not in starting:
        run(Plan(settings), name)
        return
    from esans.launch import follow_if_not_leader, release_followers

    if not follow_if_not_leader(starting[name]):
        try:
            run(Plan(settings), name)
        finally:
            release_followers(starting[name])


def _run_pipeline(arguments: list[str]) -> None:
    source = _parse(arguments, "esans pipeline", "Every stage in order, skipping what is up to date.")
    if source is None:
        return
    # A mistake in the last method shows now, and not after the first ones were trained.
    for method in source.load().pipeline.methods:
        source.load(method)
    check_pins()
    from esans.pipeline import run

    run(source)


def _run_validate(arguments: list[str]) -> None:
    source = _parse(arguments, "esans validate", "Check both raw tables against their contract and print a report; writes nothing.")
    if source is None:
        return
    settings = source.load()
    check_pins()
    from esans.prepare.validate import print_report

    print_report(settings.prepare, settings.spark)


def _run_deliver(arguments: list[str]) -> None:
    from esans.delivery import deliver_left
    from esans.outbox import root_of
    from esans.tracking import TrackingError

    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise ConfigError("usage: esans deliver WORK_DIR, the folder of the runs (work_dir of their configuration)")
    root = root_of(arguments[0])
    failed = deliver_left(root)
    if failed:
        raise TrackingError("\n".join(failed))
    print(f"nothing waits in {root}")


def _parse(arguments: list[str], program: str, about: str) -> Source | None:
    files: list[str] = []
    overrides: list[str] = []
    print_config = False
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--help", "-h"):
            _print_help(program, about)
            return None
        if argument == "--print_config":
            print_config = True
        elif argument == "--config":
            value = next(rest, None)
            if value is None:
                raise ConfigError("--config needs a file: --config conf/quickstart.yaml")
            files.append(value)
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            overrides.append(argument)
    source = Source(tuple(files), tuple(overrides))
    if print_config:
        print(yaml.safe_dump(to_dict(source.load()), sort_keys=False, allow_unicode=True), end="")
        return None
    return source


def _print_help(program: str, about: str) -> None:
    console = Console(highlight=False)
    console.print(_USAGE.format(program=program, about=about), markup=False)
    for key in document(Settings):
        _print_key(console, f"--{key.name}", key)
    console.print("\nKeys of the groups in --train.negatives, by sampler:", markup=False)
    for name, sampler in CONFIGS.items():
        for key in document(sampler):
            if key.name != "sampler":
                _print_key(console, f"{name}: {key.name}", key)


def _print_key(console: Console, shown: str, key: Key) -> None:
    console.print(f"  {shown}", style="bold", end="", markup=False)
    console.print(f"  {key.type} = {key.default}", markup=False, style="dim")
    console.print(f"      {key.help}", markup=False)


class _Terminated(KeyboardInterrupt):
    """A scheduler's polite kill: handled like Ctrl-C, so that runs are closed as KILLED and not left RUNNING for ever."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _guarded(work: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, _terminate)
    try:
        check_python()
        work()
    except EsansError as error:
        kind = "config error" if isinstance(error, ConfigError) else "error"
        for line in str(error).splitlines():
            print(f"{kind}: {line}" if not line.startswith(" ") else line, file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        file = unreadable_file(error)
        if file is None:
            raise
        cure = "Bring the file back; where it belongs to a bundle, remove that bundle's manifest.json and run its stage again."
        print(f"error: cannot read {file}: it is corrupt or cut short. {cure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        sys.exit(143 if isinstance(stop, _Terminated) else 130)


if __name__ == "__main__":
    main()
