"""The state of a training run as tensors beside plain JSON values: nothing in it has to be unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Shard as ByRows

_PLAIN = (bool, int, float, str, type(None))


@dataclass
class Rows:
    """In a state, this process's block of the rows of a tensor that lies spread over all processes."""

    own: Tensor
    """(own rows, ...)."""
    total: int
    """Rows of the whole."""


def pack(state: Any, mesh: DeviceMesh | None = None) -> tuple[dict[str, Tensor], Any]:
    """Take a nested state apart: its tensors by path, copied to the host, and a JSON skeleton that names them.

    Args:
        state: dicts with plain keys, lists and tuples of tensors, `Rows` and plain values, nested in any way.
        mesh: the processes, on the host; needed where there are `Rows`.

    Raises:
        TypeError: something else is in it; the message names its place.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(state, "state", tensors, mesh)


def _pack(value: Any, path: str, tensors: dict[str, Tensor], mesh: DeviceMesh | None) -> Any:
    if isinstance(value, Rows):
        assert mesh is not None
        own = value.own.detach().to("cpu", copy=True).contiguous()
        tensors[path] = _spread(own, value.total, mesh)
        return {"tensor": path, "dtype": str(own.dtype).removeprefix("torch."), "shape": [value.total, *own.shape[1:]], "rows": True}
    if isinstance(value, Tensor):
        # A copy also where the tensor is on the host already: the next step changes it while the file is written.
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path, "dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    if isinstance(value, Mapping):
        # Pairs, since JSON would turn the integer keys of an optimiser's state into strings.
        return {"dict": [[_key(key, path), _pack(item, f"{path}.{key}", tensors, mesh)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(item, f"{path}.{place}", tensors, mesh) for place, item in enumerate(value)]}
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(f"{path}: a checkpoint holds tensors and plain values, not a {type(value).__name__}")


def _key(key: Any, path: str) -> Any:
    if not isinstance(key, str | int):
        raise TypeError(f"{path}: a checkpoint has str and int keys, not {key!r}")
    return key


def _spread(own: Tensor, total: int, mesh: DeviceMesh) -> Tensor:
    # Contiguous, hence the strides of the block are those of the whole.
    return DTensor.from_local(own, mesh, [ByRows(0)], run_check=False, shape=torch.Size((total, *own.shape[1:])), stride=own.stride())


def empty_tensors(skeleton: Any, mesh: DeviceMesh | None = None) -> dict[str, Tensor]:
    """Uninitialised host tensors of the shapes and dtypes that a skeleton names, to read into; of spread ones this process's rows."""
    if not isinstance(skeleton, Mapping):
        return {}
    if "tensor" in skeleton:
        (total, *rest), dtype = skeleton["shape"] or (0,), _dtype(skeleton["dtype"])
        if skeleton.get("rows") and mesh is not None:
            block = -(-total // mesh.size())
            own = min(block, max(0, total - block * mesh.get_rank()))
            return {skeleton["tensor"]: _spread(torch.empty(own, *rest, dtype=dtype), total, mesh)}
        return {skeleton["tensor"]: torch.empty(skeleton["shape"], dtype=dtype)}
    inner = [item for _, item in skeleton["dict"]] if "dict" in skeleton else skeleton.get("list", skeleton.get("tuple", []))
    return {name: tensor for item in inner for name, tensor in empty_tensors(item, mesh).items()}


def unpack(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `pack` took apart; of tensors that lie spread over processes, this one's rows."""
    if not isinstance(skeleton, Mapping):
        return skeleton
    if "tensor" in skeleton:
        tensor = tensors[skeleton["tensor"]]
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor
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
