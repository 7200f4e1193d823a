"""What a person sees of a finished run: MLflow's comparison of the methods, the report, and the clusters, from a headless browser.

python -m benchmarks.screenshots [--config conf/quickstart.yaml] [--work work] [--out docs/images/screens]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from benchmarks.browser import Tab, browser
from benchmarks.processes import free_port, service, wait_for
from esans.bundle import Bundle
from esans.flow import Plan
from esans.settings import Source

if TYPE_CHECKING:
    from playwright.sync_api import JSHandle, Page

ROOT = Path(__file__).resolve().parents[1]
# MLflow's list of metrics draws only the rows in sight: (its cells as [top, column, text]) of what is drawn now, and a scroll by pixels.
_BOX = "link => link.closest('.du-bois-light-collapse-content-box')"
_CELLS = """box => [...box.querySelectorAll('.ReactVirtualized__Grid')].flatMap((grid, place) =>
    [...grid.querySelectorAll('[role=rowgroup] > div')].map(cell =>
        [parseInt(cell.style.top), place * 100000 + parseInt(cell.style.left), cell.innerText.trim()]))"""
_SCROLL = """([box, top]) => {
    const grid = [...box.querySelectorAll('.ReactVirtualized__Grid')].pop();
    grid.scrollTop = top;
    return [grid.scrollTop, grid.scrollTop + grid.clientHeight >= grid.scrollHeight];
}"""
# Whether the rows in sight are drawn: the values, and the names, which stand in a list of their own that follows one scroll event late.
_DRAWN = """box => {
    const grids = [...box.querySelectorAll('.ReactVirtualized__Grid')];
    const values = grids[grids.length - 1];
    return grids.every(grid => {
        const drawn = new Set([...grid.querySelectorAll('[role=rowgroup] > div')].map(cell => parseInt(cell.style.top)));
        const first = Math.ceil(values.scrollTop / 45), last = Math.floor((values.scrollTop + values.clientHeight) / 45) - 1;
        return Math.abs(grid.scrollTop - values.scrollTop) <= 1
            && [...Array(last - first + 1).keys()].every(row => drawn.has((first + row) * 45));
    });
}"""
_SIGHT, _NUDGES = 250, 100
# The page asks every server who is logged in, and one without accounts has no such address.
_NO_ACCOUNTS = "/mlflow/users/current"


def main() -> None:
    """Take the screenshots. Ends with 1 when a page reported an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "conf" / "quickstart.yaml"), help="configuration of the finished run")
    parser.add_argument("--work", default="work", help="its work folder")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "screens", help="folder of the pictures")
    options = parser.parse_args()
    source = Source((options.config,), (f"--work_dir={options.work}",))
    settings = source.load()
    bundles = [Bundle.open(Plan(source.load(method)).stage("evaluate").uri) for method in settings.pipeline.methods]
    cluster = Bundle.open(Plan(settings).stage("cluster").uri)
    options.out.mkdir(parents=True, exist_ok=True)
    with mlflow_ui(Path(options.work).resolve()) as server, browser() as tab:
        compare(tab, server, [bundle.facts["mlflow_run_id"] for bundle in bundles], options.out / "mlflow_comparison.png")
        open_report(tab, Path(options.work) / "reports" / f"{settings.pipeline.name}.html", options.out / "report.png")
        with cluster.local("clusters.html") as page:
            open_clusters(tab, page, options.out / "clusters.png")
    for path in sorted(options.out.glob("*.png")):
        print(path)
    if tab.errors:
        sys.exit("errors of the pages:\n" + "\n".join(tab.errors))


@contextmanager
def mlflow_ui(work: Path) -> Iterator[str]:
    """URL of MLflow's UI over the runs of a work folder, for as long as the block runs."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{work}/mlflow.db",
    ]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "mlflow.log"
        with service(command, log, {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}) as process:
            wait_for(f"http://127.0.0.1:{port}/health", "OK", process, log, seconds=180)
            yield f"http://127.0.0.1:{port}"


def compare(tab: Tab, server: str, run_ids: Sequence[str], picture: Path | None = None) -> dict[str, dict[str, float]]:
    """Open MLflow's comparison of runs, read it down to its last metric. Returns run name -> metric -> value, as shown: to three decimals.

    Args:
        tab: the browser.
        server: URL of MLflow.
        run_ids: runs of one experiment.
        picture: where to save a picture, with recall in sight.
    """
    page = tab.page
    runs, experiments = json.dumps(list(run_ids)), json.dumps([_experiment(server, run_ids[0])])
    page.goto(f"{server}/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}")
    page.get_by_text("recall_at_10", exact=True).first.wait_for()
    _forget(tab, _NO_ACCOUNTS)
    text = page.inner_text("body")
    names = [line for line in _between(text, "Run Name:", "Start Time:") if line]
    box = page.get_by_text("recall_at_10", exact=True).first.evaluate_handle(_BOX)
    metrics = _metrics(page, box)
    if picture is not None:
        _scroll(page, box, metrics["recall_at_10"][0])
        for head in ("Visualizations", "Parameters"):
            page.get_by_text(head, exact=True).first.click()
        close = page.get_by_role("button", name="Close")
        if close.count():
            close.first.click()
        page.screenshot(path=picture)
    return {name: {metric: values[place] for metric, (_, values) in metrics.items()} for place, name in enumerate(names)}


def _metrics(page: Page, box: JSHandle) -> dict[str, tuple[int, list[float]]]:
    """Metric -> where its row begins, in pixels, and its value of each run that has one, by scrolling through the list."""
    found: dict[str, tuple[int, list[float]]] = {}
    top, last = 0, False
    while not last:
        last = _scroll(page, box, top)
        rows: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for row, column, text in box.evaluate(_CELLS):
            rows[row].append((column, text))
        for row, cells in rows.items():
            (column, metric), *values = sorted(cells)
            # Beyond the edge of what is in sight one of the two lists may have rows that the other has not drawn.
            if column == 0 and values:
                found[metric] = row, [float(value) for _, value in values]
        top += _SIGHT
    return found


def _scroll(page: Page, box: JSHandle, top: int) -> bool:
    """Scroll the list so that it begins at this pixel; whether that is its end."""
    top, last = page.evaluate(_SCROLL, [box, top])
    for nudge in range(_NUDGES):
        page.wait_for_timeout(100)
        if page.evaluate(_DRAWN, box):
            return bool(last)
        page.evaluate(_SCROLL, [box, top - 1 + nudge % 2])
    raise RuntimeError(f"MLflow's list of metrics did not draw its rows at {top} pixels")


def open_report(tab: Tab, path: Path, picture: Path | None = None) -> tuple[list[list[str]], list[float]]:
    """Open the HTML report. Returns the cells of its table of methods, and the area of every picture in square pixels."""
    tab.page.goto(path.resolve().as_uri())
    if picture is not None:
        tab.page.screenshot(path=picture, full_page=True)
    cells = tab.page.locator("table").first.evaluate(
        "table => [...table.rows].map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return cells, tab.page.eval_on_selector_all("figure svg", "all => all.map(svg => svg.clientWidth * svg.clientHeight)")


def open_clusters(tab: Tab, path: Path, picture: Path | None = None) -> str:
    """Open clusters.html, choose its second item, and return what is shown of that item's negatives."""
    tab.page.goto(path.resolve().as_uri())
    tab.page.locator("#list").select_option(index=1)
    if picture is not None:
        tab.page.screenshot(path=picture)
    return tab.page.inner_text("#found")


def _experiment(server: str, run_id: str) -> str:
    from mlflow import MlflowClient

    return str(MlflowClient(server).get_run(run_id).info.experiment_id)


def _forget(tab: Tab, address: str) -> None:
    tab.errors[:] = [error for error in tab.errors if address not in error]


def _between(text: str, start: str, end: str) -> list[str]:
    return [line.strip() for part in text.partition(start)[2].partition(end)[0].splitlines() for line in part.split("\t")]


if __name__ == "__main__":
    main()
