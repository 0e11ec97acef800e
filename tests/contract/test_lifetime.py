"""Executors start and end at any time, in any order and in any process, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import psutil
import pytest
from parsl.data_provider.files import File
from parsl.executors.errors import BadStateException

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import ExecutorNotStarted, ExecutorShutDown, ManagerLost, RunDirNotWritable, TaskCancelled
from taskvine_manager.scheduling.checking import VARIABLE
from tests.conftest import Gate, eventually, our_processes, settle

Make = Callable[..., TaskVineExecutor]


def what_is_there() -> tuple[list[threading.Thread], list[psutil.Process], list[str]]:
    return threading.enumerate(), psutil.Process().children(), sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("method", ["provider", "factory", "manual"])
def test_constructor_creates_no_files_or_processes(engine: str, nothing_left: str, method: Any) -> None:
    before = what_is_there()
    executor = TaskVineExecutor(engine=engine, worker_launch_method=method)
    assert what_is_there() == before
    assert os.listdir(nothing_left) == []
    executor.shutdown()


def test_shutdown_without_start_and_twice(engine: str, make_executor: Make) -> None:
    unused = TaskVineExecutor(engine=engine)
    unused.shutdown()
    unused.shutdown()
    executor = make_executor()
    assert executor.submit(int, {}).result(30) == 0
    executor.shutdown()
    executor.shutdown()


def test_shutdown_straight_after_start(make_executor: Make) -> None:
    make_executor().shutdown()


def test_a_second_start_changes_nothing(make_executor: Make) -> None:
    executor = make_executor()
    sweeping = "TaskVine-Leftovers"  # a thread that ends by itself
    assert not settle(lambda: [thread for thread in threading.enumerate() if thread.name == sweeping])
    before = what_is_there()[0]
    executor.start()
    assert what_is_there()[0] == before
    assert executor.submit(int, {}).result(30) == 0


def test_executors_run_one_after_another_and_side_by_side(make_executor: Make) -> None:
    for _ in range(2):
        executor = make_executor()
        assert executor.submit(int, {}).result(30) == 0
        executor.shutdown()
    both = [make_executor(), make_executor()]
    futures = [executor.submit(os.getpid, {}) for executor in both]
    assert len({future.result(30) for future in futures}) == 2


def test_use_before_start_and_after_shutdown_is_refused(engine: str, make_executor: Make) -> None:
    early = TaskVineExecutor(engine=engine, label="early")
    for use in (lambda: early.submit(int, {}), lambda: early.launch_cmd, early.stats, lambda: early.tune({})):
        with pytest.raises(ExecutorNotStarted, match="early"):
            use()
    assert early.outstanding() == 0
    assert early.nodes == []
    late = make_executor(label="late")
    late.shutdown()
    for use in (lambda: late.submit(int, {}), late.stats, lambda: late.tune({}), late.start):
        with pytest.raises(ExecutorShutDown, match="late"):
            use()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_executor_may_be_started_in_a_forked_process(engine: str, run_dir: str) -> None:
    executor = TaskVineExecutor(engine=engine, cores=1)
    executor.run_dir = run_dir
    child = os.fork()
    if child == 0:
        status = 1
        try:
            executor.start()
            if executor.submit(lambda x: x + 1, {}, 41).result(60) == 42:
                executor.shutdown()
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    executor.start()  # the work of the child remains in the child
    assert executor.submit(int, {}).result(30) == 0
    executor.shutdown()


def test_shutdown_cancels_running_and_waiting_tasks(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode)
    futures = [executor.submit(gate.task, {}, number) for number in range(20)]
    gate.wait(2)
    executor.shutdown()
    for number, future in enumerate(futures):
        error = future.exception(0)
        assert isinstance(error, TaskCancelled)
        assert error.task_id == number
    assert executor.outstanding() == 0


def test_shutdown_while_a_callback_waits_for_a_task(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    held = executor.submit(gate.task, {})
    gate.wait(1)
    inside = threading.Event()

    def wait_for_it(_: object) -> None:
        inside.set()
        held.exception()

    executor.submit(int, {}).add_done_callback(wait_for_it)
    assert inside.wait(30)
    executor.shutdown()
    assert isinstance(held.exception(0), TaskCancelled)


def test_callback_may_shut_down(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    held = executor.submit(gate.task, {})
    gate.wait(1)
    over = threading.Event()

    def end(_: object) -> None:
        executor.shutdown()
        over.set()

    executor.submit(int, {}).add_done_callback(end)
    assert over.wait(30)
    assert isinstance(held.exception(0), TaskCancelled)
    assert executor.run.manager.returncode == 0  # it ended by itself


def test_unwritable_run_dir_is_reported(engine: str, tmp_path: Path, nothing_left: str) -> None:
    (tmp_path / "file").touch()
    executor = TaskVineExecutor(engine=engine)
    executor.run_dir = str(tmp_path / "file" / "runinfo")
    before = what_is_there()
    with pytest.raises(RunDirNotWritable, match="file/runinfo"):
        executor.start()
    assert what_is_there() == before
    assert os.listdir(nothing_left) == []
    executor.shutdown()


def test_callbacks_may_submit(make_executor: Make) -> None:
    """Submit from the thread that completes futures, a thousand levels deep."""
    executor = make_executor()
    last: Future[int] = Future()

    def next_one(future: Future[int]) -> None:
        value = future.result()
        if value == 1000:
            last.set_result(value)
        else:
            executor.submit(lambda x: x + 1, {}, value).add_done_callback(next_one)

    executor.submit(int, {}).add_done_callback(next_one)
    assert last.result(90) == 1000


def test_callbacks_may_submit_many_tasks(make_executor: Make) -> None:
    executor = make_executor()
    second: list[Future[int]] = []
    first = [executor.submit(lambda x: x, {}, number) for number in range(100)]
    for future in first:
        future.add_done_callback(
            lambda done: second.extend(executor.submit(lambda x: x, {}, done.result()) for _ in range(10))
        )
    eventually(lambda: len(second) == 1000)
    assert sum(future.result(60) for future in second) == 10 * sum(range(100))


def test_callbacks_may_send_requests(make_executor: Make, tmp_path: Path) -> None:
    """Submit from the thread that receives the answers."""
    executor = make_executor()

    def write(outputs: Any) -> None:
        with open(outputs[0], "w") as file:
            file.write("made")

    answers: list[Any] = []
    file = File("taskvinetemp:///made")
    first = executor.submit(write, {}, outputs=[file])
    others = [executor.submit(lambda x: x, {}, number) for number in range(100)]
    first.add_done_callback(lambda _: answers.append(executor.fetch(file, tmp_path / "fetched", 30)))
    for future in others:
        future.add_done_callback(lambda _: answers.append(executor.stats(30)["nodes"]))
    assert [future.result(30) for future in others] == list(range(100))
    eventually(lambda: len(answers) == 101)
    assert sorted(map(str, answers)) == sorted([str(tmp_path / "fetched"), *["1"] * 100])


class Rude(BaseException):
    pass


def test_callback_that_raises_affects_no_other_task(make_executor: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = make_executor()

    def fail(error: BaseException) -> None:
        raise error

    futures = [executor.submit(lambda x: x, {}, number) for number in range(50)]
    futures[3].add_done_callback(lambda _: fail(ValueError("a callback's")))
    futures[4].add_done_callback(lambda _: fail(Rude("a callback's")))
    assert [future.result(30) for future in futures] == list(range(50))
    assert executor.submit(int, {}).result(30) == 0


def test_bad_state_fails_running_and_new_tasks(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode)
    futures = [executor.submit(gate.task, {}, number) for number in range(10)]
    gate.wait(2)
    executor.set_bad_state_and_fail_all(RuntimeError("the first reason"))
    executor.set_bad_state_and_fail_all(RuntimeError("the second"))
    for future in futures:
        with pytest.raises(BadStateException, match="the first reason") as failed:
            future.result(0)
        assert isinstance(failed.value.__cause__, RuntimeError)
        assert "factory_config" not in repr(failed.value), "Parsl shows each error: all of the executor takes its time"
    with pytest.raises(BadStateException, match="the first reason") as refused:
        executor.submit(int, {})
    assert "factory_config" not in repr(refused.value)
    assert executor.bad_state_is_set


def test_manager_checks_its_core_in_these_tests(make_executor: Make) -> None:
    executor = make_executor()
    assert psutil.Process(executor.run.manager.pid).environ()[VARIABLE] == os.environ[VARIABLE]


def test_killed_manager_fails_all_tasks(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode, label="headless")
    futures = [executor.submit(gate.task, {}, number) for number in range(10)]
    gate.wait(2)
    nodes = [node["pid"] for node in executor.nodes]
    executor.run.manager.kill()
    assert not wait(futures, 30).not_done
    for number, future in enumerate(futures):
        error = future.exception(0)
        assert isinstance(error, ManagerLost)
        assert error.task_id == number
        assert "signal 9" in str(error)
    for use in (lambda: executor.submit(int, {}), executor.stats):
        with pytest.raises(BadStateException, match="manager process was lost"):
            use()
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in nodes))


def test_killed_manager_fails_pending_requests(make_executor: Make) -> None:
    executor = make_executor()
    assert executor.submit(int, {}).result(30) == 0
    executor.run.manager.send_signal(19)  # the manager is stopped, and answers nobody
    said: list[BaseException] = []

    def ask() -> None:
        try:
            executor.stats(timeout=60)
        except Exception as error:
            said.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: executor.run.link.open_requests)
    executor.run.manager.kill()
    asking.join(30)
    assert isinstance(said[0], BadStateException)


PROGRAM = """
import sys, time

from taskvine_exec import TaskVineExecutor

def work(path):
    import os, subprocess, time
    subprocess.Popen(["sleep", "1000", path], start_new_session=True)
    subprocess.Popen(f"sleep 1000 {path} & sleep 1000 {path}", shell=True, env={"PATH": "/bin:/usr/bin"})
    os.close(os.open(os.path.join(path, str(os.getpid())), os.O_CREAT))
    time.sleep(1000)

engine, run_dir, path, moment = sys.argv[1:]
executor = TaskVineExecutor(engine=engine, cores=2)
executor.run_dir = run_dir
executor.start()
print(executor.run.manager.pid, flush=True)
if moment != "start":
    assert executor.wait_for_nodes(1, 60)
if moment == "run":
    futures = [executor.submit(work, {"function_exec_mode": mode}, path) for mode in ("L1", "L2")]
    while len(os.listdir(path)) < 2:
        time.sleep(0.01)
print("now", flush=True)
time.sleep(1000)
"""


def kill_both(engine: str, moment: str, directory: str, run_dir: str, begun: Path, **variables: str) -> None:
    """Kill a program and its manager, and wait until nothing of them is left."""
    begun.mkdir()
    command = [sys.executable, "-c", f"import os{PROGRAM}", engine, run_dir, str(begun), moment]
    environment = {**os.environ, **variables}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as user:
        assert user.stdout is not None
        manager = int(user.stdout.readline())
        assert user.stdout.readline() == "now\n"
        user.kill()
        os.kill(manager, signal.SIGKILL)
    eventually(lambda: not our_processes(directory) and not our_processes(str(begun)))
    eventually(lambda: not [name for name in os.listdir(directory) if name.startswith("taskvine-")])


@pytest.mark.parametrize("moment", ["start", "join", "run"])
def test_nothing_is_left_after_user_and_manager_were_killed(
    engine: str, moment: str, nothing_left: str, run_dir: str, tmp_path: Path
) -> None:
    """Only the nodes are left: they end their tasks' processes, and remove the run's directory."""
    kill_both(engine, moment, nothing_left, run_dir, tmp_path / "begun")


NO_GROUPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/types.h>
int setpgid(pid_t pid, pid_t group) {
    int (*real)(pid_t, pid_t) = (int (*)(pid_t, pid_t)) dlsym(RTLD_NEXT, "setpgid");
    if (pid == 0) return real(pid, group);
    errno = EACCES;
    return -1;
}
"""
"""Wrap a worker so that the system refuses to put its child in a group, as if the child had run another program first.
"""


@pytest.mark.parametrize("engine", ["taskvine"], indirect=True)
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_nothing_is_left_of_a_worker_without_a_process_group(
    engine: str, nothing_left: str, run_dir: str, tmp_path: Path
) -> None:
    (tmp_path / "groups.c").write_text(NO_GROUPS)
    library = str(tmp_path / "groups.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, str(tmp_path / "groups.c"), "-ldl"], check=True)
    kill_both(engine, "run", nothing_left, run_dir, tmp_path / "begun", LD_PRELOAD=library)


def test_logs_go_where_vine_log_dir_says(make_executor: Callable[..., TaskVineExecutor], tmp_path: Path) -> None:
    logs = tmp_path / "vine-logs"
    executor = make_executor(vine_log_dir=str(logs))
    assert executor.submit(int, {}).result(30) == 0
    assert (logs / "manager.log").exists()
    assert list(logs.glob("node-*/slot-*.log"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers_per_cycle", 3),
        ("factory_timeout", 5),
        ("scratch_dir", "/tmp"),
        ("tune_parameters", {"hungry-minimum": 5}),
    ],
)
def test_options_without_effect_are_warned_of(name: str, value: object, caplog: pytest.LogCaptureFixture) -> None:
    TaskVineExecutor(engine="embedded", **{name: value})
    assert "no effect" in caplog.text


_ATTEMPTS = """
import os, socket, sys

base, *others = sys.argv[1:]
os.setgid(65534)
os.setuid(65534)


def connect():
    socket.socket(socket.AF_UNIX).connect(base + "/manager.sock")


attempts = {
    "list": lambda: os.listdir(base),
    "read": lambda: open(base + "/manager.config", "rb"),
    "connect": connect,
    "replace": lambda: os.rename(base, base + ".old"),
    "plant": lambda: os.symlink("/", base + "/spool/link"),
    **{"list " + other: lambda other=other: os.listdir(other) for other in others},
}
for name, attempt in attempts.items():
    try:
        attempt()
    except PermissionError:
        pass
    else:
        print(name)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_other_users_have_no_access(make_executor: Make, nothing_left: str) -> None:
    """Other users cannot read the run's files, even with a umask of 0."""
    before = os.umask(0)
    try:
        os.chmod(nothing_left, 0o1777)  # like /tmp
        executor = make_executor()
        assert len(executor.submit(bytes, {}, 3_000_000).result(30)) == 3_000_000
    finally:
        os.umask(before)
    (base,) = Path(nothing_left).glob("taskvine-*")
    others = map(str, Path(os.environ["TASKVINE_EXEC_MEMORY"]).iterdir())
    command = [sys.executable, "-c", _ATTEMPTS, str(base), *others]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == ""
