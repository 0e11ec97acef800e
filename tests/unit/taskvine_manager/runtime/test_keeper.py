"""Keepers end their task's processes, and end in the same way as their task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from taskvine_manager import cleanup
from taskvine_manager.runtime import keeper
from tests.conftest import eventually, settle

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(keeper.__file__))))
PRELUDE = f"""
import os, signal, subprocess, sys, time
sys.path.append({ROOT!r})
from taskvine_manager.runtime import keeper
keeper.keep(os.getppid())
def daemon():
    program = "import subprocess; print(subprocess.Popen(['sleep', '1000'], env={{}}, start_new_session=True).pid)"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    return int(child.stdout.readline())
def say(*words):
    print(*words, flush=True)
"""


class Kept:
    """A process that becomes a keeper, and the output of the task below it."""

    def __init__(self, program: str) -> None:
        command = [sys.executable, "-c", PRELUDE + program]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.pid = self.process.pid

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def start() -> Iterator[type[Kept]]:
    made: list[Kept] = []

    class Recorded(Kept):
        def __init__(self, program: str) -> None:
            super().__init__(program)
            made.append(self)

    yield Recorded
    for kept in made:
        keeper.end(kept.pid)
        kept.process.wait(30)
        assert kept.process.stdout is not None
        kept.process.stdout.close()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("sys.exit(7)", 7),
        ("os._exit(97)", 97),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", -(signal.SIGRTMIN + 1)),
    ],
)
def test_keeper_ends_as_its_task_does(start: type[Kept], end: str, status: int) -> None:
    kept = start(f"say(daemon())\n{end}")
    daemon = int(kept.line())
    assert kept.process.wait(30) == status
    assert not psutil.pid_exists(daemon)


def test_a_task_that_ends_at_once_is_noticed() -> None:
    """The task may end before its keeper has begun to wait."""
    program = f"""
import os, signal, sys
sys.path.append({ROOT!r})
from taskvine_manager.runtime import keeper
signal.signal(signal.SIGCHLD, lambda *_: None)
for _ in range(200):
    pid = os.fork()
    if pid == 0:
        keeper.keep(os.getppid())
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_task_leads_no_group_and_has_its_own_name(start: type[Kept]) -> None:
    kept = start("say(os.getpgrp() == os.getpid(), os.getppid(), open('/proc/self/comm').read().strip()); os.setsid()")
    name = "python" if os.path.islink(sys.executable) else os.path.basename(sys.executable)
    assert kept.line().startswith(f"False {kept.pid} {name}"[:20])
    assert kept.process.wait(30) == 0


def test_keeper_ends_on_request(start: type[Kept]) -> None:
    kept = start("say(os.getpid(), daemon()); time.sleep(1000)")
    processes = [int(word) for word in kept.line().split()]
    assert keeper.is_keeper(kept.pid)
    assert set(processes) <= set(keeper.descendants(kept.pid))
    keeper.end(kept.pid)
    assert kept.process.wait(30) == -signal.SIGKILL
    assert not any(map(psutil.pid_exists, processes))


def test_a_group_that_has_stopped_itself_ends(start: type[Kept]) -> None:
    kept = start("say('stopping'); os.killpg(0, signal.SIGSTOP)")
    assert kept.line() == "stopping"
    eventually(lambda: psutil.Process(kept.pid).status() == psutil.STATUS_STOPPED)
    keeper.end(kept.pid)
    assert kept.process.wait(30) == -signal.SIGKILL


def test_process_that_is_not_yet_a_keeper_is_killed() -> None:
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    keeper.end(process.pid)
    assert process.wait(30) == -signal.SIGKILL
    keeper.end(process.pid)  # it has been removed


def test_children_that_ignore_sigterm_are_killed(start: type[Kept]) -> None:
    kept = start(
        "say(subprocess.Popen([sys.executable, '-c', "
        "'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(1000)'"
        "]).pid); time.sleep(1000)"
    )
    lines = {kept.line(), kept.line()}  # of the task and of its child, in any order
    assert "1" in lines
    (stubborn,) = lines - {"1"}
    keeper.end(kept.pid)
    kept.process.wait(30)
    assert not psutil.pid_exists(int(stubborn))


def test_a_keeper_ends_with_its_parent() -> None:
    program = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {PRELUDE!r} + sys.argv[1]]).pid)"
    task = "say(os.getpid(), daemon()); time.sleep(1000)"
    started = subprocess.Popen(
        [sys.executable, "-uc", program + "; sys.stdin.read()", task],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    processes = [int(word) for _ in range(2) for word in started.stdout.readline().split()]
    assert len(processes) == 3
    started.kill()
    started.communicate()
    assert not settle(lambda: any(map(psutil.pid_exists, processes)))


def test_strays_below_a_keeper_are_found_without_a_mark(start: type[Kept], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cleanup.TOKEN, "/nowhere/of-this-test")
    kept = start("say(daemon()); time.sleep(1000)")
    daemon = int(kept.line())
    assert kept.pid in cleanup.kill_strays("/nowhere/of-this-test")
    assert not psutil.pid_exists(daemon)


def test_children_are_found_without_their_list() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        assert process.pid in keeper.children(os.getpid())
        assert process.pid in keeper.children_by_parent(os.getpid())
    finally:
        process.kill()
        process.wait()


def test_ignored_signals_are_not_inherited() -> None:
    program = (
        f"import signal, subprocess, sys; sys.path.append({ROOT!r}); from taskvine_manager.runtime import keeper;"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); keeper.disregard(signal.SIGINT);"
        "[signal.raise_signal(n) for n in (signal.SIGINT, signal.SIGHUP)];"
        "subprocess.run(['grep', 'SigIgn', '/proc/self/status'], check=True)"
    )
    ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    ignored = int(ran.stdout.split()[1], 16)
    # Except the signals that the C library uses itself, and ignores in programs that it spawns.
    assert not [number for number in signal.valid_signals() if ignored >> (number - 1) & 1]
