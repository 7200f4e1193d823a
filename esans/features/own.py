"""Encoder `module`: the user's own `package.module:factory`.

The factory returns an object with `encode(contents) -> (n, d) floats`, where contents are texts, or pictures in RGB as
`PIL.Image`. It is called once a worker process, with `device="cpu"` or `"cuda:N"` when it takes such an argument. The object
may have `prepare(image)` too, run in the threads that decode the pictures; `encode` then gets what that returns.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esans.columns import IMAGE_MODALITY
from esans.errors import ConfigError
from esans.features.weights import fingerprint

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from esans.features.registry import Encoded, Job

CODE_VERSION = 1


def identity(section: Any) -> dict[str, Any]:
    """What the vectors depend on: the name, the source of the module, and the user's own version. Raises ConfigError when there is none."""
    module = section.module.partition(":")[0]
    try:
        found = find_spec(module)
    except ImportError:
        found = None
    if found is None:
        raise ConfigError(
            f"module {module!r} of the encoder {section.module!r} is not there. Install it, or put its folder on the PYTHONPATH."
        )
    source = Path(found.origin) if found.origin else None
    digest = fingerprint(source) if source is not None and source.is_file() else None
    return {"encoder": "module", "code": CODE_VERSION, "module": section.module, "version": section.version, "source": digest}


def encode(items: DataFrame, section: Any, job: Job) -> Encoded:
    """Vectors of the items' texts or pictures."""
    from esans.features.encoding import encode_images, encode_texts

    if job.modality == IMAGE_MODALITY:
        return encode_images(section, job, __name__, identity(section))
    return encode_texts(items, section, job, __name__, identity(section))


def load(section: Any, device: str) -> Any:
    """What the user's factory returns."""
    module, _, name = section.module.partition(":")
    factory = getattr(import_module(module), name)
    return factory(device=device) if "device" in inspect.signature(factory).parameters else factory()
