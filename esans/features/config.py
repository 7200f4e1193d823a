"""Configuration of the features stage."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from esans.config import Added, Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Runtime, config, section
from esans.features.registry import BEHAVIOUR_ENCODERS, IMAGE_ENCODERS, TEXT_ENCODERS, check
from esans.roots import Place, PlaceOrName

OnBadLength = Literal["missing", "error"]

_DAY = 86_400.0
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _require(section: Any, name: str, needs: Mapping[str, tuple[str, ...]]) -> None:
    """Raise ValueError unless the section has every key that its encoder needs, and a factory is written as one."""
    missing = [key for key in needs.get(section.encoder, ()) if not getattr(section, key)]
    if missing:
        raise ValueError(f"{name}.encoder = {section.encoder!r} needs {' and '.join(f'{name}.{key}' for key in missing)}.")
    if section.module is not None and not _FACTORY.fullmatch(section.module):
        raise ValueError(f"{name}.module = {section.module!r}: must look like package.module:factory.")


@config
class TfIdfConfig:
    """The built-in text encoder: hashed TF-IDF, then a projection; nothing is downloaded."""

    buckets: Annotated[int, Field(ge=16, le=1 << 20)] = 1 << 16
    """Hash buckets for words. The projection takes buckets x dim x 4 bytes on the driver and on each worker. 16 to 1,048,576."""
    min_items: PositiveInt = 2
    """A word in fewer items than this is ignored. Items; at least 1."""
    ngrams: Annotated[int, Field(ge=1, le=3)] = 1
    """Longest run of words that counts as one term. 1 to 3."""
    projection: Literal["svd", "random"] = "svd"
    """`svd`: truncated singular vectors fitted on a sample (latent semantics); `random`: seeded Gaussian directions."""
    max_fit_items: Annotated[int, Field(ge=1_000)] = 200_000
    """Items sampled to the driver to fit `svd`: about 0.5 kB each for 50 words. At least 1,000."""


@config
class ModelConfig:
    """Keys of encoders that run a model on the executors, on the GPU where Spark assigns one."""

    module: str | None = None
    """`module`: `package.module:factory` of your own. The factory returns an object whose encode(contents) gives (n, d) floats."""
    version: str = ""
    """`module`: any word; change it when the results change and the source of the module does not (new weights, say)."""
    batch_size: Annotated[PositiveInt, Runtime] = 32
    """Contents that go through the model at once. At least 1."""
    rows_per_task: Annotated[PositiveInt, Runtime] = 1024
    """New contents of one Spark task, at most: what a lost executor has to do again, and the step of the progress shown. At least 1."""


@config
class TextConfig(ModelConfig):
    """Text vectors."""

    encoder: str = "auto"
    """`auto` takes ready vectors where prepare mapped a text_vector column, else TF-IDF of text or title; or `tfidf`, `columns`,
    `sentence_transformers`, `module`, `none`."""
    model: Annotated[str | None, PlaceOrName] = None
    """`sentence_transformers`: folder of the model (a path that every executor has), or its name on the hub."""
    revision: str | None = None
    """`sentence_transformers`: commit or tag of a model on the hub; null takes its main branch."""
    max_tokens: PositiveInt | None = None
    """`sentence_transformers`: what is longer is cut; null takes the model's own bound. Tokens; at least 1."""
    dim: Annotated[int, Field(ge=2, le=4096)] = 128
    """Length of TF-IDF vectors; ready vectors keep their own. 2 to 4096."""
    on_bad_length: OnBadLength = "missing"
    """What becomes of ready vectors whose length differs from the commonest one: `missing` (counted) or `error`."""
    tfidf: TfIdfConfig = section(TfIdfConfig)
    """The built-in encoder."""

    def __post_init__(self) -> None:
        check(TEXT_ENCODERS, self.encoder, "text.encoder")
        _require(self, "text", {"sentence_transformers": ("model",), "module": ("module",)})


@config
class ImageConfig(ModelConfig):
    """Image vectors."""

    encoder: str = "auto"
    """`auto` takes ready vectors where prepare mapped an image_vector column, else none; or `columns`, `open_clip`, `timm`, `module`,
    `none`."""
    architecture: Annotated[str | None, PlaceOrName] = None
    """`open_clip`, `timm`: name of the architecture in that library; for open_clip also a .json file of one."""
    checkpoint: Annotated[str | None, Place] = None
    """`open_clip`, `timm`: file of the weights, safetensors or a pickle of weights only; a path that every executor has."""
    roots: Annotated[list[str], Runtime] = dataclasses.field(default_factory=list)
    """Where URIs of pictures in the items table may point: each must lie below one of these. Empty: anywhere. Pictures elsewhere
    count as missing (unreadable)."""
    unchanged_by: Literal["content", "uri"] = "content"
    """How a picture at a URI is known again: by its `content`, read in each build, or by the `uri` alone, which reads only new ones."""
    read_threads: Annotated[PositiveInt, Runtime] = 8
    """Pictures that one task reads and decodes at a time. At least 1."""
    max_bytes: PositiveInt = 64 * 2**20
    """Larger files count as missing (too_large). Bytes; at least 1."""
    max_pixels: PositiveInt = 50_000_000
    """Pictures of more pixels count as missing (too_large): each takes 3 bytes a pixel once it is decoded. At least 1."""
    on_bad_length: OnBadLength = "missing"
    """What becomes of vectors whose length differs from the commonest one: `missing` (counted) or `error`."""

    def __post_init__(self) -> None:
        check(IMAGE_ENCODERS, self.encoder, "image.encoder")
        files = ("architecture", "checkpoint")
        _require(self, "image", {"open_clip": files, "timm": files, "module": ("module",)})


@config
class SwingConfig:
    """Bounds and smoothing of Swing weights. An item costs at most max_users^2 x max_history products."""

    alpha: PositiveFloat = 1.0
    """Added to the number of items that two users share. Items; above 0."""
    max_users: Annotated[int, Field(ge=2, le=1_000)] = 64
    """Users of an item that count, drawn by a hash where there are more. 2 to 1,000."""
    max_history: Annotated[int, Field(ge=2, le=1_000)] = 100
    """Latest distinct items of a user that count; takes the place of graph.max_history. 2 to 1,000."""


@config
class GraphConfig:
    """The item graph: who was bought with whom, from the train split alone."""

    weight: Literal["cosine", "swing"] = "cosine"
    """`cosine`: decayed co-occurrence; `swing`: pairs of users who share both items and little else, so items of two users at least."""
    swing: SwingConfig = section(SwingConfig)
    """Keys of `swing`, beside window, half_life_days, popularity_exponent, shrinkage and neighbours."""

    max_history: PositiveInt = 200
    """Latest train positives of a user that count; caps what one heavy user can add. Events; at least 1."""
    window: PositiveInt = 20
    """Two positives of a user make a pair when at most this many positions apart: max_history x window pairs a user. At least 1."""
    half_life_days: PositiveFloat | None = 30.0
    """A pair weighs half for each this many days between its two events; null weighs all alike. Days; above 0."""
    popularity_exponent: Fraction = 0.5
    """Pair weights are divided by (count_i count_j)^this: 0 keeps popular items on top, 0.5 is the cosine, 1 favours the rare."""
    shrinkage: NonNegativeFloat = 5.0
    """Added to that divisor, so that pairs seen once do not lead. Events; 0 or more."""
    neighbours: PositiveInt = 50
    """Strongest neighbours kept per item. At least 1."""

    @property
    def half_life_seconds(self) -> float | None:
        """The half life in the unit of timestamps; None where pairs do not decay."""
        return None if self.half_life_days is None else self.half_life_days * _DAY


@config
class LandmarksConfig:
    """The built-in embedding of the graph: truncated singular vectors over its most popular items."""

    landmarks: PositiveInt = 32_768
    """Most popular items that serve as columns: landmarks x dim x 4 bytes on the driver and on each worker. At least 1."""
    max_fit_items: Annotated[int, Field(ge=1_000)] = 200_000
    """Items sampled to the driver to fit the singular vectors: at most 8 bytes x neighbours each. At least 1,000."""
    self_weight: NonNegativeFloat = 1.0
    """Weight of an item as its own neighbour, so that direct neighbours end up close too; 1 is as much as its strongest. 0 or more."""


@config
class LightGcnConfig:
    """LightGCN over the item graph: vectors averaged along sampled edges, trained to tell neighbours from other items.

    The driver's temporary folder takes about 16 bytes x dim an item and 8 an edge; memory holds one step.
    """

    layers: Annotated[int, Field(ge=0, le=4)] = 1
    """Steps along edges that a vector is averaged over. 0 to 4."""
    fan_out: PositiveInt = 10
    """Neighbours drawn per item and layer in training; the final vectors take all. At least 1."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 1_024
    """Pairs of a step, contrasted with each other. 2 to 65,536."""
    temperature: PositiveFloat = 0.1
    """InfoNCE temperature. Above 0."""
    learning_rate: PositiveFloat = 0.05
    """Step size of row-wise Adagrad. Above 0."""
    epochs: PositiveInt = 8
    """Most epochs. At least 1."""
    draws_per_item: PositiveFloat = 8.0
    """Pairs of an epoch, per item with neighbours. Above 0."""
    max_steps_per_epoch: PositiveInt = 25_000
    """Bound on the steps of an epoch, however large the catalogue. At least 1."""
    held_out_share: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Share of the train pairs kept from training, whose loss decides when to stop. 0 (never stops early) to 0.5."""
    patience: PositiveInt = 1
    """Stop after this many epochs without a lower held-out loss. At least 1."""
    auto_items: NonNegativeInt = 20_000
    """`encoder: auto` takes lightgcn for catalogues of at most this many items: under a minute on one core. 0 or more."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Runtime] = "auto"
    """`auto` takes a GPU where there is one."""


@config
class BehaviourConfig:
    """Behaviour vectors, fitted on the train split alone."""

    encoder: str = "auto"
    """How the graph is embedded: `landmarks`, `lightgcn`, or `none`; `auto` takes lightgcn where the catalogue is small."""
    dim: Annotated[int, Field(ge=2, le=4096)] = 128
    """Length of behaviour vectors. 2 to 4096."""
    graph: GraphConfig = section(GraphConfig)
    """The item graph."""
    landmarks: LandmarksConfig = section(LandmarksConfig)
    """Truncated singular vectors, computed in Spark."""
    lightgcn: LightGcnConfig = section(LightGcnConfig)
    """A trained embedding."""

    def __post_init__(self) -> None:
        check(BEHAVIOUR_ENCODERS, self.encoder, "behaviour.encoder")


@config
class SideConfig:
    """Side columns as small integer codes; code 0 is missing or unknown."""

    max_categories: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Commonest values of a category that get a code of their own; the rest are unknown. 1 to 1,000,000."""
    buckets: Annotated[int, Field(ge=2, le=256)] = 32
    """Quantile buckets of a number. 2 to 256."""


@config
class FeaturesConfig:
    """Keys under `features`."""

    text: TextConfig = section(TextConfig)
    """Text vectors."""
    image: ImageConfig = section(ImageConfig)
    """Image vectors."""
    behaviour: BehaviourConfig = section(BehaviourConfig)
    """The item graph and behaviour vectors."""
    side: SideConfig = section(SideConfig)
    """Side columns."""
    previous: Annotated[str | None, Place] = None
    """URI of an earlier features bundle: what its model encoders made of a text or picture that is unchanged is taken from it."""
    keep_space: Annotated[bool, Added] = False
    """With `previous`: vectors that are fitted to the data (TF-IDF, landmarks, LightGCN) stay in its space, and side codes keep their
    meaning, so that heads, clusters and towers that read them can stay. LightGCN goes on from its vectors, and each fitted modality is
    turned by the orthogonal map that brings the items known before closest to where they were."""
