"""Encoder `timm`: an architecture of that library without its classifier, with the weights of a checkpoint file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esans.features.image_model import ImageModel
from esans.features.weights import fingerprint, require_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from esans.features.registry import Encoded, Job

CODE_VERSION = 1
PACKAGES = ("timm", "PIL")
_KEY = "features.image.checkpoint"


def identity(section: Any) -> dict[str, Any]:
    """What the vectors depend on. Raises ConfigError when the checkpoint is not there."""
    checkpoint = fingerprint(require_path(section.checkpoint, _KEY))
    return {"encoder": "timm", "code": CODE_VERSION, "architecture": section.architecture, "checkpoint": checkpoint}


def encode(items: DataFrame, section: Any, job: Job) -> Encoded:
    """Vectors of the items' pictures."""
    from esans.features.encoding import encode_images

    return encode_images(section, job, __name__, identity(section))


def load(section: Any, device: str) -> ImageModel:
    """The model; the checkpoint is safetensors, or a pickle that may hold weights only.

    Raises:
        ValueError: the checkpoint and the architecture differ in more than the classifier.
    """
    import timm
    from timm.models import load_state_dict

    model = timm.create_model(section.architecture, pretrained=False, num_classes=0)
    state = load_state_dict(str(require_path(section.checkpoint, _KEY)), weights_only=True)
    result = model.load_state_dict(state, strict=False)
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    strange = [name for name in result.unexpected_keys if not name.startswith(heads)]
    if result.missing_keys or strange:
        raise ValueError(
            f"{section.checkpoint} does not fit {section.architecture}: {len(result.missing_keys)} weights are missing "
            f"(first: {next(iter(result.missing_keys), 'none')}), {len(strange)} are unknown (first: {next(iter(strange), 'none')})"
        )
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return ImageModel(model.to(device).eval(), transform, device)
