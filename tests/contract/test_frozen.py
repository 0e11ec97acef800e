"""Processes that are stopped, and libraries that never start: each is ended in time, and the run goes on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import EnvironmentFailed, LibraryFailed, ManagerLost, TaskLost
from tests.conftest import Gate, command, eventually, first_node, our_processes
from tests.contract.conftest import embedded_only

Make = Callable[..., TaskVineExecutor]
SOON = {"keepalive-interval": 1, "keepalive-timeout": 1}


@pytest.fixture
def make(make_executor: Make) -> Make:
    """Make an executor with short timeouts that may have a second node."""

    def start(**settings: Any) -> TaskVineExecutor:
        provider = LocalProvider(init_blocks=1, max_blocks=2)
        return make_executor(**{"provider": provider, "tune_parameters": SOON, "max_retries": 3, **settings})

    return start


def node_process(executor: TaskVineExecutor) -> psutil.Process:
    """Return the process that does a node's work: on TaskVine, the worker."""
    node = psutil.Process(first_node(executor)["pid"])
    workers = [child for child in node.children() if child.name() == "vine_worker"]
    return workers[0] if workers else node


def processes(executor: TaskVineExecutor, role: str) -> list[psutil.Process]:
    """Return the processes of a run that were started in some role."""
    directory = os.path.dirname(executor.run.places.base)
    return [process for process in our_processes(directory) if role in command(process)]


def test_stopped_node_is_killed(make: Make, mode: str, gate: Gate) -> None:
    executor = make(function_exec_mode=mode)
    future = executor.submit(gate.task, {}, "it")
    gate.wait(1)
    node_process(executor).suspend()
    gate.open()
    assert future.result(60) == ("it", "1")


def test_node_stopped_while_idle_is_killed(make: Make) -> None:
    """On TaskVine it is the worker, and its supervisor still runs calls without files."""
    executor = make()
    assert executor.submit(int, {}).result(30) == 0
    node_process(executor).suspend()

    def is_replaced() -> bool:
        assert executor.submit(int, {}).result(60) == 0
        return list(executor.blocks_to_job_id) == ["0", "1"]

    eventually(is_replaced)


def stop_oneself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_stopped_task_is_lost(make: Make, mode: str) -> None:
    """The call is lost, and its node goes on."""
    executor = make(function_exec_mode=mode)
    future = executor.submit(stop_oneself, {})
    with pytest.raises(TaskLost, match=r"stopped \(SIGSTOP\) for 1 s"):
        future.result(30)
    assert executor.submit(int, {}).result(30) == 0
    assert list(executor.blocks_to_job_id) == ["0"]


def test_stopped_library_is_killed(make: Make) -> None:
    """A call that needs a new slot."""
    executor = make(cores=2)
    assert executor.submit(int, {"cores": 1}).result(30) == 0
    min(processes(executor, "library"), key=psutil.Process.create_time).suspend()  # the others are its slots
    assert executor.submit(int, {"cores": 2}).result(30) == 0


def test_child_stopped_by_its_task_is_left_alone(make: Make, mode: str) -> None:
    def patient() -> int:
        import subprocess
        import time

        child = subprocess.Popen(["sleep", "1000"])
        child.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        child.kill()
        return child.wait()

    assert make(function_exec_mode=mode).submit(patient, {}).result(30) == -signal.SIGKILL


def test_stopped_manager_is_killed(make: Make, gate: Gate) -> None:
    executor = make()
    future = executor.submit(gate.task, {})
    gate.wait(1)
    (manager,) = processes(executor, "manager")
    manager.suspend()
    with pytest.raises(ManagerLost, match=r"did not answer for 1 s, because its process was stopped \(SIGSTOP\)"):
        future.result(30)


def test_interval_of_0_switches_the_checks_off(make: Make, gate: Gate) -> None:
    """With an interval of 0, no process is given up."""
    executor = make(tune_parameters={"keepalive-interval": 0, "keepalive-timeout": 1})
    future = executor.submit(gate.task, {}, "it")
    gate.wait(1)
    node = node_process(executor)
    node.suspend()
    gate.open()
    with pytest.raises(concurrent.futures.TimeoutError):  # Python's own TimeoutError since 3.11
        future.result(4)
    node.resume()
    assert future.result(30) == ("it", "0")


@pytest.fixture
def program(engine: str, tmp_path: Path, nothing_left: str) -> Iterator[subprocess.Popen[str]]:
    """A user's program whose tasks take some time."""
    script = tmp_path / "program.py"
    text = f"""
        import time
        import parsl
        from taskvine_exec import TaskVineExecutor

        @parsl.python_app
        def later(n):
            import time
            time.sleep(0.2)
            return n

        executor = TaskVineExecutor(engine={engine!r}, cores=2, tune_parameters={SOON!r}, max_retries=0)
        with parsl.load(parsl.Config(executors=[executor], run_dir={str(tmp_path / "runinfo")!r})):
            later(0).result()
            futures = [later(n) for n in range(30)]
            print("begun", flush=True)
            print(sum(future.result() for future in futures), flush=True)
    """
    script.write_text(textwrap.dedent(text))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_suspended_run_loses_nothing(program: subprocess.Popen[str], nothing_left: str) -> None:
    """A batch system suspends a job, or a virtual machine is paused: nothing is lost."""
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    everything = {process.pid: process for process in our_processes(nothing_left)}
    for process in (psutil.Process(program.pid), *everything.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    time.sleep(5.0)  # longer than all time limits together
    for process in (*everything.values(), psutil.Process(program.pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    assert program.stdout.readline() == f"{sum(range(30))}\n"
    assert program.wait(30) == 0


# --- libraries that never start ---


def hanging() -> Callable[[], None]:
    """Return a function that is pickled by value: importing this module may take longer than a test's time limit."""

    def hang() -> None:
        import time

        time.sleep(1000)

    return hang


def test_hung_init_command_fails_every_call(make: Make, caplog: pytest.LogCaptureFixture, engine: str) -> None:
    executor = make(init_command="sleep 1000;", library_config={"start_timeout": 3})
    with pytest.raises(EnvironmentFailed, match=r"init_command of the library has not ended after 3 s"):
        executor.submit(int, {}).result(30)
    if engine == "embedded":
        assert "init_command of the library has not ended after" in caplog.text


def test_hung_context_fails_every_call(make: Make) -> None:
    """The error says where it hangs."""
    executor = make(library_config={"start_timeout": 3, "context": hanging()})
    with pytest.raises(LibraryFailed, match=r"the context of the library are not ready after 3 s(.|\n)*in hang"):
        executor.submit(int, {}).result(30)


def test_hung_context_of_a_slot_fails_every_call(make: Make, run_dir: str) -> None:
    executor = make(library_config={"start_timeout": 3, "context": hanging(), "context_scope": "slot"})
    with pytest.raises(LibraryFailed, match=r"the context is not ready after 3 s .*see .*slot-0.log"):
        executor.submit(int, {}).result(30)


def test_slow_library_is_waited_for(make: Make) -> None:
    executor = make(library_config={"start_timeout": 30, "context": lambda: time.sleep(2.0) or {}})
    assert executor.submit(int, {}).result(30) == 0


@embedded_only
def test_silent_connection_is_tolerated(make: Make) -> None:
    """Any process of this user may connect to the manager and send nothing."""
    import socket

    executor = make()
    assert executor.submit(int, {}).result(30) == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(os.path.join(executor.run.places.base, "manager.sock"))
        silent.settimeout(30)
        assert silent.recv(1 << 16) == b""
    assert executor.submit(int, {}).result(30) == 0


def test_interrupted_run_leaves_nothing(make: Make, gate: Gate) -> None:
    """A run ends while one of its nodes is stopped."""
    executor = make()
    executor.submit(gate.task, {})
    gate.wait(1)
    node_process(executor).suspend()
    executor.shutdown()
    eventually(lambda: not processes(executor, "library"))
