"""`make audit` never takes a database that it could not ask for a clean bill."""

from __future__ import annotations

from typing import Any

from tools.audit import verdict

CLEAN = {"name": "numpy", "version": "1.26.4", "vulns": []}
WEAK = {"name": "pyarrow", "version": "14.0.0", "vulns": [{"id": "PYSEC-2023-238", "fix_versions": ["14.0.1"], "aliases": []}]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0+cpu)"}
OWN = {"name": "esans", "skip_reason": "distribution marked as editable"}


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(packages), "fixes": []}


def test_all_looked_up_and_none_weak_ends_well() -> None:
    assert verdict(report(CLEAN, OWN)) == (0, ["audit: 1 packages looked up, 0 known weaknesses."])


def test_a_weakness_is_named_with_its_cure_whatever_else_is_missing() -> None:
    code, lines = verdict(report(CLEAN, WEAK, UNKNOWN))
    assert code == 1
    assert lines[0] == "pyarrow 14.0.0: PYSEC-2023-238, mended in 14.0.1"
    assert lines[1] == "audit: 1 packages could not be looked up: torch."


def test_what_could_not_be_looked_up_is_no_success() -> None:
    assert verdict(report(CLEAN, UNKNOWN))[0] == 2
    code, lines = verdict(report(UNKNOWN, OWN))
    assert code == 2
    assert lines[0].startswith("audit: NOTHING WAS AUDITED.")
    assert verdict(report())[0] == 2
