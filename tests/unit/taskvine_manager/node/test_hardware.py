"""The hardware that a node finds on its machine."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from taskvine_manager.node import hardware


def test_cores_are_limited_by_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    assert hardware.cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert hardware.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_memory_and_disk_are_in_mebibytes(tmp_path: Path) -> None:
    assert hardware.memory() == pytest.approx(psutil.virtual_memory().total / 2**20, rel=0.01)
    assert hardware.disk(str(tmp_path)) == pytest.approx(psutil.disk_usage(str(tmp_path)).free / 2**20, rel=0.05)


@pytest.mark.parametrize(("count", "threads"), [(4.0, "4"), (0.5, "1"), (0, "1"), (2.7, "2")])
def test_threads_are_whole_cores_and_at_least_one(count: float, threads: str) -> None:
    limits = hardware.thread_limits(count)
    assert set(limits) == set(hardware.THREAD_VARIABLES)
    assert set(limits.values()) == {threads}
