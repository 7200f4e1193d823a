"""The references by name: in tables, to readers, and in the config."""

from __future__ import annotations

from dataclasses import dataclass

POPULARITY = "popularity"


@dataclass(frozen=True)
class Reference:
    """A tuned reference: its `method` in tables, its title in sentences, the key that switches it and the section that tunes it."""

    method: str
    title: str
    switch: str
    section: str


ITEM_KNN = Reference("itemknn", "item-kNN", "references.item_knn", "references.knn")
ALS = Reference("als", "ALS", "references.als", "references.als_search")
BPR = Reference("bpr", "BPR", "references.bpr", "references.bpr_search")
