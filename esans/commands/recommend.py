"""`esans recommend`: the best items of every user, as a table."""

from __future__ import annotations

import dataclasses

from esans.commands.arguments import parse
from esans.environment import check_pins


def run(arguments: list[str]) -> None:
    """Write recommendations with the model of the configuration, or with a registered one, unless they are there already."""
    about = "The best items of every user, or of a list of users, without what they have seen, as Parquet."
    source = parse(arguments, "esans recommend", about)
    if source is None:
        return
    settings = source.load()
    check_pins()
    from esans.flow import Plan, run_stage
    from esans.recommend.registered import pinned
    from esans.tracking import resolve_uri

    if settings.recommend.model is not None:
        # The version, not the alias, is what the result is a result of: an alias moves.
        model = pinned(settings.recommend.model, resolve_uri(settings.tracking, settings.work_dir))
        settings = dataclasses.replace(source, overrides=(*source.overrides, f"--recommend.model={model}")).load()
    bundle = run_stage(Plan(settings), "recommend")
    print(f"table:   {bundle.table('recommendations').uri.removeprefix('file://')}")
