"""What must be the same for the numbers of one bundle to mean the same in a later one: id maps, and spaces of vectors and codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esans.columns import MODALITIES

if TYPE_CHECKING:
    from esans.bundle import Bundle

SIDE = "side"


def space_of(align: Bundle) -> str:
    """A name of the aligned space: bundles with frozen heads share that of the bundle that trained them."""
    return str(align.facts.get("space") or align.manifest["fingerprint"])


def feature_spaces(features: Bundle) -> dict[str, str]:
    """A name of the space of each modality's vectors, and of the codes of the side columns (`side`).

    Where the bundle does not tell, everything in it is taken for its own.
    """
    known: Mapping[str, str] = features.facts.get("spaces", {})
    names = [*(name for name in MODALITIES if name in features.facts.get("modalities", {})), SIDE]
    return {name: str(known.get(name, features.manifest["fingerprint"])) for name in names}


def id_map_of(prepare: Bundle) -> dict[str, Any] | None:
    """Sizes and digests of the id maps of a prepare bundle; None where it was written before they were recorded."""
    found = prepare.facts.get("id_maps")
    return dict(found[-1]) if found else None


def grew_from(prepare: Bundle, id_map: Mapping[str, Any]) -> bool:
    """Whether rows of those id maps are the same items and users in `prepare`, which may have more."""
    return dict(id_map) in [dict(known) for known in prepare.facts.get("id_maps", [])]
