"""How many primaries and secondaries, when the config leaves it open."""

from __future__ import annotations

import math
from dataclasses import dataclass

from esans.errors import DataError

_COMFORT = 3
_MAX_PRIMARY, _MAX_SECONDARY = 20_000, 256


@dataclass(frozen=True)
class Sizes:
    """What the tables must look like."""

    items: int
    primary: int
    """K1 to aim at."""
    secondary: int
    """K2."""
    least: int
    """Items that every primary must hold."""
    fewest: int
    """Fewest primaries that a method can draw from: m_c + 1."""
    largest: float
    """Most items of a primary, in mean sizes."""

    @property
    def most(self) -> float:
        """Most items of a primary when there are `primary` of them."""
        return self.largest * self.items / self.primary


def decide(
    items: int, least: int, fewest: int, largest: float, num_primary: int | None, num_secondary: int | None, section: str = "cluster"
) -> Sizes:
    """K1 near sqrt(N), so that a draw of a cluster and a draw inside it are of the same size, with a mean size of 3 least sizes or more.

    K2 is near sqrt(N / K1): a primary splits into about as many cells as a cell has items.

    Args:
        items: items that have a vector.
        least: items that every primary must hold.
        fewest: fewest primaries that a method can draw from: m_c + 1.
        largest: most items of a primary, in mean sizes.
        num_primary: wanted K1, which wins over the rule as far as the least size allows; None follows the rule.
        num_secondary: wanted K2; None follows the rule.
        section: of the config, for the error.

    Raises:
        DataError: too few items for the fewest primaries of the least size.
    """
    if items < fewest * least:
        raise DataError(
            f"{section}: {items:,} items have a vector, and {fewest} primaries of at least {least} items need {fewest * least:,}.\n"
            f"Lower {section}.min_cluster_size (and m_c, m_o, n_h), or bring more items; methods without clusters need none of this."
        )
    wanted = num_primary or min(round(math.sqrt(items)), items // (_COMFORT * least), _MAX_PRIMARY)
    primary = max(min(wanted, items // least), fewest)
    secondary = num_secondary or min(max(round(math.sqrt(items / primary)), 2), _MAX_SECONDARY)
    return Sizes(items, primary, secondary, least, fewest, largest)
