"""What a node may use of the machine that it is on."""

from __future__ import annotations

import glob
import itertools
import os
import re
import shutil
from collections.abc import Container

_GPU = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")
"""An index or a UUID, as CUDA takes them."""


def cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> float:
    """Memory of the machine in MB (2**20 bytes)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20


def disk(directory: str) -> float:
    """Free space in MB (2**20 bytes) where a directory is."""
    return shutil.disk_usage(directory).free / 2**20


def gpus() -> list[str]:
    """Ids of the gpus that this process may use: those that CUDA_VISIBLE_DEVICES names, else NVIDIA's devices."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # To CUDA, what comes after a name that is none is not there. Slurm says NoDevFiles where it gives no gpu.
        return list(itertools.takewhile(_GPU.fullmatch, (name.strip() for name in visible.split(","))))
    found = (re.fullmatch(r"/dev/nvidia(\d+)", path) for path in glob.glob("/dev/nvidia*"))
    return sorted((match.group(1) for match in found if match), key=int)


THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def thread_limits(count: float, chosen: Container[str] = ()) -> dict[str, str]:
    """Environment that holds OpenMP and the usual BLAS libraries to a number of cores; not what the user has chosen."""
    threads = str(max(1, int(count)))
    return {name: threads for name in THREAD_VARIABLES if name not in chosen}
