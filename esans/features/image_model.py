"""A picture model on one device, with the preprocessing of the library that it comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor


class ImageModel:
    """Pictures to vectors.

    Args:
        forward: (n, channels, height, width) prepared pictures on `device` -> (n, d) vectors.
        transform: a picture as the model wants it.
        device: where the model is.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], transform: Any, device: str) -> None:
        self.forward, self.transform, self.device = forward, transform, device

    def prepare(self, image: Image) -> Tensor:
        """A picture as the model wants it."""
        found: Tensor = self.transform(image)
        return found

    def encode(self, images: list[Tensor]) -> np.ndarray:
        """(n, d) float vectors of n prepared pictures."""
        import torch

        with torch.inference_mode():
            found: np.ndarray = self.forward(torch.stack(images).to(self.device)).float().cpu().numpy()
        return found
