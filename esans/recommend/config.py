"""Configuration of recommendations made ahead of time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esans.config import PositiveInt, Runtime, config
from esans.roots import Place


@config
class RecommendConfig:
    """Keys under `recommend`: the best items of every user, or of a list of users, as a table."""

    k: PositiveInt = 50
    """Items a user."""
    model: Annotated[str, Field(pattern=r"^models:/[^/:@]+(@[^/:@]+|/\d+)$")] | None = None
    """A registered model, models:/NAME@ALIAS or models:/NAME/VERSION; by default the train bundle of this configuration. Histories
    and availability come from this configuration's prepare bundle either way, matched by item id."""
    search: Literal["exact", "index"] = "exact"
    """`exact` scores every item; `index` asks the faiss index that was exported with the model, which may miss some."""
    users: Annotated[str | None, Place] = None
    """Users to recommend for: a Parquet or CSV table (by its ending), or a text file with an id a line; by default all users."""
    users_column: str = "user_id"
    """The column of `users` that holds the ids, in Parquet and CSV."""
    chunk_users: Annotated[int, Field(ge=1, le=10_000_000)] = 50_000
    """Users of one part file: what is done again at most after a kill, and what is in memory."""
    user_batch: Annotated[PositiveInt, Runtime] = 512
    """Users encoded and ranked at a time."""
    item_chunk: Annotated[PositiveInt, Runtime] = 4096
    """Items ranked at a time by exact search; memory is user_batch * item_chunk * 48 bytes, and the catalogue's vectors."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Runtime] = "auto"
    """Where the model runs; `auto` takes the GPU where there is one."""
