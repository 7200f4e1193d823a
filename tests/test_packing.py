"""What goes into a packed environment: what the project requires and no more, or an error with its cure."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from esans.commands.package import _parser, script
from esans.packing import PackingError, closure, requirements_of

METADATA = """Metadata-Version: 2.1
Name: esans
Version: 0.1.0
Requires-Dist: numpy==1.26.4
Requires-Dist: tomli; python_version < "3.0"
Provides-Extra: cpu
Requires-Dist: faiss-cpu==1.15.1; extra == "cpu"
Provides-Extra: dev
Requires-Dist: pytest>=8; extra == "dev"
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "esans-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("esans-0.1.0.dist-info/METADATA", METADATA)
    return path


def test_a_wheels_requirements_are_those_of_this_machine_and_of_the_extras_named(wheel: Path) -> None:
    assert [requirement.name for requirement in requirements_of(wheel, [])] == ["numpy"]
    assert [requirement.name for requirement in requirements_of(wheel, ["cpu"])] == ["numpy", "faiss-cpu"]
    with pytest.raises(PackingError, match=r"extras = gpus: .*Known: cpu, dev\."):
        requirements_of(wheel, ["gpus"])


def test_packages_bring_what_they_require_and_nothing_else_that_is_installed() -> None:
    names = {found.metadata["Name"].lower() for found in closure([Requirement("pydantic>=2"), Requirement("fsspec")])}
    assert {"pydantic", "pydantic_core", "typing_extensions", "fsspec"} <= names
    assert not names & {"pytest", "ruff", "torch", "s3fs"}


def test_an_extra_of_a_requirement_brings_its_own() -> None:
    plain, extra = (len(closure([Requirement(name)])) for name in ("pydantic", "mlflow"))
    assert 1 < plain < extra


def test_packages_that_are_not_here_are_named_with_the_command_that_installs_them() -> None:
    with pytest.raises(
        PackingError, match=r"1 packages are not installed here: no-such-thing>=2\. Cure: .* -m pip install 'no-such-thing>=2'"
    ):
        closure([Requirement("no-such-thing>=2"), Requirement("numpy")])


@pytest.mark.parametrize("target", ["standalone", "yarn", "kubernetes"])
def test_the_script_submits_every_spark_stage_with_everything_that_its_target_needs(target: str) -> None:
    options = _parser().parse_args(["--target", target, "--gpus", "--executor-cores", "2"])
    lines = script(options, Path("dist/esans.zip"), Path("dist/environment.tar.gz"))
    text = "\n".join(lines)
    stages = [line.split(".py")[0].split("/")[-1] for line in lines if line.startswith("submit ")]
    assert stages == ["prepare", "features", "align", "cluster", "shards", "references"]
    assert "spark.task.resource.gpu.amount=0.5" in text
    wanted = {
        "standalone": ["--master spark://MASTER:7077", "--archives 'dist/environment.tar.gz#environment'", "--total-executor-cores 16"],
        "yarn": ["--deploy-mode cluster", "--files conf/cluster.yaml", "--py-files dist/esans.zip", "--num-executors 8"],
        "kubernetes": [
            "spark.kubernetes.container.image=",
            "serviceAccountName=spark",
            "resource.gpu.vendor=nvidia.com",
            "local:///opt/esans",
        ],
    }
    assert all(part in text for part in wanted[target])
