"""Bytes of every part of every bundle: what its content takes by arithmetic, times a factor that was measured on real bundles."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from esans.plan.sizes import Sizes, filled, id_bytes

# Shares of the data that decide how full things are: measured once, as the factors are.
Shares = Mapping[str, float]
Law = Callable[[Sizes, Shares], float]

_MOMENT = 4  # seconds since 1970
_LABELS = 24  # an id and a few words
# Weights, both moments of the optimiser and the best weights so far.
_COPIES_IN_CHECKPOINT = 4
_MOMENTS = 2


def examples(sizes: Sizes, shares: Shares) -> float:
    """Training examples that the interactions make."""
    return sizes.interactions * shares["examples_per_interaction"]


def _per_example(sizes: Sizes, shares: Shares) -> float:
    # As an example meets them, users are more active than on average by the spread of their activity.
    mean = examples(sizes, shares) / sizes.users * shares["activity_spread"]
    places = filled(mean / 2, sizes.history) + filled(mean, sizes.known)
    return _MOMENT + id_bytes(sizes.users) + id_bytes(sizes.items) * (1 + places)


def model_bytes(sizes: Sizes) -> float:
    """A trained model: weights, frozen content and side columns, all as they lie in memory."""
    return 4 * sizes.weights + sizes.items * (4 * sizes.content_dim + 8 * sizes.side)


# Stage.part -> bytes by arithmetic. From train on it is one method's.
LAWS: Mapping[str, Law] = {
    "prepare.items": lambda s, _: s.items * (4 * (s.text_dim + s.image_dim) + _LABELS),
    "prepare.interactions": lambda s, _: s.interactions * (id_bytes(s.users) + id_bytes(s.items) + _MOMENT),
    "prepare.histories": lambda s, h: examples(s, h) * id_bytes(s.items) + s.users * _LABELS,
    "prepare.users": lambda s, _: s.users * id_bytes(s.users) * 2,
    "prepare.popularity": lambda s, _: s.items * id_bytes(s.items) * 2,
    "features.vectors": lambda s, _: s.items * 4 * (s.text_dim + s.image_dim + s.behaviour_dim),
    "features.graph": lambda s, _: s.items * s.neighbours * (id_bytes(s.items) + 4),
    "features.side": lambda s, _: s.items * (id_bytes(s.items) + s.side),
    "align.vectors": lambda s, _: s.items * 4 * s.content_dim,
    "cluster.codes": lambda s, _: s.items * (id_bytes(s.items) + 2),
    "cluster.members": lambda s, _: s.items * id_bytes(s.items) * 2,
    "shards.examples": lambda s, h: examples(s, h) * _per_example(s, h),
    "shards.target_counts": lambda s, _: s.items * id_bytes(s.items) * 2,
    "train.model": lambda s, _: model_bytes(s),
    "train.scratch": lambda s, _: 4 * s.weights * _COPIES_IN_CHECKPOINT * s.checkpoints,
    "train.training.pt": lambda s, _: 4 * s.weights * _MOMENTS,
    "references.per_user": lambda s, h: s.users * h["test_users_per_user"] * 64,
    "evaluate.per_user": lambda s, h: s.users * h["test_users_per_user"] * 64,
    "export.item_vectors": lambda s, _: s.items * (4 * s.dim + _LABELS),
    "export.user_vectors": lambda s, _: s.users * (4 * s.dim + _LABELS),
    "export.retriever": lambda s, _: model_bytes(s) + s.items * (4 * s.dim + _LABELS),
}
METHOD_STAGES = ("train", "evaluate", "export")


def forecast(sizes: Sizes, constants: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Stage.part -> bytes, the parts of no size that grows under `stage.rest`; those from train on summed over the methods."""
    shares = constants["shares"]
    found = {}
    for name, law in LAWS.items():
        times = len(sizes.methods) if name.partition(".")[0] in METHOD_STAGES else 1
        found[name] = law(sizes, shares) * constants["volume"][name] * times
    for stage, rest in constants["rest"].items():
        found[f"{stage}.rest"] = rest * (len(sizes.methods) if stage in METHOD_STAGES else 1)
    return found
