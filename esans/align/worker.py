"""One process of the fit: read its files, train with the others, and let rank 0 write what was learned."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

import fsspec
import torch

from esans.align.config import AlignConfig
from esans.align.earlier import Earlier
from esans.align.model import Aligner
from esans.align.ranks import Ranks
from esans.align.reader import Reader
from esans.align.trainer import Curve, Trainer
from esans.bundle import Bundle
from esans.columns import MODALITIES
from esans.config import build
from esans.launch import Process, Spec, joined
from esans.tracking import Run
from esans.uri import join

WORK = "esans.align.worker:run_worker"


@dataclass
class WorkerSpec(Spec):
    """Everything a worker needs, as JSON values: it may start on another host."""

    config: dict[str, Any]
    features: str
    """URI of the features bundle."""
    scratch_uri: str
    """Folder that rank 0 writes the result to."""
    seed: int
    run_id: str
    tracking_uri: str
    """MLflow; empty logs nowhere."""
    work_dir: str = ""
    """Where waits what MLflow does not take at once; empty: in the scratch folder."""
    deliver_seconds: float = 30.0
    """As in `TrackingConfig`."""
    previous: str = ""
    """URI of an align bundle whose heads and codebooks the fit starts from; empty starts anew."""


@dataclass
class Fitted:
    """What a fit leaves behind."""

    heads: dict[str, torch.Tensor]
    """State of the Aligner."""
    books: dict[str, torch.Tensor]
    """Codebooks by level; empty without `vq`."""
    curve: Curve

    @classmethod
    def read(cls, scratch_uri: str) -> Fitted:
        """What rank 0 wrote."""
        with fsspec.open(join(scratch_uri, "fitted.pt"), "rb") as stream:
            state = torch.load(stream, map_location="cpu", weights_only=True)
        return cls(state["heads"], state["books"], Curve(**state["curve"]))

    def write(self, scratch_uri: str) -> None:
        """For the stage, which may be another process."""
        filesystem, path = fsspec.core.url_to_fs(scratch_uri)
        filesystem.makedirs(path, exist_ok=True)
        with filesystem.open(f"{path}/fitted.pt", "wb") as stream:
            torch.save({"heads": self.heads, "books": self.books, "curve": asdict(self.curve)}, stream)


def run_worker(spec_json: str) -> None:
    """Fit as the rank that the environment names (RANK, WORLD_SIZE), or alone."""
    spec = WorkerSpec.parse(spec_json)
    config = build(AlignConfig, spec.config)
    with joined(config.launch, "align.launch") as process:
        fit_rank(spec, config, process)


def fit_rank(spec: WorkerSpec, config: AlignConfig, process: Process) -> None:
    """Build everything from the spec and train; rank 0 writes the result and logs to MLflow (contract 7)."""
    features = Bundle.open(spec.features)
    modalities = modality_lengths(features)
    reader = Reader(features.table("vectors"), modalities, config.buffer_items, process.rank, process.world_size)
    model = build_model(config, modalities, spec.seed).to(process.device)
    ranks = Ranks(process.rank, process.world_size, process.device)
    books = None
    if spec.previous:
        earlier = Earlier.open(Bundle.open(spec.previous))
        model.load_state_dict(earlier.heads)
        books = earlier.books or None
    with ExitStack() as last:
        logs = process.rank == 0 and bool(spec.tracking_uri)
        log = last.enter_context(closing(_run(spec))).metrics if logs else _silent
        trainer = Trainer(config, model, reader, spec.seed, lambda epoch, found: log(found, epoch), ranks, books)
        curve = trainer.fit()
        if process.rank == 0:
            found = {} if trainer.books is None else {level: book.detach().cpu() for level, book in trainer.books.quantiser.books.items()}
            Fitted({name: value.cpu() for name, value in model.state_dict().items()}, found, curve).write(spec.scratch_uri)


def _run(spec: WorkerSpec) -> Run:
    return Run(spec.run_id, spec.tracking_uri, spec.work_dir or spec.scratch_uri, spec.deliver_seconds)


def _silent(values: Mapping[str, float], step: int = 0) -> None:
    """Only rank 0 writes to MLflow (contract 7)."""


def modality_lengths(features: Bundle) -> dict[str, int]:
    """Length of the vectors of each modality, in the order of the house."""
    lengths: Mapping[str, int] = features.facts["modalities"]
    rank = {name: place for place, name in enumerate(MODALITIES)}
    return {name: int(lengths[name]) for name in sorted(lengths, key=lambda name: rank.get(name, len(rank)))}


def build_model(config: AlignConfig, modalities: Mapping[str, int], seed: int) -> Aligner:
    """The untrained heads, on the CPU; a single modality gets a linear one, which keeps its angles."""
    hidden = config.hidden if config.head == "mlp" and len(modalities) > 1 else None
    return Aligner(modalities, config.dim, hidden, seed)
