"""GPUs and what talks to them: torch's build, NCCL, faiss."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from esans.doctor.line import Line, fail, ok, warn
from esans.launch import LaunchConfig


def gpus(launch: LaunchConfig) -> Iterator[Line]:
    """The GPUs that torch can use, against what train.launch asks for, and NCCL between them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        yield _none(launch, torch.__version__, torch.version.cuda)
        yield ok("NCCL", "not needed without GPUs; processes talk through gloo")
        return
    names = [torch.cuda.get_device_properties(place) for place in range(count)]
    found = ", ".join(f"{found.name} {found.total_memory / 1e9:.0f} GB" for found in names) + f" (torch for CUDA {torch.version.cuda})"
    if launch.device != "cpu" and launch.mode != "spark" and launch.processes > count:
        yield warn(
            "GPUs",
            f"{found}; train.launch.processes = {launch.processes}",
            f"Start torchrun on more hosts, or set it to {count}.",
        )
    else:
        yield ok("GPUs", found)
    yield _nccl(count)


def _none(launch: LaunchConfig, torch_version: str, cuda: str | None) -> Line:
    if shutil.which("nvidia-smi") and cuda is None:
        found = f"there may be some, but torch {torch_version} is a build without CUDA"
        return warn("GPUs", found, "Install torch's CUDA build of the same version (pytorch.org, Get Started).")
    if launch.device == "cuda":
        return fail("GPUs", "none, and train.launch.device = cuda", "Set train.launch.device=auto, or check the driver with nvidia-smi.")
    return ok("GPUs", "none; torch runs on the CPU")


def _nccl(count: int) -> Line:
    import torch
    import torch.distributed as dist

    if dist.is_available() and dist.is_nccl_available():
        return ok("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    state = fail if count > 1 else warn
    return state("NCCL", "torch was built without it", "Install torch's CUDA build for Linux: several GPUs need NCCL.")


def faiss(gpu_count: int) -> Line:
    """Which of the two builds of faiss is installed: exactly one may be."""
    there = {name: found for name in ("faiss-cpu", "faiss-gpu") if (found := _installed(name))}
    if len(there) == 2:
        cure = "pip uninstall -y faiss-cpu faiss-gpu, then pip install the one of your extra (cpu or gpu)."
        return fail("faiss", "faiss-cpu and faiss-gpu are both installed and overwrite each other's files", cure)
    if not there:
        return fail("faiss", "no build is installed; cluster and export need one", "make setup EXTRAS=cpu, or gpu on a machine with GPUs.")
    ((name, found),) = there.items()
    try:
        import faiss as library
    except ImportError as error:
        return fail("faiss", f"{name} {found} cannot be imported: {error}", f"pip install --force-reinstall {name}=={found}")
    if name == "faiss-gpu" and not library.get_num_gpus():
        return warn("faiss", f"{name} {found} sees no GPU", "Check the driver with nvidia-smi, or install the extra cpu.")
    if name == "faiss-cpu" and gpu_count:
        return warn("faiss", f"{name} {found}, but there are GPUs", "make setup EXTRAS=gpu: k-means and the index then run on the GPU.")
    return ok("faiss", f"{name} {found}")


def count() -> int:
    """How many GPUs torch can use."""
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
