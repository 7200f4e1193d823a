"""How well behaviour vectors and the item graph predict the validation split: graph weights x encoders, on two real data sets.

python -m benchmarks.behaviour                     both data sets; writes benchmarks/figures.json
python -m benchmarks.behaviour online_retail       one of them
python -m benchmarks.behaviour --work FOLDER       keep the bundles, and use those that are there

Query of a user: the mean of the unit vectors of the last 20 items. Ranked: all items with a vector, nearest first, the user's earlier
items masked. `graph`: items by the sum of their edges from those 20, without any vectors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import record
from esans.bundle import Bundle
from esans.columns import BEHAVIOUR_MODALITY, HISTORY, ITEM_IDX, NEIGHBOUR_IDX, SCORE, SEEN, SPLIT, TARGETS, USER_IDX, VALIDATION
from esans.config import build, merge
from esans.flow import Plan, run_stage
from esans.settings import Settings

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
COMMAND = "python -m benchmarks.behaviour"
LAST, K, USERS = 20, 50, 256
WEIGHTS, ENCODERS = ("cosine", "swing"), ("landmarks", "lightgcn")
ITEMS = {"item_id": "item_id", "title": "title"}
EVENTS = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"}
RETAIL = {"event": "event", "order_id": "invoice_id", "quantity": "quantity"}
PREPARE: dict[str, dict[str, Any]] = {
    "online_retail": {
        "interactions": {"columns": {**EVENTS, **RETAIL}},
        "events": {"positives": {"purchase": 1.0}},
        "split": {"method": "last_basket", "min_baskets": 3},
    },
    "movielens": {"interactions": {"columns": EVENTS}, "split": {"method": "last_out"}},
}


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", choices=[*PREPARE, []], default=[], metavar="DATA", help="data sets below ../shared/data")
    parser.add_argument("--work", help="folder for the bundles, kept: a second run measures what the first one built")
    arguments = parser.parse_args()
    chosen = arguments.data or list(PREPARE)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    figures: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            found = measure(name, arguments.work or folder)
            figures |= {f"behaviour.{name}.recall50.{what}": (round(value, 4), "recall") for what, value in found.items() if "." in what}
            figures |= {f"behaviour.{name}.{what}_seconds": (round(value, 1), "s") for what, value in found.items() if "." not in what}
            ratio = found["cosine.lightgcn"] / found["cosine.landmarks"]
            figures[f"behaviour.lightgcn_vs_landmarks.{name}"] = (round(ratio, 3), "ratio")
    ratios = [value for name, (value, _) in figures.items() if name.startswith("behaviour.lightgcn_vs_landmarks.")]
    if len(ratios) == len(PREPARE):
        figures["behaviour.lightgcn_vs_landmarks"] = (round(float(np.prod(ratios)) ** (1 / len(ratios)), 3), "ratio")
    record(figures, COMMAND)
    for name, (value, unit) in sorted(figures.items()):
        print(f"{name} = {value} {unit}")


def measure(name: str, folder: str) -> dict[str, float]:
    """Recall by `weight.encoder` and `weight.graph`, and the seconds of the whole features stage by encoder (on cosine)."""
    found: dict[str, float] = {}
    for weight in WEIGHTS:
        for encoder in ENCODERS:
            plan = Plan(settings(name, folder, weight, encoder))
            prepare, features = run_stage(plan, "prepare"), run_stage(plan, "features")
            users = Users(prepare)
            found[f"{weight}.{encoder}"] = users.recall(users.by_vectors(features))
            if weight == WEIGHTS[0]:
                found[encoder] = float(features.manifest["seconds"])
        found[f"{weight}.graph"] = users.recall(users.by_graph(features))
    return found


def settings(name: str, folder: str, weight: str, encoder: str) -> Settings:
    """One cell of the table."""
    prepare: dict[str, Any] = {
        "items": {"path": str(DATA / name / "items.parquet"), "columns": ITEMS},
        "interactions": {"path": str(DATA / name / "interactions.parquet")},
    }
    return build(
        Settings,
        {
            "work_dir": folder,
            "spark": {"java_options": "-XX:TieredStopAtLevel=1", "shuffle_partitions": 2, "driver_memory": "2g"},
            "prepare": merge(prepare, PREPARE[name]),
            "features": {"text": {"encoder": "none"}, "behaviour": {"encoder": encoder, "graph": {"weight": weight}}},
        },
    )


class Users:
    """Validation users of a prepare bundle: small enough to rank in memory."""

    def __init__(self, prepare: Bundle) -> None:
        rows = prepare.table("histories").arrow([USER_IDX, SPLIT, HISTORY, TARGETS, SEEN]).sort_by(USER_IDX).to_pylist()
        self.rows = [row for row in rows if row[SPLIT] == VALIDATION]
        self.num_items = int(prepare.facts["num_items"])

    def by_vectors(self, features: Bundle) -> torch.Tensor:
        """(U, N) cosine of the mean vector and every item; -inf for items without a vector."""
        dim = features.facts["modalities"][BEHAVIOUR_MODALITY]
        vectors = torch.from_numpy(features.table("vectors").dense(ITEM_IDX, BEHAVIOUR_MODALITY, self.num_items)).reshape(-1, dim)
        scores = (self._last() @ vectors) @ vectors.T
        return scores.masked_fill((vectors == 0).all(dim=1)[None, :], -torch.inf)

    def by_graph(self, features: Bundle) -> torch.Tensor:
        """(U, N) sum of the scores of edges from the last items."""
        edges = features.table("graph").arrow([ITEM_IDX, NEIGHBOUR_IDX, SCORE])
        index = torch.from_numpy(np.stack([edges.column(place).to_numpy() for place in range(2)]))
        scores = torch.from_numpy(edges.column(2).to_numpy())
        graph = torch.sparse_coo_tensor(index, scores, (self.num_items, self.num_items)).coalesce()
        return torch.sparse.mm(graph.t(), self._last().T).T

    def _last(self) -> torch.Tensor:
        counts = torch.zeros(len(self.rows), self.num_items)
        for place, row in enumerate(self.rows):
            counts[place, row[HISTORY][-LAST:]] = 1
        return counts

    def recall(self, scores: torch.Tensor) -> float:
        """Recall@K averaged over users, their earlier items masked."""
        for place, row in enumerate(self.rows):
            scores[place, row[SEEN]] = -torch.inf
        top = torch.cat([part.topk(K, dim=1).indices for part in scores.split(USERS)]).tolist()
        shares = [len(set(row[TARGETS]) & set(found)) / len(row[TARGETS]) for row, found in zip(self.rows, top, strict=True)]
        return float(np.mean(shares))


if __name__ == "__main__":
    main()
