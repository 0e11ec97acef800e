"""Users' programs on the clusters that test suites start."""

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

from tests.conftest import eventually, settle
from tests.machines import Machines

CLEAN_SECONDS = 60.0
"""Seconds after a run until processes, jobs and scratch must be gone, also if its processes were killed."""
FUNCTIONS = """
BEGUN = time.time()


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
    return socket.gethostname(), os.environ.get("@JOB@"), n
"""
"""The common parts of all programs; ``@JOB@`` stands for the environment variable with a job's number."""


@dataclass
class Program:
    """A user's program that runs on the login machine."""

    process: subprocess.Popen[str]
    output: Path
    directory: Path
    started: float = field(default_factory=time.time)

    @property
    def pid(self) -> int:
        """Process id of the program itself, which ``nsenter`` has started."""
        return int(psutil.Process(self.process.pid).children()[0].pid)

    @property
    def text(self) -> str:
        """The program's output so far."""
        return self.output.read_text(errors="replace")

    def said(self, what: str) -> list[tuple[Any, float]]:
        """The values printed for a name so far, with the times."""
        lines = re.findall(r"^SAID (.*)$", self.text, re.MULTILINE)
        return [(value, when) for name, value, when in map(json.loads, lines) if name == what]

    def wait_for(self, what: str, seconds: float = 60.0) -> Any:
        """Wait until the program prints a value; return it."""
        eventually(lambda: self.said(what) or self.process.poll() is not None, seconds)
        said = self.said(what)
        assert said, f"it ended without saying {what!r}:\n{self.text}"
        return said[-1][0]

    def age(self) -> float:
        """Seconds since the program started."""
        return time.time() - self.started

    def outputs(self) -> str:
        """Output of the program's jobs."""
        paths = self.directory.glob("runinfo/*/submit_scripts/*.std*")
        return "\n".join(path.read_text(errors="replace") for path in paths)

    def end(self, seconds: float = 90.0) -> str:
        """Wait until the program ends with status 0; return its output."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it does not end:\n{self.text}")
        assert status == 0, f"it exited with status {status}:\n{self.text}"
        return self.text

    def manager(self) -> psutil.Process:
        """The manager of the program's executor."""
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "manager" in child.cmdline():
                    return child
        raise AssertionError("it has no manager")


def use(cluster: Machines) -> None:
    """Make the password file that programs on a cluster use."""
    password = cluster.home / ".vine-password"
    password.touch(0o600)
    password.write_text("a password of this cluster")


def count_queries(cluster: Machines, *names: str) -> None:
    """Wrap commands of the batch system in scripts that record the calls of a user's program."""
    (cluster.home / "bin").mkdir()
    for name in names:
        script = f'#!/bin/sh\n[ -z "$QUERIES" ] || date +%s.%N >> "$QUERIES"\nPATH=${{PATH#*:}} exec {name} "$@"\n'
        (cluster.home / "bin" / name).write_text(script)
        (cluster.home / "bin" / name).chmod(0o755)


@contextlib.contextmanager
def programs_of(
    cluster: Machines, test: str, begins: str, clean: Callable[[float], None]
) -> Iterator[Callable[..., Program]]:
    """Start programs; after the test, wait until no job, process and scratch is left.

    Parameters
    ----------
    cluster : Machines
        Where they run.
    test : str
        Name of the test.
    begins : str
        What programs begin with, unless they say otherwise.
    clean : callable
        Is told after how many seconds nothing was left.
    """
    name = re.sub(r"[^a-z0-9]+", "-", test.lower()).strip("-")
    directory = cluster.home / "programs" / name
    directory.mkdir(parents=True)
    programs: list[Program] = []

    def start(body: str, header: str = begins) -> Program:
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
        clean(time.monotonic() - begun)
    finally:
        for program in programs:
            if program.process.poll() is None:
                os.killpg(program.process.pid, signal.SIGKILL)
                program.process.wait()
        if jobs := cluster.jobs():
            cluster.cancel(*jobs)
        settle(cluster.queue, CLEAN_SECONDS)
        for process in cluster.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        cluster.clear_scratch()


def queries(program: Program) -> list[float]:
    """Times at which the batch system was asked for states."""
    path = program.directory / "queries"
    return [float(line) for line in path.read_text().split()] if path.exists() else []
