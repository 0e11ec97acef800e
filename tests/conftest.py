"""Fixtures for all tests that start processes: nothing of ours may remain after a test."""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

import tests
from taskvine_exec import TaskVineExecutor
from taskvine_manager import cleanup
from taskvine_manager.scheduling.checking import VARIABLE

_BEGUN = psutil.Process().create_time()


def our_processes(directory: str) -> list[psutil.Process]:
    """Return the living processes of runs under a directory: they carry a run's token, or their command names it."""
    found = []
    for process in psutil.process_iter():
        try:
            # cannot be a test's; looking at all of them takes a large part of a test's time
            if process.create_time() < _BEGUN:
                continue
            token = process.environ().get(cleanup.TOKEN, "")
            ours = token.startswith(directory) or any(directory in word for word in process.cmdline())
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def command(process: psutil.Process) -> list[str]:
    """Return the command of a process; empty if it has ended, even if it was not reaped yet."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture(scope="session", autouse=True)
def _scripts_on_path() -> Iterator[None]:
    """Put this environment's scripts on PATH, where Parsl looks for ``interchange.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", sysconfig.get_path("scripts"), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session", autouse=True)
def _managers_check_themselves() -> Iterator[None]:
    """Make every manager check its core: a broken invariant ends the run with an error that names it."""
    with pytest.MonkeyPatch.context() as patch:
        if VARIABLE not in os.environ:  # set it to 0 to measure what the checks cost
            patch.setenv(VARIABLE, "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _tasks_take_their_functions_along() -> Iterator[None]:
    """Pickle functions and classes of the tests by value, as those of a script.

    A task that imports the module of its test imports pytest and parsl too, which takes most of the time of an L1 task.
    """
    cloudpickle.register_pickle_by_value(tests)
    yield
    cloudpickle.unregister_pickle_by_value(tests)


@pytest.fixture(autouse=True)
def _parsl_says_little() -> None:
    """Reset the level of Parsl's log. A test may leave it at DEBUG, and pytest keeps the records and so the futures."""
    logging.getLogger("parsl").setLevel(logging.INFO)


@pytest.fixture
# pytest makes its own directory first
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Give the test a private directory for temporary files; fail it if a process, socket or file of ours remains."""
    directory = tempfile.mkdtemp(prefix="tv", dir="/tmp")
    monkeypatch.setenv("TMPDIR", directory)
    monkeypatch.setattr(tempfile, "tempdir", directory)
    monkeypatch.setenv("XDG_STATE_HOME", os.path.join(directory, "state"))  # passwords for workers elsewhere
    in_memory = tempfile.mkdtemp(prefix="tv", dir="/dev/shm" if os.path.isdir("/dev/shm") else directory)
    monkeypatch.setenv("TASKVINE_EXEC_MEMORY", in_memory)
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    try:
        yield directory
        processes = settle(lambda: our_processes(directory))
        left = settle(lambda: [entry for entry in os.listdir(directory) if entry.startswith(("taskvine-", "tv-"))])
        left = left or settle(lambda: os.listdir(in_memory))
        assert not processes, f"processes remain: {[(p.pid, command(p)) for p in processes]}"
        assert not left, f"directories remain: {left}"
        if descriptors is not None:
            now = settle(lambda: len(os.listdir("/proc/self/fd")) > descriptors + 4)
            assert not now, f"descriptors remain: {os.listdir('/proc/self/fd')}"
    finally:
        for process in our_processes(directory):
            process.kill()
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(in_memory, ignore_errors=True)


def settle(look: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Repeat a look until it finds nothing or time is up; return what it found last."""
    deadline = time.monotonic() + seconds
    while (seen := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return seen


def eventually(look: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Repeat a look until it finds something, and return it; fail after some time."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)
    return seen


def first_node(executor: TaskVineExecutor) -> dict[str, Any]:
    """Return the first node. The executor may hear of it after a task has begun there."""
    nodes: list[dict[str, Any]] = eventually(lambda: executor.nodes)
    return nodes[0]


class Gate:
    """Tasks that report their start, and wait until the test opens the gate."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    @property
    def task(self) -> Callable[..., Any]:
        """The function of such a task: it takes a name, and returns it with the block that it ran in."""
        directory = str(self.directory)

        def hold(name: object = "task") -> tuple[object, str | None]:
            import os
            import time

            open(os.path.join(directory, f"{name}.{os.getpid()}"), "w").close()
            while not os.path.exists(os.path.join(directory, "open")):
                time.sleep(0.01)
            return name, os.environ.get("PARSL_WORKER_BLOCK_ID")

        return hold

    def begun(self) -> list[str]:
        """Names of the tasks that have begun, once for each start."""
        return sorted(path.name.rpartition(".")[0] for path in self.directory.iterdir() if path.name != "open")

    def wait(self, count: int) -> list[str]:
        """Wait until tasks have begun ``count`` times."""
        eventually(lambda: len(self.begun()) >= count)
        return self.begun()

    def open(self) -> None:
        """Let the tasks return."""
        (self.directory / "open").touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate for the tasks of a test."""
    return Gate(tmp_path / "gate")


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    """A run directory for one test."""
    return str(tmp_path / "runinfo")
