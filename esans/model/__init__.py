"""The two towers that train, evaluate and export share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esans.model.files import load, save
    from esans.model.towers import TwoTower

__all__ = ["TwoTower", "load", "save"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the configuration of the towers must not cost an import of torch.
    if name in ("load", "save"):
        from esans.model import files

        return getattr(files, name)
    if name == "TwoTower":
        from esans.model.towers import TwoTower

        return TwoTower
    raise AttributeError(name)
