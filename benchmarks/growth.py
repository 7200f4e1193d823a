"""The law t = a + b n^p, fitted to a few measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """t = a + b n^p seconds for n rows."""

    a: float
    b: float
    p: float
    error: float
    """Largest relative distance of a measurement from the law."""

    def seconds(self, rows: float) -> float:
        """What the law says."""
        return float(self.a + self.b * rows**self.p)


def fit(rows: Sequence[float], seconds: Sequence[float]) -> Growth:
    """Least squares of relative errors with a, b >= 0, so that the small sizes count as much as the large one.

    Args:
        rows: at least three sizes.
        seconds: how long each took.
    """
    from scipy.optimize import least_squares

    n, t = np.asarray(rows, float), np.asarray(seconds, float)
    scale = n.max()

    def apart(law: np.ndarray) -> np.ndarray:
        return np.asarray((law[0] + law[1] * (n / scale) ** law[2]) / t - 1)

    tries = [
        least_squares(apart, [share * t.min(), t.max(), power], bounds=([0, 0, 0.2], [t.min(), 10 * t.max(), 3]))
        for share in (0.05, 0.5, 0.9)
        for power in (0.8, 1.0, 1.2)
    ]
    best = min(tries, key=lambda one: one.cost)
    a, b, p = best.x
    return Growth(float(a), float(b / scale**p), float(p), float(np.abs(best.fun).max()))
