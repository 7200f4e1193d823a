"""ESANS: training for embedding-based retrieval with semantic-aware negatives."""

__version__ = "0.1.0"

import os as _os

# Before anything loads OpenMP: idle threads sleep instead of spinning. On a machine that torch shares with Spark or with
# other ranks, spinning threads made a training step several times slower; alone, it makes no difference.
_os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
