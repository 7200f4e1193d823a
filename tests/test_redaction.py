"""Secrets are masked by where they stand and by what the environment holds, and nothing else is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esans.config import build
from esans.errors import ConfigError
from esans.launch import Spec
from esans.outbox import Box
from esans.redaction import MASK, by_place, is_secret_name, redact, redact_values, resolve
from esans.retrain.config import NotifyConfig, RetrainConfig
from esans.spark import SparkConfig
from esans.tracking import TrackingConfig, resolve_uri
from esans.train.worker import WorkerSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:canary@host:5000/x", "http://user:***@host:5000/x"),
        ("postgresql+psycopg2://user:canary@db/mlflow", "postgresql+psycopg2://user:***@db/mlflow"),
        ("https://ghp_canary@github.com/x", "https://***@github.com/x"),
        ("https://h/x?X-Amz-Signature=canary&y=1", "https://h/x?X-Amz-Signature=***&y=1"),
        ("--conf spark.hadoop.fs.s3a.secret.key=canary --x", "--conf spark.hadoop.fs.s3a.secret.key=*** --x"),
        ("{'password': 'canary', 'x': 1}", "{'password': '***', 'x': 1}"),
        ("prepare.items.options.password = 'canary': must be", "prepare.items.options.password = '***': must be"),
        ("jdbc:postgresql://h/db?user=a&password=canary", "jdbc:postgresql://h/db?user=a&password=***"),
        ("retrain.notify.url = 'https://hooks.host/canary': must", "retrain.notify.url = '***': must"),
        ("--retrain.notify.url=https://hooks.host/canary --x", "--retrain.notify.url=*** --x"),
    ],
)
def test_a_secret_is_masked_where_its_place_shows_it(text: str, expected: str) -> None:
    assert by_place(text) == expected
    assert by_place(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "abfss://container@account.dfs.core.windows.net/x",
        "s3://bucket/a:b/c",
        "models:/retrieval@champion",
        "features.text.max_tokens=5",
        "http://127.0.0.1:5000/#/experiments",
        "spark.hadoop.fs.s3a.secret.key=${env:AWS_SECRET_ACCESS_KEY}",
        "fs.s3a.aws.credentials.provider=org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
        "12:30:01 prepare: 3 tokens a title",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(
    st.text(alphabet=st.characters(whitelist_categories=("Ll", "Nd")), min_size=8, max_size=30), st.text(max_size=30), st.text(max_size=30)
)
def test_what_a_secret_variable_holds_is_nowhere_in_the_text(secret: str, before: str, after: str) -> None:
    os.environ["TEST_ONLY_SECRET"] = secret
    try:
        assert secret not in redact(before + secret + after)
    finally:
        del os.environ["TEST_ONLY_SECRET"]


def test_a_variable_that_names_a_file_of_credentials_hides_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    assert redact(f"{tmp_path}/work") == f"{tmp_path}/work"
    assert not is_secret_name("AWS_SHARED_CREDENTIALS_FILE")
    assert is_secret_name("AWS_SECRET_ACCESS_KEY")


def test_nested_values_lose_what_stands_under_a_secret_name_and_keep_references_and_numbers() -> None:
    values = {"options": {"password": "canary", "user": "me", "url": "jdbc:x://a:canary@h"}, "list": ["http://a:canary@h"], "tokens": 3}
    masked = redact_values({**values, "api_key": "${env:KEY}"})
    assert masked["options"] == {"password": MASK, "user": "me", "url": "jdbc:x://a:***@h"}
    assert masked["list"] == ["http://a:***@h"]
    assert (masked["tokens"], masked["api_key"]) == (3, "${env:KEY}")


def test_the_address_of_a_webhook_is_a_secret_in_a_section_under_a_dotted_name_and_wherever_it_is_said() -> None:
    address = "https://hooks.host/services/canary"
    assert redact_values({"retrain": {"notify": {"url": address, "retries": 3}}}) == {"retrain": {"notify": {"url": MASK, "retries": 3}}}
    assert redact_values({"retrain.notify.url": address, "url": "s3://bucket/x"}) == {"retrain.notify.url": MASK, "url": "s3://bucket/x"}
    assert redact_values({"notify": {"url": "${env:HOOK}"}}) == {"notify": {"url": "${env:HOOK}"}}
    NotifyConfig(url=address)
    assert redact(f"cannot reach {address}") == "cannot reach ***"
    with pytest.raises(ConfigError) as refused:
        build(RetrainConfig, {"notify": {"url": "ftp://hooks.host/canary"}}, "retrain")
    assert "canary" not in redact(str(refused.value))


def test_a_reference_is_read_where_it_is_used_and_masked_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_LOGIN", "canary-of-the-store")
    assert resolve("key ${env:STORE_LOGIN}", "spark.conf.x") == "key canary-of-the-store"
    assert redact("it was canary-of-the-store") == "it was ***"
    with pytest.raises(ConfigError) as refused:
        resolve("${env:NOT_SET}", "spark.conf.x")
    assert str(refused.value) == "spark.conf.x names ${env:NOT_SET}, and that variable is not set. Export it where this process starts."
    assert SparkConfig(conf={"x": "${env:NOT_SET}"}).conf["x"] == "${env:NOT_SET}"


@pytest.fixture
def tracking_uri(monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking URI with a password, as a configuration gives it, in force."""
    for name in ("ESANS_TRACKING_URI", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("TRACKING_LOGIN", "canary-of-tracking")
    return resolve_uri(TrackingConfig(uri="http://me:${env:TRACKING_LOGIN}@server:5000"), "work")


def test_the_password_of_the_tracking_server_is_in_no_file_and_known_to_the_workers(tracking_uri: str) -> None:
    spec = WorkerSpec({}, {}, "m", "s", 0, "r", tracking_uri)
    assert "canary" not in spec.dump()
    assert isinstance(spec, Spec)
    assert WorkerSpec.parse(spec.dump()).tracking_uri == tracking_uri == "http://me:canary-of-tracking@server:5000"


def test_the_password_of_the_tracking_server_is_not_in_what_waits_for_it(tracking_uri: str, tmp_path: Path) -> None:
    box = Box.claim(tmp_path, "run", tracking_uri)
    box.append({"tags": {"a": "b"}})
    box.release()
    header = json.loads((tmp_path / "run.0" / "journal.jsonl").read_text().splitlines()[0])
    assert header["tracking_uri"] == "http://me:***@server:5000"
    assert (tmp_path / "run.0" / "journal.jsonl").stat().st_mode & 0o077 == 0
    again = Box.take(tmp_path / "run.0")
    assert again is not None
    assert again.tracking_uri == tracking_uri
    again.release()
