"""Checkpoints between epochs: everything that a killed run needs to go on as if never stopped."""

from __future__ import annotations

import io
import posixpath
from typing import Any

import fsspec
import torch

from esans.uri import join

_NAME = "checkpoint.pt"


def save_checkpoint(folder_uri: str, state: dict[str, Any]) -> None:
    """Replace the checkpoint in a folder: readers see the old one or the new one, never a part."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    filesystem, path = fsspec.core.url_to_fs(join(folder_uri, _NAME))
    filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
    filesystem.pipe_file(f"{path}.part", buffer.getvalue())
    filesystem.mv(f"{path}.part", path)


def load_checkpoint(folder_uri: str) -> dict[str, Any] | None:
    """The checkpoint in a folder, on the CPU, or None. Only tensors and plain values are read (`weights_only`)."""
    try:
        with fsspec.open(join(folder_uri, _NAME), "rb") as stream:
            buffer = io.BytesIO(stream.read())
    except FileNotFoundError:
        return None
    state: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=True)
    return state
