"""Parts of docs/ that are made from the code and from benchmarks/figures.json whenever the site is built."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

from esans.commands import COMMANDS
from esans.config import Key, document
from esans.flow import STAGES, stage_class
from esans.negatives.registry import LOSSES, SAMPLERS, TEMPERATURES, Registry
from esans.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
_LONG = 60  # characters of a default that a table has room for


def fill(text: str) -> str:
    """The text of a page with `<!-- filled by the build: NAME -->` replaced. Raises KeyError when no part has the name."""
    return re.sub(r"<!-- filled by the build: (\w+) -->", lambda found: PARTS[found[1]](), text)


def configuration() -> str:
    """Every key of a run, a table a section."""
    sections: dict[str, list[Key]] = {}
    for key in document(Settings):
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    lines = []
    for title, keys in sections.items():
        depth = "##" if "." not in title else "###"
        lines += [f"{depth} {f'`{title}`' if title else 'At the top'}", "", *_key_table(keys, title), ""]
    return "\n".join(lines)


def samplers() -> str:
    """Keys of every sampler."""
    return _registry(SAMPLERS)


def losses() -> str:
    """Keys of every loss."""
    return _registry(LOSSES)


def temperatures() -> str:
    """Keys of every temperature."""
    return _registry(TEMPERATURES)


def commands() -> str:
    """Stages and commands with what each does."""
    rows = [(f"`esans {name}`", (stage_class(name).__doc__ or "").strip().splitlines()[0]) for name in STAGES]
    rows += [(f"`esans {name}`", about) for name, about in COMMANDS.items()]
    return "\n".join(_table(("command", "what it does"), rows))


def figures() -> str:
    """benchmarks/figures.json, a table for each family of figures."""
    known = json.loads((ROOT / "benchmarks" / "figures.json").read_text())
    lines = []
    for family, names in groupby(sorted(known), lambda name: name.partition(".")[0]):
        rows = []
        for name in names:
            entry = known[name]
            rows.append(
                (f"`{name}`", _number(entry["value"]), entry["unit"], f"`{entry['command']}`", f"{entry['machine']}, {entry['date']}")
            )
        lines += [f"## {family}", "", *_table(("figure", "value", "unit", "command", "where and when"), rows), ""]
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {part.__name__: part for part in (configuration, samplers, losses, temperatures, commands, figures)}


def _registry(registry: Registry) -> str:
    lines = []
    for name in registry.known():
        keys = document(registry.configs.get(name) or registry.find(name).Config)  # type: ignore[attr-defined]
        lines += [f"### `{registry.kind}: {name}`", "", *_key_table((key for key in keys if key.name != registry.kind), ""), ""]
    return "\n".join(lines)


def _key_table(keys: Iterable[Key], section: str) -> Iterator[str]:
    rows = []
    for key in keys:
        name = key.name.removeprefix(f"{section}.")
        default = key.default if len(key.default) <= _LONG else f"{key.default[: _LONG - 4]} ..."
        required = "PydanticUndefined" in default
        about = f"{key.help} *Changes no results.*" if key.runtime and "." in key.name else key.help
        rows.append((f"`{name}`", f"`{key.type}`", "required" if required else f"`{default}`", about))
    return _table(("key", "type", "default", "what it does"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        # A bar ends a cell, in code too.
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
