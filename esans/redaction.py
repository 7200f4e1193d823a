"""Secrets stay out of what is written: logs, manifests, MLflow, files that other processes read.

What is a secret shows by its place (the password of a URI, a value under a key such as `fs.s3a.secret.key`, a signature in a query) or
by its value, which a variable such as AWS_SECRET_ACCESS_KEY holds or `remember` was told. A configuration names secrets as
`${env:NAME}`; they are put in where they are used, so that what is logged holds the name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from esans.errors import ConfigError

MASK = "***"
# Where a process finds the tracking URI whose password no file holds.
TRACKING_VARIABLES = ("MLFLOW_TRACKING_URI", "ESANS_TRACKING_URI")

_SECRET = (
    r"secret|passw|passphrase|token(?!s|iz)|credential|webhook|signature|api[._-]?key|access[._-]?key|private[._-]?key|account[._-]?key"
    # Whoever knows the address of a webhook may post to it.
    r"|notify\.ur[il]"
)
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
# Names of this meaning whose values say only where a secret is.
_PLACE_NAME = re.compile(r"(file|path|dir|home|provider|class|name|user(name)?|id)$", re.IGNORECASE)
_USER_INFO = re.compile(r"([a-z][a-z0-9+.-]*://[^\s/'\"@:]*):[^\s/'\"]*@", re.IGNORECASE)
_WEB_TOKEN = re.compile(r"(https?://)[^\s/'\"@:]+@", re.IGNORECASE)
_QUERY = re.compile(rf"([?&;][^=&;\s]*(?:{_SECRET}|\bsig|\bkey)[^=&;\s]*=)[^&;\s'\"]+", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"([\w.-]*(?:{_SECRET})[\w.-]*)(['\"]?\s*=\s*[\[({{'\"]*|['\"]\s*:\s*['\"])(?!\$\{{env:)([^\s'\",}}\])&;]+)", re.IGNORECASE
)
_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
# A shorter value would be found in words that mean something else.
_SHORTEST = 6

_remembered: set[str] = set()
_tracking_uris: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Whether a key or variable of this name holds a secret itself, by what it is called."""
    return _SECRET_NAME.search(name) is not None and _PLACE_NAME.search(name) is None


def remember(secret: str) -> None:
    """Mask this value from now on, wherever it stands in a text."""
    if len(secret) >= _SHORTEST:
        _remembered.update({secret, unquote(secret)})


def redact(text: str) -> str:
    """A text with its secrets as `***`, by place and by value."""
    for secret in sorted(_remembered | _of_environment(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return by_place(text)


def by_place(text: str) -> str:
    """A text with the secrets that show by their place as `***`: the same whatever this machine's environment holds."""
    text = _WEB_TOKEN.sub(rf"\1{MASK}@", _USER_INFO.sub(rf"\1:{MASK}@", text))
    return _ASSIGNED.sub(_mask_assigned, _QUERY.sub(rf"\1{MASK}", text))


def redact_values(value: Any, name: str = "", by_value: bool = True) -> Any:
    """Nested plain values with their secrets as `***`; a text under a secret's name is masked as a whole, a reference stays.

    Args:
        value: dicts, lists and scalars.
        name: the key it stands under.
        by_value: also what the environment of this process holds.
    """
    if isinstance(value, Mapping):
        return {key: redact_values(item, _joined(name, str(key)), by_value) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item, name, by_value) for item in value]
    if not isinstance(value, str):
        return value
    if value and is_secret_name(name) and not _REFERENCE.fullmatch(value):
        return MASK
    return redact(value) if by_value else by_place(value)


def _joined(above: str, key: str) -> str:
    """A key under the one above it where the two together name a secret, else the key alone."""
    both = f"{above.rpartition('.')[2]}.{key}"
    return both if is_secret_name(both) and not is_secret_name(above) else key


def resolve(text: str, key: str) -> str:
    """A value with every `${env:NAME}` replaced by that variable, which is remembered as a secret.

    Raises:
        ConfigError: a variable is not set; the message names `key`.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(f"{key} names ${{env:{match[1]}}}, and that variable is not set. Export it where this process starts.")
        remember(found)
        return found

    return _REFERENCE.sub(value, text)


def keep_tracking_uri(uri: str) -> None:
    """Let `restore_tracking_uri` find a URI again, here and in processes that this one starts, where it holds a secret."""
    if redact(uri) != uri:
        _tracking_uris.add(uri)
        os.environ["ESANS_TRACKING_URI"] = uri
        # MLflow would print it as it is, in the address of every run that ends.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"


def restore_tracking_uri(uri: str) -> str:
    """The whole tracking URI of one that was written with `***`; as it is where this process does not know it."""
    if MASK not in uri:
        return uri
    known = [os.environ[name] for name in TRACKING_VARIABLES if name in os.environ] + sorted(_tracking_uris)
    return next((whole for whole in known if redact(whole) == uri or by_place(whole) == uri), uri)


def _mask_assigned(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{MASK}" if is_secret_name(match[1]) else match[0]


def _of_environment() -> set[str]:
    held = (value for name, value in os.environ.items() if len(value) >= _SHORTEST and is_secret_name(name))
    # GOOGLE_APPLICATION_CREDENTIALS and its like name a file.
    return {value for value in held if not (value.startswith("/") and os.path.exists(value))}
