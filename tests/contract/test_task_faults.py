"""Bad input and faults of tasks: each fails its own task with a clear error, and no other task."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import psutil
import pytest
from parsl.app.errors import AppTimeout
from parsl.app.python import timeout

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import (
    DiskFull,
    MemoryExceeded,
    SlotDied,
    TaskExited,
)
from taskvine_manager.runtime import payload

Make = Callable[..., TaskVineExecutor]
SECONDS = 60  # far more than any test here takes, only so that none hangs


def echo(value: Any = "well") -> Any:
    return value


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ends(pid: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def spin(seconds: float) -> float:
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        pass
    return seconds


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


# --- ends of processes ----------------------------------------------------------------------------------------------


def leave() -> None:
    os._exit(3)


def crash() -> None:
    ctypes.string_at(0)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "code", "number"),
    [(leave, 3, None), (crash, None, signal.SIGSEGV), (kill, None, signal.SIGKILL)],
    ids=["exit", "segfault", "kill"],
)
def test_task_whose_process_dies_is_lost(
    make_executor: Make, mode: str, end: Callable[[], None], code: int | None, number: int | None
) -> None:
    def die() -> None:
        print("last words", file=sys.stderr)
        end()

    executor = make_executor(function_exec_mode=mode)
    error = executor.submit(die, {}).exception(SECONDS)
    assert isinstance(error, SlotDied)
    assert (error.exit_code, error.signal) == (code, number)
    assert "last words" in error.stderr
    assert "last words" in str(error)
    assert "die" in error.reason
    if number == signal.SIGSEGV:
        assert "in crash" in error.stderr  # the traceback shows where it was raised
    assert executor.submit(echo, {}).result(SECONDS) == "well"


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "kind", "code"),
    [
        (lambda: sys.exit("x"), "SystemExit", "x"),
        (sys.exit, "SystemExit", ""),
        (lambda: sys.exit(4), "SystemExit", "4"),
        (interrupt, "KeyboardInterrupt", ""),
    ],
    ids=["words", "nothing", "number", "interrupt"],
)
def test_function_that_exits_is_lost(
    make_executor: Make, mode: str, end: Callable[[], None], kind: str, code: str
) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    pid = executor.submit(os.getpid, {}).result(SECONDS)
    error = executor.submit(end, {}).exception(SECONDS)
    assert isinstance(error, TaskExited)
    assert (error.exc_type, error.code) == (kind, code)
    assert kind in error.remote_traceback
    assert mode == "L1" or executor.submit(os.getpid, {}).result(SECONDS) == pid


def fill_memory() -> None:
    held = []
    for _ in range(300):  # at most 3 GB, if nothing ends it
        held.append(bytearray(os.urandom(1)) * (10 * 2**20))
        time.sleep(0.005)


def fill_memory_of_a_child() -> None:
    program = "import time\nheld = []\nfor _ in range(300):\n  held.append(b'x' * (10 * 2**20))\n  time.sleep(0.005)"
    # Its parent ends at once: only the task's own group still identifies it.
    subprocess.run(["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-c", program], check=True)
    time.sleep(SECONDS)


@pytest.mark.parametrize("fill", [fill_memory, fill_memory_of_a_child])
def test_task_above_its_memory_limit_is_lost(make_executor: Make, mode: str, fill: Callable[[], None]) -> None:
    executor = make_executor(function_exec_mode=mode)
    assert executor.submit(echo, {}).result(SECONDS) == "well"
    future = executor.submit(fill, {"memory": 200})
    modest = executor.submit(lambda: len(bytearray(2**20)), {"memory": 200})
    error = future.exception(SECONDS)
    assert isinstance(error, MemoryExceeded)
    assert error.limit_mb == 200
    assert 200 < error.used_mb < 2500
    assert fill.__name__ in error.reason
    assert modest.result(SECONDS) == 2**20
    assert executor.submit(echo, {"memory": 200}).result(SECONDS) == "well"


def test_death_of_a_short_call_loses_no_others(make_executor: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "ran")

    def append(number: int, *, deadly: bool = False) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b"%d\n" % number)
        os.close(descriptor)
        if deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return -number

    executor = make_executor()
    for future in [executor.submit(append, {}, 0) for _ in range(200)]:  # the executor learns that the calls are short
        future.result(SECONDS)
    os.unlink(path)
    futures = [executor.submit(append, {}, number, deadly=number in (250, 400)) for number in range(500)]
    for number, future in enumerate(futures):
        if number in (250, 400):
            assert isinstance(future.exception(SECONDS), SlotDied)
        else:
            assert future.result(SECONDS) == -number
    counts = Counter(int(line) for line in Path(path).read_text().split())
    assert counts == Counter(range(500))


# --- what tasks do to the process they run in -----------------------------------------------------------------------


def vanish() -> None:
    os.makedirs("deeper")
    os.chdir("deeper")
    os.rmdir(os.getcwd())


def remove_directory() -> None:
    os.rmdir(os.getcwd())


def remake_directory() -> None:
    directory = os.getcwd()
    os.rmdir(directory)
    os.mkdir(directory)


def close_streams() -> None:
    sys.stdin.close()
    sys.stdout.close()
    sys.stderr.close()


def close_descriptors() -> None:
    for descriptor in (0, 1, 2):
        os.close(descriptor)


def redirect() -> None:
    sys.stdout = io.StringIO()
    descriptor = os.open("elsewhere", os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def set_handlers() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    signal.signal(signal.SIGHUP, lambda *_: os._exit(1))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)


def litter() -> None:
    os.makedirs("tree/branch")
    Path("tree/branch/leaf").write_text("leaf")
    os.symlink("/", "link")
    os.chmod("tree/branch", 0)
    os.chmod("tree", 0)


def close_directory() -> None:
    Path("file").write_text("file")
    os.chmod(os.getcwd(), 0)


def leave_threads() -> None:
    for daemon in (True, False):
        threading.Thread(target=time.sleep, args=(1000,), daemon=daemon).start()


def leave_child() -> None:
    subprocess.Popen(["sleep", "1000"])


def return_twice() -> None:
    os.fork()


def exit_from_thread() -> None:
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()


def scribble() -> None:
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"garbage")
    time.sleep(1000)


def scribble_a_pickle() -> None:
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, pickle.dumps(("r", 12345, 0, b"", 0.0, 0.0, ())))
    time.sleep(1000)


def test_interrupted_submit_leaves_no_task(make_executor: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make_executor()
    assert executor.submit(int, {}).result(30) == 0

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(executor.run.link, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(int, {})
    assert executor.outstanding() == 0
    assert executor.submit(int, {}).result(30) == 0


def test_full_disk_for_arguments_is_reported(make_executor: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make_executor()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/spool")

    monkeypatch.setattr(payload, "_new_file", full)
    with pytest.raises(DiskFull, match="the arguments of len cannot be stored: No space left on device"):
        executor.submit(len, {}, bytes(1_000_000))
    assert executor.outstanding() == 0


@pytest.mark.parametrize("write", [scribble, scribble_a_pickle])
def test_task_that_writes_to_foreign_descriptors_fails_alone(make_executor: Make, write: Callable[[], None]) -> None:
    executor = make_executor(cores=1)
    (node,) = executor.nodes if executor.wait_for_nodes(1, 30) else ()
    with pytest.raises(SlotDied, match="write to file descriptors that it has not opened"):
        executor.submit(write, {}).result(30)
    assert executor.submit(int, {}).result(30) == 0
    assert executor.nodes == [node]


def probe() -> dict[str, Any]:
    """Return the state of the process that the next call finds."""
    print("probe")
    sys.stderr.write("probe\n")
    spin(0.02)  # timers that were left have time to fire
    left = os.listdir()
    Path("mine").write_text("mine")
    handlers = {signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM)}
    return {
        "pid": os.getpid(),
        "left": left,
        "stdin": sys.stdin.read(),
        "child": subprocess.run(["echo", "child"], capture_output=True, check=True, text=True).stdout,
        "handlers": handlers,
    }


MISCHIEF = [
    vanish,
    remove_directory,
    remake_directory,
    close_streams,
    close_descriptors,
    redirect,
    set_handlers,
    litter,
    close_directory,
    leave_threads,
    leave_child,
    return_twice,
    exit_from_thread,
]


@pytest.mark.parametrize("mischief", MISCHIEF)
def test_next_call_finds_a_clean_process(
    make_executor: Make, mode: str, mischief: Callable[[], None], run_dir: str
) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1, working_directory="sandbox")
    before = executor.submit(probe, {}).result(SECONDS)
    assert executor.submit(mischief, {}).result(SECONDS) is None
    after = executor.submit(probe, {}).result(SECONDS)
    assert after == {**before, "pid": after["pid"]}
    assert after["left"] == []
    assert mode == "L1" or after["pid"] == before["pid"]
    executor.shutdown()
    logs = [path.read_text() for path in Path(run_dir).rglob("*.log")]
    assert sum(log.count("probe\n") for log in logs) == 4


def test_foreign_directory_is_not_emptied(make_executor: Make, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("data")

    def link() -> None:
        directory = os.getcwd()
        os.rmdir(directory)
        os.symlink(precious, directory)
        os.chdir(directory)

    executor = make_executor(cores=1, working_directory="sandbox")
    executor.submit(link, {}).result(SECONDS)
    assert executor.submit(os.listdir, {}).result(SECONDS) == []
    executor.shutdown()
    assert (precious / "data").read_text() == "data"


def start_child() -> tuple[int, int]:
    return subprocess.Popen(["sleep", "1000"]).pid, os.getpid()


def test_child_of_a_task_ends_with_its_process(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    child, pid = executor.submit(start_child, {}).result(SECONDS)
    if mode == "L2":
        assert alive(child)
        assert isinstance(executor.submit(os.kill, {}, pid, signal.SIGKILL).exception(SECONDS), SlotDied)
    assert ends(child)


def test_child_of_a_task_ends_with_the_executor(make_executor: Make) -> None:
    executor = make_executor()
    child, _ = executor.submit(start_child, {}).result(SECONDS)
    assert alive(child)
    executor.shutdown()
    assert ends(child)


def test_child_of_a_task_ends_with_a_retired_slot(make_executor: Make, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    def start_child_and_wait() -> tuple[int, int]:
        found = start_child()
        wait_for(gate)
        return found

    executor = make_executor(gpus=1)
    future = executor.submit(start_child_and_wait, {"gpus": 1})
    Path(gate).touch()
    child, pid = future.result(SECONDS)
    # A call of another kind needs the gpu of the idle slot.
    assert executor.submit(echo, {"gpus": 1, "cores": 2}).result(SECONDS) == "well"
    assert ends(pid)
    assert ends(child)


# --- walltime -------------------------------------------------------------------------------------------------------


def rest(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def rest_and_fail(seconds: float) -> None:
    time.sleep(seconds)
    raise ValueError(seconds)


@pytest.mark.parametrize("function", [rest, rest_and_fail])
def test_walltime_ends_with_its_call(make_executor: Make, mode: str, function: Callable[[float], Any]) -> None:
    executor = make_executor(function_exec_mode=mode)
    hurried = timeout(function, 0.002)
    count = 400 if mode == "L2" else 3
    futures = [executor.submit(hurried, {}, seconds) for seconds in (0.2, *(0.004 * i / count for i in range(count)))]
    kinds = Counter(type(future.exception(SECONDS)) for future in futures)
    assert set(kinds) <= {AppTimeout, ValueError if function is rest_and_fail else type(None)}
    assert kinds[AppTimeout]
    assert executor.submit(spin, {}, 0.01).result(SECONDS) == 0.01


def test_walltime_of_a_failed_call_does_not_hit_the_next(make_executor: Make) -> None:
    # As parsl did until 2026.
    def wrapped() -> None:
        main = threading.get_ident()

        def inject() -> None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_long(main), ctypes.py_object(AppTimeout))

        inject.__module__ = "parsl.app.python"
        threading.Timer(0.05, inject).start()
        raise ValueError("early")

    executor = make_executor(cores=1)
    assert isinstance(executor.submit(wrapped, {}).exception(SECONDS), ValueError)
    assert executor.submit(spin, {}, 0.2).result(SECONDS) == 0.2


# --- queues ---------------------------------------------------------------------------------------------------------


def test_long_call_delays_no_short_calls(make_executor: Make, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    def maybe_wait(number: int) -> int:
        if number == 10:
            wait_for(gate)
        return number

    executor = make_executor()
    for future in [executor.submit(maybe_wait, {}, 0) for _ in range(200)]:
        future.result(SECONDS)
    futures = [executor.submit(maybe_wait, {}, number) for number in range(200)]
    long = futures[10]
    done, _ = wait(set(futures) - {long}, SECONDS)
    assert len(done) == 199
    assert not long.done()
    Path(gate).touch()
    assert [future.result(SECONDS) for future in futures] == list(range(200))
