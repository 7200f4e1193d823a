"""What every method of the experiment shares (protocol.yaml). No torch: the page is made from it too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PROTOCOL: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("protocol.yaml").read_text())


def wall_epochs(dataset: str) -> float:
    """Epochs of `uniform` whose time bounds the comparison at equal wall time."""
    return float(PROTOCOL["wall_share"] * PROTOCOL["epochs"][dataset])


def epochs_paid(cost: Mapping[str, Any]) -> float:
    """Epochs that this time pays for at the cost of a step, a row of phase `cost`.

    `uniform` is paid its own: measured against itself it would gain or lose an epoch by noise.
    """
    own = wall_epochs(cost["dataset"])
    return own if cost["method"] == "uniform" else own * float(cost["uniform_seconds_per_step"] / cost["seconds_per_step"])
