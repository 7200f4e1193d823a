"""What every method of the experiment shares (protocol.yaml). No torch: the page is made from it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PROTOCOL: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("protocol.yaml").read_text())


def wall_epochs(dataset: str) -> float:
    """Epochs of `uniform` whose time bounds the comparison at equal wall time."""
    return float(PROTOCOL["wall_share"] * PROTOCOL["epochs"][dataset])
