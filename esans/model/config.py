"""Configuration of the two towers."""

from typing import Annotated

from pydantic import Field

from esans.config import NonNegativeInt, PositiveInt, config


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
    share_item_input: bool = True
    """History items use the item tower's input embeddings; otherwise a table of their own."""
    history_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of history items hidden from the user tower while training."""
