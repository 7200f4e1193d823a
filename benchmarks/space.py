"""Whether behaviour vectors of a new fit lie where the earlier ones lay, with and without features.keep_space.

    python -m benchmarks.space [--record]

The graph of online_retail up to 2011-11-21, then that of one day more, and that of 5 % fewer rows; two fits of each. For the items of
both builds: mean cosine with the earlier vector, and adjusted Rand index of the nearest of 60 clusters of the earlier vectors (k-means).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.figures import record
from benchmarks.incremental import chain
from esans.bundle import Bundle
from esans.codebooks.codebook import nearest
from esans.codebooks.config import KMeansConfig
from esans.codebooks.kmeans import kmeans
from esans.columns import BEHAVIOUR_MODALITY, ITEM_IDX
from esans.progress import headline, say

CLUSTERS, LESS = 60, 0.05
# In figures.
NAMES = {"one day more": "day_more", "5 % fewer rows": "fewer_rows", "fitted anew": "anew", "features.keep_space": "kept"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", default="work/space")
    parser.add_argument("--record", action="store_true", help="enter space.* into benchmarks/figures.json")
    parser.add_argument("over", nargs="*", help="further keys, as key=value")
    options = parser.parse_args()
    work = Path(options.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    keys: dict[str, Any] = dict(argument.split("=", 1) for argument in options.over)
    keys |= {"work_dir": work, "tracking.system_metrics": False, "prepare.split.method": "last_days", "features.text.encoder": "none"}
    first = _features(keys | {"prepare.until": "'2011-11-21'"})
    keys["prepare.previous"] = first.manifest["inputs"]["prepare"]
    changes = {
        "one day more": {"prepare.until": "'2011-11-22'"},
        "5 % fewer rows": {"prepare.until": "'2011-11-21'", "prepare.interactions.path": _fewer(work)},
    }
    fits: dict[str, dict[str, Any]] = {
        "fitted anew": {},
        "features.keep_space": {"features.previous": first.uri, "features.keep_space": True},
    }
    found = {(change, fit): _features(keys | changes[change] | fits[fit]) for change in changes for fit in fits}
    headline("behaviour vectors, compared with the first fit")
    say(f"{'':16s}{'':22s}{'cosine':>8s}{'ARI':>8s}{'held-out loss':>15s}{'seconds':>9s}")
    figures: dict[str, tuple[float, str]] = {}
    for (change, fit), bundle in found.items():
        cosine, ari = compare(first, bundle)
        loss = bundle.figures["behaviour.lightgcn.held_out_loss"]
        say(f"{change:16s}{fit:22s}{cosine:8.3f}{ari:8.3f}{loss:15.3f}{bundle.manifest['seconds']:9.1f}")
        name = f"space.{NAMES[change]}.{NAMES[fit]}"
        figures |= {f"{name}.ari": (round(ari, 3), "adjusted Rand index"), f"{name}.cosine": (round(cosine, 3), "mean cosine")}
    if options.record:
        record(figures, "python -m benchmarks.space --record")


def _features(keys: dict[str, Any]) -> Bundle:
    return chain(["conf/quickstart.yaml"], keys, "esans", ("prepare", "features"))["features"]


def _fewer(folder: Path) -> Path:
    table = pq.read_table("data/online_retail/interactions.parquet")
    kept = np.random.default_rng(0).random(table.num_rows) >= LESS
    pq.write_table(table.filter(pa.array(kept)), folder / "fewer.parquet")
    return folder / "fewer.parquet"


def compare(first: Bundle, other: Bundle) -> tuple[float, float]:
    """Mean cosine of the items that both have, and adjusted Rand index of their nearest clusters."""
    from sklearn.metrics import adjusted_rand_score

    size = int(other.facts["num_items"])
    old, new = (bundle.table("vectors").dense(ITEM_IDX, BEHAVIOUR_MODALITY, size) for bundle in (first, other))
    both = (np.abs(old).max(1) > 0) & (np.abs(new).max(1) > 0)
    old, new = old[both], new[both]
    centroids = kmeans(old, CLUSTERS, KMeansConfig(), 0, spherical=True)
    return float((old * new).sum(1).mean()), float(adjusted_rand_score(nearest(old, centroids), nearest(new, centroids)))


if __name__ == "__main__":
    main()
