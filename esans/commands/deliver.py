"""`esans deliver WORK_DIR`: send MLflow what it could not be sent before."""

from __future__ import annotations

from esans.errors import ConfigError


def run(arguments: list[str]) -> None:
    """Deliver what waits in a work folder."""
    from esans.delivery import deliver_left
    from esans.outbox import root_of
    from esans.tracking import TrackingError

    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise ConfigError("usage: esans deliver WORK_DIR, the folder of the runs (work_dir of their configuration)")
    root = root_of(arguments[0])
    failed = deliver_left(root)
    if failed:
        raise TrackingError("\n".join(failed))
    print(f"nothing waits in {root}")
