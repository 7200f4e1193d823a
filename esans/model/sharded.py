"""Embedding tables too big for one device, each process holding a block of rows, through TorchRec.

TorchRec moves ids and rows between the processes (an all-to-all each way) and sums the gradients of a row in the process that
holds it; looking up and summing there is FBGEMM's. What is here gives it the face of `nn.Embedding` that the towers know.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from esans.errors import ConfigError
from esans.model.config import need_torchrec

if TYPE_CHECKING:
    from torchrec.distributed.embedding import ShardedEmbeddingCollection

# Ids travel as bags of unequal length, as many from every process: it need not know how many ids the others ask for.
_BAGS = 1024
# Rows that are drawn or sent together.
_CHUNK = 65_536
_NAME = "rows"


class ShardedTable(nn.Module):
    """Rows of an embedding table spread over the processes: block r of ceil(N / processes) rows lies with rank r.

    Every process must look up as often as the others; each with its own ids, also with none. The gradient of a row is the
    mean over processes, as DistributedDataParallel makes it for all else, and lies in `weight.grad` of the process that has it.

    Args:
        num_embeddings: N, rows of the whole table.
        embedding_dim: D, a multiple of 4 (FBGEMM).
        device: where this process's rows lie, for good.

    Raises:
        ConfigError: TorchRec is not installed, or there is no process group.
    """

    weight: nn.Parameter
    """(own rows x D,) float32, as FBGEMM has it; in a state dict (own rows, D)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, device: torch.device) -> None:
        super().__init__()
        need_torchrec()
        if not dist.is_initialized():
            raise ConfigError("train.model.tables = 'sharded' needs several processes: set train.launch.processes, or take replicated.")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        collection = _collection(num_embeddings, embedding_dim, device)
        # The tensor that autograd knows; TorchRec's own parameters are views of it.
        (self.weight,) = (kernel.emb_module.weights for lookup in collection._lookups for kernel in lookup._emb_modules)
        if len(self.rows) != self.end - self.first:
            raise RuntimeError(f"TorchRec gave rank {self.rank} {len(self.rows)} rows, not {self.end - self.first}")
        # In a tuple: its parameters are known by the names of `nn.Embedding`.
        self._lookup = (collection,)

    @property
    def rows(self) -> Tensor:
        """Those of this process, (own rows, D), without gradient: a view."""
        return self.weight.detach().view(-1, self.embedding_dim)

    @property
    def block(self) -> int:
        """Rows of every process but the last ones."""
        return -(-self.num_embeddings // self.world_size)

    @property
    def first(self) -> int:
        """The first row of this process."""
        return min(self.rank * self.block, self.num_embeddings)

    @property
    def end(self) -> int:
        """The row after its last."""
        return min(self.first + self.block, self.num_embeddings)

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) int64 -> (n, D); n may differ between processes."""
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        lengths = torch.full((_BAGS,), len(ids) // _BAGS, device=ids.device)
        lengths[: len(ids) % _BAGS] += 1
        rows: Tensor = self._lookup[0](KeyedJaggedTensor([_NAME], ids, lengths=lengths))[_NAME].values()
        return rows

    def distinct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the distinct ids, (m, D), and where each id stands among them, shaped like `ids`: every row travels once.

        The host waits for m, as it does for the numbers of ids that TorchRec sends.
        """
        ids, place = ids.unique(return_inverse=True)
        return self(ids), place

    def reset_parameters(self) -> None:
        """What an `nn.Embedding` draws when it is built; `draw` draws over it."""
        self._draw(1.0)

    def draw(self) -> None:
        """Draw the rows: on a CPU those that a replicated table draws from the same seed."""
        self._draw(0.3 / self.embedding_dim**0.5)

    def _draw(self, std: float) -> None:
        # Every process draws all rows, a chunk at a time, and keeps its own: generators move on as they would without shards.
        for start, end in self._chunks(self.num_embeddings):
            rows = torch.empty(end - start, self.embedding_dim, device=self.weight.device).normal_(std=std)
            low, high = max(start, self.first), min(end, self.end)
            if low < high:
                self.rows[low - self.first : high - self.first] = rows[low - start : high - start]

    def gather(self) -> Tensor | None:
        """The whole table (N, D) in the host's memory, in the first process; None in the others. All processes call it."""
        blocks: list[list[Tensor]] = [[] for _ in range(self.world_size)]
        for start, end in self._chunks(self.block):
            own = self.rows.new_zeros(end - start, self.embedding_dim)
            part = self.rows[start:end]
            own[: len(part)] = part
            parts = [torch.empty_like(own) for _ in blocks] if self.rank == 0 else None
            dist.gather(own, parts)
            for rows, sent in zip(blocks, parts or (), strict=False):
                rows.append(sent.cpu())
        if self.rank:
            return None
        whole = [torch.cat(rows) for rows in blocks]
        return torch.cat([rows[: max(0, min(self.block, self.num_embeddings - r * self.block))] for r, rows in enumerate(whole)])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.rows

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        name = f"{prefix}weight"
        super()._load_from_state_dict({name: state_dict[name].flatten()} if name in state_dict else {}, prefix, *rest)

    def _apply(self, fn: Any, recurse: bool = True) -> ShardedTable:
        """Rows stay where TorchRec has put them: `Module.to` and `to_empty` pass them by."""
        return self

    @staticmethod
    def _chunks(rows: int) -> list[tuple[int, int]]:
        # The last is never shorter than the others: torch draws fewer than 16 numbers, and the last 16, in a way of its own.
        starts = list(range(0, max(rows - _CHUNK, 0) + 1, _CHUNK))
        return list(zip(starts, [*starts[1:], rows], strict=True))


def shard_tables(model: nn.Module, names: tuple[str, ...], device: torch.device) -> None:
    """Put sharded tables in place of the `nn.Embedding`s of those names, whose weights need not exist yet (the meta device).

    Args:
        model: any module; names that it does not have are passed over.
        names: dotted, such as item_inputs.id_embedding.
        device: where the rows lie.
    """
    for name in names:
        holder, _, leaf = name.rpartition(".")
        parent = model.get_submodule(holder) if holder in dict(model.named_modules()) else None
        table = getattr(parent, leaf, None)
        if isinstance(table, nn.Embedding):
            setattr(parent, leaf, ShardedTable(table.num_embeddings, table.embedding_dim, device))


def sharded_tables(module: nn.Module) -> dict[str, ShardedTable]:
    """Its sharded tables by the name of their weights."""
    return {f"{name}.weight": part for name, part in module.named_modules() if isinstance(part, ShardedTable)}


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model with whole tables, as if they were replicated; all processes call it, the first one gets it, others {}."""
    tables = {name: table.gather() for name, table in sharded_tables(model).items()}
    first = not dist.is_initialized() or dist.get_rank() == 0
    return {name: tables.get(name, value) for name, value in model.state_dict().items()} if first else {}  # type: ignore[misc]


def _collection(num_embeddings: int, dim: int, device: torch.device) -> ShardedEmbeddingCollection:
    """One table, its rows in blocks over the default process group, updated by any optimiser (the DENSE kernel)."""
    # TorchRec draws rows of its own, which nobody keeps.
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _quiet():
        warnings.simplefilter("ignore")
        from torchrec.distributed.embedding import EmbeddingCollectionSharder
        from torchrec.distributed.embedding_types import EmbeddingComputeKernel
        from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
        from torchrec.distributed.types import ShardingEnv
        from torchrec.modules.embedding_configs import EmbeddingConfig
        from torchrec.modules.embedding_modules import EmbeddingCollection

        table = EmbeddingConfig(num_embeddings=num_embeddings, embedding_dim=dim, name=_NAME, feature_names=[_NAME])
        described = EmbeddingCollection(tables=[table], device=torch.device("meta"))
        sharder = EmbeddingCollectionSharder()
        by_rows = {_NAME: row_wise(compute_kernel=EmbeddingComputeKernel.DENSE.value)}
        plan = construct_module_sharding_plan(described, by_rows, sharder=sharder, device_type=device.type)
        group = dist.group.WORLD
        assert group is not None
        collection = sharder.shard(described, plan, ShardingEnv.from_process_group(group), device)
    if device.type == "cpu":
        for lookup in collection._lookups:
            for kernel in lookup._emb_modules:
                kernel.emb_module.register_forward_pre_hook(_one_id_a_bag, with_kwargs=True)
    return collection


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what TorchRec and FBGEMM say about themselves at import, and at every table."""
    # FBGEMM's operator for the CPU has its gradient, as a test finds; torch says in each backward pass how old its registration is.
    warnings.filterwarnings("ignore", message="fbgemm::dense_embedding_codegen_lookup_function", category=UserWarning)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    logger = logging.getLogger("torchrec")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _one_id_a_bag(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """FBGEMM's kernels for the CPU sum the rows of a bag, also where TorchRec asks for each: so each id is a bag."""
    indices = kwargs["indices"]
    return args, {**kwargs, "offsets": torch.arange(len(indices) + 1, dtype=indices.dtype)}
