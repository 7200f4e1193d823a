"""The made-up world behind the generated tables: interests, items, users; numpy, one block at a time.

An item leans towards two interests (a strong and a weak one), and its vectors show where it stands between them, with
noise: clusters exist, and no column says which. It also has a place in a hidden grouping that no vector shows. A user
follows a few interests and a few hidden groups; `content_share` says how often a choice comes from the former.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BLOCK = 50_000
"""Items of a block."""
DIM = 128
"""Floats of a vector."""
DAYS = 180
FIRST_MOMENT = 1_700_000_000
NO_TEXT, NO_IMAGE = 0.02, 0.20

_EVENTS_PER_BLOCK = 400_000
_LATENT = 32
_ZIPF = 0.75  # popularity of rank r is about r^-0.75
_STRONG = 0.75  # share of an item in the first of its two interests
_EXPLORE = 0.1  # choices by popularity alone
_ACTIVITY = 1.0  # sigma of the lognormal activity of users
_PER_USER = 4  # interests, and hidden groups, that a user follows
_BURSTS = 12  # days on which one interest draws everybody
_SESSION = 4.0  # mean events of a session
_GAP = 90.0  # mean seconds between two events of a session
_EVENT_SHARES = (0.80, 0.92)  # click, cart, purchase


@dataclass(frozen=True)
class World:
    """Sizes and seed: everything else follows from them."""

    users: int
    items: int
    interactions: int
    seed: int
    content_share: float = 0.8

    def __post_init__(self) -> None:
        if min(self.users, self.items, self.interactions) < 1:
            raise ValueError("users, items and interactions must be at least 1")
        if not 0 <= self.content_share <= 1:
            raise ValueError(f"content_share = {self.content_share}: must lie between 0 and 1")

    @property
    def interests(self) -> int:
        """How many interests (and hidden groups) there are: about 500 items each."""
        return int(np.clip(self.items // 500, 16, 4_000))

    def random(self, kind: int, block: int = 0) -> np.random.Generator:
        """The stream of one block of one kind of thing."""
        return np.random.default_rng([self.seed, kind, block])


_INTERESTS, _LIGHT, _HEAVY, _USERS, _TIMES = range(5)


@dataclass(frozen=True)
class Light:
    """What choices need to know of some items."""

    strong: np.ndarray
    """(n,) int32 interest, and `weak` the other one."""
    weak: np.ndarray
    hidden: np.ndarray
    """(n,) int32 group that no vector shows."""
    popularity: np.ndarray
    """(n,) float64 weight."""


def light_block(world: World, block: int) -> Light:
    """The light side of the items of a block."""
    start, random = block * BLOCK, world.random(_LIGHT, block)
    count = min(BLOCK, world.items - start)
    share = interest_shares(world)
    strong, weak, hidden = (
        np.minimum(np.searchsorted(share, random.random(count), side="right"), world.interests - 1).astype(np.int32) for _ in range(3)
    )
    # Weights of independent items with a Pareto tail follow Zipf's law by rank. The floor keeps the first rank finite.
    uniform = np.maximum(random.random(count), 1 / (4 * world.items))
    return Light(strong, weak, hidden, uniform**-_ZIPF)


@lru_cache(maxsize=2)
def interest_shares(world: World) -> np.ndarray:
    """(interests,) cumulative shares of the interests: some are ten times as large as others."""
    shares = world.random(_INTERESTS).lognormal(0, 0.7, world.interests)
    return np.asarray(np.cumsum(shares) / shares.sum())


@lru_cache(maxsize=2)
def centres(world: World) -> np.ndarray:
    """(interests, latent) float32: interests come in families of about 16."""
    random = world.random(_INTERESTS, 1)
    family = random.integers(0, max(2, world.interests // 16), world.interests)
    own = random.standard_normal((world.interests, _LATENT)) * 0.7
    return np.asarray(random.standard_normal((family.max() + 1, _LATENT))[family] + own, np.float32)


@dataclass(frozen=True)
class ItemBlock:
    """Everything the items table shows of a block."""

    item: np.ndarray
    category: np.ndarray
    text: np.ndarray
    image: np.ndarray
    has_text: np.ndarray
    has_image: np.ndarray


def item_block(world: World, block: int) -> ItemBlock:
    """Rows of the items table: ids in no order of meaning, noisy vectors, a category that is right four times out of five."""
    light, random = light_block(world, block), world.random(_HEAVY, block)
    count = len(light.strong)
    centre = centres(world)
    latent = _STRONG * centre[light.strong] + (1 - _STRONG) * centre[light.weak]
    latent += 0.35 * random.standard_normal((count, _LATENT), dtype=np.float32)
    maps = world.random(_INTERESTS, 2)
    text_map, image_map = (maps.standard_normal((_LATENT, DIM)).astype(np.float32) / np.sqrt(_LATENT) for _ in range(2))
    text = latent @ text_map + 0.5 * random.standard_normal((count, DIM), dtype=np.float32)
    image = np.tanh(latent) @ image_map + 0.5 * random.standard_normal((count, DIM), dtype=np.float32)
    kinds = max(8, world.interests // 8)
    category = np.where(random.random(count) < 0.8, light.strong % kinds, random.integers(0, kinds, count))
    return ItemBlock(
        item=np.arange(block * BLOCK, block * BLOCK + count),
        category=category,
        text=np.asarray(text, np.float32),
        image=np.asarray(image, np.float32),
        has_text=random.random(count) >= NO_TEXT,
        has_image=random.random(count) >= NO_IMAGE,
    )


@dataclass(frozen=True)
class Shelf:
    """Items ordered by group with cumulative weights, to draw an item of a group in proportion to its weight."""

    item: np.ndarray
    cumulative: np.ndarray
    """(n,) float64, rising through all groups."""
    edge: np.ndarray
    """(groups + 1,) float64: cumulative weight before each group."""

    @classmethod
    def of(cls, group: np.ndarray, item: np.ndarray, weight: np.ndarray, groups: int) -> Shelf:
        """Items with their group and weight."""
        order = np.argsort(group, kind="stable")
        cumulative = np.cumsum(weight[order])
        ends = np.searchsorted(group[order], np.arange(groups), side="right")
        return cls(item[order].astype(np.int64), cumulative, np.concatenate([[0.0], cumulative])[np.concatenate([[0], ends])])

    def draw(self, group: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """An item of each group by a uniform number in [0, 1); of an empty group the next one's first item."""
        low, high = self.edge[group], self.edge[group + 1]
        place = np.searchsorted(self.cumulative, low + uniform * (high - low), side="right")
        return np.asarray(self.item[np.minimum(place, len(self.item) - 1)])


@lru_cache(maxsize=1)
def shelves(world: World) -> tuple[Shelf, Shelf, Shelf]:
    """(by interest, by hidden group, all together): 80 bytes an item, kept by each Python worker."""
    blocks = [light_block(world, block) for block in range(-(-world.items // BLOCK))]
    strong, weak, hidden, weight = (np.concatenate([getattr(one, name) for one in blocks]) for name in Light.__annotations__)
    item, groups = np.arange(world.items), world.interests
    both = np.concatenate([strong, weak]), np.concatenate([item, item]), np.concatenate([_STRONG * weight, (1 - _STRONG) * weight])
    return Shelf.of(*both, groups), Shelf.of(hidden, item, weight, groups), Shelf.of(np.zeros(world.items, np.int32), item, weight, 1)


def user_blocks(world: World) -> int:
    """How many blocks of users there are."""
    return -(-world.users // _users_per_block(world))


def _users_per_block(world: World) -> int:
    return max(1, _EVENTS_PER_BLOCK * world.users // world.interactions)


def user_block(world: World, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Events of the users of a block, sorted by user and time.

    Returns:
        (n,) int64 user, item and seconds since the first moment, and (n,) int8 event.
    """
    random, size = world.random(_USERS, block), _users_per_block(world)
    first, last = block * size, min((block + 1) * size, world.users)
    count = _events_per_user(random, first, last, world)
    user = np.repeat(np.arange(first, last), count)
    fresh = np.zeros(len(user), bool)
    fresh[np.cumsum(count)[count > 0] - count[count > 0]] = True
    fresh |= random.random(len(user)) < 1 / _SESSION
    session = np.cumsum(fresh) - 1
    moment, burst = _session_times(random, int(session[-1]) + 1 if len(session) else 0, world)
    item = _choices(random, user - first, session, burst, last - first, world)
    gaps = np.where(fresh, 0.0, random.exponential(_GAP, len(user)))
    since = np.cumsum(gaps)
    time = np.minimum(moment[session] + (since - since[fresh][session]), DAYS * 86_400 - 1).astype(np.int64)
    order = np.lexsort((time, user))
    event = np.searchsorted(_EVENT_SHARES, random.random(len(user)), side="right").astype(np.int8)
    return user[order], item[order], time[order], event


def _events_per_user(random: np.random.Generator, first: int, last: int, world: World) -> np.ndarray:
    # The block's share of all interactions, divided in proportion to lognormal activity; shares add up exactly over blocks.
    share = world.interactions * last // world.users - world.interactions * first // world.users
    edges = np.cumsum(random.lognormal(0, _ACTIVITY, last - first))
    return np.diff(np.concatenate([[0], np.rint(edges / edges[-1] * share)])).astype(np.int64)


@lru_cache(maxsize=2)
def _days(world: World) -> tuple[np.ndarray, np.ndarray]:
    # (cumulative share of each day, interest that bursts on it or -1): weeks, and a dozen days with three times the visits
    random = world.random(_TIMES)
    share = 1 + 0.3 * np.sin(2 * np.pi * np.arange(DAYS) / 7)
    burst = np.full(DAYS, -1)
    chosen = random.choice(DAYS, _BURSTS, replace=False)
    share[chosen] *= 3
    burst[chosen] = random.integers(0, world.interests, _BURSTS)
    return np.cumsum(share) / share.sum(), burst


def _session_times(random: np.random.Generator, sessions: int, world: World) -> tuple[np.ndarray, np.ndarray]:
    cumulative, burst = _days(world)
    day = np.minimum(np.searchsorted(cumulative, random.random(sessions), side="right"), DAYS - 1)
    # Evenings are busier than nights.
    second = 86_400 * random.beta(3, 2, sessions)
    return day * 86_400 + second, np.where(random.random(sessions) < 0.5, burst[day], -1)


def _choices(random: np.random.Generator, user: np.ndarray, session: np.ndarray, burst: np.ndarray, users: int, world: World) -> np.ndarray:
    # One interest (or hidden group) a session, one item an event.
    content, hidden, everything = shelves(world)
    share = interest_shares(world)
    tastes = np.minimum(np.searchsorted(share, random.random((2, users, _PER_USER)), side="right"), world.interests - 1)
    sessions = len(burst)
    owner = np.zeros(sessions, np.int64)
    owner[session] = user
    # The first taste of a user comes up most often.
    pick = np.minimum((random.random(sessions) ** 1.7 * _PER_USER).astype(np.int64), _PER_USER - 1)
    by_content = random.random(sessions) < world.content_share
    group = np.where(by_content, tastes[0, owner, pick], tastes[1, owner, pick])
    group = np.where(by_content & (burst >= 0), burst, group)
    uniform = random.random(len(user))
    item = np.where(by_content[session], content.draw(group[session], uniform), hidden.draw(group[session], uniform))
    return np.where(random.random(len(user)) < _EXPLORE, everything.draw(np.zeros(len(user), np.int64), uniform), item)
