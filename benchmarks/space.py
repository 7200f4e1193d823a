"""Whether behaviour vectors of a new fit lie where the earlier ones lay, with and without features.keep_space.   python -m benchmarks.space

The graph of online_retail up to 2011-11-21, then that of one day more, and that of 5 % fewer rows; two fits of each. For the items of
both builds: mean cosine with the earlier vector, and adjusted Rand index of the nearest of 60 clusters of the earlier vectors (k-means).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.incremental import chain
from esans.bundle import Bundle
from esans.codebooks.codebook import nearest
from esans.codebooks.config import KMeansConfig
from esans.codebooks.kmeans import kmeans
from esans.columns import BEHAVIOUR_MODALITY, ITEM_IDX
from esans.progress import headline, say

CLUSTERS, LESS = 60, 0.05


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", default=f"/tmp/esans-space-{int(time.time())}")
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
    for (change, fit), bundle in found.items():
        cosine, ari = compare(first, bundle)
        loss = bundle.figures["behaviour.lightgcn.held_out_loss"]
        say(f"{change:16s}{fit:22s}{cosine:8.3f}{ari:8.3f}{loss:15.3f}{bundle.manifest['seconds']:9.1f}")


def _features(keys: dict[str, Any]) -> Bundle:
    return chain(["conf/quickstart.yaml"], keys, "esans", ("prepare", "features"))["features"]


def _fewer(folder: Path) -> Path:
    table = pq.read_table("data/online_retail/interactions.parquet")
    kept = np.random.default_rng(0).random(table.num_rows) >= LESS
    pq.write_table(table.filter(pa.array(kept)), folder / "fewer.parquet")
    return folder / "fewer.parquet"


def compare(first: Bundle, other: Bundle) -> tuple[float, float]:
    """Mean cosine of the items that both have, and adjusted Rand index of their nearest clusters."""
    size = int(other.facts["num_items"])
    old, new = (bundle.table("vectors").dense(ITEM_IDX, BEHAVIOUR_MODALITY, size) for bundle in (first, other))
    both = (np.abs(old).max(1) > 0) & (np.abs(new).max(1) > 0)
    old, new = old[both], new[both]
    centroids = kmeans(old, CLUSTERS, KMeansConfig(), 0, spherical=True)
    return float((old * new).sum(1).mean()), rand_index(nearest(old, centroids), nearest(new, centroids))


def rand_index(a: np.ndarray, b: np.ndarray) -> float:
    """Adjusted Rand index of two labellings."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1)
    both, by_a, by_b = ((counts * (counts - 1) / 2).sum() for counts in (joint, joint.sum(1), joint.sum(0)))
    expected = by_a * by_b / (len(a) * (len(a) - 1) / 2)
    return float((both - expected) / ((by_a + by_b) / 2 - expected))


if __name__ == "__main__":
    main()
