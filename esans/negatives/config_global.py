"""Keys of the global samplers beside uniform and in-batch, apart from their torch modules: a wrong key must show before torch is loaded."""

from __future__ import annotations

from esans.negatives.config import SamplerConfig

CONFIGS: dict[str, type[SamplerConfig]] = {}
