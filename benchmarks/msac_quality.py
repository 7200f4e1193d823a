"""Do MSAC's clusters mean anything? Against random, single-modality and concatenated clusters, on films with three real modalities.

python -m benchmarks.msac_quality --data ../shared/data/movielens [--work DIR] [--seeds 3]

Runs prepare, features, align and cluster (mode `kmeans`, mode `vq`, and once more with 5 % of the interactions taken away), then
judges every way to cluster under equal numbers of clusters and equal sizes. Genres judge; no encoder sees them: the text is title
and plot. Writes docs/msac.md, its pictures, and benchmarks/figures.json. What is finished in --work is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import record
from benchmarks.movielens import stage_data, text_model
from benchmarks.msac_report import write_report
from benchmarks.partitions import coherence, equal_clusters, mutual_information, purity, random_clusters
from esans.bundle import Bundle
from esans.columns import HISTORY, ITEM_IDX, MEAN, MODALITIES, NEIGHBOUR_IDX, PRIMARY, SCORE, SPLIT, TARGETS, VALIDATION
from esans.flow import Plan, run_stage
from esans.settings import Source

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("prepare", "features", "align", "cluster")
COMMAND = "python -m benchmarks.msac_quality --data ../shared/data/movielens"
RECENT = 20
MSAC = ("aligned (MSAC, kmeans)", "aligned (MSAC, vq)")


@dataclass(frozen=True)
class Chain:
    """The bundles of one run."""

    prepare: Bundle
    features: Bundle
    align: Bundle
    cluster: Bundle


@dataclass(frozen=True)
class Judge:
    """What clusters are judged by: a genre for every film, and which films the same people watched."""

    genre: np.ndarray
    """(N,) int64, -1 where unknown."""
    graph: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Edges of the item graph: train events, which behaviour vectors have seen."""
    later: tuple[np.ndarray, np.ndarray, np.ndarray]
    """(recent train film, validation film) of the same person: which no vector has seen."""

    def scores(self, labels: np.ndarray) -> dict[str, float]:
        """Agreement of one clustering with genres and behaviour."""
        found = {
            "purity": purity(labels, self.genre),
            "nmi": mutual_information(labels, self.genre),
            "behaviour": coherence(labels, *self.graph),
            "later": coherence(labels, *self.later),
        }
        # By pairs that no vector has seen: clusters of behaviour vectors would otherwise be judged by what they were fitted to.
        return {**found, "average": (found["purity"] + found["later"]) / 2}


def main() -> None:
    """Run, judge, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with items, interactions and image_emb (.parquet)")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "msac_quality", help="folder for bundles; finished ones are reused")
    parser.add_argument("--seeds", type=int, default=3, help="k-means seeds of every clustering")
    arguments = parser.parse_args()
    tables = stage_data(arguments.data, arguments.work / "raw")

    def chain(name: str, *overrides: str) -> Chain:
        print(f"\n== {name}")
        return run_chain(tables, arguments.work, overrides)

    kmeans = chain("kmeans")
    spherical = chain("kmeans, spherical", "--cluster.kmeans.spherical=true")
    vq = chain("vq", "--align.codebooks=vq", "--cluster.mode=vq")
    fewer = [
        f"--prepare.interactions.path={tables['fewer']}",
        f"--prepare.previous={kmeans.prepare.uri}",
        f"--features.previous={kmeans.features.uri}",
    ]
    warm = chain("5 % of the interactions removed", *fewer, f"--cluster.previous={kmeans.cluster.uri}")
    cold = chain("5 % removed, no warm start", *fewer)
    judge = make_judge(kmeans)
    table = compare(kmeans, vq, judge, arguments.seeds)
    stability = {"warm start": ari(kmeans, warm), "no warm start": ari(kmeans, cold)}
    figures = figures_of(table, kmeans, stability)
    record(figures, COMMAND)
    for name, (value, unit) in figures.items():
        print(f"{name} = {value:.4f} {unit}")
    builds = {"kmeans": kmeans.cluster, "kmeans, spherical": spherical.cluster, "vq": vq.cluster}
    write_report(ROOT / "docs", COMMAND, table, builds, stability, arguments.seeds)


def run_chain(tables: dict[str, str], work: Path, overrides: Sequence[str]) -> Chain:
    """The four stages under these overrides; finished ones are reused."""
    given = [
        f"--work_dir={work}",
        f"--prepare.items.path={tables['items']}",
        f"--prepare.interactions.path={tables['interactions']}",
        f"--prepare.items.extra.image_emb.path={tables['image_emb']}",
        f"--features.text.model={text_model()}",
    ]
    source = Source((str(ROOT / "benchmarks" / "movielens.yaml"),), (*given, *overrides))
    plan = Plan(source.load())
    bundles = [run_stage(plan, stage) for stage in STAGES]
    return Chain(*bundles)


def make_judge(chain: Chain) -> Judge:
    """Genres and behaviour from the bundles."""
    num_items = int(chain.prepare.facts["num_items"])
    genre = chain.prepare.table("items").arrow([ITEM_IDX, "side_genre"]).sort_by(ITEM_IDX).column("side_genre").combine_chunks()
    codes = genre.dictionary_encode()
    labels = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    assert len(labels) == num_items
    graph = chain.features.table("graph").arrow([ITEM_IDX, NEIGHBOUR_IDX, SCORE])
    edges = tuple(graph.column(name).to_numpy() for name in (ITEM_IDX, NEIGHBOUR_IDX, SCORE))
    histories = chain.prepare.table("histories").arrow([SPLIT, HISTORY, TARGETS]).to_pylist()
    pairs = [(item, target) for row in histories if row[SPLIT] == VALIDATION for target in row[TARGETS] for item in row[HISTORY][-RECENT:]]
    left, right = np.array(pairs, np.int64).T
    return Judge(labels, (edges[0], edges[1], edges[2]), (left, right, np.ones(len(left))))


def compare(kmeans: Chain, vq: Chain, judge: Judge, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Method -> score -> one value a seed; the same K and the same sizes for every method."""
    num_items = int(kmeans.prepare.facts["num_items"])
    k = int(kmeans.cluster.facts["num_primary"])
    raw = {name: kmeans.features.table("vectors").dense(ITEM_IDX, name, num_items) for name in kmeans.align.facts["modalities"]}
    spaces = {f"{name} alone": raw[name] for name in MODALITIES if name in raw}
    spaces["concatenation"] = np.concatenate(list(raw.values()), axis=1)
    spaces[MSAC[0]] = kmeans.align.table("vectors").dense(ITEM_IDX, MEAN, num_items)
    vq_means = vq.align.table("vectors").dense(ITEM_IDX, MEAN, num_items)
    vq_centroids = vq.align.table("codebook_primary").dense(PRIMARY, "centroid", vq.align.table("codebook_primary").rows)
    table: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        found = {name: equal_clusters(vectors, k, seed) for name, vectors in spaces.items()}
        found[MSAC[1]] = equal_clusters(vq_means, len(vq_centroids), seed, vq_centroids)
        found["random"] = random_clusters(num_items, np.bincount(found[MSAC[0]], minlength=k).tolist(), seed)
        for name, labels in found.items():
            for score, value in judge.scores(labels).items():
                table.setdefault(name, {}).setdefault(score, []).append(value)
        print(f"seed {seed}: " + ", ".join(f"{name} {table[name]['purity'][-1]:.3f}" for name in table))
    return table


def ari(before: Chain, after: Chain) -> float:
    """Adjusted Rand index of the primaries of two builds of the same films."""
    from sklearn.metrics import adjusted_rand_score

    num_items = int(before.prepare.facts["num_items"])
    labels = [chain.cluster.table("codes").dense(ITEM_IDX, PRIMARY, num_items, np.int64, -1) for chain in (before, after)]
    both = (labels[0] >= 0) & (labels[1] >= 0)
    return float(adjusted_rand_score(labels[0][both], labels[1][both]))


def figures_of(table: dict[str, dict[str, list[float]]], kmeans: Chain, stability: dict[str, float]) -> dict[str, tuple[float, str]]:
    """What goes to benchmarks/figures.json."""
    mean = {name: {score: float(np.mean(values)) for score, values in scores.items()} for name, scores in table.items()}
    single = [name for name in mean if name.endswith(" alone")]
    best = {score: max(mean[name][score] for name in single) for score in ("purity", "average", "nmi")}
    quality = kmeans.cluster.figures
    return {
        "msac.purity_vs_best_single": (mean[MSAC[0]]["purity"] / best["purity"], "ratio"),
        "msac.nmi_vs_best_single": (mean[MSAC[0]]["nmi"] / best["nmi"], "ratio"),
        "msac.average_vs_best_single": (mean[MSAC[0]]["average"] / best["average"], "ratio"),
        "msac.purity_vs_random": (mean[MSAC[0]]["purity"] / mean["random"]["purity"], "ratio"),
        "msac.vq_vs_kmeans_purity": (mean[MSAC[1]]["purity"] / mean[MSAC[0]]["purity"], "ratio"),
        "msac.utilisation": (quality["utilisation.primary"], "share of primaries"),
        "msac.fn_rate_easy_vs_uniform": (quality["false_negatives.easy_vs_uniform"], "ratio"),
        "msac.fn_rate_hard_vs_uniform": (quality["false_negatives.hard_vs_uniform"], "ratio"),
        "msac.stability_ari": (stability["warm start"], "adjusted Rand index"),
        "msac.stability_ari_cold": (stability["no warm start"], "adjusted Rand index"),
    }


if __name__ == "__main__":
    main()
