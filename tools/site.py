"""Build the site of docs/ with warnings as errors.   python -m tools.site [--out build/site] [--record]"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.figures import record

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Build, say where the site is, and with --record enter the number of its pages into benchmarks/figures.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="folder of the site")
    parser.add_argument("--record", action="store_true", help="enter docs.pages into benchmarks/figures.json")
    options = parser.parse_args()
    pages = build(options.out)
    if pages is None:
        return 1
    print(f"{pages} pages: {options.out / 'index.html'}")
    if options.record:
        record({"docs.pages": (pages, "pages")}, "python -m tools.site --record")
    return 0


def build(out: Path, source: Path = ROOT / "docs") -> int | None:
    """Build the site of `source` into `out` anew. Returns the number of its pages; None when there was a warning, which is printed."""
    from sphinx.cmd.build import build_main

    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as doctrees:
        code = build_main(["-b", "html", "-q", "-W", "--keep-going", "-E", "-d", doctrees, str(source), str(out)])
    return None if code else len(list(source.glob("**/*.md")))


if __name__ == "__main__":
    sys.exit(main())
