"""Signals of tasks: each task starts with those of a fresh process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import psutil

from taskvine_exec import TaskVineExecutor
from tests.conftest import Gate, command

Make = Callable[..., TaskVineExecutor]
SECONDS = 60  # far more than any test here takes, only so that none hangs


C_LIBRARY = (1 << 31) | (1 << 32)
"""The C library uses signals 32 and 33, and programs that it spawns (as make does) start with them ignored."""


def masks(status: Iterable[str]) -> dict[str, int]:
    lines = [line.split() for line in status if line.startswith(("SigBlk", "SigIgn"))]
    return {name: int(mask, 16) & ~C_LIBRARY for name, mask in lines}


def signals() -> dict[str, int]:
    with open("/proc/self/status") as file:
        return masks(file)


def signals_of_a_program() -> dict[str, int]:
    command = ["cat", "/proc/self/status"]
    return masks(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


SIGINT_STOPS = """
import time
try:
    print(1, flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    print("stopped")
"""


def interrupt_programs() -> tuple[int, str]:
    plain = subprocess.Popen(["sleep", "1000"])
    plain.send_signal(signal.SIGINT)
    python = subprocess.Popen([sys.executable, "-c", SIGINT_STOPS], stdout=subprocess.PIPE, text=True)
    assert python.stdout is not None
    python.stdout.readline()
    python.send_signal(signal.SIGINT)
    return plain.wait(SECONDS), python.communicate(timeout=SECONDS)[0].strip()


def interrupt_myself() -> str:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SECONDS)
    except KeyboardInterrupt:
        return "interrupted"
    return "nothing happened"


def test_tasks_have_the_signals_of_a_fresh_process(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    of_python = (1 << (signal.SIGPIPE - 1)) | (1 << (signal.SIGXFSZ - 1))
    assert executor.submit(signals, {}).result(SECONDS) == {"SigBlk:": 0, "SigIgn:": of_python}
    assert executor.submit(signals_of_a_program, {}).result(SECONDS) == {"SigBlk:": 0, "SigIgn:": 0}
    assert executor.submit(signal.getsignal, {}, signal.SIGINT).result(SECONDS) == signal.default_int_handler
    assert executor.submit(interrupt_programs, {}).result(SECONDS) == (-signal.SIGINT, "stopped")
    assert executor.submit(interrupt_myself, {}).result(SECONDS) == "interrupted"


STARTED_WITH_SIGNALS_IGNORED = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGALRM})
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_tasks_do_not_inherit_ignored_signals_of_their_node(make_executor: Make, mode: str) -> None:
    """Start the node as nohup does, or as a script in the background."""
    import shlex

    executor = make_executor(function_exec_mode=mode, worker_launch_method="manual", init_command="true")
    command = [sys.executable, "-c", STARTED_WITH_SIGNALS_IGNORED, *shlex.split(executor.launch_cmd)]
    node = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        found = executor.submit(signals_of_a_program, {}).result(SECONDS)
        assert found == {"SigBlk:": 0, "SigIgn:": 0}
        node.send_signal(signal.SIGHUP)
        assert executor.submit(int, {}).result(SECONDS) == 0
    finally:
        executor.shutdown()
        node.wait(SECONDS)


def test_blocked_signal_is_unblocked_for_the_next_call(make_executor: Make) -> None:
    executor = make_executor(cores=1)
    before = executor.submit(signals, {}).result(SECONDS)
    executor.submit(signal.pthread_sigmask, {}, signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}).result(SECONDS)
    assert executor.submit(signals, {}).result(SECONDS) == before


def test_terminal_signals_end_no_node(make_executor: Make, engine: str, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode)
    future = executor.submit(gate.task, {})
    gate.wait(1)
    (pid,) = {node["pid"] for node in executor.nodes}
    node = psutil.Process(pid)
    if engine == "taskvine":
        (node,) = (child for child in node.children(recursive=True) if "supervise" in command(child))
    node.send_signal(signal.SIGINT)
    groups = {os.getpgid(child.pid) for child in node.children(recursive=True)}
    assert os.getpgid(node.pid) not in groups
    gate.open()
    assert future.result(SECONDS)[0] == "task"
    assert {node["pid"] for node in executor.nodes} == {pid}
