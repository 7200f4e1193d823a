"""Whether an installed package has a known weakness (`make audit`): pip-audit, and what it says about packages it could not look up.

Ends with 0 where every package was looked up and none is known to be weak, 1 where one is, 2 where some or all could not be looked up:
pip-audit itself calls that "no known vulnerabilities".
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_SHOWN = 10


def main() -> None:
    """Ask, print, exit."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"audit: pip-audit ended with {done.returncode} and no report: {last}\nNothing was audited.", file=sys.stderr)
        sys.exit(2)
    code, lines = verdict(report)
    print("\n".join(lines))
    sys.exit(code)


def verdict(report: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Exit code, and what to tell, of a report of pip-audit in JSON."""
    # What is installed from a folder stands in no database.
    packages = [one for one in report["dependencies"] if "editable" not in one.get("skip_reason", "")]
    asked = [one for one in packages if "skip_reason" not in one]
    weak = [(one, found) for one in asked for found in one["vulns"]]
    lines = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for one, found in weak
    ]
    missing = [one["name"] for one in packages if "skip_reason" in one]
    if not asked:
        lines.append(
            f"audit: NOTHING WAS AUDITED. The database of weaknesses was not reached, or knows none of the {len(missing)} packages: "
            "this machine's package index keeps none, or has no way out. Run it where the public package index can be reached."
        )
    elif missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        lines.append(f"audit: {len(missing)} packages could not be looked up: {', '.join(missing[:_SHOWN])}{more}.")
    if asked:
        lines.append(f"audit: {len(asked)} packages looked up, {len(weak)} known weaknesses.")
    return (1 if weak else 2 if missing or not asked else 0), lines


if __name__ == "__main__":
    main()
