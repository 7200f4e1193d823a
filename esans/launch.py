"""How the processes of a torch stage start: here, by torchrun's agent, by Spark's TorchDistributor, or inside a torchrun from outside.

The work is named as `package.module:function`; the function takes one string, a JSON spec, since it may run on another host.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from esans import elastic, failures
from esans.config import NonNegativeInt, PositiveFloat, PositiveInt, Runtime, config
from esans.elastic import run_guarded, run_work
from esans.errors import ConfigError, EsansError
from esans.heartbeat import Heartbeat, board_of
from esans.progress import say
from esans.redaction import redact, restore_tracking_uri
from esans.uri import join, write_text

if TYPE_CHECKING:
    import torch
    from pyspark.sql import SparkSession

_told = False
# The field of a spec that may hold a password.
_TRACKING = "tracking_uri"


@config
class LaunchConfig:
    """Keys under `<stage>.launch`: how the worker processes start."""

    mode: Annotated[Literal["auto", "local", "torchrun", "spark"], Runtime] = "auto"
    """local: one process; torchrun: processes of its agent on this host; spark: TorchDistributor on the executors; auto: local for one
    process, else torchrun. Started by torchrun itself, a job joins it whatever this says."""
    processes: PositiveInt = 1
    """World size. In training it changes which examples share a batch, hence the weights."""
    threads: Annotated[NonNegativeInt, Runtime] = 0
    """torch threads of each process; 0 divides the host's cores among its processes."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Runtime] = "auto"
    """auto takes a GPU where there is one."""
    max_restarts: Annotated[NonNegativeInt, Runtime] = 0
    """How often the processes are started again after one was killed, lost or hung; they go on from the latest checkpoint. One process
    alone then runs beside the job, not in it. Under your own torchrun its --max-restarts counts."""
    hang_seconds: Annotated[PositiveFloat, Runtime] = 600.0
    """Seconds without progress in any process after which the work ends with a message that names the rank and the place; also the
    timeout of every collective. Longer than the slowest single step, checkpoint or start."""

    def __post_init__(self) -> None:
        if self.mode == "local" and self.processes > 1:
            raise ValueError(f"launch.mode = 'local' runs one process, but launch.processes = {self.processes}; take torchrun or spark")


class LaunchFailed(EsansError):
    """A worker process ended with an error; its own message stands above."""


@dataclass(frozen=True)
class Process:
    """Which of the worker processes this is."""

    rank: int
    world_size: int
    device: torch.device


@dataclass
class Spec:
    """What a worker needs, as JSON values: it may start on another host. Subclasses name the fields."""

    def dump(self) -> str:
        """As JSON."""
        # The spec is a file that other processes read: they know the password of the tracking URI from their environment.
        return json.dumps({name: redact(value) if name == _TRACKING else value for name, value in asdict(self).items()})

    @classmethod
    def parse(cls, text: str) -> Self:
        """From JSON."""
        values = json.loads(text)
        return cls(**{name: restore_tracking_uri(value) if name == _TRACKING else value for name, value in values.items()})


def inside_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def launch(work: str, spec_json: str, config: LaunchConfig, scratch_uri: str, spark: SparkSession | None, what: str = "the work") -> None:
    """Run `work` in every process to its end.

    Args:
        work: `package.module:function`.
        spec_json: the argument of that function.
        config: how many processes, and how they start.
        scratch_uri: folder for the spec that other processes read.
        spark: the session, for mode `spark` only.
        what: how messages call the work.

    Raises:
        LaunchFailed: one of the processes failed.
    """
    if inside_torchrun():
        _tell_followers(work, spec_json, config)
        run_work(work, spec_json)
    elif config.mode == "spark":
        assert spark is not None
        _by_spark(work, spec_json, config, scratch_uri, spark, what)
    elif config.processes > 1 or config.mode == "torchrun" or config.max_restarts:
        _by_agent(work, spec_json, config, scratch_uri, what)
    else:
        run_work(work, spec_json)


@contextmanager
def joined(config: LaunchConfig, key: str, why: str = "") -> Iterator[Process]:
    """Be the worker that the environment names (RANK, WORLD_SIZE), or the only one, inside the block.

    Args:
        config: processes, threads and device.
        key: where `config` stands, such as train.launch.
        why: added to the message about another world size.

    Raises:
        ConfigError: the processes that were started are not as many as the config names, or there is no such device.
    """
    import torch
    import torch.distributed as dist

    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size != config.processes:
        raise ConfigError(
            f"{key}.processes = {config.processes}, but {world_size} processes were started: set --{key}.processes={world_size}{why}."
        )
    device = pick_device(config, key)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // local))
    started_here = world_size > 1 and not dist.is_initialized()
    if started_here:
        _join_group(config, device)
    try:
        yield Process(rank, world_size, device)
    finally:
        # Without it gloo aborts at exit under TorchDistributor.
        if started_here:
            dist.destroy_process_group()


@contextmanager
def watched(config: LaunchConfig, process: Process, scratch_uri: str, what: str = "training") -> Iterator[Heartbeat]:
    """Let hangs of the ranks be found inside the block, which says through the heartbeat where it is.

    Args:
        config: names the time.
        process: this one.
        scratch_uri: where a verdict is kept for a launcher on another host.
        what: how messages call the work.
    """

    def tell(verdict: str) -> None:
        print(f"error: {what} hangs: {verdict}", file=sys.stderr, flush=True)
        # A filesystem that does not answer may be why.
        writing = threading.Thread(target=failures.record_hang, args=(scratch_uri, process.rank, verdict), daemon=True)
        writing.start()
        writing.join(5)

    if process.rank == 0 and elastic.restarts():
        say(f"  start {elastic.restarts() + 1} of {what}, from the latest checkpoint where there is one")
    board = board_of(process.rank, process.world_size, elastic.restarts())
    heartbeat = Heartbeat(process.rank, process.world_size, config.hang_seconds, board, tell)
    with heartbeat.watching():
        yield heartbeat


def timeout_of(config: LaunchConfig) -> timedelta:
    """What any process group waits for."""
    return timedelta(seconds=config.hang_seconds)


def pick_device(config: LaunchConfig, key: str) -> torch.device:
    """The device of this process: its own GPU where there is one and the config lets it. Raises ConfigError without that GPU."""
    import torch

    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"{key}.device = 'cuda': this machine has no GPU that torch can use. Use auto or cpu.")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def follow_if_not_leader(config: LaunchConfig) -> bool:
    """On ranks other than 0 of an outer torchrun: wait for the leader's work, do it, and return True. Elsewhere False."""
    if not inside_torchrun() or os.environ["RANK"] == "0":
        return False
    order = _broadcast(None, config)
    if order is not None:
        run_work(*order)
    _leave()
    return True


def release_followers(config: LaunchConfig) -> None:
    """On rank 0 of an outer torchrun: send the others home when there was nothing to do."""
    if inside_torchrun() and os.environ["RANK"] == "0":
        if not _told:
            _broadcast(None, config)
        _leave()


def _tell_followers(work: str, spec_json: str, config: LaunchConfig) -> None:
    global _told  # noqa: PLW0603
    _told = True
    _broadcast((work, spec_json), config)


def _broadcast(order: tuple[str, str] | None, config: LaunchConfig) -> tuple[str, str] | None:
    import torch.distributed as dist

    if not dist.is_initialized():
        _join_group(config, pick_device(config, "launch"))
    box = [order]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _join_group(config: LaunchConfig, device: torch.device) -> None:
    import torch.distributed as dist

    timeout = timeout_of(config)
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    # torchrun's agent lets all starts share one store; without a name of its own a start would find the addresses of the dead.
    store = dist.PrefixStore(f"start-{elastic.restarts()}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _by_agent(work: str, spec_json: str, config: LaunchConfig, scratch_uri: str, what: str) -> None:
    spec_uri = join(scratch_uri, "spec.json")
    write_text(spec_uri, spec_json)
    failures.clear(scratch_uri)
    command = elastic.command(config.processes, config.max_restarts, work, spec_uri, scratch_uri)
    # Workers set their threads themselves, but what is imported before that looks here.
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads or max(1, (os.cpu_count() or 1) // config.processes))}
    with tempfile.TemporaryDirectory(prefix="esans-signs-") as signs:
        code, verdict = elastic.supervise(command, environment, Path(signs), config.hang_seconds)
    if not code:
        return
    if verdict is not None:
        raise LaunchFailed(f"{what} hung: {verdict}.")
    raise LaunchFailed(f"{what} ended with exit code {code}; the first error of a rank stands above.")


def _assigned_by_spark(config: LaunchConfig, spark: SparkSession, what: str) -> bool:
    """Whether each process takes the GPU that Spark assigns to its task.

    Raises:
        ConfigError: GPUs are asked for and Spark assigns none, or shares one between tasks, where a process needs its own.
    """
    name = "spark.task.resource.gpu.amount"
    amount = float(spark.sparkContext.getConf().get(name, "0"))
    if config.device == "cpu" or (config.device == "auto" and not amount):
        return False
    if amount != 1:
        raise ConfigError(
            f"{name} = {amount:g}: {what} on Spark's executors needs one GPU a process. Submit it with --conf {name}=1 and "
            "spark.executor.resource.gpu.amount (docs/cluster.md, GPUs), or set launch.device to cpu."
        )
    return True


def _show_py_files(spark: SparkSession) -> None:
    """Let what tasks start import what --py-files brought: it lies in an executor's folder, where only Spark's own workers look."""
    files = spark.sparkContext.getConf().get("spark.submit.pyFiles", "")
    names = [name.rsplit("/", 1)[-1] for name in files.split(",") if name]
    # A lone module is found by its folder.
    places = dict.fromkeys("." if name.endswith(".py") else name for name in names)
    known = spark.sparkContext.environment.get("PYTHONPATH", "")
    spark.sparkContext.environment["PYTHONPATH"] = os.pathsep.join([*places, *([known] if known else [])])


def _by_spark(work: str, spec_json: str, config: LaunchConfig, scratch_uri: str, spark: SparkSession, what: str) -> None:
    """TorchDistributor knows no restarts: the job submits the work again."""
    from pyspark.ml.torch.distributor import TorchDistributor

    local = spark.sparkContext.master.startswith("local")
    gpus = config.device == "cuda" if local else _assigned_by_spark(config, spark, what)
    if not local:
        _show_py_files(spark)
    failures.clear(scratch_uri)
    for submission in range(config.max_restarts + 1):
        distributor = TorchDistributor(num_processes=config.processes, local_mode=local, use_gpu=gpus)
        try:
            distributor.run(run_guarded, work, spec_json, scratch_uri, submission)
            return
        except Exception as error:
            final, found = failures.final(scratch_uri), failures.read(scratch_uri)
            if final is not None or submission == config.max_restarts:
                hang = next((failure.message for failure in found if failure.kind == "hang"), None)
                why = f"hung: {hang}." if hang and final is None else f"under Spark failed: {error}"
                raise LaunchFailed(f"{what} {why}") from error
            failures.forget_hang(scratch_uri)
            say(f"  {what} under Spark ended early; submitted again, {submission + 1} of {config.max_restarts}")
