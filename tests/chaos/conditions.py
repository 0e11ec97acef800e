"""Conditions of the machine during a run: clocks that jump, a small disk that fills up, little memory."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

from taskvine_manager.node import staging
from tests import control_groups

Condition = Literal["", "clocks jump", "the disk fills up", "little memory"]
DISK_MB = 96
FULL_SECONDS = 0.5
"""How long a disk stays full."""
GROUP_MB = {"embedded": 384, "taskvine": 640}
"""Memory of all nodes together, by engine. On TaskVine, each worker has a supervisor too."""
_CLOCK = """
import random, time

_now, _now_ns, _step = time.time, time.time_ns, time.monotonic


def _jump():
    return random.Random(f"{SEED} {int(_step() * 5)}").randrange(-7200, 7200)


time.time = lambda: _now() + _jump()
time.time_ns = lambda: _now_ns() + _jump() * 10**9
"""


def draw(seed: int, engine: str) -> Condition:
    """Choose the condition of a seed. TaskVine has no full disks: its workers need half of a disk for themselves."""
    several: list[Condition] = ["", "clocks jump", "", "the disk fills up", "", "little memory"]
    condition = several[seed % len(several)]
    return "" if condition == "the disk fills up" and engine == "taskvine" else condition


@contextmanager
def jumping_clocks(directory: str, seed: int) -> Iterator[None]:
    """Move the clock of each process by up to two hours, five times a second."""
    source = _CLOCK.replace("{SEED}", str(seed))
    Path(directory, "sitecustomize.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", directory, prepend=os.pathsep)
        scope = {"time": time}
        patch.setattr(time, "time", time.time)  # the present values, to be restored
        patch.setattr(time, "time_ns", time.time_ns)
        exec(source, scope)
        yield


@contextmanager
def small_disk(directory: str) -> Iterator[str | None]:
    """Put temporary files on a small file system, and nothing in memory; None where none can be mounted."""
    disk = os.path.join(directory, "disk")
    os.mkdir(disk)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", disk]
    if os.getuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", disk)
            patch.setattr(tempfile, "tempdir", disk)
            patch.setenv(staging.MEMORY_VARIABLE, "")
            yield disk
            assert not [name for name in os.listdir(disk) if name.startswith("taskvine-")], os.listdir(disk)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: str) -> None:
    """Fill a file system. A thread frees the space after a while."""
    path = os.path.join(disk, f"filled-{random.randrange(2**32)}")
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))

    def free() -> None:
        time.sleep(FULL_SECONDS)
        os.unlink(path)

    threading.Thread(target=free).start()


@contextmanager
def control_group(engine: str) -> Iterator[Path | None]:
    """Make a control group with little memory; None if this user may make none."""
    group = control_groups.make(GROUP_MB[engine])
    try:
        yield group
    finally:
        if group is not None:
            deadline = time.monotonic() + 10
            while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
            group.rmdir()
