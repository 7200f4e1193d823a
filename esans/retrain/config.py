"""Configuration of scheduled retraining."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from esans.config import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Runtime, config, section
from esans.redaction import remember
from esans.retrain.rules import FullConfig


@config
class LockConfig:
    """Keys under `retrain.lock`: one retraining at a time in a work directory."""

    wait_seconds: Annotated[NonNegativeFloat, Runtime] = 0.0
    """Seconds to wait for another retraining to end; 0 leaves at once, with exit code 5. 0 or more."""
    lease_seconds: Annotated[float, Field(ge=1), Runtime] = 300.0
    """Seconds without a sign of life after which a holder on another machine counts as dead. On one machine a dead holder is seen at
    once. Longer than the clocks of the machines differ. At least 1."""


@config
class DriftConfig:
    """Keys under `retrain.drift`: what the data of the day may look like before anything is trained."""

    reference_days: PositiveInt = 28
    """Calendar days before the day that it is compared with; days without rows do not count. At least 1."""
    min_rows_ratio: NonNegativeFloat = 0.3
    """Least interactions of the day, as a share of the mean of the reference days. 0 or more."""
    max_rows_ratio: PositiveFloat = 3.0
    """Most interactions of the day, as a multiple of that mean. Above 0."""
    max_new_users: Fraction = 0.6
    """Largest share of the day's users that no earlier row names. 0 to 1."""
    max_new_items: Fraction = 0.3
    """Largest share of the day's items that no earlier row names. 0 to 1."""
    max_unknown_items: Fraction = 0.05
    """Largest share of the day's rows whose item the items table lacks. 0 to 1."""
    max_null_increase: Fraction = 0.02
    """How far the share of nulls of a mapped column may lie above that of the reference days (of the items table: of the last
    published run). 0 to 1."""
    max_duplicate_increase: Fraction = 0.05
    """How far the share of rows that repeat another row of the day may lie above that of the reference days. 0 to 1."""
    max_psi: PositiveFloat = 0.5
    """Largest population stability index of a column over ten bins of the reference: below 0.1 means no change, above 0.25 a change
    that most people look into; one day of one shop moves more than a month. Above 0."""
    psi_min_rows: PositiveInt = 500
    """Fewer rows than this on either side are not compared: with ten bins their index is noise. At least 1."""
    min_items_ratio: NonNegativeFloat = 0.9
    """Least rows of the items table, as a share of those of the last published run. 0 or more."""
    max_items_ratio: PositiveFloat = 1.5
    """Most rows of the items table, as a multiple of those. Above 0."""

    def __post_init__(self) -> None:
        for low, high in (("min_rows_ratio", "max_rows_ratio"), ("min_items_ratio", "max_items_ratio")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} = {getattr(self, low):g} is more than {high} = {getattr(self, high):g}: no day could pass")


@config
class GateConfig:
    """Keys under `retrain.gate`: what a challenger must show before it is published."""

    metrics: list[Literal["recall", "ndcg"]] = dataclasses.field(default_factory=lambda: ["recall", "ndcg"])
    """Metrics at `k` in which the challenger must not be inferior to the champion."""
    k: PositiveInt = 50
    """Cut-off of the metrics, of the share of the catalogue and of the fixed number of recommendations. Items; at least 1."""
    margin: Fraction = 0.05
    """The challenger passes where it is surely no worse than this share of the champion's value: the lower end of the interval of the
    difference lies above -margin x champion. 0 to 1."""
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    """Coverage of the two-sided interval; 0.9 tests non-inferiority at 5 %. Between 0.5 and 1."""
    resamples: Annotated[int, Field(ge=100)] = 4000
    """Draws of users for the interval. At least 100."""
    slice_margin: Fraction = 0.15
    """A slice stops the challenger where it is surely worse by more than this share: the upper end of its interval lies below
    -slice_margin x champion. 0 to 1."""
    slice_min_users: PositiveInt = 50
    """Slices with fewer users are shown and not judged. At least 1."""
    popularity_buckets: PositiveInt = 4
    """Slices by popularity of what is to be found, beside that of cold items. At least 1."""
    history_edges: list[PositiveInt] = dataclasses.field(default_factory=lambda: [5, 20, 100])
    """Lower ends of the slices by distinct earlier items of the user, rising."""
    min_users: PositiveInt = 100
    """Users in the window below which nothing is published. At least 1."""
    max_users: PositiveInt = 20_000
    """Users of the window that are ranked: a sample by a hash where there are more. At least 1."""
    min_index_recall: Fraction = 0.9
    """Least overlap of the index with exact search. 0 to 1."""
    min_over_popularity: NonNegativeFloat = 1.0
    """The challenger's recall must be at least this multiple of that of the most popular items. 0 or more; 0 does not ask."""
    min_catalogue_share: Fraction = 0.01
    """Least share of the available items that the users of the window are recommended, all together. 0 to 1."""
    min_user_spread: NonNegativeFloat = 0.01
    """Least mean distance of user vectors from their mean: vectors that are all alike recommend the same to everybody. 0 to 1."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metrics is empty: name at least one of recall and ndcg")
        if sorted(set(self.history_edges)) != list(self.history_edges) or not self.history_edges:
            raise ValueError(f"history_edges = {self.history_edges} must be rising, with at least one number")


@config
class NotifyConfig:
    """Keys under `retrain.notify`: a webhook that gets the report of every run. The result of a run never depends on it."""

    url: Annotated[str | None, Runtime] = None
    """http or https address that reports are posted to, or ${env:NAME} for the variable that holds it; by default the environment
    variable ESANS_WEBHOOK_URL, else none. Masked wherever a configuration is shown or kept."""
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$"), Runtime] = "X-Esans-Secret"
    """Header that carries the secret of the environment variable ESANS_WEBHOOK_SECRET, where that is set."""
    timeout_seconds: Annotated[PositiveFloat, Runtime] = 10.0
    """Seconds for one try. Above 0."""
    retries: Annotated[NonNegativeInt, Runtime] = 3
    """Further tries after one that failed, with growing pauses of 1, 2, 4 .. seconds. 0 or more."""

    def __post_init__(self) -> None:
        if self.url is None:
            return
        if "${env:" not in self.url:
            remember(self.url)
        if not self.url.startswith(("http://", "https://", "${env:")):
            raise ValueError("url must start with http:// or https://, or be ${env:NAME}")


@config
class RetrainConfig:
    """Keys under `retrain`: the scheduled run."""

    method: str | None = None
    """Method to train: the name of a file in conf/experiments. By default `method`, else the only one of pipeline.methods."""
    window_days: PositiveInt = 14
    """Calendar days up to the as-of day that are kept from training; champion and challenger are compared on them. At least 1."""
    validation_days: PositiveInt = 7
    """Calendar days before the window whose positives are the validation split, for early stopping. At least 1."""
    empty_day: Literal["auto", "skip", "refuse"] = "auto"
    """A day without interactions: `skip` calls it nothing to do, `refuse` a fault; `auto` calls it nothing to do on a weekday that had
    none in each of the four weeks before, else a fault."""
    catch_up: Annotated[Literal["every", "latest"], Runtime] = "every"
    """What --catch-up does about missed days: `every` runs each in order, `latest` the as-of day alone."""
    catch_up_days: Annotated[PositiveInt, Runtime] = 14
    """How many days back --catch-up looks at most. At least 1."""
    incremental_epochs: PositiveInt | None = 1
    """Most epochs of an incremental run, which goes on from the champion's weights; null takes train.epochs. At least 1."""
    full: FullConfig = section(FullConfig)
    """When a day is trained from the start."""
    drift: DriftConfig = section(DriftConfig)
    """Checks before training."""
    gate: GateConfig = section(GateConfig)
    """Gates after training."""
    lock: LockConfig = section(LockConfig)
    """One run at a time."""
    notify: NotifyConfig = section(NotifyConfig)
    """Webhook."""
