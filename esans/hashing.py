"""One fixed hash, for choices that must be the same on every machine and in every build."""

from __future__ import annotations

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15


def scramble(values: np.ndarray) -> np.ndarray:
    """(n,) uint64 -> (n,) uint64: every bit of the result depends on every bit of the value (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(values ^ (values >> np.uint64(31)))


def salted(values: np.ndarray, salt: int) -> np.ndarray:
    """(n,) whole numbers -> (n,) uint64 hashes under a salt (taken modulo 2^64)."""
    with np.errstate(over="ignore"):
        return scramble(values.astype(np.uint64) + np.uint64(salt % 2**64))
