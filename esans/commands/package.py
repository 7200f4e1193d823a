"""`esans package --target yarn`: what a cluster needs, and the complete spark-submit commands."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

from esans.errors import ConfigError

# Stages that run in Spark, in order; train, evaluate and export read bundles and need no session.
_SPARK_STAGES = ("prepare", "features", "align", "cluster", "shards", "references")
_TARGETS = ("standalone", "yarn", "kubernetes")
_ARCHIVE = "environment"


def run(arguments: list[str]) -> None:
    """Build wheel, zip and environment, say their sizes, and print a shell script that runs the stages.

    Raises:
        ConfigError: this is no clone.
        PackingError: the wheel could not be built, or a package is not installed here.
    """
    from esans.environment import ROOT
    from esans.packing import build_wheel, closure, pack, requirements_of

    options = _parser().parse_args(arguments)
    if not (ROOT / "setup.cfg").is_file():
        raise ConfigError(f"esans package builds from a clone, and {ROOT} has no setup.cfg: run .venv/bin/esans package there.")
    folder = Path(options.output)
    wheel = build_wheel(ROOT, folder)
    zipped = folder / "esans.zip"
    # Spark takes archives by their ending.
    shutil.copy(wheel, zipped)
    lines = [f"# {_size(wheel)}  to install", f"# {_size(zipped)}  the same, for --py-files"]
    archive = folder / f"{_ARCHIVE}.tar.gz"
    if options.environment:
        extras = [extra for extra in options.extras.split(",") if extra]
        packages = closure(requirements_of(wheel, extras))
        unpacked = pack(wheel, packages, archive)
        lines.append(f"# {_size(archive)}  interpreter and {len(packages)} packages, {unpacked / 1e6:,.0f} MB unpacked, for --archives")
    print("\n".join([*lines, "", *script(options, zipped, archive)]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="esans package", description="Build what a cluster needs and print its spark-submit commands.")
    parser.add_argument("--target", choices=_TARGETS, default="standalone", help="cluster manager that the commands are for")
    parser.add_argument("--output", default="dist", help="folder for what is built (dist)")
    parser.add_argument("--no-environment", dest="environment", action="store_false", help="leave the packed environment out")
    parser.add_argument("--extras", default="cpu", help="extras that the environment holds, by commas (cpu); they must be installed here")
    parser.add_argument("--config", default="conf/cluster.yaml", help="configuration that the commands name")
    parser.add_argument("--master", default="", help="master's URL (spark://MASTER:7077, yarn, k8s://https://API-SERVER:6443)")
    parser.add_argument("--image", default="REGISTRY/esans-spark:0.1.0", help="image of drivers and executors on Kubernetes")
    parser.add_argument("--namespace", default="esans", help="namespace on Kubernetes")
    parser.add_argument("--executors", type=int, default=8, help="number of executors (8)")
    parser.add_argument("--executor-cores", type=int, default=4, help="cores of each (4)")
    parser.add_argument("--executor-memory", default="16g", help="heap of each (16g)")
    parser.add_argument("--driver-memory", default="8g", help="heap of the driver (8g)")
    parser.add_argument("--gpus", action="store_true", help="one GPU an executor, shared by its tasks, for text and image encoders")
    return parser


def script(options: argparse.Namespace, zipped: Path, archive: Path) -> list[str]:
    """Lines of a shell script: a function with everything that all stages share, and a line a stage."""
    shared, jobs, config = _shared(options, zipped, archive)
    body = " \\\n        ".join([f"spark-submit --master {shlex.quote(options.master or _master(options.target))}", *shared, '"$@"'])
    lines = ["submit() {", f"    {body}", "}"]
    if options.target == "standalone" and options.environment:
        # The driver runs here, before any archive is unpacked.
        lines = ["export PYSPARK_DRIVER_PYTHON=${PYSPARK_DRIVER_PYTHON:-.venv/bin/python}", *lines]
    lines += [f"submit {jobs}/{stage}.py --config {config}" for stage in _SPARK_STAGES]
    lines += ["# On a host with GPUs, which reads what the stages above wrote (docs/cluster.md, Training):"]
    lines += [
        f"# torchrun --nproc-per-node 8 jobs/train.py --config {shlex.quote(options.config)} --method=esans --train.launch.processes=8"
    ]
    return lines


def _master(target: str) -> str:
    return {"standalone": "spark://MASTER:7077", "yarn": "yarn", "kubernetes": "k8s://https://API-SERVER:6443"}[target]


def _shared(options: argparse.Namespace, zipped: Path, archive: Path) -> tuple[list[str], str, str]:
    """Options that all stages share, the folder of the jobs, and the configuration as the driver finds it."""
    python = f"./{_ARCHIVE}/bin/python"
    sizes = [
        f"--driver-memory {options.driver_memory} --executor-memory {options.executor_memory} --executor-cores {options.executor_cores}"
    ]
    files = [f"--py-files {shlex.quote(str(zipped))}"]
    if options.environment:
        files.append(f"--archives {shlex.quote(f'{archive}#{_ARCHIVE}')}")
    gpus = _gpus(options) if options.gpus else []
    if options.target == "standalone":
        total = [f"--total-executor-cores {options.executors * options.executor_cores}"]
        workers = [f"--conf spark.pyspark.python={python}"] if options.environment else []
        drivers = ["--conf spark.pyspark.driver.python=$PYSPARK_DRIVER_PYTHON"] if options.environment else []
        return [*files, *workers, *drivers, *sizes, *total, *gpus], "jobs", shlex.quote(options.config)
    if options.target == "yarn":
        workers = [f"--conf spark.pyspark.python={python}"] if options.environment else []
        mode = ["--deploy-mode cluster", f"--files {shlex.quote(options.config)}"]
        return (
            [*mode, *files, *workers, *sizes, f"--num-executors {options.executors}", *gpus],
            "jobs",
            shlex.quote(Path(options.config).name),
        )
    pods = [
        "--deploy-mode cluster",
        f"--conf spark.kubernetes.container.image={options.image}",
        f"--conf spark.kubernetes.namespace={options.namespace}",
        "--conf spark.kubernetes.authenticate.driver.serviceAccountName=spark",
        f"--conf spark.executor.instances={options.executors}",
    ]
    # The image has project and packages; only what a volume or a bucket holds comes from outside.
    return [*pods, *sizes, *gpus], "local:///opt/esans/jobs", f"/opt/esans/{options.config}"


def _gpus(options: argparse.Namespace) -> list[str]:
    conf = {
        "spark.executor.resource.gpu.amount": "1",
        "spark.task.resource.gpu.amount": f"{1 / options.executor_cores:g}",
        "spark.executor.resource.gpu.discoveryScript": "/opt/spark/examples/src/main/scripts/getGpusResources.sh",
    }
    if options.target == "kubernetes":
        conf["spark.executor.resource.gpu.vendor"] = "nvidia.com"
    return [f"--conf {name}={value}" for name, value in conf.items()]


def _size(file: Path) -> str:
    return f"{file}  {file.stat().st_size / 1e6:,.1f} MB"
