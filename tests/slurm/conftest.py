"""The cluster that these tests run on, and users' programs on it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskvine_exec import engines
from tests.conftest import eventually, settle
from tests.slurm.cluster import Cluster, missing

CLEAN_SECONDS = 60.0
"""Time for processes, jobs and scratch to go after a run, also after its processes were killed."""
REQUIRED = "TASKVINE_EXEC_SLURM_REQUIRED"
"""Environment variable: if it is set, a machine that cannot run these tests fails them."""
_FIGURES: list[tuple[str, str, str]] = []

HEADER = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, wherever these tests were started

import parsl
from parsl.config import Config
from parsl.providers import SlurmProvider
from taskvine_exec import DAG_RESOLVER, TaskVineExecutor

BEGUN = time.time()


def executor(partition="compute", exclusive=True, walltime="00:10:00", **given):
    names = ("init_blocks", "min_blocks", "max_blocks", "mem_per_node", "worker_init", "scheduler_options")
    blocks = {name: given.pop(name) for name in names if name in given}
    provider = SlurmProvider(partition=partition, exclusive=exclusive, walltime=walltime, **blocks)
    settings = dict(address="login1.example.org", project_password_file="~/.vine-password", cores=2)
    return TaskVineExecutor(engine="taskvine", label="tv", provider=provider, **{**settings, **given})


def load(executor, **settings):
    say("loading")
    dfk = parsl.load(Config(executors=[executor], run_dir="runinfo", **settings))
    say("loaded")
    return dfk


def say(what, value=None):
    import json
    print("SAID", json.dumps([what, value, time.time()]), flush=True)


@parsl.python_app
def where(n=0, seconds=0.0):
    import os, socket, time
    time.sleep(seconds)
    return socket.gethostname(), os.environ.get("SLURM_JOB_ID"), n
"""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures that the tests have taken."""
    if _FIGURES:
        terminalreporter.section("figures of the Slurm suite")
        for cluster, what, value in _FIGURES:
            terminalreporter.write_line(f"{cluster:<12} {what:<60} {value}")


@dataclass
class Program:
    """A user's program that runs on the login machine."""

    process: subprocess.Popen[str]
    output: Path
    directory: Path
    started: float = field(default_factory=time.time)

    @property
    def pid(self) -> int:
        """Process id of the program itself; ``nsenter`` has started it."""
        return int(psutil.Process(self.process.pid).children()[0].pid)

    @property
    def text(self) -> str:
        """Its output so far."""
        return self.output.read_text(errors="replace")

    def said(self, what: str) -> list[tuple[Any, float]]:
        """Values that it has given for a name so far, with the time."""
        lines = re.findall(r"^SAID (.*)$", self.text, re.MULTILINE)
        return [(value, when) for name, value, when in map(json.loads, lines) if name == what]

    def wait_for(self, what: str, seconds: float = 60.0) -> Any:
        """Wait until it says something; return the value."""
        eventually(lambda: self.said(what) or self.process.poll() is not None, seconds)
        said = self.said(what)
        assert said, f"it ended without saying {what!r}:\n{self.text}"
        return said[-1][0]

    def age(self) -> float:
        """Seconds since its start."""
        return time.time() - self.started

    def outputs(self) -> str:
        """Output of its jobs."""
        paths = self.directory.glob("runinfo/*/submit_scripts/*.std*")
        return "\n".join(path.read_text(errors="replace") for path in paths)

    def end(self, seconds: float = 90.0) -> str:
        """Wait for its end with status 0; return what it has printed."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it does not end:\n{self.text}")
        assert status == 0, f"it exited with status {status}:\n{self.text}"
        return self.text

    def manager(self) -> psutil.Process:
        """Its executor's manager."""
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "manager" in child.cmdline():
                    return child
        raise AssertionError("it has no manager")


def _no_taskvine() -> str | None:
    try:
        engines.choose("taskvine", "vine_worker")
    except Exception as error:
        return str(error)
    return None


@pytest.fixture(scope="session", params=["sacct", "squeue"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with accounts, and one without: SlurmProvider then asks ``squeue`` for states."""
    accounting = request.param == "sacct"
    if reason := missing(accounting=accounting) or _no_taskvine():
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(reason)
    # SIGTERM, as of a time limit around all of this, must not leave a cluster behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Cluster(3, accounting=accounting) as cluster:
        password = cluster.home / ".vine-password"
        password.touch(0o600)
        password.write_text("a password of this cluster")
        _count_queries(cluster)
        yield cluster


def _count_queries(cluster: Cluster) -> None:
    """Put scripts before sacct and squeue that write down when a user's program calls them."""
    (cluster.home / "bin").mkdir()
    for name in ("sacct", "squeue"):
        script = f'#!/bin/sh\n[ -z "$QUERIES" ] || date +%s.%N >> "$QUERIES"\nPATH=${{PATH#*:}} exec {name} "$@"\n'
        (cluster.home / "bin" / name).write_text(script)
        (cluster.home / "bin" / name).chmod(0o755)


@pytest.fixture
def figure(cluster: Cluster) -> Callable[[str, str], None]:
    """Keep a figure for the summary."""
    name = "sacct" if cluster.accounting else "squeue"
    return lambda what, value: _FIGURES.append((name, what, value))


@pytest.fixture
def run(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Callable[..., Program]]:
    """Start programs; after the test, wait until no job, process and scratch is left."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    directory = cluster.home / "programs" / name
    directory.mkdir(parents=True)
    programs: list[Program] = []

    def start(body: str, header: str = HEADER) -> Program:
        script = directory / f"program{len(programs)}.py"
        script.write_text(header + textwrap.dedent(body))
        output = directory / f"{script.stem}.out"
        environment = {**cluster.environment, "QUERIES": str(directory / "queries")}
        environment["PATH"] = f"{cluster.home / 'bin'}{os.pathsep}{environment['PATH']}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                cluster.command(sys.executable, str(script), directory=directory),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        programs.append(Program(process, output, directory))
        return programs[-1]

    try:
        yield start
        for program in programs:
            program.process.wait(30)
        begun = time.monotonic()
        assert not (jobs := settle(cluster.queue, CLEAN_SECONDS)), f"jobs remain: {jobs}"
        remain = settle(cluster.processes, CLEAN_SECONDS)
        assert not remain, f"processes remain: {[(each.pid, each.cmdline()) for each in remain]}"
        left = settle(cluster.scratch, 5.0)
        assert not left, f"scratch remains: {left}"
        name = f"{request.node.originalname}: seconds until nothing was left"
        _FIGURES.append((request.node.callspec.id, name, f"{time.monotonic() - begun:.1f}"))
    finally:
        for program in programs:
            if program.process.poll() is None:
                os.killpg(program.process.pid, signal.SIGKILL)
                program.process.wait()
        if jobs := cluster.jobs():
            cluster.ask("scancel", *jobs)
        settle(cluster.queue, CLEAN_SECONDS)
        for process in cluster.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        cluster.clear_scratch()


def queries(program: Program) -> list[float]:
    """When the batch system was asked for states."""
    path = program.directory / "queries"
    return [float(line) for line in path.read_text().split()] if path.exists() else []
