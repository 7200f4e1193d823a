"""Checkpoints that a kill at any moment leaves whole, through torch.distributed.checkpoint (DCP).

A checkpoint is a folder `step-000000123`: DCP's files with the tensors, `state.json` with all that is not a tensor, and
`manifest.json` with format, config and the SHA-256 of every file, itself included. On a local filesystem the folder is
written under another name and renamed when complete; on an object store, which has no rename, the manifest is written
last. A folder without a manifest is never read.

Writing goes on in a thread while training does, from a copy of the state on the host, as with `dcp.async_save`. That one is
not used itself: what makes a folder a checkpoint (checksums, manifest, rename) comes after DCP's part, and would have to run
in the callback of its future, where errors are lost. Here one thread calls `dcp.save`, in a process group of its own, and
goes on to the rest; at most one is in flight, and its error is raised at the next save or at the end.

Limits of what a manifest proves: checksums find torn and decayed files, not an attacker who can write to the folder and
computes them anew. So nothing here unpickles freely either: DCP's tensors are read with `weights_only`, and its `.metadata`,
which is a pickle, by an unpickler that knows only the classes DCP puts there.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import fsspec
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.device_mesh import DeviceMesh

from esans.config import flatten
from esans.errors import ConfigError, EsansError
from esans.failures import caused_by_io
from esans.train.dcp import CheckpointError, Damaged, Reader, Unfinished, first_of
from esans.train.state import empty_tensors, pack, unpack
from esans.uri import is_local, join

FORMAT, VERSION = "esans-train-checkpoint", 1
_MANIFEST, _STATE = "manifest.json", "state.json"

# One process has no group, and DCP would say so at every save.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


class Checkpoints:
    """The checkpoints of one run in one folder.

    Args:
        folder_uri: any fsspec URI that all ranks reach.
        config: nested plain values; a checkpoint of other values is refused.
        keep: how many of the latest are kept, beside the latest that was the best. At least 1.
        background: write in a thread.
        group: a process group on the host, used for nothing else, or None for one process.
        say: takes messages.
    """

    def __init__(
        self,
        folder_uri: str,
        config: Mapping[str, Any],
        keep: int = 2,
        background: bool = True,
        group: dist.ProcessGroup | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.uri, self.config, self.keep, self.background, self.group, self.say = folder_uri, dict(config), keep, background, group, say
        self.filesystem, self.path = fsspec.core.url_to_fs(folder_uri)
        self.rank = 0 if group is None else dist.get_rank(group)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._flying: Future[None] | None = None

    def save(self, state: Mapping[str, Any], step: int, best: bool = False) -> str:
        """Copy the state to the host, and write it as the checkpoint of `step`; all ranks call it.

        Args:
            state: of esans.train.state.pack; values that ranks hold in copies are taken from rank 0, and each writes its own `Rows`.
            step: names the checkpoint; one of the same step is replaced.
            best: whether it is the best so far by validation.

        Returns:
            Its URI. With `background` it is there after `wait`.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.wait()
        tensors, skeleton = pack(state, self._mesh)
        name = f"step-{step:09d}"
        self._flying = self._thread.submit(self._write, name, tensors, skeleton, step, best)
        if not self.background:
            self.wait()
        return join(self.uri, name)

    def wait(self) -> None:
        """Until nothing is in flight. Raises CheckpointError when that could not be written."""
        flying, self._flying = self._flying, None
        if flying is None:
            return
        try:
            flying.result()
        except (Exception, CheckpointException) as error:
            first = first_of(error)
            raise CheckpointError(f"{self.uri}: a checkpoint could not be written: {first}") from first

    def close(self) -> None:
        """Wait for the thread, without raising."""
        self._thread.shutdown(wait=True)

    def load(self) -> Any | None:
        """The state of the latest checkpoint that is whole, on the host, or None where none was ever finished; all ranks call it.

        Folders that were never finished are removed, and with them the checkpoints after the one that is loaded.

        Raises:
            ConfigError: it is of another config; the message lists the differing keys.
            CheckpointError: it can't be read, was not written by this project or by a version that this one can't read, or none
                is whole of those that were finished once.
        """
        found: list[Any] = [None, None, None]
        if self.rank == 0:
            try:
                # What is removed must not be what is being written.
                self.wait()
                found[0] = self._latest()
            except Exception as error:
                # The other ranks wait for an answer, whatever it is.
                found[1] = error if isinstance(error, EsansError) else CheckpointError(f"{self.uri}: cannot be read: {error}")
                # Pickling leaves out the cause, which tells all ranks whether another start is worth it.
                found[2] = OSError(str(error)) if caused_by_io(error) else None
        if self.group is not None:
            dist.broadcast_object_list(found, src=0, group=self.group)
        if found[1] is not None:
            raise found[1] from found[2]
        return None if found[0] is None else self._read(found[0], self._mesh)

    def best(self) -> Any:
        """The state of the latest checkpoint that was the best, whole, on the host; for one process to call.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        names = [name for name in self.names() if (self._manifest(name) or {}).get("best")]
        if not names:
            raise CheckpointError(f"{self.uri}: the checkpoint of the best epoch is gone. Remove the folder and train again.")
        self.verify(names[-1])
        return self._read(names[-1], None)

    def names(self) -> list[str]:
        """Folders of checkpoints, the oldest first, whole or not."""
        if not self.filesystem.exists(self.path):
            return []
        self.filesystem.invalidate_cache()
        names = [posixpath.basename(path.rstrip("/")) for path in self.filesystem.ls(self.path, detail=False)]
        return sorted(name for name in names if name.startswith("step-"))

    def verify(self, name: str) -> dict[str, Any]:
        """The manifest of a checkpoint whose files are all as they were written.

        Raises:
            Damaged: a file is missing, or its checksum is another.
            CheckpointError: this project did not write it.
            ConfigError: it is of another config.
        """
        where = join(self.uri, name)
        try:
            manifest = json.loads(self.filesystem.cat_file(f"{self.path}/{name}/{_MANIFEST}"))
        except FileNotFoundError:
            raise Unfinished(f"{where} has no {_MANIFEST}: it was never finished") from None
        except ValueError:
            raise Damaged(f"{where}/{_MANIFEST} is not JSON") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise CheckpointError(f"{where} is not a checkpoint that this project wrote. Remove it, or train in another folder.")
        if manifest.get("version") != VERSION:
            raise CheckpointError(
                f"{where} has format version {manifest.get('version')}; this one reads {VERSION}. Remove it to start anew."
            )
        if manifest.pop("sha256", None) != _digest(manifest):
            raise Damaged(f"{where}/{_MANIFEST} is not what its checksum says")
        self._same_config(where, manifest["config"])
        for file, expected in manifest["files"].items():
            if posixpath.basename(file) != file:
                raise CheckpointError(f"{where}/{_MANIFEST} names {file!r}, which is no file of its folder. Remove the checkpoint.")
            path = f"{self.path}/{name}/{file}"
            if not self.filesystem.exists(path) or self._sha256(path) != expected:
                raise Damaged(f"{where}/{file} is missing or not what its checksum says")
        return manifest

    @cached_property
    def _mesh(self) -> DeviceMesh | None:
        """The processes as those see them that tensors lie spread over; None for one process, which has them whole."""
        return None if self.group is None else DeviceMesh.from_group(self.group, "cpu")

    def _same_config(self, where: str, config: Mapping[str, Any]) -> None:
        # Through JSON, as the one of the manifest went.
        old, new = flatten(config), flatten(json.loads(json.dumps(self.config)))
        lines = [
            f"  {key}: {old.get(key, 'not set')!r} there, {new.get(key, 'not set')!r} here"
            for key in sorted({*old, *new})
            if key not in old or key not in new or old[key] != new[key]
        ]
        if lines:
            raise ConfigError("\n".join([f"{where} is of another config; remove it, or set back:", *lines]))

    def _latest(self) -> str | None:
        self._sweep()
        names, unusable, latest = self.names(), dict[str, Damaged](), None
        while names and latest is None:
            name = names.pop()
            try:
                self.verify(name)
                latest = name
            except Damaged as damage:
                unusable[name] = damage
        damaged = [damage for damage in unusable.values() if not isinstance(damage, Unfinished)]
        if latest is None and damaged:
            # Starting anew would throw away all that was trained, because of files that may be had back.
            raise CheckpointError(
                f"{damaged[0]}, and no other checkpoint is whole. Bring its files back, or remove {self.uri} to start anew."
            )
        for why in unusable.values():
            self.say(f"  {why}; {'training starts anew' if latest is None else 'the checkpoint before it is taken'}")
        # By their numbers they would count as the latest, and those that training goes on to write as old.
        for name in [*unusable, *(name for name in names if self._manifest(name) is None)]:
            self._remove(name)
        return latest

    def _read(self, name: str, mesh: DeviceMesh | None) -> Any:
        """A checkpoint as the processes of `mesh` share it out; as a whole, where that is None."""
        where = join(self.uri, name)
        try:
            skeleton = json.loads(self.filesystem.cat_file(f"{self.path}/{name}/{_STATE}"))
            tensors = empty_tensors(skeleton, mesh)
            dcp.load(tensors, storage_reader=Reader(where), no_dist=True)
        except (Exception, CheckpointException) as error:
            first = first_of(error)
            raise CheckpointError(f"{where} cannot be read: {first}") from first
        return unpack(skeleton, tensors)

    def _write(self, name: str, tensors: dict[str, Tensor], skeleton: Any, step: int, best: bool) -> None:
        part = f".part-{name}" if is_local(self.filesystem) else name
        folder = f"{self.path}/{part}"
        if self.rank == 0:
            self._remove(part)
            self.filesystem.makedirs(folder, exist_ok=True)
        # What all ranks hold is written once, by the first: buffers of samplers may differ, and the first rank's count.
        planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
        writer = FsspecWriter(join(self.uri, part))
        dcp.save(tensors, storage_writer=writer, planner=planner, process_group=self.group, no_dist=self.group is None)
        if self.rank:
            return
        self.filesystem.pipe_file(f"{folder}/{_STATE}", json.dumps(skeleton).encode())
        self.filesystem.invalidate_cache()
        files = {posixpath.basename(path): self._sha256(path) for path in sorted(self.filesystem.find(folder))}
        manifest = {"format": FORMAT, "version": VERSION, "step": step, "best": best, "config": self.config, "files": files}
        manifest["sha256"] = _digest(manifest)
        self.filesystem.pipe_file(f"{folder}/{_MANIFEST}", json.dumps(manifest, indent=1).encode())
        if part != name:
            self._remove(name)
            self.filesystem.mv(folder, f"{self.path}/{name}", recursive=True)
        self._retain(name)

    def _retain(self, written: str) -> None:
        """Remove all but the checkpoint just written, the latest `keep`, and the latest that was the best."""
        manifests = {name: self._manifest(name) for name in self.names()}
        whole = [name for name, manifest in manifests.items() if manifest is not None]
        bests = [name for name in whole if (manifests[name] or {}).get("best")]
        for name in manifests.keys() - {written, *whole[-self.keep :], *bests[-1:]}:
            self._remove(name)

    def _manifest(self, name: str) -> dict[str, Any] | None:
        """What a manifest says, without proof; None where there is none that can be read as one."""
        try:
            manifest = json.loads(self.filesystem.cat_file(f"{self.path}/{name}/{_MANIFEST}"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return manifest if isinstance(manifest, dict) else None

    def _sweep(self) -> None:
        """Remove what a killed writer left."""
        if self.filesystem.exists(self.path):
            for path in self.filesystem.ls(self.path, detail=False):
                if posixpath.basename(path.rstrip("/")).startswith(".part-"):
                    self.filesystem.rm(path, recursive=True)

    def _remove(self, name: str) -> None:
        # The manifest first: a removal that is cut short leaves nothing that passes for a checkpoint.
        folder = f"{self.path}/{name}"
        if self.filesystem.exists(f"{folder}/{_MANIFEST}"):
            self.filesystem.rm(f"{folder}/{_MANIFEST}")
        if self.filesystem.exists(folder):
            self.filesystem.rm(folder, recursive=True)

    def _sha256(self, path: str) -> str:
        digest = hashlib.sha256()
        with self.filesystem.open(path, "rb") as stream:
            while chunk := stream.read(2**20):
                digest.update(chunk)
        return digest.hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
