"""Samplers, losses and temperatures by name: a new one is one file in this folder or a class on the path, and touches no other."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from esans.config import build, to_dict
from esans.errors import ConfigError
from esans.negatives import config, config_global, config_scored, config_shards
from esans.negatives.config_loss import LOSS_CONFIGS, TEMPERATURE_CONFIGS

if TYPE_CHECKING:
    from esans.negatives.base import Sampler
    from esans.negatives.loss import Loss
    from esans.negatives.tables import Catalogue
    from esans.negatives.temperature import Temperature


@dataclass(frozen=True)
class Registry:
    """Classes of one kind by name: those in esans/negatives, found by their text, and `package.module:Class` from outside."""

    kind: str
    """What a config calls it: the key that holds the name."""
    section: str
    """Where in the config it stands."""
    base: tuple[str, str]
    """Module and name of the base class."""
    configs: Mapping[str, type]
    """Configs that stand apart from their torch modules, by name."""

    @cached_property
    def places(self) -> dict[str, str]:
        """`module:Class` by name. Read from the text of the files: naming a class must not cost an import of torch."""
        family, found = {self.base[1]}, dict[str, str]()
        while True:
            fresh = {name: place for name, place in self._defined(family).items() if name not in found}
            if not fresh:
                return found
            found |= fresh
            family |= {place.partition(":")[2] for place in fresh.values()}

    def _defined(self, bases: Collection[str]) -> dict[str, str]:
        """Classes whose text names one of `bases` as what they derive from."""
        import esans.negatives as package

        defines = re.compile(rf"^class (\w+)\((?:{'|'.join(sorted(bases))})\):", re.MULTILINE)
        found = {}
        for folder in package.__path__:
            for module in iter_modules([folder]):
                file = Path(folder) / f"{module.name}.py"
                for name in defines.findall(file.read_text()) if file.is_file() else ():
                    # One class in a file of its own goes by the file's name; beside the base class, by its own.
                    own = f"esans.negatives.{module.name}" != self.base[0]
                    found[module.name if own else name.lower()] = f"esans.negatives.{module.name}:{name}"
        return found

    def known(self) -> list[str]:
        """Names that need no package path."""
        return sorted({*self.configs, *self.places})

    def find(self, name: str) -> type:
        """The class called `name`. Raises ConfigError listing what is known."""
        module_name, _, class_name = self._place(name).partition(":")
        try:
            found = getattr(import_module(module_name), class_name)
            base = getattr(import_module(self.base[0]), self.base[1])
        except (ImportError, AttributeError) as error:
            cure = " Is its folder on PYTHONPATH, here and where training runs?" if isinstance(error, ModuleNotFoundError) else ""
            raise ConfigError(f"{self.section}: cannot load {self.kind} {name!r}: {error}.{cure}") from None
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ConfigError(f"{self.section}: {name!r} is not a subclass of {'.'.join(self.base)}.")
        return found

    def _place(self, name: str) -> str:
        if ":" in name:
            return name
        if name not in self.places:
            raise ConfigError(f"{self.section}: unknown {self.kind} {name!r}. Known: {', '.join(self.known())}; or package.module:Class.")
        return self.places[name]

    def resolve(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Keys with every default filled in. Raises ConfigError naming `where` and the key."""
        if self.kind not in values:
            raise ConfigError(f"{where}: needs the key {self.kind!r}. Known: {', '.join(self.known())}.")
        name = str(values[self.kind])
        # torch is loaded only for a class that brings its own Config.
        cls = self.configs.get(name) or self.find(name).Config  # type: ignore[attr-defined]
        resolved: dict[str, Any] = to_dict(build(cls, values, where))
        return resolved

    def build(self, values: Mapping[str, Any], where: str, catalogue: Catalogue) -> Any:
        """The module that resolved keys describe, on the CPU."""
        cls: Any = self.find(str(values[self.kind]))
        return cls(build(cls.Config, values, where), catalogue)


CONFIGS = config.CONFIGS | config_global.CONFIGS | config_scored.CONFIGS | config_shards.CONFIGS

SAMPLERS = Registry("sampler", "train.negatives", ("esans.negatives.base", "Sampler"), CONFIGS)
LOSSES = Registry("loss", "train.loss", ("esans.negatives.loss", "Loss"), LOSS_CONFIGS)
TEMPERATURES = Registry("temperature", "train.temperature", ("esans.negatives.temperature", "Temperature"), TEMPERATURE_CONFIGS)


def known_samplers() -> list[str]:
    """Names of the samplers that live in esans/negatives."""
    return SAMPLERS.known()


def sampler_class(name: str) -> type[Sampler]:
    """The sampler called `name`. Raises ConfigError listing what is known."""
    return SAMPLERS.find(name)


def resolve(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups of the config with every default filled in. Raises ConfigError naming train.negatives.<place>.<key>."""
    return [SAMPLERS.resolve(group, f"train.negatives.{place}") for place, group in enumerate(groups)]


def columns(groups: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Columns of the shards that the samplers of resolved groups read beside those of every example."""
    wanted: dict[str, None] = {}
    for place, group in enumerate(groups):
        cls = sampler_class(str(group["sampler"]))
        wanted |= dict.fromkeys(cls.columns(build(cls.Config, group, f"train.negatives.{place}")))
    return tuple(wanted)


def build_samplers(groups: Sequence[Mapping[str, Any]], catalogue: Catalogue) -> list[Sampler]:
    """Samplers of resolved groups, on the CPU."""
    return [SAMPLERS.build(group, f"train.negatives.{place}", catalogue) for place, group in enumerate(groups)]


def build_loss(values: Mapping[str, Any], catalogue: Catalogue) -> Loss:
    """The loss of resolved keys, on the CPU."""
    loss: Loss = LOSSES.build(values, "train.loss", catalogue)
    return loss


def build_temperature(values: Mapping[str, Any], catalogue: Catalogue) -> Temperature:
    """The temperature of resolved keys, on the CPU."""
    temperature: Temperature = TEMPERATURES.build(values, "train.temperature", catalogue)
    return temperature
