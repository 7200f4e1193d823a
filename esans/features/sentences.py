"""Encoder `sentence_transformers`: a model of that library, from a folder or by its name on the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esans.features.weights import fingerprint, require_path
from esans.uri import looks_like_path

if TYPE_CHECKING:
    import numpy as np
    from pyspark.sql import DataFrame

    from esans.features.registry import Encoded, Job

CODE_VERSION = 1
PACKAGES = ("sentence_transformers",)
_KEY = "features.text.model"
# The library sorts the texts of a call by length: many batches a call leave little padding.
_BATCHES_PER_CALL = 16


def identity(section: Any) -> dict[str, Any]:
    """What the vectors depend on. Raises ConfigError when the model's folder is not there."""
    settings = {"encoder": "sentence_transformers", "code": CODE_VERSION, "max_tokens": section.max_tokens}
    if looks_like_path(section.model):
        return settings | {"model": fingerprint(require_path(section.model, _KEY))}
    return settings | {"hub": section.model, "revision": section.revision}


def encode(items: DataFrame, section: Any, job: Job) -> Encoded:
    """Vectors of the items' texts."""
    from esans.features.encoding import encode_texts

    return encode_texts(items, section, job, __name__, identity(section))


class Sentences:
    """The model on one device."""

    def __init__(self, model: Any, batch_size: int) -> None:
        self.model, self.batch_size, self.chunk = model, batch_size, batch_size * _BATCHES_PER_CALL

    def encode(self, texts: list[str]) -> np.ndarray:
        """(n, d) float vectors of n texts."""
        found: np.ndarray = self.model.encode(texts, batch_size=self.batch_size, convert_to_numpy=True, show_progress_bar=False)
        return found


def load(section: Any, device: str) -> Sentences:
    """The model; code that a hub repository brings is never run."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    # A bar of every worker would run through the step's own progress.
    disable_progress_bar()
    local = looks_like_path(section.model)
    name = str(require_path(section.model, _KEY)) if local else section.model
    model = SentenceTransformer(name, device=device, revision=section.revision, local_files_only=local, trust_remote_code=False)
    if section.max_tokens is not None:
        model.max_seq_length = section.max_tokens
    return Sentences(model, section.batch_size)
