"""The launcher of a worker. A small program acts as the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import taskvine_manager
from taskvine_manager.node import hardware
from taskvine_manager.node.leftovers import LEFT
from taskvine_manager.vine.worker import trouble
from tests.conftest import eventually

Launch = Callable[..., subprocess.Popen[str]]
PROGRAM = os.path.join(os.path.dirname(taskvine_manager.__file__), "__main__.py")


@pytest.fixture
def launch(tmp_path: Path, nothing_left: str) -> Launch:
    """Start a launcher, whose worker is a shell script that is given here; ``$w`` is its workspace."""

    def launch(script: str, *arguments: str, sized: bool = True) -> subprocess.Popen[str]:
        worker = tmp_path / "worker"
        worker.write_text(f"#!/bin/sh\nw=$2\n{script}\n")
        worker.chmod(0o755)
        sizes = ["--cores=1", "--memory=100"] if sized else []
        command = [sys.executable, PROGRAM, "worker", "--executable", str(worker), *sizes, *arguments]
        return subprocess.Popen(command, stdin=-3, stdout=-1, stderr=-1, text=True)

    return launch


def test_output_and_status_are_passed_on(launch: Launch) -> None:
    process = launch("mkdir $w/cache; echo to out; echo to err >&2; sleep 0.5; exit 3", "login1", "9123")
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == (f"to out\n{LEFT}\n", "to err\n", 3)
    assert os.listdir(tempfile.gettempdir()) == []


def test_arguments_are_passed_on(launch: Launch) -> None:
    out, _ = launch('mkdir $w/cache; echo "$*"; sleep 0.5', "--cores=7", "--single-shot", "login1", "1").communicate(
        timeout=30
    )
    words = out.splitlines()[0].split()
    assert words[-4:] == ["--cores=7", "--single-shot", "login1", "1"]
    assert "--cores" not in words
    assert words[words.index("--connect-timeout") + 1] == "60"
    # if an option is given twice, a worker takes the last one
    assert words.index("--connect-timeout") < words.index("--cores=7")


def test_worker_gets_its_limits(launch: Launch) -> None:
    out, _ = launch('mkdir $w/cache; echo "$*"; sleep 0.5', sized=False).communicate(timeout=30)
    why, given, left = out.splitlines()
    assert left == LEFT
    cores, megabytes = hardware.core_limit(), hardware.memory_limit()
    assert f" {cores.amount:.0f} cores ({cores.source})" in why
    assert f" {megabytes.amount:.0f} MB of memory ({megabytes.source})" in why
    words = given.split()
    assert words[words.index("--cores") + 1] == str(int(cores.amount))
    assert words[words.index("--memory") + 1] == str(int(megabytes.amount))


def test_large_output_is_passed_on(launch: Launch) -> None:
    out, err = launch("mkdir $w/cache; yes | head -c 3000000; yes no | head -c 3000000 >&2; sleep 0.5").communicate(
        timeout=30
    )
    assert (len(out), len(err)) == (3000000 + len(f"{LEFT}\n"), 3000000)


def test_worker_that_never_joined_is_reported(launch: Launch) -> None:
    process = launch("echo odd >&2", "login1", "9123")
    _, err = process.communicate(timeout=30)
    assert process.returncode == trouble.Status.UNREACHABLE
    assert "vine_worker ended before the manager at login1:9123 had accepted it: odd" in err


def test_wrong_password_ends_the_worker(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    script = "for i in 1 2; do echo vine_worker: wrong password for manager login1:1 >&2; done; exec sleep 1000"
    process = launch(script, "-P", str(tmp_path / "secret"), "login1", "1")
    _, err = process.communicate(timeout=30)
    assert process.returncode == trouble.Status.REFUSED
    assert f"refuses the password in {tmp_path}/secret" in err


@pytest.mark.parametrize("script", ["exec sleep 1000", "trap '' TERM; while :; do sleep 1; done"])
def test_launcher_ends_its_worker(launch: Launch, script: str) -> None:
    process = launch(f"mkdir $w/cache; echo begun; {script}")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode > 128
    assert err == ""


def test_killed_launcher_leaves_no_worker(launch: Launch) -> None:
    process = launch("mkdir $w/cache; echo $$ $w; exec sleep 1000")
    assert process.stdout is not None
    worker, directory = process.stdout.readline().split()
    process.kill()
    process.communicate(timeout=30)  # the end of its output: no process is left that could write to it
    eventually(lambda: not psutil.pid_exists(int(worker)))
    eventually(lambda: not os.path.exists(directory))
