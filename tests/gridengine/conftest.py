"""The cluster that these tests run on, and users' programs on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster_programs import FUNCTIONS, Program, count_queries, programs_of, use
from tests.engines import ABSENT
from tests.gridengine.cluster import Cluster, missing

REQUIRED = "TASKVINE_EXEC_GRIDENGINE_REQUIRED"
"""Environment variable: if it is set, the tests fail on a machine that cannot run them."""
_FIGURES: list[tuple[str, str]] = []

HEADER = """
import os, time
import parsl
from parsl.config import Config
from parsl.providers import GridEngineProvider
from taskvine_exec import DAG_RESOLVER, TaskVineExecutor


def executor(walltime="00:10:00", scheduler_options="", **given):
    # Grid Engine's shells are login shells by default: a profile decides on PATH.
    blocks = {name: given.pop(name) for name in ("init_blocks", "min_blocks", "max_blocks") if name in given}
    blocks["worker_init"] = f"export PATH={os.environ['PATH']}"
    provider = GridEngineProvider(walltime=walltime, scheduler_options=scheduler_options, **blocks)
    settings = dict(address="login1.example.org", project_password_file="~/.vine-password", cores=2, memory=1000)
    return TaskVineExecutor(engine="taskvine", label="tv", provider=provider, **{**settings, **given})

""" + FUNCTIONS.replace("@JOB@", "JOB_ID")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures that the tests have noted."""
    if _FIGURES:
        terminalreporter.section("figures of the Grid Engine suite")
        for what, value in _FIGURES:
            terminalreporter.write_line(f"{what:<70} {value}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with one node, which runs four jobs at a time."""
    if reason := missing() or ABSENT:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(reason)
    # A SIGTERM, for example from a time limit, must not leave a cluster behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Cluster(4) as cluster:
        use(cluster)
        count_queries(cluster, "qstat")
        yield cluster


@pytest.fixture
def figure() -> Callable[[str, str], None]:
    """Note a figure for the summary."""
    return lambda what, value: _FIGURES.append((what, value))


@pytest.fixture
def run(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Callable[..., Program]]:
    """Start programs; after the test, wait until no job, process and scratch is left."""

    def clean(seconds: float) -> None:
        _FIGURES.append((f"{request.node.originalname}: seconds until nothing was left", f"{seconds:.1f}"))

    with programs_of(cluster, request.node.name, HEADER, clean) as start:
        yield start
