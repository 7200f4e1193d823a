"""`esans pipeline`: every stage in order, skipping what is up to date."""

from __future__ import annotations

from esans.commands.arguments import parse
from esans.environment import check_pins


def run(arguments: list[str]) -> None:
    """Run every stage that is not up to date, for every method that the configuration names."""
    source = parse(arguments, "esans pipeline", "Every stage in order, skipping what is up to date.")
    if source is None:
        return
    # A mistake in the last method shows now, and not after the first ones were trained.
    for method in source.load().pipeline.methods:
        source.load(method)
    check_pins()
    from esans.pipeline import run as run_all

    run_all(source)
