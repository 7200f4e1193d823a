"""What worker processes tell each other about where they are, and which of them is at fault when none gets on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch.distributed import Store


@dataclass(frozen=True)
class Sign:
    """A sign of life of one rank."""

    rank: int
    pid: int
    number: int
    """Rises with every sign, also while the rank stands still."""
    place: str
    """What it is doing."""
    step: int
    """In which step, counted from 1; 0 before the first."""
    waits: bool
    """Whether what it does can only end once the other ranks, or the device, have done their part."""
    seconds: float
    """Since when."""
    left: bool = False
    """Whether it has left the work."""
    over: bool = False
    """Whether it has gone back to its agent, which lets processes end once all of them have."""

    def where(self) -> str:
        """The place in words."""
        return f"'{self.place}'" + (f" of step {self.step}" if self.step else "")


class Board(Protocol):
    """Where the ranks of one start of the work leave their signs, and a verdict once one of them has found a hang."""

    def put(self, sign: Sign) -> None:
        """Replace this rank's sign."""

    def signs(self) -> list[Sign]:
        """The latest of every rank that has left one, by rank."""

    def declare(self, verdict: str) -> str:
        """The verdict that stands: this one, unless another rank was first."""

    def verdict(self) -> str | None:
        """What was declared."""


class FolderBoard:
    """A folder of this host, for ranks that a launcher on it has started; the launcher reads it too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, sign: Sign) -> None:
        """Replace this rank's sign."""
        part = self.folder / f".rank-{sign.rank}"
        part.write_text(json.dumps(asdict(sign)))
        part.replace(self.folder / f"rank-{sign.rank}")

    def signs(self) -> list[Sign]:
        """The latest of every rank that has left one, by rank."""
        return sorted((Sign(**json.loads(path.read_text())) for path in self.folder.glob("rank-*")), key=lambda sign: sign.rank)

    def declare(self, verdict: str) -> str:
        """The verdict that stands: this one, unless another process was first."""
        part = self.folder / f".verdict-{id(self)}"
        part.write_text(verdict)
        # A link is made whole or not at all, and only by the first.
        with suppress(FileExistsError):
            (self.folder / "verdict").hardlink_to(part)
        return self.verdict() or verdict

    def verdict(self) -> str | None:
        """What was declared."""
        path = self.folder / "verdict"
        return path.read_text() if path.exists() else None


class StoreBoard:
    """A torch.distributed store, for ranks on several hosts. Its connection must be its own: one that is waiting answers nobody else."""

    def __init__(self, store: Store, world_size: int, timeout: timedelta) -> None:
        self.store, self.world_size = store, world_size
        store.set_timeout(timeout)

    def put(self, sign: Sign) -> None:
        """Replace this rank's sign."""
        self.store.set(f"rank-{sign.rank}", json.dumps(asdict(sign)))

    def signs(self) -> list[Sign]:
        """The latest of every rank that has left one, by rank."""
        keys = [f"rank-{rank}" for rank in range(self.world_size)]
        # A key that nobody has set would be waited for.
        return [Sign(**json.loads(self.store.get(key))) for key in keys if self.store.check([key])]

    def declare(self, verdict: str) -> str:
        """The verdict that stands: this one, unless another rank was first."""
        return str(self.store.compare_set("verdict", "", verdict).decode())

    def verdict(self) -> str | None:
        """What was declared."""
        return str(self.store.get("verdict").decode()) if self.store.check(["verdict"]) else None


def diagnose(signs: Sequence[Sign], silent: Mapping[int, float], world_size: int) -> str:
    """Who holds up whom, once no rank gets on.

    Args:
        signs: the latest of every rank that has left one.
        silent: ranks without a new sign, and for how many seconds.
        world_size: how many ranks there should be.

    Returns:
        One sentence that names the ranks at fault, where they are, and the collective that the others wait in.
    """
    known = {sign.rank: sign for sign in signs}
    faults = [f"rank {rank} has never given a sign of life" for rank in range(world_size) if rank not in known]
    waiting: list[Sign] = []
    for rank, sign in known.items():
        if sign.left:
            faults.append(f"rank {rank} has left the work after step {sign.step}")
        elif rank in silent:
            gone = f"rank {rank} has given no sign of life for over {silent[rank]:.0f} s (it is stopped, or its host is lost)"
            faults.append(f"{gone}; it was last seen in {sign.where()}")
        elif sign.waits and world_size > 1:
            waiting.append(sign)
        else:
            faults.append(f"rank {rank} has been in {sign.where()} for {sign.seconds:.0f} s")
    places = _places(waiting)
    if faults:
        without = "; ".join(f"{where}, where {who} waited for {seconds:.0f} s" for where, who, seconds in places)
        return " and ".join(faults) + (f", without entering {without}" if without else "")
    said = "; ".join(f"{who} waited in {where} for {seconds:.0f} s" for where, who, seconds in places)
    why = (
        "the ranks wait for each other in different places"
        if len(places) > 1
        else "the network between the ranks or a device does not answer"
    )
    return f"{why}: {said}"


def endless(signs: Sequence[Sign], seconds: float) -> str:
    """Who has left the work without ending its process, for so many seconds in which nobody was at work; one sentence.

    Args:
        signs: the last of every such rank.
        seconds: since when.
    """
    return " and ".join(f"rank {sign.rank} has left the work after step {sign.step} and does not end for {seconds:.0f} s" for sign in signs)


def _places(waiting: Sequence[Sign]) -> list[tuple[str, str, float]]:
    """Where ranks wait, who does, and the longest wait in seconds."""
    places: dict[str, list[Sign]] = {}
    for sign in waiting:
        places.setdefault(sign.where(), []).append(sign)
    return [(where, _ranks([sign.rank for sign in signs]), max(sign.seconds for sign in signs)) for where, signs in places.items()]


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]} has"
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"ranks {', '.join(map(str, ranks[:8]))}{more} have"
