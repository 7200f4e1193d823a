"""Evaluation over the whole catalogue: the stage, its report, and `evaluate_model` for any model on any split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esans.evaluate.model import compare, evaluate_model

__all__ = ["compare", "evaluate_model"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the configuration of the stage must not cost an import of torch.
    if name in __all__:
        from esans.evaluate import model

        return getattr(model, name)
    raise AttributeError(name)
