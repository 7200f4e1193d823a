"""Which errors of a rank are worth another start."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from esans import elastic, failures
from esans.errors import BundleError, ConfigError, EsansError

LOST = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:21475")
BUSY = OSError(errno.EIO, "Input/output error")
# As aiohttp's own, which is no OSError.
BROKEN_TRANSFER = type("ClientPayloadError", (Exception,), {"__module__": "aiohttp.client_exceptions"})("Response payload is not completed")


def caused(error: EsansError, *causes: BaseException) -> EsansError:
    """The error with a chain of causes, as nested `raise ... from` make it."""
    last: BaseException = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


def finals(folder: Path, *errors: tuple[BaseException, int]) -> list[bool]:
    """Whether each of the errors that end one start after the other is final."""
    return [failures.record(str(folder), 0, error, step).final for error, step in errors]


@pytest.mark.parametrize("lost", [LOST, ConnectionResetError("reset"), RuntimeError("NCCL error: remote process exited")])
def test_an_error_of_ours_that_a_lost_rank_caused_is_never_final(tmp_path: Path, lost: BaseException) -> None:
    error = caused(BundleError("a checkpoint could not be written"), EsansError("one layer more"), lost)
    assert finals(tmp_path, (error, 7), (error, 7), (error, 7)) == [False] * 3


@pytest.mark.parametrize("cause", [BUSY, BROKEN_TRANSFER])
def test_an_error_of_ours_that_a_store_caused_is_final_once_it_comes_again_at_the_same_step(tmp_path: Path, cause: Exception) -> None:
    error = caused(BundleError("cannot read shard 3"), cause)
    assert finals(tmp_path, (error, 7), (error, 9), (error, 9)) == [False, False, True]
    assert failures.final(str(tmp_path)) is not None


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("the connection of a socket is configured wrong"),
        caused(BundleError("cannot read shard 3"), FileNotFoundError(errno.ENOENT, "No such file", "/data/gloo/3")),
        caused(BundleError("cannot read shard 3"), PermissionError("no right to read it")),
        caused(BundleError("cannot read shard 3"), ValueError("no Parquet")),
        caused(BundleError("cannot read shard 3"), ConfigError("names a connection")),
    ],
)
def test_any_other_error_of_ours_is_final_at_once(tmp_path: Path, error: EsansError) -> None:
    assert finals(tmp_path, (error, 7)) == [True]


def test_an_error_of_others_is_final_the_second_time_but_for_that_of_a_lost_rank(tmp_path: Path) -> None:
    bug = ValueError("a shape is wrong")
    assert finals(tmp_path, (bug, 7), (bug, 7)) == [False, True]
    assert finals(tmp_path / "lost", (LOST, 7), (LOST, 7)) == [False, False]


def test_an_error_that_cannot_be_kept_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(work: str, spec_json: str) -> None:
        raise caused(BundleError("a checkpoint could not be written"), OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(elastic, "run_work", full)
    (tmp_path / "scratch").write_text("a file where a folder must be")
    with pytest.raises(SystemExit):
        elastic.run_guarded("a:work", "{}", str(tmp_path / "scratch"))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: rank 0: a checkpoint could not be written"
    assert second.startswith("  rank 0: its error could not be kept for the next start: ")
