"""Configuration of the prepare stage: two raw tables, their columns, the rules for events, and the split."""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import Annotated, Literal

from pydantic import Field

from esans.config import Added, Fraction, NonNegativeInt, PositiveFloat, PositiveInt, config, section
from esans.roots import Place, PlaceOrName

# A point in time as people write it: unix seconds, an ISO date, or what YAML makes of an unquoted date.
Instant = int | float | str | datetime.datetime | datetime.date

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def _plain(value: Instant | None) -> int | float | str | None:
    # YAML reads 2011-11-01 as a date; a config must stay JSON.
    return value.isoformat() if isinstance(value, datetime.date) else value


def seconds(value: int | float | str, key: str) -> float:
    """Unix seconds of an instant; dates without a zone are UTC. Raises ValueError naming `key`."""
    if not isinstance(value, str):
        return float(value)
    try:
        parsed = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{key} = {value!r}: must be unix seconds or an ISO date such as 2011-11-01 or 2011-11-01T12:00:00") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp()


@config
class TableConfig:
    """Where a table is and how Spark reads it: a `path` or a catalogue `table`."""

    path: Annotated[str | None, Place] = None
    """File, folder or glob as a URI; without a scheme it is a local path. Give this or `table`."""
    table: Annotated[str | None, PlaceOrName] = None
    """Name of a Spark catalogue table, or a path that `format` names (such as delta). Needs `snapshot`."""
    format: str = "parquet"
    """Spark format of `path`: parquet, csv, json, orc or any other that the session knows."""
    options: dict[str, str | bool | int | float] = dataclasses.field(default_factory=dict)
    """Reader options by name. CSV files have a header unless options.header says otherwise. `${env:NAME}` in a value is read from the
    environment, for passwords."""
    snapshot: str | None = None
    """Version of a table whose files cannot be fingerprinted. Change it when the table changes, and the stage runs again."""

    def __post_init__(self) -> None:
        if self.path is not None and self.table is not None:
            raise ValueError(f"path = {self.path!r} contradicts table = {self.table!r}: set one of the two")
        if self.table is not None and self.snapshot is None:
            raise ValueError(
                f"table = {self.table!r} needs snapshot: a catalogue table has no files to fingerprint, so its version must be named"
            )


@config
class SideColumn:
    """A column of items that the item tower reads beside the content vectors."""

    column: str
    """Column of the items table or of an extra table."""
    kind: Literal["category", "number"]
    """`category`: any value is a word. `number`: values must be numbers."""


@config
class ExtraTable(TableConfig):
    """A further table of item columns, joined on its item id."""

    item_id: str = "item_id"
    """Its column that holds the item id."""


@config
class ItemColumns:
    """Which columns of the items table (or of an extra table) mean what."""

    item_id: str = "item_id"
    """Id of the item, a string or a whole number. Required in the items table."""
    title: str | None = None
    """What reports show of an item."""
    text: str | list[str] | None = None
    """One column or several, joined with a space, for the text encoder. Lists are joined too."""
    text_vector: str | None = None
    """Ready text embedding: an array of numbers of one length."""
    image_vector: str | None = None
    """Ready image embedding: an array of numbers of one length."""
    image: str | None = None
    """The picture for the image encoder: its bytes (a binary column: JPEG, PNG and the like), or a URI of them (text)."""
    available: str | None = None
    """Whether the item may be recommended: a boolean, 0/1, or true/false as text."""


@config
class ItemsConfig(TableConfig):
    """The items table: the catalogue, one row an item."""

    columns: ItemColumns = section(ItemColumns)
    """Column names in the table."""
    side: dict[str, SideColumn] = dataclasses.field(default_factory=dict)
    """Side columns for the item tower: {name: {column, kind: category|number}}. Names are lower-case words."""
    extra: dict[str, ExtraTable] = dataclasses.field(default_factory=dict)
    """Further tables joined on their item id, by a name of your choice: ready embeddings in a file of their own, say."""
    available_where: str | None = None
    """SQL condition over the raw columns of the items table that says which items may be recommended, e.g. `stock > 0`."""
    available_when_missing: bool = True
    """What a null in `columns.available` or a null outcome of `available_where` means."""
    on_bad_vector: Literal["error", "missing"] = "error"
    """A vector of another length than most, with NaN or infinity, or all zeros: stop, or treat the item as one without that vector."""
    on_bad_value: Literal["reject", "missing"] = "reject"
    """A side number or availability that cannot be read: reject the item, or treat the value as missing."""

    def __post_init__(self) -> None:
        TableConfig.__post_init__(self)
        for kind, names in (("side", self.side), ("extra", self.extra)):
            bad = [name for name in names if not _NAME.fullmatch(name)]
            if bad:
                raise ValueError(f"{kind}.{bad[0]}: must be a lower-case word (letters, digits, _), as it becomes part of column names")
        if self.columns.available is not None and self.available_where is not None:
            raise ValueError("columns.available contradicts available_where: set one of the two")


@config
class InteractionColumns:
    """Which columns of the interactions table mean what."""

    user_id: str = "user_id"
    """Id of the user, a string or a whole number."""
    item_id: str = "item_id"
    """Id of the item, as in the items table."""
    timestamp: str | None = None
    """Time of the event: unix time as a number or text, a timestamp, a date, or an ISO text. Give this or `position`."""
    position: str | None = None
    """Order of the event among the user's events, a whole number, where there are no times."""
    event: str | None = None
    """Type of the event, for the rules in prepare.events."""
    order_id: str | None = None
    """Basket, invoice or session of the event. Required by split.method=last_basket."""
    weight: str | None = None
    """Weight of the event, a number > 0; null means 1. Multiplies the weight of the event type."""
    quantity: str | None = None
    """Pieces bought, a number > 0: other rows (returns, cancellations) are rejected. See prepare.events.quantity."""
    rating: str | None = None
    """Rating, a number, for prepare.events.min_rating."""

    def __post_init__(self) -> None:
        if self.timestamp is not None and self.position is not None:
            raise ValueError(f"timestamp = {self.timestamp!r} contradicts position = {self.position!r}: set one of the two")


@config
class TimestampRange:
    """Which times are believed."""

    unit: Literal["s", "ms", "us"] = "s"
    """Unit of numeric timestamps: seconds, milliseconds or microseconds."""
    min: Instant = 1
    """Earliest sane time, in unix seconds or as an ISO date. Earlier rows are rejected."""
    max: Instant | None = None
    """Latest sane time, in unix seconds or as an ISO date; by default a day from now. Later rows are rejected."""

    def __post_init__(self) -> None:
        self.min = _plain(self.min)  # type: ignore[assignment]
        self.max = _plain(self.max)
        lowest = seconds(self.min, "min")  # type: ignore[arg-type]
        if self.max is not None and seconds(self.max, "max") < lowest:
            raise ValueError(f"max = {self.max!r} lies before min = {self.min!r}")


@config
class InteractionsConfig(TableConfig):
    """The interactions table: one row an event of a user with an item."""

    columns: InteractionColumns = section(InteractionColumns)
    """Column names in the table."""
    timestamps: TimestampRange = section(TimestampRange)
    """Unit and sane range of the timestamps."""


@config
class EventRules:
    """Which events are positives, and with what weight; which are exposures; the rest is ignored and counted."""

    positives: dict[str, PositiveFloat] = dataclasses.field(default_factory=dict)
    """Weight of each event type that is a positive, > 0. Empty: every event that is not an exposure, with `default_weight`."""
    exposures: list[str] = dataclasses.field(default_factory=list)
    """Event types that only showed the item: kept apart, for use as negatives."""
    default_weight: PositiveFloat = 1.0
    """Weight of a positive where `positives` is empty or there is no event column."""
    min_rating: float | None = None
    """Events with a lower rating (or none) are no positives. Needs interactions.columns.rating."""
    quantity: Literal["ignore", "log", "linear"] = "ignore"
    """How the quantity enters the weight: not at all, times 1 + ln(quantity), or times the quantity."""

    def __post_init__(self) -> None:
        both = sorted(set(self.positives) & set(self.exposures))
        if both:
            raise ValueError(f"positives and exposures both name {both[0]!r}: an event type is one or the other")


@config
class Filters:
    """How many events a user and an item need to stay."""

    min_user_items: PositiveInt = 1
    """Distinct items that a user must have among the positives. Users below are dropped altogether."""
    min_item_users: PositiveInt = 1
    """Distinct users that an item must have; below, its events are dropped, and the item stays in the catalogue as a cold one."""
    max_rounds: PositiveInt = 20
    """Rounds of dropping users and items in turn, each of which can push another below its minimum; stops as soon as nothing changes."""


@config
class SplitConfig:
    """How positives are divided into train, validation and test, by time."""

    method: Literal["last_out", "last_basket", "global_time", "last_days"] = "last_out"
    """`last_out`: a user's last new item is the test, the one before it the validation. `last_basket`: the new items of the last and
    last but one order. `global_time`: everything from two moments on. `last_days`: the days before prepare.until, as for retraining."""
    min_items: PositiveInt = 1
    """Distinct items a user needs to be tested; others only train. last_out needs 3 in any case."""
    min_baskets: Annotated[int, Field(ge=3)] = 3
    """last_basket: orders a user needs to be tested, at least 3; others only train."""
    validation_from: Instant | None = None
    """global_time: start of validation: a share of the positives in time order (0 < x < 1), unix seconds, or an ISO date."""
    test_from: Instant | None = None
    """global_time: start of the test, in the same form as validation_from and after it."""
    validation_days: Annotated[PositiveInt, Added] = 7
    """last_days: days of the validation, right before those of the test. At least 1."""
    test_days: Annotated[PositiveInt, Added] = 7
    """last_days: days of the test, which end at prepare.until, or with the UTC day of the latest positive. At least 1."""

    def __post_init__(self) -> None:
        self.validation_from, self.test_from = _plain(self.validation_from), _plain(self.test_from)
        cuts = (self.validation_from, self.test_from)
        if self.method != "global_time":
            if cuts != (None, None):
                raise ValueError(f"validation_from and test_from belong to method=global_time, not to method={self.method}: remove them")
            return
        if None in cuts:
            raise ValueError("method=global_time needs validation_from and test_from: shares (0.8 and 0.9), unix seconds or ISO dates")
        first, second = (seconds(cut, key) for cut, key in zip(cuts, ("validation_from", "test_from"), strict=True))  # type: ignore[arg-type]
        if is_share(self.validation_from) != is_share(self.test_from):
            raise ValueError("validation_from and test_from must both be shares between 0 and 1, or both be times")
        if not 0 < first < second:
            raise ValueError(f"test_from = {self.test_from!r} must come after validation_from = {self.validation_from!r}, and both after 0")


def is_share(cut: Instant | None) -> bool:
    """Whether a cut of global_time is a share of the rows rather than a time."""
    return isinstance(cut, float | int) and 0 < cut < 1


@config
class LogConfig:
    """The checked events as a table of the bundle, to which the next run appends."""

    write: bool = False
    """Whether the bundle keeps every checked event (table `log`), for a later run to extend. Needs prepare.until."""
    extend: bool = False
    """Whether the events in the log of prepare.previous are taken as they are, and of the raw table only later rows are read. Where that
    bundle has no log everything is read."""
    late_days: NonNegativeInt = 2
    """Days before the end of the earlier log whose rows are read again, for those that came late. Rows later still are taken in by the
    next run that extends nothing. 0 or more."""


@config
class PrepareConfig:
    """Keys under `prepare`: the two raw tables, what their columns mean, and the split."""

    items: ItemsConfig = section(ItemsConfig)
    """The catalogue."""
    interactions: InteractionsConfig = section(InteractionsConfig)
    """The events."""
    events: EventRules = section(EventRules)
    """Which events count, and how much."""
    filters: Filters = section(Filters)
    """Minimum numbers of events."""
    split: SplitConfig = section(SplitConfig)
    """Train, validation and test."""
    deduplicate: Literal["first", "last", "none"] = "first"
    """Which event of a user with the same item stays. `last` looks no further than the end of a split part, except under last_out."""
    max_history: PositiveInt = 200
    """Positives a history keeps at most, the latest ones. The set of seen items that ranking masks is always whole."""
    max_rejected_share: Fraction = 0.05
    """Share of the rows of a table, 0 to 1, that may be rejected; above it the stage stops."""
    until: Annotated[Instant | None, Added] = None
    """Interactions from this moment on are not read (unix seconds, or an ISO date, which is its first moment in UTC), whatever they
    hold: they are neither counted nor rejected. None: all of them."""
    previous: Annotated[str | None, Place] = None
    """URI of an earlier prepare bundle whose ids stay as they are; new ones come after them. None: ids start from 0."""
    log: Annotated[LogConfig, Added] = section(LogConfig)
    """What spares the next run from checking everything anew."""

    def __post_init__(self) -> None:
        self.until = _plain(self.until)
        columns = self.interactions.columns
        if self.until is not None:
            seconds(self.until, "until")
            if columns.timestamp is None and columns.position is not None:
                raise ValueError(f"until = {self.until!r} needs interactions.columns.timestamp: positions are no times")
        if self.log.write and self.until is None:
            raise ValueError("log.write needs until: a log that ends nowhere can't be extended")
        if (self.events.positives or self.events.exposures) and columns.event is None:
            raise ValueError("events.positives and events.exposures need interactions.columns.event: the column that holds the event type")
        if self.events.min_rating is not None and columns.rating is None:
            raise ValueError("events.min_rating needs interactions.columns.rating")
        if self.events.quantity != "ignore" and columns.quantity is None:
            raise ValueError(f"events.quantity = {self.events.quantity!r} needs interactions.columns.quantity")
        if self.split.method == "last_basket" and columns.order_id is None:
            raise ValueError("split.method = 'last_basket' needs interactions.columns.order_id: the column that holds the order")

    @property
    def until_seconds(self) -> float | None:
        """`until` in unix seconds."""
        return None if self.until is None else seconds(self.until, "until")  # type: ignore[arg-type]
