"""`make setup`: what it installs, when it leaves things alone, and how it comes by a Java."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from esans import environment
from tools import bootstrap, java

SETUP = """
[options]
install_requires =
    pyarrow==14.0.2
    pandas>=2.3,<3

[options.extras_require]
cpu =
    faiss-cpu==1.15.1
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone whose .venv holds what the pins ask for, and a stamp that says so."""
    (tmp_path / "setup.cfg").write_text(SETUP)
    (tmp_path / "pyproject.toml").write_text("")
    venv = tmp_path / ".venv"
    for name, value in {
        "ROOT": tmp_path,
        "VENV": venv,
        "PYTHON": venv / "bin" / "python",
        "STAMP": venv / "stamp",
        "LOG": venv / "log",
    }.items():
        monkeypatch.setattr(bootstrap, name, value)
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    put(tmp_path, "pyarrow", "14.0.2")
    put(tmp_path, "faiss_cpu", "1.15.1")
    bootstrap.STAMP.write_text(bootstrap._stamp("cpu,dev"))
    return tmp_path


def put(clone: Path, package: str, version: str) -> None:
    """Pretend that a version of a package is installed."""
    site = clone / ".venv" / "lib" / "python3.11" / "site-packages"
    for old in site.glob(f"{package}-*"):
        (old / "METADATA").unlink()
        old.rmdir()
    folder = site / f"{package}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


def test_when_nothing_changed_nothing_is_installed_and_nothing_is_said(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap._installed("cpu")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("change", ["setup.cfg", "pyproject.toml", "extras", "moved", "no stamp"])
def test_a_change_of_the_pins_the_extras_or_the_place_installs_again(clone: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if change == "moved":
        monkeypatch.setattr(bootstrap, "ROOT", clone.rename(clone.parent / "moved"))
    elif change == "no stamp":
        bootstrap.STAMP.unlink()
    elif change != "extras":
        (clone / change).write_text(SETUP + "# newer\n")
    assert not bootstrap._installed("gpu" if change == "extras" else "cpu")


def test_a_package_changed_by_hand_is_the_first_line_and_is_put_right(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(clone, "pyarrow", "16.1.0")
    assert not bootstrap._installed("cpu")
    assert capsys.readouterr().out.splitlines()[0] == (
        "pyarrow 16.1.0 is installed in .venv, and 14.0.2 is needed: installing the pinned version again"
    )


def test_a_build_suffix_is_no_other_version(clone: Path) -> None:
    put(clone, "faiss_cpu", "1.15.1+local")
    assert bootstrap._installed("cpu")


def test_a_failed_installation_shows_the_end_of_pips_output_and_leaves_no_stamp(
    clone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = clone / "pip"
    stub.write_text("#!/bin/sh\necho 'Collecting pyarrow==14.0.2'\necho 'no such version'\nexit 1\n")
    stub.chmod(0o755)
    stream = bootstrap._stream_pip
    monkeypatch.setattr(bootstrap, "_stream_pip", lambda command: stream([str(stub)]))
    monkeypatch.setattr(bootstrap, "_venv_version", lambda: "3.11")
    assert not bootstrap._install("cpu")
    captured = capsys.readouterr()
    assert "Collecting pyarrow==14.0.2" in captured.out
    assert captured.err.splitlines()[0] == f"error: pip failed; the whole output is in {bootstrap.LOG}. Its end:"
    assert "no such version" in captured.err
    assert not bootstrap.STAMP.exists()


# Java


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Java whose only programs are those that a test puts into bin/."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("JAVA_HOME", "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(java, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "_system_folders", lambda: [tmp_path / "jvm"])
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return tmp_path


_MAKE_JAVA = '/bin/mkdir -p "{home}/bin"; echo > "{home}/bin/java"; echo \'JAVA_VERSION="{version}"\' > "{home}/release"'


def program(machine: Path, name: str, body: str) -> Path:
    """A shell script in the machine's bin/ that notes how it was called."""
    path = machine / "bin" / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> {machine}/calls\n{body}\n')
    path.chmod(0o755)
    return path


def calls(machine: Path) -> list[str]:
    """What was called, in order."""
    return (machine / "calls").read_text().splitlines()


def test_a_jdk_goes_into_the_clone_first(no_java: Path) -> None:
    body = 'case "$*" in *jdk.install*) ' + _MAKE_JAVA.format(home=no_java / ".jdk" / "jdk-17", version="17.0.9") + ";; esac"
    said: list[str] = []
    assert java.ensure_java(program(no_java, "python", body), said.append)
    assert said[-1] == f"Java 17: {no_java / '.jdk' / 'jdk-17'}"
    assert calls(no_java)[0].endswith("install-jdk")


def test_root_gets_one_from_the_package_manager_where_the_clone_gets_none(no_java: Path) -> None:
    python = program(no_java, "python", f"/bin/mkdir -p {no_java}/.jdk/half; exit 1")
    # A system that packages no 17 any more, only 21.
    make = _MAKE_JAVA.format(home=no_java / "jvm" / "java-21", version="21.0.1")
    program(no_java, "apt-get", f'case "$*" in *openjdk-21-jre-headless*) {make};; *openjdk*) echo "no such package" >&2; exit 100;; esac')
    said: list[str] = []
    assert java.ensure_java(python, said.append)
    assert said[-1] == f"Java 21: {no_java / 'jvm' / 'java-21'}"
    assert [line for line in calls(no_java) if line.startswith("apt-get")] == [
        "apt-get update -q",
        "apt-get install -y openjdk-17-jre-headless",
        "apt-get install -y openjdk-21-jre-headless",
    ]
    assert "    did not work: no such package" in said
    assert not (no_java / ".jdk").exists()


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("apt-get", "sudo apt-get install -y openjdk-17-jre-headless"),
        ("dnf", "sudo dnf install -y java-17-openjdk-headless"),
        ("apk", "sudo apk add openjdk17-jre-headless"),
        ("brew", "brew install openjdk@17"),
    ],
)
def test_anyone_else_is_told_the_one_command_for_the_system_at_hand(
    no_java: Path, manager: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    program(no_java, manager, "exit 1")
    assert not java.ensure_java(program(no_java, "python", "exit 1"), lambda message: None)
    assert capsys.readouterr().err == f"error: Spark needs Java 17 or 21 and none could be installed. Cure: {command}\n"
    assert all(line.startswith("python") for line in calls(no_java))


def test_a_java_that_is_there_costs_no_time_and_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    environment.require_java()
    said: list[str] = []
    assert java.ensure_java(Path("/nowhere"), said.append)
    assert said == []


def test_the_makefile_explains_each_of_its_commands() -> None:
    root = Path(bootstrap.__file__).resolve().parents[1]
    shown = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "quickstart", "test", "lint", "mlflow", "clean"):
        assert f"  make {target} " in shown
