"""The hardware that a node finds on its machine."""

from __future__ import annotations

import glob
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


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        ("0,-1,1", ["0"]),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"]),
        ("MIG-GPU-8932f937/1/0,MIG-41b36325-6dd8", ["MIG-GPU-8932f937/1/0", "MIG-41b36325-6dd8"]),
    ],
)
def test_environment_limits_gpus(monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.gpus() == expected


def test_without_an_environment_gpus_are_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = ["nvidiactl", "nvidia10", "nvidia2", "nvidia-uvm", "nvidia0", "nvidia-caps"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(glob, "glob", lambda pattern: [f"/dev/{name}" for name in devices])
    assert hardware.gpus() == ["0", "2", "10"]


@pytest.mark.parametrize(("count", "threads"), [(4.0, "4"), (0.5, "1"), (0, "1"), (2.7, "2")])
def test_threads_are_whole_cores_and_at_least_one(count: float, threads: str) -> None:
    limits = hardware.thread_limits(count)
    assert set(limits) == set(hardware.THREAD_VARIABLES)
    assert set(limits.values()) == {threads}
