"""Ids that mean the same from one build to the next: new centroids matched to old ones (Hungarian assignment)."""

from __future__ import annotations

import numpy as np

from esans.codebooks.codebook import Codebooks, Primaries


def matched(new: np.ndarray, old: np.ndarray, old_ids: np.ndarray) -> np.ndarray:
    """An id for every new centroid: that of the old one it is matched to, at the least sum of squared distances.

    Ids stay 0 .. K - 1: a new centroid without a partner, or whose partner's id is K or more, takes the lowest free one.

    Args:
        new: (K, d).
        old: (K', d).
        old_ids: (K',) their ids; an old cluster that has vanished is simply not among them.

    Returns:
        (K,) int64, a permutation.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    # The same codebook keeps its ids even where two of its centroids are equal.
    if np.array_equal(new, old) and np.array_equal(np.sort(old_ids), np.arange(len(new))):
        return old_ids
    ids = np.full(len(new), -1, np.int64)
    if len(old):
        rows, columns = linear_sum_assignment(cdist(new, old, "sqeuclidean"))
        ids[rows] = old_ids[columns]
        ids[ids >= len(new)] = -1
    ids[ids < 0] = np.setdiff1d(np.arange(len(new)), ids)
    return ids


def relabelled(books: Codebooks, primary: np.ndarray, secondary: np.ndarray) -> Codebooks:
    """The same codebooks under other ids: primary k is called primary[k], secondary l is called secondary[l]."""
    old = books.primaries
    choices = [tuple(int(primary[label]) for label in choice) for choice in old.choices]
    # Prototypes stand in the order of their primaries, so that plain books stay plain.
    order = sorted(range(len(choices)), key=lambda place: choices[place][0])
    primaries = Primaries(
        old.prototypes[order], old.penalty[order], tuple(choices[place] for place in order), old.centroids[np.argsort(primary)]
    )
    return Codebooks(primaries, books.secondaries[np.argsort(secondary)])
