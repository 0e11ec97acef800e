"""The environment that slots and L1 processes give their tasks, and tasks whose library dies."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from parsl.executors.errors import InvalidResourceSpecification

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import ContextFailed, LibraryFailed, ResourcesUnsatisfiable
from taskvine_manager.node.hardware import THREAD_VARIABLES
from tests.conftest import command, eventually, first_node

Make = Callable[..., TaskVineExecutor]
SECONDS = 60  # far more than any test here takes, only so that none hangs


def echo(value: Any = "well") -> Any:
    return value


def look_up(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


class Gathering:
    """Run ``count`` tasks that wait for each other, and return their environment."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir()
        self.directory = str(directory)
        self.count = count

    def __call__(self, name: str | None = None) -> Any:
        Path(self.directory, str(os.getpid())).touch()
        while len(os.listdir(self.directory)) < self.count:
            time.sleep(0.005)
        return os.getpid() if name is None else os.environ.get(name)


class Stay(NamedTuple):
    """The times at which a task ran, and its resources."""

    pid: int
    entered: float
    left: float
    gpus: str | None


def stay(seconds: float = 0.03) -> Stay:
    entered = time.monotonic()
    time.sleep(seconds)
    return Stay(os.getpid(), entered, time.monotonic(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def at_once(stays: list[Stay]) -> list[list[Stay]]:
    """For each start of a task, the tasks that ran then."""
    return [[other for other in stays if other.entered <= one.entered < other.left] for one in stays]


# --- what a task finds ----------------------------------------------------------------------------------------------


def test_threads_are_limited_to_the_cores_of_the_task(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=4)
    for spec, threads in [({}, "1"), ({"cores": 3}, "3"), ({"cores": 0.5}, "1"), ({}, "1")]:
        found = executor.submit(look_up, spec, *THREAD_VARIABLES).result(SECONDS)
        assert found == [threads] * len(THREAD_VARIABLES)


def test_threads_are_limited_to_the_cores_of_a_configured_slot(make_executor: Make) -> None:
    executor = make_executor(cores=4, library_config={"num_slots": 2})
    assert executor.submit(look_up, {}, "OMP_NUM_THREADS").result(SECONDS) == ["2"]


def test_gpu_is_used_by_one_task_at_a_time(make_executor: Make, mode: str, tmp_path: Path) -> None:
    executor = make_executor(function_exec_mode=mode, cores=4, gpus=2)
    gather = Gathering(tmp_path / "gathering", 3)
    seen = [executor.submit(gather, {"gpus": count}, "CUDA_VISIBLE_DEVICES") for count in (1, 0, 1)]
    one, none, other = (future.result(SECONDS) for future in seen)
    assert none == ""
    assert {one, other} == {"0", "1"}
    assert executor.submit(look_up, {"gpus": 2}, "CUDA_VISIBLE_DEVICES").result(SECONDS) == ["0,1"]
    assert executor.submit(look_up, {}, "CUDA_VISIBLE_DEVICES").result(SECONDS) == [""]


def test_gpu_is_used_by_one_of_many_tasks_at_a_time(make_executor: Make) -> None:
    executor = make_executor(cores=4, gpus=2)
    specs = [
        {"gpus": number % 3, "function_exec_mode": "L1" if number % 5 == 0 else "L2", "cores": 1 + number % 2}
        for number in range(24)
    ]
    stays = [future.result(SECONDS) for future in [executor.submit(stay, spec) for spec in specs]]
    for spec, one in zip(specs, stays, strict=True):
        assert len([name for name in str(one.gpus).split(",") if name]) == spec["gpus"]
    for together in at_once(stays):
        used = [name for one in together for name in str(one.gpus).split(",") if name]
        assert len(used) == len(set(used))


def test_gpu_of_an_idle_slot_is_available(make_executor: Make, tmp_path: Path) -> None:
    executor = make_executor(cores=2, gpus=2)
    assert executor.submit(look_up, {"gpus": 1}, "CUDA_VISIBLE_DEVICES").result(SECONDS) == ["0"]
    gate, entered = tmp_path / "gate", tmp_path / "entered"

    def hold() -> str | None:
        entered.touch()
        wait_for(str(gate))
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    holder = executor.submit(hold, {"gpus": 1, "function_exec_mode": "L1"})
    wait_for(str(entered))
    (other,) = executor.submit(look_up, {"gpus": 1}, "CUDA_VISIBLE_DEVICES").result(SECONDS)
    gate.touch()
    assert {holder.result(SECONDS), other} == {"0", "1"}


def test_memory_kept_by_a_slot_does_not_fail_limited_calls(make_executor: Make) -> None:
    def keep() -> None:
        sys.kept = bytearray(b"x") * (150 * 2**20)  # type: ignore[attr-defined]

    def look(seconds: float) -> bool:
        time.sleep(seconds)
        return hasattr(sys, "kept")

    executor = make_executor(cores=1)
    executor.submit(keep, {}).result(SECONDS)
    assert executor.submit(look, {}, 0).result(SECONDS)
    assert not executor.submit(look, {"memory": 100}, 0.3).result(SECONDS)


def test_random_numbers_differ_between_slots(make_executor: Make, mode: str, tmp_path: Path) -> None:
    def draw() -> tuple[float, float]:
        import numpy as np

        return random.random(), float(np.random.random())

    gather = Gathering(tmp_path / "gathering", 2)

    def draw_together() -> tuple[float, float]:
        gather()
        return draw()

    executor = make_executor(function_exec_mode=mode, library_config={"import_modules": ["numpy"]})
    drawn = [future.result(SECONDS) for future in [executor.submit(draw_together, {}) for _ in range(2)]]
    assert len({number for numbers in drawn for number in numbers}) == 4


def test_prints_go_to_logs(make_executor: Make, mode: str, run_dir: str) -> None:
    def talk() -> int:
        print("said")
        print("muttered", file=sys.stderr)
        os.write(1, b"written\n")
        os.system("echo shouted")
        return 1

    executor = make_executor(function_exec_mode=mode)
    assert executor.submit(talk, {}).result(SECONDS) == 1
    executor.shutdown()
    logged = "".join(path.read_text() for path in Path(run_dir).rglob("*.log"))
    for words in ("said", "muttered", "written", "shouted"):
        assert f"{words}\n" in logged


STREAMS = """
import sys
facts = [(s.encoding, s.errors, s.name, s.mode) for s in (sys.stdin, sys.stdout, sys.stderr)]
"""


def stream_facts() -> Any:
    names: dict[str, Any] = {}
    exec(STREAMS, names)
    return names["facts"]


def close_standard_streams() -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONUTF8": "1"},
        {"PYTHONIOENCODING": "latin-1:replace"},
        {"PYTHONIOENCODING": ":surrogateescape"},
    ],
    ids=str,
)
def test_text_streams_equal_those_of_a_fresh_process(make_executor: Make, mode: str, variables: dict[str, str]) -> None:
    said = subprocess.check_output(
        [sys.executable, "-c", f"{STREAMS}\nprint(facts)"], env={**os.environ, **variables}, text=True
    )
    executor = make_executor(function_exec_mode=mode, env_vars=variables, cores=1)
    assert str(executor.submit(stream_facts, {}).result(SECONDS)) == said.strip()
    executor.submit(close_standard_streams, {}).result(SECONDS)
    assert str(executor.submit(stream_facts, {}).result(SECONDS)) == said.strip()


def test_bytes_are_printed_as_in_a_fresh_process(make_executor: Make, mode: str, run_dir: str) -> None:
    def talk() -> None:
        print("error \udce9", file=sys.stderr)
        print("output \udce9")

    variables = {"PYTHONIOENCODING": "utf-8:surrogateescape"}
    executor = make_executor(function_exec_mode=mode, env_vars=variables)
    assert executor.submit(talk, {}).exception(SECONDS) is None
    executor.shutdown()
    logged = b"".join(path.read_bytes() for path in Path(run_dir).rglob("*.log"))
    assert b"error \\udce9\n" in logged
    assert b"output \xe9\n" in logged


def test_output_of_a_task_that_died_is_kept(make_executor: Make, mode: str, run_dir: str) -> None:
    def talk() -> None:
        print("last words")
        os._exit(1)

    executor = make_executor(function_exec_mode=mode)
    executor.submit(talk, {}).exception(SECONDS)
    executor.shutdown()
    assert "last words\n" in "".join(path.read_text() for path in Path(run_dir).rglob("*.log"))


def test_large_output_goes_to_logs(make_executor: Make, mode: str, run_dir: str) -> None:
    def chatter() -> int:
        print("x" * 2**20)
        sys.stderr.buffer.write(b"y" * 2**20 + b"\xff\x00\n")
        return 1

    executor = make_executor(function_exec_mode=mode)
    assert [executor.submit(chatter, {}).result(SECONDS) for _ in range(2)] == [1, 1]
    executor.shutdown()
    logged = b"".join(path.read_bytes() for path in Path(run_dir).rglob("*.log"))
    assert logged.count(b"x") >= 2 * 2**20
    assert logged.count(b"y") >= 2 * 2**20


def test_unwritable_logs_stop_no_task(make_executor: Make, mode: str, run_dir: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    assert executor.submit(echo, {}).result(SECONDS) == "well"
    shutil.rmtree(run_dir)
    pid = executor.submit(os.getpid, {}).result(SECONDS)
    if mode == "L2":
        assert executor.submit(os.kill, {}, pid, signal.SIGKILL).exception(SECONDS) is not None
        kill_library(executor)
    assert executor.submit(lambda: print("said"), {}).result(SECONDS) is None


# --- where and when a task runs -------------------------------------------------------------------------------------


def test_slots_are_reused_and_l1_processes_are_not(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    pids = [executor.submit(os.getpid, {}).result(SECONDS) for _ in range(5)]
    assert len(set(pids)) == (1 if mode == "L2" else 5)


def test_task_may_choose_its_mode(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    other = "L1" if mode == "L2" else "L2"
    pids = {
        chosen: [executor.submit(os.getpid, {key: name}).result(SECONDS) for _ in range(2)]
        for chosen, key, name in [
            (mode, "function_exec_mode", None),
            (other, "function_exec_mode", other),
            ("again", "exec_mode", {"L1": "regular", "L2": "serverless"}[other]),
        ]
    }
    for chosen, seen in pids.items():
        assert len(set(seen)) == (1 if (other if chosen == "again" else chosen) == "L2" else 2)


def test_cores_limit_concurrent_tasks(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=2)
    specs: list[dict[str, Any]] = [{"cores": 2} if number % 4 == 0 else {} for number in range(16)]
    stays = [future.result(SECONDS) for future in [executor.submit(stay, spec) for spec in specs]]
    wide = {one for one, spec in zip(stays, specs, strict=True) if spec}
    for together in at_once(stays):
        assert len(together) <= (1 if wide & set(together) else 2)


def test_tasks_may_share_a_core(make_executor: Make, mode: str, tmp_path: Path) -> None:
    executor = make_executor(function_exec_mode=mode, cores=2)
    gather = Gathering(tmp_path / "gathering", 4)
    pids = [future.result(SECONDS) for future in [executor.submit(gather, {"cores": 0.5}) for _ in range(4)]]
    assert len(set(pids)) == 4


@pytest.mark.parametrize(
    ("spec", "requested"),
    [
        ({"cores": 64}, {"cores": 64}),
        ({"memory": 10**9}, {"memory": 10**9}),
        ({"disk": 10**12}, {"disk": 10**12}),
        ({"gpus": 1}, {"gpus": 1}),
        ({"cores": 1, "gpus": 3}, {"cores": 1, "gpus": 3}),
    ],
    ids="-".join,
)
def test_impossible_request_is_refused(
    make_executor: Make, mode: str, spec: dict[str, Any], requested: dict[str, Any], tmp_path: Path
) -> None:
    executor = make_executor(function_exec_mode=mode, cores=2)
    gate = tmp_path / "gate"
    before = [executor.submit(wait_for, {}, str(gate)) for _ in range(2)]
    error = executor.submit(echo, spec).exception(SECONDS)  # at once: all other tasks still wait
    assert isinstance(error, ResourcesUnsatisfiable)
    assert error.requested == requested
    assert error.largest["cores"] == 2
    assert not any(future.done() for future in before)
    gate.touch()
    assert [future.result(SECONDS) for future in before] == [None, None]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"core": 1}, "'cores'"),
        ({"memry": 1}, "'memory'"),
        ({"mem": 1}, "'memory'"),
        ({"prioritty": 1}, "'priority'"),
        ({"function_exec_mod": "L1"}, "'function_exec_mode'"),
        ({"cores": -1}, "cores=-1"),
        ({"function_exec_mode": "L3"}, "'L3'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_meaningless_specification_is_refused(make_executor: Make, spec: dict[str, Any], words: str) -> None:
    executor = make_executor()
    with pytest.raises(InvalidResourceSpecification, match=words):
        executor.submit(echo, spec)
    assert executor.submit(echo, {}).result(SECONDS) == "well"


def test_higher_priority_goes_first(make_executor: Make, mode: str, tmp_path: Path) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    gate, path = tmp_path / "gate", str(tmp_path / "ran")

    def append(priority: float) -> None:
        with open(path, "a") as file:
            file.write(f"{priority}\n")

    first = executor.submit(wait_for, {}, str(gate))
    priorities = [0, 3, -1, 2.5, 1, 3, 0, 7]
    futures = [executor.submit(append, {"priority": priority}, priority) for priority in priorities]
    executor.stats()  # answered after all earlier messages
    gate.touch()
    for future in [first, *futures]:
        future.result(SECONDS)
    assert [float(line) for line in Path(path).read_text().split()] == sorted(priorities, reverse=True)


# --- the library ----------------------------------------------------------------------------------------------------


def kill_library(executor: TaskVineExecutor) -> None:
    """Kill the node's only library. Its slots are its children, and look like it."""
    assert executor.wait_for_nodes(1, SECONDS)

    def libraries() -> list[psutil.Process]:
        children = psutil.Process(first_node(executor)["pid"]).children(recursive=True)
        alike = [child for child in children if "library" in command(child)]
        return [child for child in alike if child.ppid() not in {other.pid for other in alike}]

    (library,) = eventually(libraries)  # a library that died is started again with the next call
    library.kill()
    library.wait(SECONDS)


def test_library_that_dies_loses_no_call(make_executor: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    entered = tmp_path / "entered"
    entered.mkdir()

    def hold(number: int) -> int:
        (entered / str(os.getpid())).touch()
        wait_for(str(gate))
        return number

    executor = make_executor()
    running = [executor.submit(hold, {}, number) for number in range(2)]
    waiting = [executor.submit(echo, {}, number) for number in range(20)]
    while len(os.listdir(entered)) < 2:
        time.sleep(0.005)
    node = executor.nodes
    kill_library(executor)
    gate.touch()
    assert [future.result(SECONDS) for future in running] == [0, 1]
    assert [future.result(SECONDS) for future in waiting] == list(range(20))
    assert executor.nodes == node


def test_call_that_kills_its_library_is_lost_and_others_are_not(make_executor: Make, tmp_path: Path) -> None:
    tries = tmp_path / "tries"

    def kill_parent() -> None:
        with open(tries, "a") as file:
            file.write("x")
        keeper = psutil.Process().parent()
        assert keeper is not None
        os.kill(keeper.ppid(), signal.SIGKILL)
        time.sleep(SECONDS)

    executor = make_executor(cores=1)
    assert executor.submit(echo, {}).result(SECONDS) == "well"
    deadly = executor.submit(kill_parent, {})
    waiting = [executor.submit(echo, {}, number) for number in range(20)]
    error = deadly.exception(SECONDS)
    assert isinstance(error, LibraryFailed)
    assert "SIGKILL" in str(error)
    assert tries.read_text() == "xx"
    assert [future.result(SECONDS) for future in waiting] == list(range(20))


def test_library_that_dies_repeatedly_fails_its_calls(make_executor: Make) -> None:
    executor = make_executor()
    assert executor.submit(echo, {}).result(SECONDS) == "well"
    node = executor.nodes
    for _ in range(4):
        futures = [executor.submit(echo, {}, number) for number in range(500)]
        kill_library(executor)
        for number, future in enumerate(futures):
            error = future.exception(SECONDS)
            assert error is None or isinstance(error, LibraryFailed)
            assert error is not None or future.result() == number
    assert executor.nodes == node


def test_library_killed_at_start_is_started_again(make_executor: Make, tmp_path: Path) -> None:
    building, gate = tmp_path / "building", tmp_path / "gate"

    def set_up() -> dict[str, Any]:
        building.touch()
        wait_for(str(gate))
        return {}

    executor = make_executor(library_config={"context": set_up})
    futures = [executor.submit(echo, {}, number) for number in range(20)]
    wait_for(str(building))
    kill_library(executor)
    gate.touch()
    assert [future.result(SECONDS) for future in futures] == list(range(20))


def test_context_that_kills_its_library_fails_every_call(make_executor: Make) -> None:
    def set_up() -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    executor = make_executor(library_config={"context": set_up})
    for future in [executor.submit(echo, {}, number) for number in range(4)]:
        error = future.exception(SECONDS)
        assert isinstance(error, LibraryFailed)
        assert "SIGKILL" in str(error)


def test_failing_context_with_a_running_thread_fails_every_call(make_executor: Make) -> None:
    def set_up() -> dict[str, Any]:
        threading.Thread(target=time.sleep, args=(1000,)).start()
        raise ValueError("no model")

    error = make_executor(library_config={"context": set_up}).submit(echo, {}).exception(SECONDS)
    assert isinstance(error, ContextFailed)
    assert "no model" in str(error)
