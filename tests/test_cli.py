"""The command line: configuration problems end in two seconds with code 2, and everything is documented."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from esans.cli import _guarded, main
from esans.config import document
from esans.flow import STAGES, stage_class
from esans.settings import Settings, Source

ROOT = Path(__file__).resolve().parents[1]
METHODS = sorted(path.stem for path in (ROOT / "conf" / "experiments").glob("*.yaml"))


def run_main(*arguments: str) -> int:
    """Exit code of `esans ...` in this process."""
    try:
        main(arguments)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_help_lists_every_key_with_type_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("pipeline", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for key in document(Settings):
        assert f"--{key.name} {' '.join(f'{key.type} = {key.default}'.split())}" in shown


def test_every_key_says_what_it_is() -> None:
    silent = [key.name for key in document(Settings) if not key.help.strip()]
    assert silent == []


def test_help_without_a_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main() == 0
    shown = capsys.readouterr().out
    for command in [*STAGES, "pipeline", "validate"]:
        assert f"  {command} " in shown


@pytest.mark.parametrize("method", [None, *METHODS])
def test_what_print_config_prints_reads_back_as_the_same_settings(
    method: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    given = ["--seed=7", "--spark.shuffle_partitions=3", *([f"--method={method}"] if method else [])]
    assert run_main("pipeline", "--config", "conf/quickstart.yaml", *given, "--print_config") == 0
    printed = capsys.readouterr().out
    again = tmp_path / "printed.yaml"
    again.write_text(printed)
    assert run_main("pipeline", "--config", str(again), "--print_config") == 0
    assert capsys.readouterr().out == printed
    assert Source((str(again),), ()).load() == Source(("conf/quickstart.yaml",), tuple(given)).load()


@pytest.mark.parametrize("file", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "conf").glob("*.yaml")))
def test_every_configuration_file_of_the_project_is_accepted_with_every_method_it_names(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    source = Source((file,), ())
    for method in source.load().pipeline.methods:
        source.load(method)


def test_a_later_file_wins_and_an_override_wins_over_both(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("seed: 1\nwork_dir: one\nspark: {driver_memory: 1g}\n")
    second.write_text("seed: 2\nspark: {shuffle_partitions: 5}\n")
    settings = Source((str(first), str(second)), ("--seed=3",)).load()
    assert (settings.seed, settings.work_dir) == (3, "one")
    assert (settings.spark.driver_memory, settings.spark.shuffle_partitions) == ("1g", 5)


def test_a_methods_overlay_goes_over_the_files_and_beneath_a_file_that_names_the_method(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text("train: {epochs: 2}\n")
    base, chosen = tmp_path / "base.yaml", tmp_path / "chosen.yaml"
    base.write_text("train: {epochs: 3}\n")
    chosen.write_text("method: mine\ntrain: {epochs: 4}\n")
    assert Source((str(base),), ()).load().train.epochs == 3
    assert Source((str(base),), ()).load("mine").train.epochs == 2
    assert Source((str(base),), ("--method=mine", "--train.epochs=5")).load().train.epochs == 5
    assert Source((str(base), str(chosen)), ()).load().train.epochs == 4
    chosen.write_text("method: mine\n")
    assert Source((str(base), str(chosen)), ()).load().train.epochs == 2


def test_a_method_may_set_only_what_comes_after_the_shared_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text("prepare: {}\n")
    (tmp_path / "c.yaml").write_text("")
    assert run_main("pipeline", "--config", str(tmp_path / "c.yaml"), "--method=mine") == 2
    assert capsys.readouterr().err == f"config error: {tmp_path}/experiments/mine.yaml: a method may only set ['train'], not ['prepare']\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sed=1"], "sed: unknown key. Did you mean 'seed'? Allowed here: "),
        (["--spark.shuffle_partitions=0"], "spark.shuffle_partitions = 0: must be greater than or equal to 1."),
        (["--spark.shuffle_partitions=few"], "spark.shuffle_partitions = 'few': must be a valid integer, "),
        (["--tracking=3"], "tracking = 3: must be a section with keys of its own. Allowed there: uri, experiment, system_metrics, "),
        (["--method=nothing"], "method = 'nothing': no nothing.yaml in conf/experiments. Known: "),
        (["--pipeline.methods=[nothing]"], "method = 'nothing': no nothing.yaml in conf/experiments. Known: "),
        (["--config"], "--config needs a file: --config conf/quickstart.yaml"),
        (["--config", "/nowhere.yaml"], "config file not found: /nowhere.yaml"),
        (["seed=1"], "cannot read 'seed=1': overrides look like --train.batch_size=256"),
    ],
)
def test_a_configuration_problem_is_code_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert run_main("pipeline", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"config error: {message}")
    assert captured.err.count("\n") == 1


def test_an_unknown_command_names_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("prepar") == 2
    assert capsys.readouterr().err.startswith("config error: unknown command 'prepar'. Known: prepare, features, ")


# As real processes: two seconds, and nothing of Spark or torch.

_HEAVY = "torch,pyspark,mlflow,pandas,faiss,petastorm,matplotlib"
_WATCH = f"""
import atexit, runpy, sys
atexit.register(lambda: print("loaded:", sorted(set("{_HEAVY}".split(",")) & set(sys.modules))))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_job(job: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A job as a process on a machine whose Java does not work, and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, f"jobs/{job}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAVA_HOME": "/nowhere", "SPARK_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("job", [*STAGES, "pipeline"])
def test_a_job_refuses_a_bad_key_within_two_seconds_and_before_anything_heavy_is_loaded(job: str) -> None:
    done, seconds = run_job(job, "--config", "conf/quickstart.yaml", f"--{job}.nonsense=1")
    assert done.returncode == 2
    assert done.stderr.startswith(f"config error: {job}.nonsense: unknown key.")
    assert done.stdout == "loaded: []\n"
    assert seconds < 2


def test_every_stage_is_light_to_import_and_says_in_a_line_what_it_does() -> None:
    for name in STAGES:
        stage = stage_class(name)
        assert stage.name == name
        assert stage.code_version >= 1
        assert (stage.__doc__ or "").strip().splitlines()[0].endswith((".", ","))
        assert set(stage.inputs) <= set(STAGES)
        assert dataclasses.is_dataclass(getattr(Source((), ()).load(), name))


def test_jobs_are_named_like_the_stages_and_are_doors_and_nothing_more() -> None:
    jobs = {path.stem: path.read_text() for path in (ROOT / "jobs").glob("*.py")}
    assert set(STAGES) | {"pipeline"} <= set(jobs)
    assert all(len(text.splitlines()) <= 15 for text in jobs.values())


def test_the_configuration_of_every_section_is_plain_yaml() -> None:
    from esans.config import to_dict

    settings = Source((), ()).load()
    assert yaml.safe_load(yaml.safe_dump(to_dict(settings))) == to_dict(settings)


def test_a_polite_kill_ends_like_ctrl_c_and_closes_the_run_as_killed(tmp_path: Path, new_store: Callable[[Path], str]) -> None:
    import signal

    from mlflow import MlflowClient

    from esans.tracking import TrackingConfig, start_run

    store = new_store(tmp_path)
    found = []

    def work() -> None:
        with start_run(TrackingConfig(uri=store, system_metrics=False), str(tmp_path), "stage") as run:
            found.append(run.run_id)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            _guarded(work)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 143
    assert MlflowClient(store).get_run(found[0]).info.status == "KILLED"
