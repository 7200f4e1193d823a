"""The webhook: the report of a run as JSON, tried a few times; whatever becomes of it, the run ends as it would have."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from esans.errors import ConfigError
from esans.progress import say
from esans.redaction import resolve
from esans.retrain.config import NotifyConfig

URL, SECRET = "ESANS_WEBHOOK_URL", "ESANS_WEBHOOK_SECRET"
_LAST_CLIENT_ERROR = 499
_RETRIED = (408, 425, 429)


def notify(config: NotifyConfig, document: Mapping[str, Any], pause: float = 1.0) -> bool:
    """Post a document; True where it arrived or nobody is to be told.

    The secret goes into the header only, and messages name the host only: addresses of webhooks are often secrets themselves.

    Args:
        config: where, and how often.
        document: JSON values.
        pause: seconds before the second try; it doubles with each.
    """
    try:
        url = resolve(config.url or os.environ.get(URL, ""), "retrain.notify.url")
    except ConfigError as error:
        say(f"webhook: not told; the result stands. {error}")
        return False
    if not url:
        return True
    host = urlsplit(url).netloc.rpartition("@")[2]
    body = json.dumps(document, default=str).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "esans"}
    if os.environ.get(SECRET):
        headers[config.header] = os.environ[SECRET]
    problem = ""
    for attempt in range(config.retries + 1):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            request = urllib.request.Request(url, data=body, headers=headers, method="POST")
            with _no_redirects().open(request, timeout=config.timeout_seconds):
                return True
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}"
            error.close()
            if error.code <= _LAST_CLIENT_ERROR and error.code not in _RETRIED:
                break
        except Exception as error:
            problem = type(getattr(error, "reason", error)).__name__
    say(f"webhook at {host}: not told ({problem}, {attempt + 1} tries); the result stands")
    return False


def _no_redirects() -> urllib.request.OpenerDirector:
    """An opener that follows no redirect: it would carry the secret to another host."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    return urllib.request.build_opener(Stay)
