"""`esans validate`: check both raw tables and print a report."""

from __future__ import annotations

from esans.commands.arguments import parse
from esans.environment import check_pins


def run(arguments: list[str]) -> None:
    """Check both raw tables against their contract; writes nothing."""
    source = parse(arguments, "esans validate", "Check both raw tables against their contract and print a report; writes nothing.")
    if source is None:
        return
    settings = source.load()
    check_pins()
    from esans.prepare.validate import print_report

    print_report(settings.prepare, settings.spark)
