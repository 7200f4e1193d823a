"""The arguments that every configured command takes: --config, overrides, --print_config and --help."""

from __future__ import annotations

import yaml
from rich.console import Console

from esans.config import Key, document, to_dict
from esans.errors import ConfigError
from esans.negatives.registry import CONFIGS
from esans.redaction import redact_values
from esans.settings import Settings, Source

_USAGE = """usage: {program} [--config FILE.yaml ...] [--section.key=value ...] [--print_config] [--help]

{about}

  --config FILE      YAML file; given twice, the later one wins key by key
  --section.key=V    overrides one key; V is read as YAML
  --print_config     print the configuration that would run, and stop
  --help             print this and every key with its type, default and unit

Keys:"""


def parse(arguments: list[str], program: str, about: str) -> Source | None:
    """What the settings are read from; None where `--help` or `--print_config` was all that was wanted.

    Raises:
        ConfigError: an argument cannot be read.
    """
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
        print(yaml.safe_dump(redact_values(to_dict(source.load())), sort_keys=False, allow_unicode=True), end="")
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
