"""Encoder `open_clip`: the image tower of an architecture of that library, with the weights of a checkpoint file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from esans.features.image_model import ImageModel
from esans.features.weights import fingerprint, require_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from esans.features.registry import Encoded, Job

CODE_VERSION = 1
PACKAGES = ("open_clip", "PIL")


def identity(section: Any) -> dict[str, Any]:
    """What the vectors depend on. Raises ConfigError when the checkpoint (or an architecture's file) is not there."""
    settings = {"encoder": "open_clip", "code": CODE_VERSION, "architecture": section.architecture}
    if section.architecture.endswith(".json"):
        settings["architecture"] = fingerprint(require_path(section.architecture, "features.image.architecture"))
    return settings | {"checkpoint": fingerprint(require_path(section.checkpoint, "features.image.checkpoint"))}


def encode(items: DataFrame, section: Any, job: Job) -> Encoded:
    """Vectors of the items' pictures."""
    from esans.features.encoding import encode_images

    return encode_images(section, job, __name__, identity(section))


def load(section: Any, device: str) -> ImageModel:
    """The model; the checkpoint is safetensors, or a pickle that may hold weights only."""
    import open_clip

    name = section.architecture
    if name.endswith(".json"):
        open_clip.add_model_config(require_path(name, "features.image.architecture"))
        name = Path(name).stem
    path = str(require_path(section.checkpoint, "features.image.checkpoint"))
    # A text tower of another library would fetch weights that the checkpoint holds anyway.
    made = open_clip.create_model_and_transforms(name, pretrained=path, device=device, pretrained_text=False, weights_only=True)
    model, transform = made[0], made[2]
    return ImageModel(model.eval().encode_image, transform, device)
