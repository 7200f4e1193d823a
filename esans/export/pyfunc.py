"""The registered model. MLflow runs this file itself when it loads the model: nothing is pickled.

Input columns: `history` (list of item ids, oldest first), and optionally `k` (how many items, 50 by default). Output columns:
`item_ids`, `scores`, `unknown_ids` (history ids that the catalogue does not hold), `fallback` (popularity, for want of a history).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from esans.export.retriever import Retriever

ARTIFACT = "retriever"
DEFAULT_K = 50

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(Array(DataType.string), "history"), ColSpec(DataType.long, "k", required=False)]),
    outputs=Schema(
        [
            ColSpec(Array(DataType.string), "item_ids"),
            ColSpec(Array(DataType.double), "scores"),
            ColSpec(DataType.long, "unknown_ids"),
            ColSpec(DataType.boolean, "fallback"),
        ]
    ),
)


class RetrievalModel(PythonModel):
    """Raw histories in, item ids with scores out."""

    def load_context(self, context: Any) -> None:
        """Load the folder that travels with the model."""
        self._retriever = Retriever(Path(context.artifacts[ARTIFACT]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One output row for each input row."""
        histories = [list(history) for history in model_input["history"]]
        ks = [int(k) for k in model_input["k"]] if "k" in model_input else [DEFAULT_K] * len(histories)
        found = self._retriever.retrieve(histories, ks)
        columns = ("item_ids", "scores", "unknown_ids", "fallback")
        return pd.DataFrame({column: [getattr(row, column) for row in found] for column in columns})


set_model(RetrievalModel())
