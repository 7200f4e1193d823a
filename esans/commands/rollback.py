"""`esans rollback`: the previous champion serves again."""

from __future__ import annotations

from esans.commands.arguments import parse
from esans.environment import check_pins

_ABOUT = "Put the alias `champion` back to `previous` in the registry, and say what is served now."


def run(arguments: list[str]) -> None:
    """Move the alias, under the lock of retraining."""
    source = parse(arguments, "esans rollback", _ABOUT)
    if source is None:
        return
    settings = source.load()
    check_pins()
    from esans.retrain.rollback import roll_back

    print(roll_back(settings))
