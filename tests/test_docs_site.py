"""The site of docs/: it builds without a warning, holds what the code and the figures say, and names only what exists."""

from __future__ import annotations

import ast
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from esans.config import document
from esans.settings import Settings
from tools import site

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
KEYS = {key.name: key for key in document(Settings)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "tools.site", "--out", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(PAGES)} pages" in done.stdout
    return out


def text_of(page: Path) -> str:
    """What a page says, without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_every_page_is_built_and_every_key_and_published_figure_is_on_its_page(built: Path) -> None:
    for page in PAGES:
        assert (built / page.relative_to(DOCS).with_suffix(".html")).is_file()
    configuration, figures = text_of(built / "configuration.html"), text_of(built / "figures.html")
    for name, key in KEYS.items():
        assert name.rpartition(".")[2] in configuration, name
        assert " ".join(key.help.split())[:40].replace("`", "") in " ".join(configuration.split()), name
    for name, entry in json.loads((ROOT / "benchmarks" / "figures.json").read_text()).items():
        assert name in figures
        assert entry["command"] in figures
    assert "filled by the build" not in configuration + figures


def test_no_page_fetches_anything_from_elsewhere(built: Path) -> None:
    for page in built.glob("*.html"):
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=.https?:[^>]+", page.read_text()), page.name


def test_every_page_has_one_place_in_the_navigation() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    pages = [str(page.relative_to(DOCS).with_suffix("")) for page in PAGES if page.name != "index.md"]
    assert sorted(entries) == sorted(pages), "every page of docs/ stands in one toctree of docs/index.md"


@pytest.mark.parametrize("fault", ["[gone](gone.md)", "[gone](#gone)", "![gone](gone.png)", "# One\n\n### Three"])
def test_a_dead_link_a_missing_picture_and_a_skipped_heading_fail_the_build(fault: str, tmp_path: Path) -> None:
    shutil.copy(DOCS / "conf.py", tmp_path)
    (tmp_path / "index.md").write_text("# A page\n\n[here](index.md)\n")
    assert site.build(tmp_path / "site", tmp_path) == 1
    (tmp_path / "index.md").write_text(f"# A page\n\n{fault}\n")
    assert site.build(tmp_path / "site", tmp_path) is None


def test_keys_that_pages_name_exist() -> None:
    sections = {name.partition(".")[0] for name in KEYS if "." in name} - {"spark"}
    known = {name.rsplit(".", cut)[0] for name in KEYS for cut in range(name.count(".") + 1)}
    free = tuple(f"{name}." for name, key in KEYS.items() if re.match(r"(dict|list)\[|Any", key.type))
    figures = json.loads((ROOT / "benchmarks" / "figures.json").read_text())
    wrong = [
        f"{page.name}: {name}"
        for page in [*PAGES, ROOT / "README.md"]
        for name in re.findall(rf"(?<![\w./-])(?:--)?((?:{'|'.join(sections)})(?:\.[a-z]\w*)+)", _without_mistakes(page))
        if not (name in known or name.startswith(free) or name in figures or name.endswith((".py", ".md", ".html", ".parquet", ".yaml")))
    ]
    assert not wrong


def _without_mistakes(page: Path) -> str:
    """The page without lines that show what is said of a wrong key."""
    return "\n".join(line for line in page.read_text().splitlines() if "unknown key" not in line)


def test_messages_of_the_runbook_are_those_of_the_code() -> None:
    said = "\n".join(_strings(path) for folder in ("esans", "tools") for path in (ROOT / folder).rglob("*.py"))
    said += (ROOT / "tools" / "setup.sh").read_text()
    # Of Python, Spark and CUDA.
    foreign = ("ModuleNotFoundError", "Python in worker", "No FileSystem")
    rows = re.findall(r"^\| (`[^|]+`)[^|]*\|", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for symptom in rows:
        message = re.match(r"`([^`]+)`", symptom)
        assert message
        if not message[1].startswith(foreign):
            for part in message[1].split("..."):
                assert part.strip(" (=,:") in said, f"{message[1]}: no message of the code says {part!r}"


def _strings(path: Path) -> str:
    """Every string of a module, a line each; what an f-string fills in becomes a gap."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("\0".join(part.value for part in node.values if isinstance(part, ast.Constant)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found).replace("\n  ", " ")
