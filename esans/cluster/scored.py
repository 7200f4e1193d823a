"""Hardness as a trained model sees it: the score u.e of validation users and the negatives drawn for their positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esans.bundle import Bundle
from esans.cluster.hardness import Held, dots
from esans.columns import HISTORY, ITEM_IDX, PADDING, PRIMARY, SECONDARY, SPLIT, TARGETS, UNASSIGNED, USER_IDX, VALIDATION
from esans.errors import ConfigError
from esans.spark import sampled

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from torch import Tensor

    from esans.model.towers import TwoTower


def open_model(uri: str) -> Bundle:
    """The train bundle at cluster.quality.model. Raises ConfigError naming the key when there is none."""
    found = Bundle.find(uri)
    if found is None or found.manifest["stage"] != "train":
        what = "there is no finished bundle" if found is None else f"this is a bundle of the {found.manifest['stage']} stage"
        raise ConfigError(f"cluster.quality.model = {uri!r}: {what}. Give the URI of a train bundle, or null for the cosine of vectors.")
    return found


@dataclass
class ModelJudge:
    """Scores of validation users under a trained model."""

    user: np.ndarray
    """(n, D) unit vectors."""
    items: np.ndarray
    """(H, D) unit vectors of the held items; NaN where the model does not know an item."""
    c1: np.ndarray
    """(n,) primaries of the users' positives."""
    c2: np.ndarray
    """(n,) their secondary codes."""
    positive: np.ndarray | None
    """(n,) scores of the positives."""
    about: str

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """(n, m) scores."""
        return dots(self.user, self.items, rows)


def model_judge(bundle: Bundle, prepare: Bundle, codes: DataFrame, held: Held, most: int, seed: int) -> ModelJudge | None:
    """About `most` validation users, chosen by a hash, and one positive of each; None where there are none.

    The model and its vectors of the held items stay on the driver: items x dim x 4 bytes.
    """
    import torch

    from esans.model.files import load

    if not prepare.has("histories"):
        return None
    with bundle.local("model") as folder:
        model = load(folder)
    rows = _users(prepare, codes, most, seed, model.num_items)
    if not rows.num_rows:
        return None
    target = rows.column("target").to_numpy()
    with torch.inference_mode():
        user = _encode_users(model, rows)
        positive = (user * model.encode_items(torch.from_numpy(target.copy()))).sum(1)
        known = torch.from_numpy(np.minimum(held.item, model.num_items - 1))
        vectors = torch.cat([model.encode_items(part) for part in known.split(65_536)]).numpy()
    vectors[held.item >= model.num_items] = np.nan
    c1, c2 = (rows.column(name).to_numpy().astype(np.int64) for name in (PRIMARY, SECONDARY))
    about = f"score of user and negative under the model {bundle.uri}"
    return ModelJudge(user.numpy(), vectors, c1, c2, positive.numpy(), about)


def _users(prepare: Bundle, codes: DataFrame, most: int, seed: int, num_items: int) -> pa.Table:
    """user_idx, history, target, c1, c2: users whose first validation positive has a cluster and is known to the model."""
    from pyspark.sql import functions as F

    users = prepare.table("histories").spark(codes.sparkSession).where((F.col(SPLIT) == VALIDATION) & (F.size(TARGETS) > 0))
    share = most / max(users.count(), 1)
    users = sampled(users, USER_IDX, share, seed)
    wanted = users.select(USER_IDX, HISTORY, F.get(TARGETS, F.lit(0)).alias("target")).where(F.col("target") < num_items)
    own = codes.where(F.col(PRIMARY) != UNASSIGNED).withColumnRenamed(ITEM_IDX, "target")
    return wanted.join(own, "target").select(USER_IDX, HISTORY, "target", PRIMARY, SECONDARY).toArrow().sort_by(USER_IDX)


def _encode_users(model: TwoTower, rows: pa.Table) -> Tensor:
    import torch

    length = model.history_length
    histories = np.full((rows.num_rows, length), PADDING, np.int64)
    for place, found in enumerate(rows.column(HISTORY).to_pylist()):
        last = [item for item in found if item < model.num_items][-length:]
        if last:
            histories[place, -len(last) :] = last
    user = rows.column(USER_IDX).to_numpy()
    user = np.where(user < model.sizes["num_users"], user, PADDING)
    return model.encode_users(torch.from_numpy(histories), torch.from_numpy(user))
