"""Pictures of docs/concepts.md, drawn from the bundles of a finished quickstart.

python -m benchmarks.concepts [--config conf/quickstart.yaml] [--work work] [--out docs/images/concepts]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.concept_pictures import clusters, draws, flow, interpolation, loss, save
from esans import columns as c
from esans.bundle import Bundle
from esans.flow import STAGES, Plan, stage_class
from esans.model import load
from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.registry import build_loss, build_samplers, build_temperature
from esans.retrieval.encode import encode_catalogue
from esans.settings import Source
from esans.train.inputs import content_vectors, load_catalogue

ROOT = Path(__file__).resolve().parents[1]
_BATCH = 1024
METHOD = "esans"
# What it does, and in which row of the picture it stands.
_ABOUT = {
    "prepare": ("checks, ids, splits", 0),
    "features": ("text, image, behaviour vectors, item graph", 1),
    "align": ("one space for all modalities", 1),
    "cluster": ("codebooks, cluster tables", 1),
    "shards": ("training examples", 0),
    "references": ("popularity, item-kNN, ALS, BPR", -1),
    "train": ("two towers, negatives, EDIS", 0),
    "evaluate": ("the whole catalogue ranked", -1),
    "export": ("vectors, index, registry", 1),
}
STAGES_IN_WORDS = {name: (*_ABOUT.get(name, ("", 0)), stage_class(name).inputs) for name in STAGES}


def main() -> None:
    """Draw everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "conf" / "quickstart.yaml"), help="configuration of the finished run")
    parser.add_argument("--work", default="work", help="its work folder")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "concepts", help="folder of the pictures")
    options = parser.parse_args()
    for path in draw(Step.read(options.config, [f"--work_dir={options.work}"]), options.out):
        print(path)


def draw(step: Step, out: Path) -> list[Path]:
    """Write the pictures as SVG and return their paths; the same bundles give the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        "flow": flow(STAGES_IN_WORDS),
        "clusters": clusters(step),
        "draws": draws(step),
        "interpolation": interpolation(step),
        "loss": loss(step),
    }
    return [save(figure, out / f"{name}.svg") for name, figure in figures.items()]


@dataclass
class Step:
    """One training step of the method `esans` over real bundles, with everything that it drew. One example of it is looked at."""

    titles: list[str]
    space_ND: np.ndarray
    """Aligned mean vectors of the items, what clusters are made of."""
    content_NE: np.ndarray
    """Their aligned modalities side by side, what secondary codes part further."""
    vectors_ND: Tensor
    """Item vectors of the trained model."""
    user_BD: Tensor
    batch: Batch
    samplers: list[Sampler]
    proposals: list[Negatives]
    terms: list[Terms]
    logits: list[Tensor]
    context: Context
    row: int
    """The example that is looked at."""

    @classmethod
    def read(cls, config: Path | str, overrides: Sequence[str] = (), seed: int = 0) -> Step:
        """Take the step. Raises BundleError when the run has not finished."""
        settings = Source((str(config),), tuple(overrides)).load(METHOD)
        plan = Plan(settings)
        bundles = {name: Bundle.open(plan.stage(name).uri) for name in ("prepare", "features", "align", "cluster", "shards", "train")}
        catalogue = load_catalogue(bundles["shards"], bundles["cluster"], bundles["features"], settings.train.model.dim)
        with bundles["train"].local("model") as folder:
            model = load(folder)
        batch = _examples(bundles["shards"], catalogue.num_items)
        vectors_ND = encode_catalogue(model)
        with torch.inference_mode():
            user_BD = model.encode_users(batch.history, batch.user_idx).float()
        generator = torch.Generator().manual_seed(seed)
        samplers = build_samplers(settings.train.negatives, catalogue)
        proposals = [sampler.propose(batch, user_BD, generator) for sampler in samplers]
        positive_BD = vectors_ND[batch.target]
        context = Context(batch, user_BD, (user_BD * positive_BD).sum(-1), positive_BD, generator)
        context.temperature = build_temperature(settings.train.temperature, catalogue)(context).detach()
        terms: list[Terms] = []
        for sampler, drawn in zip(samplers, proposals, strict=True):
            vectors = vectors_ND[drawn.ids]
            scores = user_BD @ vectors.T if drawn.ids.dim() == 1 else torch.einsum("b...d,bd->b...", vectors, user_BD)
            terms += sampler.refine(drawn, scores, replace(context, negative_vectors=vectors, negatives=drawn))
        logits = build_loss(settings.train.loss, catalogue).logits(terms, samplers, context)
        items = bundles["prepare"].table("items").arrow([c.ITEM_IDX, c.TITLE]).sort_by(c.ITEM_IDX)
        space_ND = bundles["align"].table("vectors").dense(c.ITEM_IDX, c.MEAN, catalogue.num_items)
        content_NE = content_vectors(bundles["align"]).numpy()
        step = cls(
            items[c.TITLE].to_pylist(), space_ND, content_NE, vectors_ND, user_BD, batch, samplers, proposals, terms, logits, context, 0
        )
        step.row = step._telling()
        return step

    def sampler(self, name: str) -> tuple[Sampler, Negatives]:
        """A sampler of the step with its draws."""
        place = [sampler.name for sampler in self.samplers].index(name)
        return self.samplers[place], self.proposals[place]

    @cached_property
    def map_N2(self) -> np.ndarray:
        """Items on a plane that keeps neighbours together (t-SNE)."""
        from sklearn.manifold import TSNE

        placed: np.ndarray = TSNE(init="pca", perplexity=min(30, len(self.titles) // 4), max_iter=500, random_state=0).fit_transform(
            self.space_ND
        )
        return placed

    def _telling(self) -> int:
        """The example with every draw live whose positive is the most popular: a product that readers may know."""
        live = torch.stack([drawn.valid.flatten(1).all(1) for name in ("easy", "hard") for drawn in [self.sampler(name)[1]]]).all(0)
        primary_N = self.sampler("easy")[0].tables.item_primary_N
        # Topped-up pools are the exception, and their picture would need a paragraph.
        own = (primary_N[self.sampler("hard")[1].ids] == primary_N[self.batch.target][:, None]).all(1)
        counts = self.batch.target.bincount(minlength=len(self.titles))[self.batch.target]
        return int(torch.where(live & own, counts, -1).argmax())


def _examples(shards: Bundle, num_items: int) -> Batch:
    """The first examples of the first shard."""
    table = shards.table("examples")
    first = next(iter(table.batches([c.USER_IDX, c.HISTORY, c.TARGET, c.KNOWN], _BATCH)))

    def column(name: str) -> Tensor:
        values = first.column(name)
        flat = values.to_numpy() if not hasattr(values, "flatten") or name in (c.USER_IDX, c.TARGET) else np.stack(values.to_numpy(False))
        return torch.from_numpy(np.array(flat, dtype=np.int64))

    target = column(c.TARGET)
    return Batch(column(c.USER_IDX), column(c.HISTORY), target, torch.ones(len(target)), column(c.KNOWN), num_items)


if __name__ == "__main__":
    main()
