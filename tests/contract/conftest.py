"""The engines of the contract tests, and executors on them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskvine_exec import TaskVineExecutor
from tests.engines import ABSENT


@pytest.fixture(autouse=True)
def _clean(nothing_left: str) -> None:
    """Check after each contract test that nothing remains."""


@pytest.fixture(params=["embedded", "taskvine"])
def engine(request: pytest.FixtureRequest) -> str:
    """Name of an engine; a test may restrict it to some engines."""
    if request.param == "taskvine" and ABSENT is not None:
        pytest.skip(ABSENT)
    return str(request.param)


@pytest.fixture(params=["L1", "L2"])
def mode(request: pytest.FixtureRequest) -> str:
    """An execution mode."""
    return str(request.param)


@pytest.fixture
def working_directory() -> str | None:
    """Where the apps of :func:`make_executor` run; None for the executor's default. Modules override it."""
    return None


@pytest.fixture
def make_executor(
    engine: str, run_dir: str, working_directory: str | None
) -> Iterator[Callable[..., TaskVineExecutor]]:
    """Start executors; they are shut down after the test."""
    made: list[TaskVineExecutor] = []

    def make(**settings: Any) -> TaskVineExecutor:
        own = {"label": f"ex{len(made)}", "cores": 2, "working_directory": working_directory}
        executor = TaskVineExecutor(engine=engine, **{**own, **settings})
        executor.run_dir = run_dir
        made.append(executor)
        executor.start()
        return executor

    yield make
    for executor in made:
        executor.shutdown()


@pytest.fixture
def start_node() -> Iterator[Callable[[TaskVineExecutor], subprocess.Popen[bytes]]]:
    """Start nodes by hand; they end with their executor, which the test shuts down."""
    started: list[subprocess.Popen[bytes]] = []

    def start(executor: TaskVineExecutor) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(shlex.split(executor.launch_cmd), stdin=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


@pytest.fixture
def by_hand(
    make_executor: Callable[..., TaskVineExecutor], start_node: Callable[[TaskVineExecutor], Any]
) -> Callable[..., TaskVineExecutor]:
    """Make executors whose worker counts as one on another machine, so that all files travel."""

    def make(**settings: Any) -> TaskVineExecutor:
        executor = make_executor(worker_launch_method="manual", **settings)
        start_node(executor)
        return executor

    return make


def cached(node: dict[str, Any]) -> list[os.DirEntry[str]]:
    """Return the files that a node has cached for tasks, without those of TaskVine's worker."""
    entries = os.scandir(os.path.join(node["directory"], "cache"))
    return [entry for entry in entries if not re.match(r"buffer-|\.|.*\.meta$", entry.name)]


embedded_only = pytest.mark.parametrize("engine", ["embedded"], indirect=True)
"""Mark tests of one engine, where TaskVine behaves differently or reports nothing."""
