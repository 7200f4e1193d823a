"""What a person sees of a finished run: MLflow's comparison of the methods, the report, and the clusters, from a headless browser.

python -m benchmarks.screenshots [--config conf/quickstart.yaml] [--work work] [--out docs/images/screens]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from benchmarks.browser import Tab, browser
from benchmarks.processes import free_port, service, wait_for
from esans.bundle import Bundle
from esans.flow import Plan
from esans.settings import Source

ROOT = Path(__file__).resolve().parents[1]
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
    """Open MLflow's comparison of runs and read it. Returns run name -> metric -> value, as shown: to three decimals.

    MLflow draws the first metrics by name only, as many as are in sight of its list.

    Args:
        tab: the browser.
        server: URL of MLflow.
        run_ids: runs of one experiment.
        picture: where to save a picture of the metrics.
    """
    page = tab.page
    runs, experiments = json.dumps(list(run_ids)), json.dumps([_experiment(server, run_ids[0])])
    page.goto(f"{server}/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}")
    page.get_by_text("recall_at_10", exact=True).first.wait_for()
    _forget(tab, _NO_ACCOUNTS)
    text = page.inner_text("body")
    names = [line for line in _between(text, "Run Name:", "Start Time:") if line]
    shown = [line for line in _between(text, "\nMetrics\n", "\nArtifacts\n") if line and line != "Show diff only"]
    metrics = [line for line in shown if not re.fullmatch(r"[-+\d.e]+", line)]
    values = [float(line) for line in shown if line not in metrics]
    if picture is not None:
        for head in ("Visualizations", "Parameters"):
            page.get_by_text(head, exact=True).first.click()
        close = page.get_by_role("button", name="Close")
        if close.count():
            close.first.click()
        page.screenshot(path=picture)
    rows = [values[start : start + len(names)] for start in range(0, len(values), len(names))]
    return {name: {metric: row[place] for metric, row in zip(metrics, rows, strict=True)} for place, name in enumerate(names)}


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
