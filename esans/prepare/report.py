"""The split in words, figures and plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esans import columns as C
from esans.config import to_dict
from esans.errors import DataError
from esans.prepare.config import PrepareConfig
from esans.prepare.rejects import Checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pyspark.sql import DataFrame

_RULES = {
    "last_out": "A user with at least {min_items} distinct items is tested: the last new item in time order is the test target, the one "
    "before it the validation target, everything earlier trains. Other users only train. Rows of one user at one time are ordered by a "
    "seeded hash, never by item id.",
    "last_basket": "A user's orders are ranked by the first timestamp in them (ties by a seeded hash of user and order). A user with at "
    "least {min_baskets} orders and {min_items} distinct items is tested: the last order as a whole is the test, the last but one the "
    "validation, everything earlier trains. Targets are first purchases only: items of that order in no earlier order of the user. A user "
    "whose last (last but one) order holds nothing new has no test (validation) targets. Other users only train.",
    "global_time": "Positives before {validation} train, from there on they are validation, from {test} on test (a number below 1 is a "
    "share of the positives in time order). Targets are items that the user had no positive with in an earlier part; a user needs "
    "{min_items} distinct items and a positive in an earlier part to be tested.",
    "last_days": "The last {test_days} days before {end} are the test, the {validation_days} days before those the validation, everything "
    "earlier trains. Targets are first choices: items that the user had no positive with in an earlier part; a user needs {min_items} "
    "distinct items and a positive in an earlier part to be tested.",
}


def split_rule(config: PrepareConfig) -> str:
    """The exact rule of the split in a few sentences."""
    method = config.split.method
    least = max(3, config.split.min_items) if method == "last_out" else config.split.min_items
    cuts = {"validation": config.split.validation_from, "test": config.split.test_from}
    days = {name: getattr(config.split, name) for name in ("test_days", "validation_days")}
    end = "the end of the latest day" if config.until is None else config.until
    rule = _RULES[method].format(min_items=least, min_baskets=config.split.min_baskets, end=end, **cuts, **days)
    kept = {"first": "the first event", "last": "the last event", "none": "every event"}[config.deduplicate]
    within = " of a part" if config.deduplicate == "last" and method != "last_out" else ""
    return f"{rule} Of a user's events with one item {kept}{within} counts."


def split_counts(rows: DataFrame, histories: DataFrame) -> dict[str, Any]:
    """Rows by split, users and targets by split, and users with both validation and test targets."""
    from pyspark.sql import functions as F

    by_split = {row[C.SPLIT]: row["count"] for row in rows.groupBy(C.SPLIT).count().collect()}
    tested = histories.where(F.col(C.SPLIT) != C.SERVE)
    found = tested.groupBy(C.SPLIT).agg(F.count("*").alias("users"), F.sum(F.size(C.TARGETS)).alias("targets")).collect()
    targets = {row[C.SPLIT]: (row["users"], row["targets"]) for row in found}
    both = tested.groupBy(C.USER_IDX).count().where("count = 2").count()
    counts: dict[str, Any] = {f"num_{name}": by_split.get(name, 0) for name in C.SPLITS}
    for name in (C.VALIDATION, C.TEST):
        counts[f"num_{name}_users"], counts[f"num_{name}_targets"] = targets.get(name, (0, 0))
    return {**counts, "num_users_in_both": both}


def require_tested(counts: dict[str, Any], config: PrepareConfig) -> None:
    """Raise DataError when the split leaves nothing to train on, to validate or to test."""
    needed = {"train rows": counts["num_train"], "validation users": counts["num_validation_users"], "test users": counts["num_test_users"]}
    empty = [what for what, number in needed.items() if not number]
    if empty:
        raise DataError(
            f"interactions: the split leaves no {' and no '.join(empty)} (prepare.split.method = {config.split.method!r}; "
            f"{counts['num_train']:,} train, {counts['num_validation']:,} validation, {counts['num_test']:,} test rows).\n"
            f"The rule: {split_rule(config)}\n"
            "Lower prepare.split.min_items or prepare.split.min_baskets, move the cuts, or take another method."
        )


def facts(config: PrepareConfig, counts: dict[str, Any], rule: str, seed: int) -> dict[str, Any]:
    """What later stages and readers of the manifest need to know."""
    names = config.items.columns
    given = {C.TEXT_MODALITY: names.text_vector, C.IMAGE_MODALITY: names.image_vector}
    return {
        **{name: counts[name] for name in ("num_train", "num_validation", "num_test", "num_validation_users", "num_test_users")},
        "side": {name: side.kind for name, side in config.items.side.items()},
        "modalities_given": [name for name, column in given.items() if column is not None],
        "max_history": config.max_history,
        "split": {**to_dict(config.split), "deduplicate": config.deduplicate, "seed": seed, "rule": rule, **counts},
    }


def figures(checked: list[Checked], events: dict[str, int], counts: dict[str, Any]) -> dict[str, float]:
    """Counts for the manifest and MLflow."""
    found: dict[str, float] = {}
    for table in checked:
        found |= {f"{table.name}.rows": table.total, f"{table.name}.rejected": table.num_rejected}
        found |= {f"{table.name}.rejected_share": table.num_rejected / max(table.total, 1)}
        for one in table.rejects:
            name = f"{table.name}.{one.reason.replace(':', '.')}"
            found[name] = found.get(name, 0) + one.rows
    found |= {f"events.{kind}": number for kind, number in events.items()}
    return found | counts


def lines(counts: dict[str, Any], rule: str) -> list[str]:
    """The split for people."""
    parts = [f"train {counts['num_train']:,} rows"]
    for name in (C.VALIDATION, C.TEST):
        rows, targets, users = (counts[f"num_{name}{what}"] for what in ("", "_targets", "_users"))
        parts.append(f"{name} {rows:,} rows, {targets:,} targets of {users:,} users")
    return [rule, "; ".join([*parts, f"{counts['num_users_in_both']:,} users in both"])]


def rows_figure(counts: dict[str, Any]) -> Figure:
    """Bars: rows, and users with targets, per split."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    bars = [(f"{name} rows", counts[f"num_{name}"]) for name in C.SPLITS]
    bars += [(f"{name} users", counts[f"num_{name}_users"]) for name in (C.VALIDATION, C.TEST)]
    drawn = axes.barh([name for name, _ in bars], [value for _, value in bars], color=["C0"] * 3 + ["C1"] * 2)
    axes.bar_label(drawn, labels=[f"{value:,}" for _, value in bars], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_title("Rows and tested users per split")
    return figure


def history_figure(histories: DataFrame, max_history: int) -> Figure:
    """Histogram of history lengths for serving. At most max_history + 1 counts reach the driver."""
    from matplotlib.figure import Figure
    from pyspark.sql import functions as F

    lengths = histories.where(F.col(C.SPLIT) == C.SERVE).groupBy(F.size(C.HISTORY).alias("length")).count().collect()
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist([row["length"] for row in lengths], weights=[row["count"] for row in lengths], bins=min(50, max_history))
    axes.set(title="History length of users", xlabel=f"positives (at most {max_history})", ylabel="users", yscale="log")
    return figure


def popularity_figure(popularity: DataFrame) -> Figure:
    """Popularity curve: train positives by rank. The driver gets one number per distinct count: at most sqrt(2 x rows)."""
    import numpy as np
    from matplotlib.figure import Figure

    counted = popularity.groupBy(C.COUNT).agg({"*": "count"}).toDF(C.COUNT, "items").collect()
    found = sorted(((row[C.COUNT], row["items"]) for row in counted), reverse=True)
    ranks = np.cumsum([items for _, items in found])
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.step(ranks, [max(count, 0.5) for count, _ in found], where="pre")
    axes.set(title="Popularity curve", xlabel="items, most popular first", ylabel="train positives (none: 0.5)", xscale="log", yscale="log")
    return figure
