"""The command line: `esans STAGE --config conf/X.yaml [--section.key=value ...]`, and what jobs/*.py call."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING

from esans.commands import COMMANDS
from esans.commands.arguments import parse
from esans.environment import check_pins, check_python
from esans.errors import ConfigError, EsansError
from esans.redaction import redact
from esans.spark import unreadable_file

if TYPE_CHECKING:
    from esans.launch import LaunchConfig
    from esans.stage import Stage


def run_stage(stage: type[Stage], argv: Sequence[str] | None = None) -> None:
    """Entry point of one job: parse, run the stage, and exit with 0, 1 (data or run) or 2 (configuration)."""
    _guarded(lambda: _run_stage(stage.name, (stage.__doc__ or "").strip().splitlines()[0], _arguments(argv)))


def run_command(name: str, argv: Sequence[str] | None = None) -> None:
    """Entry point of a job that is no stage, such as jobs/pipeline.py: the command of that name."""
    _guarded(lambda: _run_command(name, _arguments(argv)))


def main(argv: Sequence[str] | None = None) -> None:
    """The `esans` command: its first argument is a stage or one of esans/commands."""
    arguments = _arguments(argv)
    _guarded(lambda: _dispatch(arguments))


def _arguments(argv: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if argv is None else argv)


def _dispatch(arguments: list[str]) -> None:
    from esans.flow import STAGES

    command = arguments[0] if arguments else "--help"
    if command in STAGES:
        from esans.flow import stage_class

        _run_stage(command, (stage_class(command).__doc__ or "").strip().splitlines()[0], arguments[1:])
    elif command in COMMANDS:
        _run_command(command, arguments[1:])
    elif command in ("--help", "-h", "help"):
        print("usage: esans COMMAND [--config FILE.yaml ...] [--section.key=value ...]\n\ncommands:")
        for name in STAGES:
            print(f"  {name:<10} the {name} stage alone")
        for name, about in COMMANDS.items():
            print(f"  {name:<10} {about}")
        print("\n`esans COMMAND --help` lists every key.")
    else:
        raise ConfigError(f"unknown command {command!r}. Known: {', '.join([*STAGES, *COMMANDS])}.")


def _run_command(name: str, arguments: list[str]) -> None:
    import_module(f"esans.commands.{name}").run(arguments)


def _run_stage(name: str, about: str, arguments: list[str]) -> None:
    source = parse(arguments, f"esans {name}", about)
    if source is None:
        return
    settings = source.load()
    check_pins()
    from esans.flow import Plan
    from esans.flow import run_stage as run

    starting: dict[str, LaunchConfig] = {
        "align": settings.align.launch,
        "train": settings.train.launch,
        "evaluate": settings.evaluate.launch,
    }
    if name not in starting:
        run(Plan(settings), name)
        return
    from esans.launch import follow_if_not_leader, release_followers

    if not follow_if_not_leader(starting[name]):
        try:
            run(Plan(settings), name)
        finally:
            release_followers(starting[name])


def _print_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # A traceback shows what a library was given, URIs with their passwords included.
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


class _Terminated(KeyboardInterrupt):
    """A scheduler's polite kill: handled like Ctrl-C, so that runs are closed as KILLED and not left RUNNING for ever."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _guarded(work: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, _terminate)
    sys.excepthook = _print_redacted
    try:
        check_python()
        work()
    except EsansError as error:
        kind = "config error" if isinstance(error, ConfigError) else "error"
        for line in redact(str(error)).splitlines():
            print(f"{kind}: {line}" if not line.startswith(" ") else line, file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        file = unreadable_file(error)
        if file is None:
            raise
        cure = "Bring the file back; where it belongs to a bundle, remove that bundle's manifest.json and run its stage again."
        print(f"error: cannot read {redact(file)}: it is corrupt or cut short. {cure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        sys.exit(143 if isinstance(stop, _Terminated) else 130)


if __name__ == "__main__":
    main()
