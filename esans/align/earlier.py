"""An earlier alignment: its heads, its codebooks, and the rows of items that have not changed since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from esans import columns
from esans.align.config import AlignConfig
from esans.align.vq import LEVELS, PRIMARY, SECONDARY
from esans.bundle import Bundle
from esans.columns import CENTROID, ITEM_IDX, MEAN, PRESENT
from esans.errors import BundleError, ConfigError, DataError
from esans.lineage import feature_spaces
from esans.table import Table

_CODES = {PRIMARY: columns.PRIMARY, SECONDARY: columns.SECONDARY}
# The same products in blocks of other sizes differ in the last digits; features that have changed differ by far more.
_SAME = 1e-5


@dataclass(frozen=True)
class Earlier:
    """What an earlier align bundle passes on."""

    bundle: Bundle
    heads: dict[str, torch.Tensor]
    """State of its Aligner."""
    books: dict[str, torch.Tensor]
    """Codebooks by level, (K, d) float32; empty where none were trained."""

    @classmethod
    def open(cls, bundle: Bundle) -> Earlier:
        """Read it. Raises BundleError where it is another stage's."""
        if bundle.manifest["stage"] != "align":
            raise BundleError(f"align.previous = {bundle.uri}: is a bundle of the {bundle.manifest['stage']} stage, not of align.")
        with bundle.local("heads.pt") as path:
            heads = torch.load(path, map_location="cpu", weights_only=True)
        tables = {level: bundle.table(f"codebook_{level}") for level in LEVELS if bundle.has(f"codebook_{level}")}
        books = {level: torch.from_numpy(table.dense(_CODES[level], CENTROID, table.rows)) for level, table in tables.items()}
        return cls(bundle, heads, books)

    def check(self, config: AlignConfig, features: Bundle, modalities: Mapping[str, int], wanted: Mapping[str, torch.Tensor]) -> None:
        """Refuse heads that cannot read today's features.

        Args:
            config: of today.
            features: of today.
            modalities: their lengths.
            wanted: state of the heads that the config asks for.

        Raises:
            ConfigError: heads of another shape, other modalities, or codebooks that are asked for and not there.
            DataError: features of another space.
        """
        facts, where = self.bundle.facts, f"align.previous = {self.bundle.uri}"
        shapes = {name: tuple(value.shape) for name, value in wanted.items()}
        if list(facts["modalities"]) != list(modalities) or shapes != {name: tuple(value.shape) for name, value in self.heads.items()}:
            raise ConfigError(
                f"{where}: its heads take {', '.join(facts['modalities'])} to {facts['dim']} floats, and today's would take "
                f"{', '.join(f'{name} ({length})' for name, length in modalities.items())} to {config.dim}.\n"
                "Set align.dim, align.head, align.hidden and the encoders back, or leave align.previous out."
            )
        if config.codebooks == "vq" and not self.books:
            raise ConfigError(f"{where}: it has no codebooks, and align.codebooks = 'vq' needs them. Leave align.previous out.")
        known, now = facts.get("feature_spaces", {}), feature_spaces(features)
        turned = [name for name in modalities if known.get(name) != now[name]]
        if turned:
            raise DataError(
                f"{where}: the {' and '.join(turned)} vectors of {features.uri} lie in another space than those that its heads were "
                "trained on.\nSet features.previous to the features bundle of that alignment with features.keep_space=true, or leave "
                "align.previous out."
            )


class Unchanged:
    """Hands out the earlier rows of items in rising order, in step with a stream of today's.

    Memory: one batch of the earlier table.
    """

    def __init__(self, table: Table, modalities: list[str]) -> None:
        self._names = [*modalities, MEAN]
        self._batches: Iterator[pa.RecordBatch] = table.batches([ITEM_IDX, *self._names, PRESENT])
        self._left: dict[str, np.ndarray] | None = None
        self.kept = self.changed = self.new = 0

    @property
    def figures(self) -> dict[str, float]:
        """Items by what became of them."""
        return {"previous.kept": self.kept, "previous.changed": self.changed, "previous.new": self.new}

    def keep(self, item: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Put the earlier rows, bit for bit, in the place of rows that are the same but for rounding.

        Args:
            item: (n,) item_idx, rising, and above those of the call before.
            values: (n, d) float32 of each modality and of the mean, changed in place; `present` (n, M) bool.
        """
        if not len(item):
            return
        block = self._up_to(int(item[-1]))
        if block is None:
            self.new += len(item)
            return
        place = np.minimum(np.searchsorted(block[ITEM_IDX], item), len(block[ITEM_IDX]) - 1)
        known = block[ITEM_IDX][place] == item
        same = known & (block[PRESENT][place] == values[PRESENT]).all(1)
        for name in self._names:
            same &= np.abs(block[name][place] - values[name]).max(1, initial=0.0) <= _SAME
        for name in self._names:
            values[name][same] = block[name][place[same]]
        self.kept += int(same.sum())
        self.changed += int((known & ~same).sum())
        self.new += int((~known).sum())

    def _up_to(self, last: int) -> dict[str, np.ndarray] | None:
        """The earlier rows that were not handed out yet, up to an item; None where there are none."""
        parts = []
        while self._left is not None or self._read():
            assert self._left is not None
            stop = int(np.searchsorted(self._left[ITEM_IDX], last, side="right"))
            parts.append({name: column[:stop] for name, column in self._left.items()})
            if stop < len(self._left[ITEM_IDX]):
                self._left = {name: column[stop:] for name, column in self._left.items()}
                break
            self._left = None
        parts = [part for part in parts if len(part[ITEM_IDX])]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else None

    def _read(self) -> bool:
        batch = next((batch for batch in self._batches if batch.num_rows), None)
        self._left = None if batch is None else {name: _dense(batch.column(name)) for name in batch.schema.names}
        return self._left is not None


def _dense(column: pa.Array) -> np.ndarray:
    if not pa.types.is_list(column.type):
        return np.asarray(column)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
