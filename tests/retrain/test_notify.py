"""The webhook against a real HTTP server on loopback: what arrives, what is tried again, and what never shows in a log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from benchmarks.processes import free_port
from esans.retrain.config import NotifyConfig
from esans.retrain.notify import notify

REPORT = {"outcome": "published", "as_of": "2026-11-20", "champion": "7"}


class Receiver:
    """A server that answers with the given codes in turn, the last one for ever, and keeps what it was sent."""

    def __init__(self, answers: list[int], slow: float = 0.0) -> None:
        self.requests: list[tuple[dict[str, str], Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((dict(self.headers), json.loads(body)))
                time.sleep(slow)
                code = answers[min(len(receiver.requests), len(answers)) - 1]
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", f"{receiver.url}/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def receive() -> Iterator[Any]:
    started: list[Receiver] = []

    def start(*answers: int, slow: float = 0.0) -> Receiver:
        started.append(Receiver(list(answers), slow))
        return started[-1]

    yield start
    for receiver in started:
        receiver.server.shutdown()
        receiver.server.server_close()


def test_the_report_arrives_as_json_with_the_secret_in_its_header(receive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESANS_WEBHOOK_SECRET", "hush-hush")
    receiver = receive(200)
    assert notify(NotifyConfig(url=f"{receiver.url}/hook"), REPORT)
    ((headers, body),) = receiver.requests
    assert body == REPORT
    assert headers["X-Esans-Secret"] == "hush-hush"
    assert headers["Content-Type"] == "application/json"


def test_a_server_error_is_tried_again_and_a_refusal_of_the_client_is_not(receive: Any) -> None:
    flaky, strict = receive(500, 503, 204), receive(403)
    assert notify(NotifyConfig(url=flaky.url), REPORT, pause=0.01)
    assert len(flaky.requests) == 3
    assert not notify(NotifyConfig(url=strict.url), REPORT, pause=0.01)
    assert len(strict.requests) == 1


def test_a_server_that_is_down_or_silent_costs_the_tries_and_no_more(receive: Any) -> None:
    assert not notify(NotifyConfig(url=f"http://127.0.0.1:{free_port()}", retries=2), REPORT, pause=0.01)
    silent = receive(200, slow=1.0)
    assert not notify(NotifyConfig(url=silent.url, retries=1, timeout_seconds=0.1), REPORT, pause=0.01)


def test_neither_secret_nor_address_shows_in_what_is_printed(receive: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("ESANS_WEBHOOK_SECRET", "hush-hush")
    receiver = receive(500)
    host = receiver.url.removeprefix("http://")
    assert not notify(NotifyConfig(url=f"http://name:password@{host}/secret-path", retries=1), REPORT, pause=0.01)
    printed = "".join(capsys.readouterr())
    assert host in printed
    assert not any(word in printed for word in ("hush-hush", "secret-path", "password"))


def test_the_secret_does_not_follow_a_redirect(receive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESANS_WEBHOOK_SECRET", "hush-hush")
    receiver = receive(302, 200)
    assert not notify(NotifyConfig(url=receiver.url, retries=0), REPORT)
    assert len(receiver.requests) == 1


def test_the_address_may_come_from_the_environment_and_without_one_nobody_is_told(receive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notify(NotifyConfig(), REPORT)
    receiver = receive(200)
    monkeypatch.setenv("ESANS_WEBHOOK_URL", receiver.url)
    assert notify(NotifyConfig(), REPORT)
    assert len(receiver.requests) == 1


def test_the_address_may_be_named_by_its_variable_which_must_be_set(
    receive: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver = receive(200)
    monkeypatch.setenv("TEAM_HOOK", f"{receiver.url}/services/hook")
    assert notify(NotifyConfig(url="${env:TEAM_HOOK}"), REPORT)
    assert len(receiver.requests) == 1
    assert not notify(NotifyConfig(url="${env:NOT_SET}"), REPORT)
    assert "${env:NOT_SET}, and that variable is not set" in " ".join(capsys.readouterr().out.split())
