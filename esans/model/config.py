"""Configuration of the two towers."""

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field

from esans.config import NonNegativeInt, PositiveInt, config
from esans.errors import ConfigError


@config
class ModelConfig:
    """Keys under `train.model`."""

    dim: PositiveInt = 64
    """Dimensions of user and item vectors."""
    hidden: NonNegativeInt = 128
    """Width of the hidden layer of both towers; 0 leaves the layer out."""
    content: bool = True
    """Feed the aligned content vectors to the item tower."""
    side: bool = True
    """Feed the side columns to the item tower."""
    user_id: bool = False
    """Give every user an embedding of its own beside its history."""
    tables: Literal["replicated", "sharded"] = "replicated"
    """Where item and user embeddings lie while training: every process holds them all, or each a block of their rows (TorchRec),
    for tables too big for one device. The trained model is the same either way."""
    share_item_input: bool = True
    """History items use the item tower's input embeddings; otherwise a table of their own."""
    history_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of history items hidden from the user tower while training."""

    def __post_init__(self) -> None:
        if self.tables == "sharded" and self.dim % 4:
            raise ValueError(f"dim = {self.dim} is not a multiple of 4, as tables = 'sharded' needs it")


def need_torchrec() -> None:
    """Raise ConfigError where TorchRec is not installed."""
    if find_spec("torchrec") is None or find_spec("fbgemm_gpu") is None:
        raise ConfigError(
            "train.model.tables = 'sharded' needs TorchRec, which is not installed here: run `make sharded` and start the job with "
            ".venv-sharded/bin/python (with a GPU, install the extra `sharded`), or take replicated."
        )
