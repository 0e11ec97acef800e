"""The cluster that these tests run on, and users' programs on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster_programs import FUNCTIONS, Program, count_queries, programs_of, use
from tests.engines import ABSENT
from tests.slurm.cluster import Cluster, missing

REQUIRED = "TASKVINE_EXEC_SLURM_REQUIRED"
"""Environment variable: if it is set, the tests fail on a machine that cannot run them."""
_FIGURES: list[tuple[str, str, str]] = []

HEADER = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, wherever these tests were started

import parsl
from parsl.config import Config
from parsl.providers import SlurmProvider
from taskvine_exec import DAG_RESOLVER, TaskVineExecutor


def executor(partition="compute", exclusive=True, walltime="00:10:00", **given):
    names = ("init_blocks", "min_blocks", "max_blocks", "mem_per_node", "worker_init", "scheduler_options")
    blocks = {name: given.pop(name) for name in names if name in given}
    provider = SlurmProvider(partition=partition, exclusive=exclusive, walltime=walltime, **blocks)
    settings = dict(address="login1.example.org", project_password_file="~/.vine-password", cores=2)
    return TaskVineExecutor(engine="taskvine", label="tv", provider=provider, **{**settings, **given})

""" + FUNCTIONS.replace("@JOB@", "SLURM_JOB_ID")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures that the tests have noted."""
    if _FIGURES:
        terminalreporter.section("figures of the Slurm suite")
        for cluster, what, value in _FIGURES:
            terminalreporter.write_line(f"{cluster:<12} {what:<60} {value}")


@pytest.fixture(scope="session", params=["sacct", "squeue"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with accounts, and one without, where SlurmProvider asks ``squeue`` for states."""
    accounting = request.param == "sacct"
    if reason := missing(accounting=accounting) or ABSENT:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(reason)
    # A SIGTERM, for example from a time limit, must not leave a cluster behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Cluster(3, accounting=accounting) as cluster:
        use(cluster)
        count_queries(cluster, "sacct", "squeue")
        yield cluster


@pytest.fixture
def figure(cluster: Cluster) -> Callable[[str, str], None]:
    """Note a figure for the summary."""
    name = "sacct" if cluster.accounting else "squeue"
    return lambda what, value: _FIGURES.append((name, what, value))


@pytest.fixture
def run(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Callable[..., Program]]:
    """Start programs; after the test, wait until no job, process and scratch is left."""

    def clean(seconds: float) -> None:
        name = f"{request.node.originalname}: seconds until nothing was left"
        _FIGURES.append((request.node.callspec.id, name, f"{seconds:.1f}"))

    with programs_of(cluster, request.node.name, HEADER, clean) as start:
        yield start
