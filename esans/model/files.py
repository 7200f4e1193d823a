"""A trained model as a folder: weights, sizes, and the frozen content it needs to encode histories of raw ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esans.config import build, to_dict
from esans.errors import BundleError
from esans.model.config import ModelConfig
from esans.model.meta import without_memory
from esans.model.towers import TwoTower

_CONFIG, _WEIGHTS, _CONTENT, _SIDE = "model.json", "weights.pt", "content.npy", "side.npy"


def save(model: TwoTower, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the model to a folder that `load` reads; nothing in it is a pickle of code.

    `weights` are those of `esans.model.sharded.whole_state`, where tables may be sharded; the folder does not tell that they were.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config = to_dict(model.config) | {"tables": "replicated"}
    (target / _CONFIG).write_text(json.dumps({"config": config, "sizes": model.sizes}, indent=1))
    torch.save(model.state_dict() if weights is None else dict(weights), target / _WEIGHTS)
    np.save(target / _CONTENT, model.item_inputs.content_NF.cpu().numpy(), allow_pickle=False)
    np.save(target / _SIDE, model.item_inputs.side_NS.cpu().numpy(), allow_pickle=False)


def load(folder: str | Path, device: str | torch.device = "cpu") -> TwoTower:
    """The model in `folder`, in evaluation mode. Raises BundleError when the folder holds none."""
    source = Path(folder)
    if not (source / _CONFIG).is_file():
        raise BundleError(f"no model in {source}: {_CONFIG} is missing")
    described = json.loads((source / _CONFIG).read_text())
    model = without_memory(build(ModelConfig, described["config"]), **described["sizes"])
    # weights_only: nothing from outside is unpickled into code. Assigned, not copied: a table is in memory once.
    model.load_state_dict(torch.load(source / _WEIGHTS, map_location=device, weights_only=True), assign=True)
    content = torch.from_numpy(np.load(source / _CONTENT, allow_pickle=False))
    side = torch.from_numpy(np.load(source / _SIDE, allow_pickle=False))
    model.set_content(content, side)
    return model.eval()
