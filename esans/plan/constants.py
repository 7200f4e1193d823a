"""constants.json beside this file: all that was measured, each with its command. `python -m benchmarks.plan_constants` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esans.errors import ConfigError

FILE = Path(__file__).with_name("constants.json")


def load(path: Path = FILE) -> Mapping[str, Any]:
    """The constants. Raises ConfigError where the file is missing or is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}. `python -m benchmarks.plan_constants --work FOLDER` writes it.") from None
    missing = {"shares", "volume", "rest", "seconds", "cores", "assumed", "command"} - set(found)
    if missing:
        raise ConfigError(f"{path} has no {', '.join(sorted(missing))}. `python -m benchmarks.plan_constants --work FOLDER` writes it.")
    return dict(found)


def with_examples(constants: Mapping[str, Any], share: float) -> Mapping[str, Any]:
    """The constants for data of which somebody has counted the share of interactions that become training examples.

    Raises:
        ConfigError: it is no share.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"--examples-per-interaction={share:g}: must be a share, above 0 and at most 1.")
    return {**constants, "shares": {**constants["shares"], "examples_per_interaction": share}}
