"""What the machine lacks is named first, with its cure."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from esans import environment
from esans.errors import EnvironmentProblem

ROOT = Path(__file__).resolve().parents[1]


def fake_java(home: Path, version: str) -> Path:
    """A Java home whose release file states a version."""
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text("#!/bin/sh\n")
    (home / "bin" / "java").chmod(0o755)
    (home / "release").write_text(f'IMPLEMENTOR="Nobody"\nJAVA_VERSION="{version}"\n')
    return home


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Java, and a clone at tmp_path."""
    monkeypatch.setenv("JAVA_HOME", "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "_system_folders", lambda: [tmp_path / "jvm"])
    return tmp_path


@pytest.mark.parametrize(("release", "major"), [("17.0.17", 17), ("21.0.2", 21), ("1.8.0_412", 8), ("11.0.23", 11), ("17", 17)])
def test_a_javas_version_is_read_from_its_release_file(tmp_path: Path, release: str, major: int) -> None:
    assert environment.java_version(fake_java(tmp_path / "java", release)) == major


def test_a_java_without_a_release_file_is_asked(tmp_path: Path) -> None:
    home = fake_java(tmp_path / "java", "17")
    (home / "release").unlink()
    (home / "bin" / "java").write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\" 2023-10-17' >&2\n")
    assert environment.java_version(home) == 21


def test_without_a_java_the_error_names_the_command_for_the_system_at_hand(bare: Path) -> None:
    (bare / "bin").mkdir()
    (bare / "bin" / "apt-get").symlink_to("/bin/true")
    with pytest.raises(EnvironmentProblem) as refused:
        environment.require_java()
    sudo = "" if os.geteuid() == 0 else "sudo "
    assert str(refused.value) == (
        f"Spark needs Java 17 or 21, and there is none here. Cure: {sudo}apt-get install -y openjdk-17-jre-headless, or set JAVA_HOME."
    )


def test_a_java_of_another_version_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fake_java(bare / "java-11", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(home))
    with pytest.raises(EnvironmentProblem) as refused:
        environment.require_java()
    assert str(refused.value).startswith(f"Spark needs Java 17 or 21, and there is none here. Found only Java 11 ({home}). Cure: ")


def test_a_fitting_java_is_taken_from_java_home_then_the_path_then_the_clone_then_the_system(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = fake_java(bare / "jvm" / "java-21", "21.0.1")
    assert environment.require_java() == system
    clone = fake_java(bare / ".jdk" / "jdk-17", "17.0.1")
    assert environment.require_java() == system  # JAVA_HOME was set by the call before
    monkeypatch.setenv("JAVA_HOME", "")
    assert environment.require_java() == clone
    on_path = fake_java(bare / "opt" / "java", "17.0.2")
    (bare / "bin").mkdir()
    (bare / "bin" / "java").symlink_to(on_path / "bin" / "java")
    monkeypatch.setenv("JAVA_HOME", str(fake_java(bare / "java-8", "1.8.0_1")))
    assert environment.require_java() == on_path
    assert os.environ["JAVA_HOME"] == str(on_path)


def test_the_pins_of_the_metadata_hold_here_and_the_check_costs_nothing_to_speak_of() -> None:
    environment.check_pins()
    started = time.process_time()
    environment.check_pins()
    assert time.process_time() - started < 0.05


def test_the_pins_are_those_that_were_tried_together() -> None:
    pins = {package: wanted for package, wanted, _ in environment.exact_pins(importlib.metadata.requires("esans") or [])}
    assert pins["pyarrow"] == "14.0.2"
    assert pins["petastorm"] == "0.12.1"
    assert pins["faiss-cpu"] == pins["faiss-gpu"]


@pytest.mark.parametrize(
    ("package", "found", "state"),
    [("pyarrow", "16.1.0", "pyarrow 16.1.0 is installed"), ("pyarrow", None, "pyarrow is not installed")],
)
def test_a_wrong_pin_is_named_with_what_was_found_what_is_needed_and_the_cure(
    monkeypatch: pytest.MonkeyPatch, package: str, found: str | None, state: str
) -> None:
    installed = environment._installed
    monkeypatch.setattr(environment, "_installed", lambda name: found if name == package else installed(name))
    with pytest.raises(EnvironmentProblem) as refused:
        environment.check_pins()
    assert str(refused.value) == (
        f"{state}, and 14.0.2 is needed (Petastorm 0.12.1 does not import beside any other). "
        f"Cure: {environment.sys.executable} -m pip install pyarrow==14.0.2"
    )


def test_a_build_suffix_is_no_other_version_and_two_faiss_builds_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = environment._installed
    monkeypatch.setattr(environment, "_installed", lambda name: "2.13.0+cu129" if name == "torch" else installed(name))
    environment.check_pins()
    monkeypatch.setattr(environment, "_installed", lambda name: "1.15.1" if name.startswith("faiss") else installed(name))
    with pytest.raises(EnvironmentProblem, match="^faiss-cpu and faiss-gpu are both installed and overwrite each other's files. Cure: "):
        environment.check_pins()


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 13, 0)])
def test_another_python_is_named(version: tuple[int, ...]) -> None:
    with pytest.raises(EnvironmentProblem) as refused:
        environment.check_python(version)
    assert str(refused.value) == (
        f"Python {'.'.join(map(str, version))} does not fit: 3.11 or 3.12 is needed (pyarrow 14.0.2 has no wheels for newer ones). "
        "Cure: remove .venv and run `make quickstart PYTHON=/path/to/python3.11`."
    )


# tools/setup.sh: the first line of `make quickstart` on a machine that lacks the right Python.


def run_setup(tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "tools", clone / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "tools" / "bootstrap.py").write_text("import sys; print('bootstrap', sys.executable)")
    return subprocess.run(
        ["/bin/sh", str(clone / "tools" / "setup.sh")],
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path), **environ},
        timeout=60,
        check=False,
    )


def fake_python(path: Path, version: str) -> Path:
    """An executable that answers like a Python of this version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\ncase "$*" in *version_info*) echo {version};; *ensurepip*) ;; *) echo "ran $0";; esac\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["3.13.0", "3.10.13"])
def test_a_wrong_python_is_the_first_line_with_its_cure(tmp_path: Path, version: str) -> None:
    python = fake_python(tmp_path / "bin" / "python3", version)
    done = run_setup(tmp_path, PYTHON=str(python))
    first = done.stderr.splitlines()[0]
    assert done.returncode == 1
    assert done.stdout == ""
    assert first.startswith(f"error: Python {version} ({python}) does not fit: this project runs on Python 3.11 or 3.12 ")
    assert "Cure: " in first
    assert "make quickstart PYTHON=/path/to/python3.11" in first


def test_a_shim_that_exists_and_fails_is_passed_over(tmp_path: Path) -> None:
    shim = fake_python(tmp_path / "bin" / "python3.11", "")
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2\nexit 127\n")
    good = fake_python(tmp_path / "bin" / "python3.12", "3.12.1")
    wrong = fake_python(tmp_path / "bin" / "python3", "3.13.1")
    assert wrong.exists()
    done = run_setup(tmp_path, PATH=str(tmp_path / "bin") + ":/usr/bin:/bin" if not _system_python() else str(tmp_path / "bin"))
    assert f"ran {good}" in done.stdout


def _system_python() -> bool:
    # With a python3.11 of its own the system would answer before the fake 3.12 does.
    return any(Path(folder, "python3.11").exists() for folder in ("/usr/bin", "/bin"))
