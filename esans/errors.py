"""Errors that a user can act on: what, where, how many, and what to do. `esans.cli` prints them without a traceback."""


class EsansError(Exception):
    """Base of every error that names its own cure."""

    exit_code = 1
    """What the process that it ends exits with."""


class ConfigError(EsansError):
    """A configuration key is unknown, has an impossible value, or contradicts another one."""

    exit_code = 2


class DataError(EsansError):
    """An input table breaks its contract; the message names the table, the column and the count."""


class BundleError(EsansError):
    """A bundle is missing, unfinished or not what its reader asked for."""


class GateError(EsansError):
    """A quality figure is out of its bounds; the message names figure, value, bound, key and what to try."""


class EnvironmentProblem(EsansError):
    """The machine lacks something that the project needs, or has a version that does not work."""
