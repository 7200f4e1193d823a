"""What a training with sharded tables does otherwise: gradients, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from esans.model.sharded import ShardedTable, sharded_tables
from esans.train.sparse import sparse_tables
from esans.train.state import Rows


def data_parallel(module: nn.Module) -> DistributedDataParallel:
    """The module with dense gradients of what every process holds averaged; sharded tables see to their own.

    Callers see to buffers, and to tables of sparse gradients, which are the first process's to begin with, as all else is.
    """
    apart = sparse_tables(module)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, [*sharded_tables(module), *apart])
    for table in apart.values():
        dist.broadcast(table.data, src=0)
    # Gradients lie in the buckets, which saves a copy there and one back.
    return DistributedDataParallel(module, static_graph=True, forward_sync_buffers=False, gradient_as_bucket_view=True)


def weights_of(module: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """State of a module, or copies of it in `state`, for a checkpoint: each process names the rows that it has."""
    tables = sharded_tables(module)
    return {name: _rows(value, tables.get(name)) for name, value in (module.state_dict() if state is None else state).items()}


def optimizer_of(optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """State of an optimiser for a checkpoint: the moments of a sharded table lie as its rows do."""
    return _with_moments(optimizer, module, _rows)


def load_optimizer(optimizer: Optimizer, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Put back what `optimizer_of` gave, as the checkpoint has it for this process."""
    optimizer.load_state_dict(_with_moments(optimizer, module, _flat, state))


def _with_moments(
    optimizer: Optimizer, module: nn.Module, change: Callable[[Any, ShardedTable | None], Any], given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The state of an optimiser, or a given one, with `change` applied to what it keeps for each parameter and its sharded table."""
    state = dict(optimizer.state_dict() if given is None else given)
    tables = {id(table.weight): table for table in sharded_tables(module).values()}
    if not tables:
        return state
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = state["state"].items()
    state["state"] = {
        place: {name: change(value, tables.get(id(parameters[place]))) for name, value in values.items()} for place, values in kept
    }
    return state


def _rows(value: Any, table: ShardedTable | None) -> Any:
    # A step count is no row.
    spread = table is not None and isinstance(value, Tensor) and value.numel() == table.weight.numel()
    return Rows(value.view(-1, table.embedding_dim), table.num_embeddings) if spread and table is not None else value


def _flat(value: Any, table: ShardedTable | None) -> Any:
    return value.flatten() if table is not None and isinstance(value, Tensor) and value.dim() == 2 else value
