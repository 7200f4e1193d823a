"""`esans plan`: what data of a size take: disk, memory, executors, hours, money, and what stops fitting first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from esans.commands.arguments import parse
from esans.errors import ConfigError

_ABOUT = """What data of a size take under a configuration, before any of it exists: bytes of every bundle, executors, memory of a
training rank, steps, hours, price, and what stops fitting first. docs/planning.md says how it is counted and how far off it was.

  --users=N --items=N --interactions=N     sizes of the raw tables (1e8 is read as well); required
  --gpus=N               GPUs that train, one process each (0: the CPU)
  --text-dim=N --image-dim=N               floats of a text (384) and an image vector (0: none)
  --examples-per-interaction=N             share of the interactions that become training examples, where you have counted it: about
                         the distinct pairs of user and item; by default what the made-up tables had
  --cores=N              cores of Spark's executors together; by default as many as end within --spark-hours (4)
  --gpu-memory-gb=N      of one GPU (80), or of a training process where there is none
  --host-memory-gb=N     of a training host (1000)      --gpus-per-host=N   (8)
  --driver-memory-gb=N   of the host that runs evaluate and export (128)
  --disk-gb=N            of the work directory; not judged without
  --gpu-price=N --core-price=N             an hour (2.5 and 0.05)
  --examples-per-second=N                  of one GPU, as `make gpu-check` measured it on yours
  --constants=FILE       another file than esans/plan/constants.json
  --json                 everything, for machines"""
_REQUIRED = ("users", "items", "interactions")
_DEFAULTS: Mapping[str, float | None] = {
    "gpus": 0,
    "text-dim": 384,
    "image-dim": 0,
    "cores": None,
    "spark-hours": 4,
    "gpu-memory-gb": 80,
    "host-memory-gb": 1000,
    "gpus-per-host": 8,
    "driver-memory-gb": 128,
    "disk-gb": None,
    "gpu-price": 2.5,
    "core-price": 0.05,
    "examples-per-second": None,
    "examples-per-interaction": None,
}
_GB = 1e9


@dataclass(frozen=True)
class Options:
    """What the command line says beside the configuration."""

    numbers: Mapping[str, float | None]
    constants: str | None
    json: bool

    def of(self, name: str) -> float:
        """A number that is set."""
        value = self.numbers[name]
        assert value is not None
        return value


def run(arguments: list[str]) -> None:
    """Print the plan."""
    options, rest = read(arguments)
    source = parse(rest, "esans plan", _ABOUT)
    if source is None:
        return
    missing = [name for name in _REQUIRED if options.numbers.get(name) is None]
    if missing:
        raise ConfigError(f"esans plan needs {', '.join(f'--{name}=N' for name in missing)}; see esans plan --help.")
    settings = source.load()
    from esans.plan import constants as known
    from esans.plan.duration import Machines
    from esans.plan.forecast import Prices, cores_for, forecast
    from esans.plan.memory import Room
    from esans.plan.show import show
    from esans.plan.sizes import negatives_of, sizes_of

    found = known.load(Path(options.constants) if options.constants else known.FILE)
    if share := options.numbers["examples-per-interaction"]:
        found = known.with_examples(found, share)
    gpus, methods = int(options.of("gpus")), settings.pipeline.methods
    sizes = sizes_of(
        settings,
        options.of("users"),
        options.of("items"),
        options.of("interactions"),
        int(options.of("text-dim")),
        int(options.of("image-dim")),
        gpus or None,
        sum(negatives_of(source.load(method)) for method in methods) / len(methods) if methods else None,
    )
    cores = options.numbers["cores"] or cores_for(options.of("spark-hours"), sizes, found)
    machines = Machines(int(cores), gpus, options.numbers["examples-per-second"])
    disk = options.numbers["disk-gb"]
    room = Room(
        device=options.of("gpu-memory-gb") * _GB,
        host=options.of("host-memory-gb") * _GB,
        driver=options.of("driver-memory-gb") * _GB,
        disk=disk * _GB if disk else None,
        ranks_per_host=min(int(options.of("gpus-per-host")), sizes.processes),
    )
    plan = forecast(sizes, found, machines, room, Prices(options.of("gpu-price"), options.of("core-price")))
    if options.json:
        print(json.dumps(plan, indent=1))
    else:
        show(plan, machines)


def read(arguments: list[str]) -> tuple[Options, list[str]]:
    """The command's own options, `--name=value` or `--name value`, and what is left for the configuration.

    Raises:
        ConfigError: a value is no number above 0.
    """
    numbers: dict[str, float | None] = dict(_DEFAULTS)
    constants, as_json, rest = None, False, []
    left = iter(arguments)
    for argument in left:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument == "--json":
            as_json = True
        elif argument.startswith("--") and name in (*_REQUIRED, *_DEFAULTS, "constants"):
            value = value if equals else next(left, "")
            if name == "constants":
                constants = value
            else:
                numbers[name] = _number(name, value)
        else:
            rest.append(argument)
    return Options(numbers, constants, as_json), rest


def _number(name: str, text: str) -> float:
    try:
        value = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        raise ConfigError(f"--{name}={text}: must be a number, such as 1e8.") from None
    least = 1 if name in _REQUIRED else 0
    if not least <= value < float("inf"):
        raise ConfigError(f"--{name}={text}: must be a number of at least {least}.")
    return value
