"""Whatever a task does to its slot's process, the next task starts in the same state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PRELUDE = """
import json, os, shutil, signal, sys
from taskvine_manager.runtime.stage import Stage

said = os.dup(1)
scratch, directory = sys.argv[1], sys.argv[2] or None

def say(what):
    os.write(said, json.dumps(what).encode() + b"\\n")

def task(does=lambda: None, sandbox=None, seconds=1.0):
    stage.enter(sandbox)
    does()
    left = stage.left(sandbox)
    stage.restore(seconds)
    return left

stage = Stage(scratch, directory)
"""


class Program:
    """Runs a program that has a stage."""

    def __init__(self, directory: Path) -> None:
        self.scratch = directory / "scratch"
        self.project = directory / "project"
        self.output = ""

    def run(self, program: str, *, project: bool = False, **environment: str) -> list[Any]:
        """Run the rest of the program; return its output. Tasks run in the user's project if there is one."""
        command = [sys.executable, "-c", PRELUDE + program, str(self.scratch), str(self.project) if project else ""]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
        assert ran.returncode == 0, ran.stderr
        lines = ran.stdout.splitlines()
        self.output = "\n".join(line for line in lines if not line.startswith(("[", "{", '"')))
        return [json.loads(line) for line in lines if line.startswith(("[", "{", '"'))]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


# --- directories ---


def test_scratch_is_emptied_after_each_task(program: Program) -> None:
    said = program.run("""
def write():
    os.makedirs("folder/below")
    open("folder/below/file", "w").close()
    open("file", "w").close()

say(task(write))
say(os.listdir())
say([os.getcwd()])
say(task())
""")
    assert said == [["file", "folder/below/file"], [], [str(program.scratch)], []]


@pytest.mark.parametrize(
    "harm",
    [
        "os.chdir('/')",
        "os.makedirs('deep/er'); os.chdir('deep/er')",
        "shutil.rmtree(scratch)",
        "os.chdir('/'); os.rmdir(scratch)",
        "os.chdir('/'); os.rmdir(scratch); open(scratch, 'w').close()",
        "os.chmod(scratch, 0)",
    ],
)
def test_scratch_is_there_for_the_next_task(program: Program, harm: str) -> None:
    assert program.run(f"""
def harm():
    {harm}

task(harm)
say([os.getcwd(), *os.listdir()])
say(task(lambda: open("file", "w").close()))
""") == [[str(program.scratch)], ["file"]]


def test_scratch_that_became_a_link_does_not_lead_to_removed_files(program: Program, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").touch()
    said = program.run(f"""
def link():
    os.chdir("/")
    os.rmdir(scratch)
    os.symlink({str(tmp_path / "data")!r}, scratch)

say(task(link))
say([os.getcwd(), *os.listdir()])
""")
    assert said == [[], [str(program.scratch)]]
    assert (tmp_path / "data" / "file").exists()


def test_scratch_is_removed_in_the_end(program: Program) -> None:
    program.run("task(lambda: open('file', 'w').close()); stage.leave()")
    assert not program.scratch.exists()


def test_task_starts_in_its_sandbox(program: Program, tmp_path: Path) -> None:
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    said = program.run(f"""
say(task(lambda: say([os.getcwd()]) or open("file", "w").close(), sandbox={str(sandbox)!r}))
say([os.getcwd()])
""")
    assert said == [[str(sandbox)], [], [str(program.scratch)]]
    assert (sandbox / "file").exists(), "the node removes it"


def test_users_directory_is_never_emptied(program: Program) -> None:
    program.project.mkdir()
    said = program.run(
        """
say(task(lambda: open("file", "w").close()))
task(lambda: os.chdir("/"))
task(lambda: say([os.getcwd(), *os.listdir()]))
""",
        project=True,
    )
    assert said == [[], [str(program.project), "file"]]


def test_users_directory_may_be_a_link(program: Program, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    program.project.symlink_to(tmp_path / "real")
    assert program.run("task(); task(lambda: say([os.getcwd()]))", project=True) == [[str(tmp_path / "real")]]


def test_missing_users_directory_fails_each_task(program: Program) -> None:
    said = program.run(
        """
def attempt():
    try:
        task()
    except OSError as error:
        return [type(error).__name__, error.filename]
    return [os.getcwd()]

say(attempt())
os.mkdir(directory)
say(attempt())
os.rmdir(directory)
say(attempt())
""",
        project=True,
    )
    missing = ["FileNotFoundError", str(program.project)]
    assert said == [missing, [str(program.project)], missing]


# --- standard streams ---


@pytest.mark.parametrize(
    "harm",
    [
        "sys.stdout.close()",
        "sys.stdout = None",
        "sys.stdout = open(os.devnull, 'w')",
        "os.close(1)",
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)",
    ],
)
def test_output_of_the_next_task_is_seen(program: Program, harm: str) -> None:
    program.run(f"""
def harm():
    {harm}

task(harm)
task(lambda: print("next", flush=True))
""")
    assert program.output == "next"


def test_reopened_streams_are_as_before(program: Program) -> None:
    before, after = program.run(
        """
def state():
    return [[each.name, each.mode, each.encoding, each.errors] for each in (sys.stdin, sys.stdout, sys.stderr)]

say(state())
task(lambda: [each.close() for each in (sys.stdin, sys.stdout, sys.stderr)])
say(state())
""",
        PYTHONIOENCODING="ascii:replace",
    )
    assert after == before
    assert before[1][2:] == ["ascii", "replace"]


# --- signals ---


def test_signal_handlers_and_the_mask_are_restored(program: Program) -> None:
    before, after = program.run("""
numbers = [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGRTMIN + 1]

def state():
    handlers = [str(signal.getsignal(number)).split(" at ")[0] for number in numbers]
    return [handlers, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))]

def harm():
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

say(state())
task(harm)
say(state())
""")
    assert after == before


def test_real_time_signal_handlers_are_restored_after_a_long_task(program: Program) -> None:
    short, long = program.run("""
for seconds in (0.0, 1.0):
    task(lambda: signal.signal(signal.SIGRTMIN + 1, signal.SIG_IGN), seconds=seconds)
    say([signal.getsignal(signal.SIGRTMIN + 1) == signal.SIG_DFL])
""")
    assert (short, long) == ([False], [True])


def test_timers_are_stopped(program: Program) -> None:
    assert program.run("""
def harm():
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 1000)

task(harm)
say([signal.getitimer(timer) for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)])
""") == [[[0.0, 0.0]] * 3]


def test_process_returns_to_its_group(program: Program) -> None:
    before, after = program.run("""
say([os.getpgrp()])
task(lambda: os.setpgid(0, 0))
say([os.getpgrp()])
""")
    assert after == before


def test_session_leader_cannot_be_used_again(program: Program) -> None:
    assert program.run("""
try:
    task(os.setsid)
except PermissionError:
    say(["it cannot be used"])
""") == [["it cannot be used"]]
