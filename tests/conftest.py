"""What every test that starts processes is held to: nothing of ours may remain after it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskvine_manager import sweep


def our_processes(directory: str) -> list[psutil.Process]:
    """Processes that carry the token of a run under a directory, dead ones apart."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get(sweep.TOKEN, "").startswith(directory)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the test a private directory for temporary files; fail it if a process, socket or file of ours remains."""
    directory = tempfile.mkdtemp(prefix="tv", dir="/tmp")
    monkeypatch.setenv("TMPDIR", directory)
    monkeypatch.setattr(tempfile, "tempdir", directory)
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    try:
        yield directory
        processes = settle(lambda: our_processes(directory))
        left = settle(lambda: [entry for entry in os.listdir(directory) if entry.startswith("taskvine-")])
        assert not processes, f"processes remain: {[(p.pid, p.cmdline()) for p in processes]}"
        assert not left, f"directories remain: {left}"
        if descriptors is not None:
            now = settle(lambda: len(os.listdir("/proc/self/fd")) > descriptors + 4)
            assert not now, f"descriptors remain: {os.listdir('/proc/self/fd')}"
    finally:
        for process in our_processes(directory):
            process.kill()
        shutil.rmtree(directory, ignore_errors=True)


def settle(look: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Look until there is nothing to see, or time is up; return what was seen last."""
    deadline = time.monotonic() + seconds
    while (seen := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return seen


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    """A run directory for one test."""
    return str(tmp_path / "runinfo")
