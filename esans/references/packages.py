"""What the references need on this machine beyond the project's own packages."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from esans.errors import ConfigError

if TYPE_CHECKING:
    from esans.references.names import Reference


def require_implicit(reference: Reference) -> None:
    """Raise ConfigError unless the package `implicit` is installed; nothing is imported."""
    if find_spec("implicit") is None:
        raise ConfigError(
            f"{reference.switch} = true needs the package implicit, which is not installed here. "
            f'Cure: pip install "esans[baselines]", or set {reference.switch}=false.'
        )
