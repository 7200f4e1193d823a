"""The state of a training run as tensors beside plain JSON values: nothing in it has to be unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PLAIN = (bool, int, float, str, type(None))


def pack(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Take a nested state apart: its tensors by path, copied to the host, and a JSON skeleton that names them.

    Args:
        state: dicts with plain keys, lists and tuples of tensors and plain values, nested in any way.

    Raises:
        TypeError: something else is in it; the message names its place.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(state, "state", tensors)


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A copy also where the tensor is on the host already: the next step changes it while the file is written.
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path, "dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    if isinstance(value, Mapping):
        # Pairs, since JSON would turn the integer keys of an optimiser's state into strings.
        return {"dict": [[_key(key, path), _pack(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(item, f"{path}.{place}", tensors) for place, item in enumerate(value)]}
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(f"{path}: a checkpoint holds tensors and plain values, not a {type(value).__name__}")


def _key(key: Any, path: str) -> Any:
    if not isinstance(key, str | int):
        raise TypeError(f"{path}: a checkpoint has str and int keys, not {key!r}")
    return key


def empty_tensors(skeleton: Any) -> dict[str, Tensor]:
    """Uninitialised host tensors of the shapes and dtypes that a skeleton names, to read into."""
    if not isinstance(skeleton, Mapping):
        return {}
    if "tensor" in skeleton:
        return {skeleton["tensor"]: torch.empty(skeleton["shape"], dtype=_dtype(skeleton["dtype"]))}
    inner = [item for _, item in skeleton["dict"]] if "dict" in skeleton else skeleton.get("list", skeleton.get("tuple", []))
    return {name: tensor for item in inner for name, tensor in empty_tensors(item).items()}


def unpack(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `pack` took apart."""
    if not isinstance(skeleton, Mapping):
        return skeleton
    if "tensor" in skeleton:
        return tensors[skeleton["tensor"]]
    if "dict" in skeleton:
        return {key: unpack(item, tensors) for key, item in skeleton["dict"]}
    if "list" in skeleton:
        return [unpack(item, tensors) for item in skeleton["list"]]
    return tuple(unpack(item, tensors) for item in skeleton["tuple"])


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name!r} is no tensor type")
    return dtype
