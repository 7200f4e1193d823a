"""Samplers by name: a new one is one file in this folder, or a class anywhere on the path, and touches no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from esans.config import build, to_dict
from esans.errors import ConfigError
from esans.negatives.config import CONFIGS, SamplerConfig

_DEFINES = re.compile(r"^class \w+\(Sampler\):", re.MULTILINE)

if TYPE_CHECKING:
    from esans.negatives.base import Sampler
    from esans.negatives.tables import Catalogue


def sampler_class(name: str) -> type[Sampler]:
    """The sampler called `name` (a file in esans/negatives) or `package.module:Class`. Raises ConfigError listing what is known."""
    module_name, _, class_name = name.partition(":")
    if class_name:
        try:
            found = getattr(import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"train.negatives: cannot load sampler {name!r}: {error}.") from None
        return _checked(found, name)
    if name not in _module_names():
        raise ConfigError(f"train.negatives: unknown sampler {name!r}. Known: {', '.join(known_samplers())}; or package.module:Class.")
    from esans.negatives.base import Sampler

    module = import_module(f"esans.negatives.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Sampler) and value.__module__ == module.__name__:
            return value
    raise ConfigError(f"train.negatives: unknown sampler {name!r}. Known: {', '.join(known_samplers())}; or package.module:Class.")


def _checked(found: Any, name: str) -> type[Sampler]:
    from esans.negatives.base import Sampler

    if not (isinstance(found, type) and issubclass(found, Sampler)):
        raise ConfigError(f"train.negatives: {name!r} is not a subclass of esans.negatives.base.Sampler.")
    return found


def _module_names() -> list[str]:
    import esans.negatives as package

    return [module.name for module in iter_modules(package.__path__)]


def known_samplers() -> list[str]:
    """Names of the samplers that live in esans/negatives, found by their text: naming them must not cost an import of torch."""
    import esans.negatives as package

    files = {module.name: Path(folder) / f"{module.name}.py" for folder in package.__path__ for module in iter_modules([folder])}
    return sorted({*CONFIGS, *(name for name, file in files.items() if file.is_file() and _DEFINES.search(file.read_text()))})


def config_class(name: str) -> type[SamplerConfig]:
    """The Config of a sampler; torch is loaded only for one that brings its own. Raises ConfigError as `sampler_class` does."""
    return CONFIGS.get(name) or sampler_class(name).Config


def resolve(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups of the config with every default filled in. Raises ConfigError naming train.negatives.<place>.<key>."""
    resolved = []
    for place, group in enumerate(groups):
        if "sampler" not in group:
            raise ConfigError(f"train.negatives.{place}: needs the key 'sampler'. Known: {', '.join(known_samplers())}.")
        cls = config_class(str(group["sampler"]))
        resolved.append(to_dict(build(cls, group, f"train.negatives.{place}")))
    return resolved


def build_samplers(groups: Sequence[Mapping[str, Any]], catalogue: Catalogue) -> list[Sampler]:
    """Samplers of resolved groups, on the CPU."""
    samplers = []
    for place, group in enumerate(groups):
        cls = sampler_class(str(group["sampler"]))
        samplers.append(cls(build(cls.Config, group, f"train.negatives.{place}"), catalogue))
    return samplers
