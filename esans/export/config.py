"""Configuration of the export stage."""

from esans.config import config


@config
class ExportConfig:
    """Keys under `export`."""
