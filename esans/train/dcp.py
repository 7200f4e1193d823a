"""What torch.distributed.checkpoint (DCP) leaves to its callers: its pickle is read by a list of names, and its error made one of ours."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.metadata import Metadata

from esans.errors import EsansError


class CheckpointError(EsansError):
    """A checkpoint is not what this project writes, or could not be written or read."""


class Damaged(CheckpointError):
    """A checkpoint is incomplete, or a file is not what its checksum says."""


class Unfinished(Damaged):
    """A folder never became a checkpoint: its writer was killed."""


def first_of(error: BaseException) -> BaseException:
    """What a rank met, out of the error that DCP packs those of all ranks in. That one is none of Exception's, so it must not get out.

    Raises:
        BaseException: it met one that is no error, such as Ctrl-C.
    """
    while isinstance(error, CheckpointException) and error.failures:
        error, _ = next(iter(error.failures.values()))
    if not isinstance(error, Exception | CheckpointException):
        raise error
    return error


class Reader(FsspecReader):
    """Reads DCP's metadata without giving its pickle a free hand."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """As the base's."""
        with self.fs.create_stream(self._get_metadata_path(), "rb") as stream:
            metadata: Metadata = MetadataUnpickler(io.BytesIO(stream.read())).load()
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata


class MetadataUnpickler(pickle.Unpickler):
    """Knows DCP's dataclasses, sizes and tensor types; anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of that name. Raises CheckpointError for any other than DCP's."""
        if module == "torch.distributed.checkpoint.metadata" or (module, name) in (
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.serialization", "_get_layout"),
            ("torch", "Size"),
        ):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise CheckpointError(f"the metadata of a checkpoint names {module}.{name}, which this project never writes")
