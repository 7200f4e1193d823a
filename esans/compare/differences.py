"""Differences in configuration: the keys of all bundles behind a run, and of these the ones that are not the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esans.bundle import Bundle
from esans.config import flatten

ABSENT = "-"


def configuration(bundle: Bundle) -> dict[str, str]:
    """Every key of a bundle and of all bundles that it was made from, by dotted name, with seeds and code versions.

    Bundles that are gone are left out: their keys show as absent.
    """
    found: dict[str, str] = {}
    for stage, source in behind(bundle).items():
        manifest = source.manifest
        values = {**manifest["config"], "code_version": manifest["code_version"]}
        if "seed" in source.facts:
            values["seed"] = source.facts["seed"]
        found |= {name: str(value) for name, value in flatten(values, f"{stage}.").items()}
    return found


def behind(bundle: Bundle) -> dict[str, Bundle]:
    """A bundle and those it was made from, by stage; a stage counts once, as the nearest bundle that names it."""
    found: dict[str, Bundle] = {}
    waiting = [bundle]
    while waiting:
        following: list[Bundle] = []
        for source in waiting:
            if source.manifest["stage"] in found:
                continue
            found[source.manifest["stage"]] = source
            uris = {name: uri for name, uri in source.manifest["inputs"].items() if name not in ("previous", "references")}
            following += [above for above in map(Bundle.find, uris.values()) if above is not None]
        waiting = following
    return found


def differing(configurations: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str | None]]]:
    """The keys whose values are not the same in all, sorted, with the values; an absent key (ABSENT) differs from any value.

    A configuration without any key of a stage says nothing about it (None): a reference was never trained, and so has no learning
    rate to differ.
    """
    stages = [{name.partition(".")[0] for name in values} for values in configurations]
    found = []
    for name in sorted({name for values in configurations for name in values}):
        stage = name.partition(".")[0]
        shown = [str(values.get(name, ABSENT)) if stage in own else None for values, own in zip(configurations, stages, strict=True)]
        if len(set(shown) - {None}) > 1:
            found.append((name, shown))
    return found
