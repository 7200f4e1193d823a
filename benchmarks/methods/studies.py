"""Beside the comparison: ablations of `esans`, controls, recall against the number of encoded negatives, and longer training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.growth_world import cluster_tables, msac
from benchmarks.methods.cell import Cell
from benchmarks.methods.protocol import PROTOCOL
from benchmarks.methods.space import Values
from esans.bundle import Bundle
from esans.cluster.config import ClusterConfig
from esans.columns import ITEM_IDX
from esans.config import merge
from esans.negatives.tables import Catalogue
from esans.train.inputs import load_catalogue

Groups = list[Values]


def _without(sampler: str) -> Callable[[Groups], Groups]:
    return lambda groups: [group for group in groups if group["sampler"] != sampler]


def _set(sampler: str, **keys: Any) -> Callable[[Groups], Groups]:
    return lambda groups: [{**group, **keys} if group["sampler"] == sampler else group for group in groups]


def _flip(key: str, *samplers: str) -> Callable[[Groups], Groups]:
    return lambda groups: [{**group, key: not group[key]} if group["sampler"] in samplers else group for group in groups]


ABLATIONS: dict[str, Callable[[Groups], Groups]] = {
    "without simple interpolation": _set("easy", interpolate=False),
    "without hard interpolation": _set("hard", interpolate=False),
    "without easy groups": _without("easy"),
    "without hard groups": _without("hard"),
    "without in-batch": _without("in_batch"),
    **{f"lambda {mix:g}": _set("hard", mix=mix) for mix in (0.5, 0.3, 0.1, -0.1, -0.3)},
    **{f"(m_c, m_o) = {pair}": _set("easy", clusters=pair[0], per_cluster=pair[1]) for pair in ((1, 5), (2, 4), (2, 6), (3, 5))},
    **{f"T_c {value:g}": _set("easy", transition_temperature=value) for value in (0.05, 0.1, 0.3, 1.0)},
    "other norm of virtuals": _flip("unit_norm", "easy", "hard"),
    "other detach": _flip("detach_positive", "hard"),
}

# "all" is what the others that are made of vectors compare with: they are clustered in memory, not by the cluster stage.
CLUSTERS = ("random", "category", "all", "text", "image", "behaviour", "without text", "without image", "without behaviour")


def ablate(cell: Cell, seeds: int, only: Sequence[str] = ()) -> None:
    """Every variant of the cell's winner that the store does not hold; nothing else is tuned again."""
    values = cell.winner()
    for name, change in ABLATIONS.items():
        if not only or name in only:
            for seed in range(seeds):
                cell.variant("ablation", name, {**values, "negatives": change(values["negatives"])}, seed)
    for kind in CLUSTERS:
        if only and kind not in only:
            continue
        wanted = [seed for seed in range(seeds) if cell.store.find(cell.key("ablation", f"clusters: {kind}", f"s{seed}")) is None]
        catalogue = _catalogue(cell.inputs, kind) if wanted else None
        if catalogue is not None:
            other = Cell(cell.dataset, cell.method, cell.space, cell.inputs, cell.store, cell.work, cell.trials, cell.files, catalogue)
            for seed in wanted:
                other.variant("ablation", f"clusters: {kind}", values, seed)


def _catalogue(inputs: Mapping[str, Bundle], kind: str) -> Catalogue | None:
    """The catalogue with clusters from elsewhere; None where the data set has no such modality or category."""
    catalogue = load_catalogue(inputs["shards"], inputs["cluster"], inputs["features"])
    config, align = ClusterConfig(min_cluster_size=20, transition_temperature=0.1), inputs["align"]
    names, num_items = list(align.facts["modalities"]), int(align.facts["num_items"])
    random = np.random.default_rng(0)
    if kind == "random":
        assert catalogue.clusters is not None
        # The items change places; sizes and distances of the clusters stay.
        shuffle = torch.from_numpy(random.permutation(num_items))
        tables = catalogue.clusters
        tables.item_primary_N, tables.item_cell_N = tables.item_primary_N[shuffle], tables.item_cell_N[shuffle]
        tables.members_M = torch.argsort(shuffle)[tables.members_M]
        return catalogue
    if kind == "category":
        columns = [name for name in ("genre", "category") if name in catalogue.side]
        if not columns:
            return None
        catalogue.clusters = _of_categories(catalogue.side[columns[0]].numpy(), _vectors(align, names, num_items), config)
        return catalogue
    if kind == "all":
        kept = names
    elif kind.startswith("without "):
        kept = [name for name in names if name != kind.removeprefix("without ")]
        # Of two modalities, what is left is a variant already.
        if kept == names or len(kept) < 2:
            return None
    else:
        kept = [name for name in names if name == kind]
    if not kept:
        return None
    catalogue.clusters = msac(_vectors(align, kept, num_items), 0, config)
    return catalogue


def _vectors(align: Bundle, modalities: Sequence[str], num_items: int) -> np.ndarray:
    table = align.table("vectors")
    return np.stack([table.dense(ITEM_IDX, name, num_items) for name in modalities], axis=1)


def _of_categories(codes: np.ndarray, vectors: np.ndarray, config: ClusterConfig) -> Any:
    """A primary for each category, cut into two cells at random, so that hard draws stay within the category."""
    _, primary, counts = np.unique(codes, return_inverse=True, return_counts=True)
    # A category below the least size joins the one that holds everything small.
    small = counts < config.min_cluster_size
    primary = np.where(small[primary], int(np.argmax(~small)), primary)
    _, primary = np.unique(primary, return_inverse=True)
    mean = vectors.mean(1)
    centroids = np.stack([mean[primary == code].mean(0) for code in range(primary.max() + 1)])
    secondary = np.random.default_rng(0).integers(0, 2, len(codes))
    return cluster_tables(primary.astype(np.int64), secondary, centroids, config)


# Draws per example of the study of encoded negatives: alone, and beside the in-batch group.
UNIFORM_DRAWS = (1, 4, 15, 64, 256, 1000)
POOLS = (16, 64, 256, 1024, 4096)
# (m_c, m_o, n_h) of the semantic groups.
SEMANTIC_DRAWS = ((1, 2, 1), (2, 2, 2), (2, 5, 5), (4, 8, 16))


def encodings(uniform: Cell, mixed: Cell, esans: Cell, seeds: int) -> None:
    """Recall against encoded negatives per example, everything else as tuned."""
    for seed in range(seeds):
        for draws in UNIFORM_DRAWS:
            groups = [{"sampler": "uniform", "num_negatives": draws}]
            uniform.variant("encodings", f"{draws} an example", merge(uniform.winner(), {"negatives": groups}), seed)
        for pool in POOLS:
            groups = [{"sampler": "uniform", "num_negatives": pool, "shared": True}]
            mixed.variant("encodings", f"pool of {pool}", merge(mixed.winner(), {"negatives": [{"sampler": "in_batch"}, *groups]}), seed)
        for clusters, per_cluster, hard in SEMANTIC_DRAWS:
            values = esans.winner()
            groups = _set("easy", clusters=clusters, per_cluster=per_cluster)(_set("hard", num_negatives=hard)(values["negatives"]))
            esans.variant("encodings", f"{clusters * per_cluster + hard} an example", {**values, "negatives": groups}, seed)


LONGER = ("uniform", "in_batch", "midx", "esans", "esans_plus", "mixed", "ahns", "full_softmax")
"""Methods that are trained longer than the protocol lets them."""


def longer(cell: Cell, seeds: int) -> None:
    """The cell's winner with several times the epochs and more patience: whether the budget decides who wins."""
    times, patience = PROTOCOL["longer"]["times"], PROTOCOL["longer"]["patience"]
    for seed in range(seeds):
        cell.variant("steps", "longer", merge(cell.winner(), {"epochs": times * cell.epochs, "patience": patience}), seed)


CONTROLS: dict[str, Groups] = {
    "in-batch and 15 uniform": [{"sampler": "in_batch"}, {"sampler": "uniform", "num_negatives": 15}],
    "in-batch and 48 uniform": [{"sampler": "in_batch"}, {"sampler": "uniform", "num_negatives": 48}],
    "1,024 uniform, shared": [{"sampler": "uniform", "num_negatives": 1024, "shared": True}],
}
"""Groups without meaning in place of the semantic ones: as many encodings (15), as many terms (48), as many negatives as a batch has."""


ALONE = ("dns", "mixgcf", "ahns", "simans", "fairneg", "mochi")
"""Methods that their authors train alone and that may stand beside in-batch negatives in the comparison."""


def controls(cell: Cell, seeds: int) -> None:
    """Groups of `CONTROLS` with the temperature that was tuned for `in_batch`, or a winner of `ALONE` without in-batch negatives."""
    values = cell.winner()
    if cell.method == "in_batch":
        changed = {name: {**values, "negatives": groups} for name, groups in CONTROLS.items()}
    else:
        alone = _without("in_batch")(values["negatives"])
        changed = {"alone": {**values, "negatives": alone}} if alone != values["negatives"] else {}
    for name, keys in changed.items():
        for seed in range(seeds):
            cell.variant("controls", name, keys, seed)
