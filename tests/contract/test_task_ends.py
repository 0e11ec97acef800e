"""The ends of tasks: their processes, shared memory, exit handlers and temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import MemoryExceeded, SlotDied
from tests.conftest import Gate, command, eventually, first_node, settle
from tests.contract.conftest import embedded_only

Make = Callable[..., TaskVineExecutor]
SECONDS = 60  # far more than any test here takes, only so that none hangs


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ends(pid: int) -> bool:
    return not settle(lambda: alive(pid), 10)


# --- sessions and daemons -------------------------------------------------------------------------------------------


def lead(how: str) -> tuple[bool, bool]:
    """Become the leader of a session or group; return whether this process leads one before and after."""
    before = os.getpgrp() == os.getpid()
    getattr(os, how)()
    return before, os.getpgrp() == os.getpid()


@pytest.mark.parametrize("how", ["setsid", "setpgrp"])
def test_task_may_lead_a_session_or_group(make_executor: Make, mode: str, how: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    futures = [executor.submit(lead, {}, how) for _ in range(8)]
    assert [future.result(SECONDS) for future in futures] == [(False, True)] * 8


START_DAEMON = """
import subprocess
null = subprocess.DEVNULL
streams = dict(stdin=null, stdout=null, stderr=null)
print(subprocess.Popen(["/bin/sleep", "1000"], env={}, start_new_session=True, **streams).pid)
"""


def start_daemon() -> int:
    """Start a process with an empty environment in a new session; its parent ends."""
    ran = subprocess.run([sys.executable, "-c", START_DAEMON], stdout=subprocess.PIPE, check=True)
    return int(ran.stdout)


def start_daemon_then(path: str, action: Callable[[], Any]) -> Any:
    with open(f"{path}.partial", "w") as file:
        file.write(str(start_daemon()))
    os.rename(f"{path}.partial", path)
    return action()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """Return the process id of the daemon that a task has started, once it exists."""
    path = tmp_path / "daemon"

    def find() -> int:
        eventually(path.exists)
        return int(path.read_text())

    yield find
    if path.exists():
        for process in psutil.process_iter():
            if process.pid == find() and process.name() == "sleep":
                process.kill()


def test_daemon_ends_with_its_task(
    make_executor: Make, mode: str, daemon: Callable[[], int], tmp_path: Path, gate: Gate
) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    future = executor.submit(start_daemon_then, {}, str(tmp_path / "daemon"), gate.task)
    assert alive(daemon())
    gate.open()
    future.result(SECONDS)
    if mode == "L2":
        assert alive(daemon())
        executor.shutdown()
    assert ends(daemon())


def test_daemon_ends_with_a_task_that_is_cancelled(
    make_executor: Make, mode: str, daemon: Callable[[], int], tmp_path: Path, gate: Gate
) -> None:
    executor = make_executor(function_exec_mode=mode)
    executor.submit(start_daemon_then, {}, str(tmp_path / "daemon"), gate.task)
    assert alive(daemon())
    executor.shutdown()
    assert ends(daemon())


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def kill_group() -> None:
    os.killpg(0, signal.SIGTERM)
    time.sleep(SECONDS)


@pytest.mark.parametrize(("end", "number"), [(crash, signal.SIGSEGV), (kill_group, signal.SIGTERM)])
def test_daemon_ends_with_a_task_that_dies(
    make_executor: Make,
    mode: str,
    daemon: Callable[[], int],
    tmp_path: Path,
    end: Callable[[], None],
    number: int,
) -> None:
    executor = make_executor(function_exec_mode=mode)
    error = executor.submit(start_daemon_then, {}, str(tmp_path / "daemon"), end).exception(SECONDS)
    assert isinstance(error, SlotDied)
    assert error.signal == number
    assert ends(daemon())


FILL = """
import time
held = []
for _ in range(300):  # 3 GB at most, should nobody stop it
    held.append(b"x" * (10 * 2**20))
    time.sleep(0.005)
"""


def fill_memory_in_another_session() -> None:
    subprocess.run([sys.executable, "-c", FILL], check=False, start_new_session=True, env={})
    time.sleep(SECONDS)


def test_memory_of_processes_in_other_sessions_counts(
    make_executor: Make, mode: str, daemon: Callable[[], int], tmp_path: Path
) -> None:
    executor = make_executor(function_exec_mode=mode)
    path = str(tmp_path / "daemon")
    future = executor.submit(start_daemon_then, {"memory": 200}, path, fill_memory_in_another_session)
    assert isinstance(future.exception(SECONDS), MemoryExceeded)
    assert ends(daemon())


def test_daemon_ends_with_its_node(
    make_executor: Make, mode: str, daemon: Callable[[], int], tmp_path: Path, gate: Gate
) -> None:
    executor = make_executor(function_exec_mode=mode, max_retries=0)
    future = executor.submit(start_daemon_then, {}, str(tmp_path / "daemon"), gate.task)
    assert alive(daemon())
    os.kill(first_node(executor)["pid"], signal.SIGKILL)
    assert future.exception(SECONDS) is not None
    assert ends(daemon())


def test_daemons_of_a_killed_keeper_end_with_the_executor(
    make_executor: Make, mode: str, daemon: Callable[[], int], tmp_path: Path
) -> None:
    def kill_all_of_the_group() -> None:
        os.killpg(0, signal.SIGKILL)

    executor = make_executor(function_exec_mode=mode)
    future = executor.submit(start_daemon_then, {}, str(tmp_path / "daemon"), kill_all_of_the_group)
    assert isinstance(future.exception(SECONDS), SlotDied)
    executor.shutdown()
    assert ends(daemon())


# --- what is left in memory and in folders --------------------------------------------------------------------------

KEPT: list[Any] = []


def keep_shared_memory() -> list[str]:
    from multiprocessing import shared_memory

    kept = shared_memory.SharedMemory(create=True, size=1000)
    return [f"/dev/shm/{kept.name}"]


def keep_pool() -> list[str]:
    import multiprocessing

    before = set(os.listdir("/dev/shm"))
    KEPT.append(multiprocessing.get_context("spawn").Pool(1))
    assert KEPT[-1].apply(abs, (-1,)) == 1
    return [f"/dev/shm/{name}" for name in set(os.listdir("/dev/shm")) - before if name.startswith("sem.")]


def keep_joblib() -> list[str]:
    import joblib
    import numpy as np

    before = set(os.listdir("/dev/shm"))
    KEPT.append(joblib.Parallel(n_jobs=2, max_nbytes=1000))
    KEPT[-1].__enter__()
    KEPT[-1](joblib.delayed(np.sum)(np.ones(10_000)) for _ in range(2))
    left = set(os.listdir("/dev/shm")) - before
    return [f"/dev/shm/{name}" for name in left if name.startswith(("sem.loky", "joblib_memmapping"))]


def there(paths: list[str]) -> list[str]:
    return [path for path in paths if os.path.exists(path)]


KEEPS = [keep_shared_memory, keep_pool, keep_joblib]
needs_memory = pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no /dev/shm here")


@needs_memory
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("end", ["task", "node"])
def test_shared_memory_is_removed(make_executor: Make, mode: str, keep: Callable[[], list[str]], end: str) -> None:
    if keep is keep_joblib:
        pytest.importorskip("joblib")
    executor = make_executor(function_exec_mode=mode)
    paths = executor.submit(keep, {}).result(SECONDS)
    assert paths
    assert mode == "L1" or there(paths) == paths
    if mode == "L2":
        if end == "node":
            os.kill(first_node(executor)["pid"], signal.SIGKILL)
        else:
            executor.shutdown()
    assert not settle(lambda: there(paths))


@needs_memory
def test_shared_memory_of_a_task_that_dies_is_removed(make_executor: Make, mode: str, tmp_path: Path) -> None:
    path = str(tmp_path / "paths")

    def keep_and_die() -> None:
        with open(path, "w") as file:
            file.write("\n".join([*keep_shared_memory(), *keep_pool()]))
        os.kill(os.getpid(), signal.SIGKILL)

    executor = make_executor(function_exec_mode=mode)
    assert isinstance(executor.submit(keep_and_die, {}).exception(SECONDS), SlotDied)
    paths = Path(path).read_text().split()
    assert len(paths) > 1
    assert not settle(lambda: there(paths))


# --- exit handlers --------------------------------------------------------------------------------------------------


def leave_a_handler(path: str) -> int:
    import atexit

    atexit.register(Path(path).write_text, str(os.getpid()))
    return os.getpid()


def test_exit_handlers_of_an_l1_task_run(make_executor: Make, tmp_path: Path) -> None:
    executor = make_executor(function_exec_mode="L1")
    pid = executor.submit(leave_a_handler, {}, str(tmp_path / "left")).result(SECONDS)
    assert (tmp_path / "left").read_text() == str(pid)


@embedded_only
def test_exit_handlers_of_an_idle_slot_run(make_executor: Make, tmp_path: Path) -> None:
    executor = make_executor(cores=1)
    pid = executor.submit(leave_a_handler, {}, str(tmp_path / "left")).result(SECONDS)
    assert executor.submit(os.getpid, {}).result(SECONDS) == pid
    assert not (tmp_path / "left").exists()
    executor.shutdown()
    assert (tmp_path / "left").read_text() == str(pid)


@embedded_only
def test_slots_do_not_run_exit_handlers_of_the_context(make_executor: Make, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def set_up() -> dict[str, Any]:
        import atexit

        atexit.register(ran.write_text, "ran")
        return {}

    executor = make_executor(library_config={"context": set_up})
    executor.submit(leave_a_handler, {}, str(tmp_path / "left")).result(SECONDS)
    executor.shutdown()
    assert (tmp_path / "left").exists()
    assert not ran.exists()


def test_slow_exit_handlers_are_cut_off(make_executor: Make, mode: str) -> None:
    def stay() -> None:
        import atexit

        atexit.register(time.sleep, 1000)

    executor = make_executor(function_exec_mode=mode)
    begun = time.monotonic()
    executor.submit(stay, {}).result(SECONDS)
    executor.shutdown()
    assert time.monotonic() - begun < 20  # not 1000


# --- temporary files ------------------------------------------------------------------------------------------------


def use_sockets() -> tuple[int, list[int]]:
    import multiprocessing

    with multiprocessing.Manager() as manager:
        answer = manager.dict(a=1)["a"]
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        return answer, pool.map(abs, [-1])


def links_to(directory: str) -> list[str]:
    links = [path for path in Path("/tmp").glob("tv-*") if path.is_symlink()]
    return [str(path) for path in links if os.readlink(path).startswith(directory)]


@pytest.mark.parametrize("length", [24, 60, 90])
def test_sockets_fit_in_the_temporary_directory(
    make_executor: Make, engine: str, mode: str, nothing_left: str, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    if engine == "embedded" and length > 60:
        pytest.skip("tasks use the user's own temporary directory, which is too long")
    directory = os.path.join(nothing_left, "x" * (length - len(nothing_left) - 1))
    os.mkdir(directory)
    monkeypatch.setenv("TMPDIR", directory)
    monkeypatch.setattr(tempfile, "tempdir", directory)
    executor = make_executor(function_exec_mode=mode)
    assert executor.submit(use_sockets, {}).result(SECONDS) == (1, [1])
    executor.shutdown()
    assert not links_to(directory)
    assert not settle(lambda: [name for name in os.listdir(directory) if name.startswith(("taskvine-", "tv-"))])


def leave_files() -> str:
    directory = tempfile.mkdtemp()
    Path(directory, "file").write_text("left")
    os.chmod(directory, 0o500)
    return directory


@pytest.mark.parametrize("engine", ["taskvine"], indirect=True)
def test_temporary_files_are_removed_with_their_task(make_executor: Make, mode: str, nothing_left: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    left = executor.submit(leave_files, {}).result(SECONDS)
    assert left.startswith(os.path.join(nothing_left, "tv-"))
    if mode == "L2":
        assert os.listdir(left) == ["file"]
        executor.submit(os.kill, {}, executor.submit(os.getpid, {}).result(SECONDS), signal.SIGKILL).exception(SECONDS)
    assert not settle(lambda: os.path.exists(left))
    again = executor.submit(leave_files, {}).result(SECONDS)
    executor.shutdown()
    assert not settle(lambda: os.path.exists(again))


def test_users_temporary_directory_is_used(make_executor: Make, mode: str, tmp_path: Path) -> None:
    executor = make_executor(function_exec_mode=mode, env_vars={"TMPDIR": str(tmp_path)})
    assert executor.submit(tempfile.gettempdir, {}).result(SECONDS) == str(tmp_path)


@pytest.mark.parametrize("engine", ["taskvine"], indirect=True)
def test_context_may_use_the_temporary_directory(make_executor: Make) -> None:
    def set_up() -> dict[str, Any]:
        return {"used": tempfile.gettempdir()}

    def look() -> tuple[str, str]:
        from taskvine_exec import load_variable_from_library

        return load_variable_from_library("used"), tempfile.gettempdir()

    executor = make_executor(library_config={"context": set_up})
    library, slot = executor.submit(look, {}).result(SECONDS)
    assert os.path.dirname(slot) == library


@pytest.mark.parametrize("engine", ["taskvine"], indirect=True)
def test_next_supervisor_has_a_temporary_directory(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    for _ in range(2):
        assert executor.submit(use_sockets, {}).result(SECONDS) == (1, [1])
        children = psutil.Process(first_node(executor)["pid"]).children(recursive=True)
        (supervisor,) = (child for child in children if "supervise" in command(child))
        supervisor.kill()
    assert executor.submit(use_sockets, {}).result(SECONDS) == (1, [1])
