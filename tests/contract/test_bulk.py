"""Many calls at once: results in order, and errors and losses that cost one call."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError, wait
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import psutil
import pytest
from parsl.config import Config
from parsl.executors.errors import InvalidResourceSpecification

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.errors import (
    ArgumentNotSerializable,
    ExecutorNotStarted,
    ExecutorShutDown,
    FunctionNotSerializable,
    MemoryExceeded,
    ResultNotSerializable,
    SlotDied,
    TaskCancelled,
    TaskExited,
)
from tests.conftest import Gate, eventually, settle

Make = Callable[..., TaskVineExecutor]
SECONDS = 60


def echo(value: Any) -> Any:
    return value


def spin(seconds: float) -> float:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return seconds


class Point:
    """A class of the user's."""

    def __init__(self, x: int) -> None:
        self.x = x

    def doubled(self) -> Point:
        return Point(2 * self.x)


# --- results ---


def test_map_gives_results_in_order(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    count = 20_000 if mode == "L2" else 200
    assert list(executor.map(abs, range(-count, 0))) == list(range(count, 0, -1))
    assert list(executor.map(pow, range(5), itertools.repeat(2), chunksize=2)) == [0, 1, 4, 9, 16]
    assert executor.outstanding() == 0


def test_map_takes_functions_and_classes_of_the_program(make_executor: Make) -> None:
    offset = 5
    executor = make_executor()
    assert list(executor.map(lambda x: x + offset, range(100))) == list(range(5, 105))
    points = list(executor.map(Point.doubled, map(Point, range(50))))
    assert [point.x for point in points] == list(range(0, 100, 2))
    assert {type(point) for point in points} == {Point}


def test_map_of_infinite_iterables(make_executor: Make) -> None:
    executor = make_executor()
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    results = executor.map(echo, numbers(), chunksize=10)
    assert list(itertools.islice(results, 500)) == list(range(1, 501))
    assert read <= 500 + 10 * 20
    results.close()  # type: ignore[attr-defined]
    assert settle(executor.outstanding) == 0


def test_submit_many_has_a_future_for_each_call(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    count = 5000 if mode == "L2" else 50
    futures = executor.submit_many(pow, [(number, 2) for number in range(count)])
    assert [future.result(SECONDS) for future in futures] == [number**2 for number in range(count)]
    assert executor.submit_many(pow, []) == []


def test_arrays(make_executor: Make) -> None:
    executor = make_executor()
    arrays = (np.full(300_000, number) for number in range(30))
    for number, array in enumerate(executor.map(lambda array: array * 2, arrays)):
        assert array.shape == (300_000,)
        assert (array == 2 * number).all()
        array[0] = 7  # it is the user's own


def test_one_array_for_all_calls_is_stored_once(make_executor: Make) -> None:
    executor = make_executor()
    array = np.arange(1_000_000)
    sums = list(executor.map(lambda a, n: int(a[n]), itertools.repeat(array), range(2000)))
    assert sums == list(range(2000))
    assert executor.stats()["arguments_stored"] <= array.nbytes


def test_memory_is_bounded_by_the_window_not_by_the_calls(make_executor: Make) -> None:
    executor = make_executor(cores=1)
    before = psutil.Process().memory_info().rss
    total = 0
    for result in executor.map(np.ones, itertools.repeat(500_000, 300)):  # 1,200 MB
        total += len(result)
        assert psutil.Process().memory_info().rss - before < 200e6
    assert total == 300 * 500_000


# --- errors ---


def test_map_ends_with_the_exception_of_a_call(make_executor: Make) -> None:
    def invert(x: int) -> float:
        return 1 / x

    executor = make_executor()
    results = executor.map(invert, [1, 2, 0, 4], chunksize=4)
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError) as raised:
        next(results)
    assert raised.traceback[-1].name == "invert"
    assert list(results) == []


def kill(x: Any) -> Any:
    if x == "exit":
        os._exit(3)
    if x == "segfault":
        ctypes.string_at(0)
    if x == "sys.exit":
        sys.exit(4)
    if x == "frame":
        return sys._getframe()
    if x == "raise":
        raise LookupError(x)
    return x


def test_calls_of_a_chunk_fail_alone(make_executor: Make) -> None:
    executor = make_executor()
    wrong = {"exit": SlotDied, "segfault": SlotDied, "sys.exit": TaskExited, "frame": ResultNotSerializable}
    wrong["raise"] = LookupError
    calls: list[Any] = list(range(3000))
    for place, name in enumerate(wrong):
        calls[500 * (place + 1)] = name
    futures = executor.submit_many(kill, [(call,) for call in calls])
    assert not wait(futures, SECONDS).not_done
    errors = {call: type(future.exception()) for call, future in zip(calls, futures, strict=True) if future.exception()}
    assert errors == wrong
    assert [future.result() for call, future in zip(calls, futures, strict=True) if call not in errors] == [
        call for call in calls if call not in errors
    ]


def test_call_that_takes_too_much_memory_fails_alone(make_executor: Make) -> None:
    def fill(megabytes: int) -> int:
        return len(bytearray(megabytes << 20))

    executor = make_executor(memory=1000)
    futures = executor.submit_many(fill, [(1,)] * 20 + [(600,)] + [(1,)] * 20, {"memory": 300})
    assert isinstance(futures[20].exception(SECONDS), MemoryExceeded)
    assert {future.result(SECONDS) for at, future in enumerate(futures) if at != 20} == {1 << 20}


def test_arguments_that_cannot_be_sent(make_executor: Make) -> None:
    executor = make_executor()
    results = executor.map(echo, [1, sys._getframe(), 3], chunksize=3)
    assert next(results) == 1
    with pytest.raises(ArgumentNotSerializable):
        next(results)
    futures = executor.submit_many(echo, [(1,), (Future(),), (3,)])
    assert [futures[0].result(SECONDS), futures[2].result(SECONDS)] == [1, 3]
    with pytest.raises(ArgumentNotSerializable, match="argument 0 of call 1 is a future"):
        futures[1].result(SECONDS)


def test_function_that_cannot_be_sent(make_executor: Make) -> None:
    executor = make_executor()
    generator = (x for x in range(3))
    with pytest.raises(FunctionNotSerializable):
        executor.map(lambda x: generator, [1])
    with pytest.raises(TypeError, match="not callable"):
        executor.map(5, [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not a Parsl app"):
        executor.map(parsl.python_app(echo), [1])
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(echo, [1], chunksize=0)


def test_timeout(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    results = executor.map(gate.task, ["a"], timeout=0.2)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()


# --- resources ---


def test_resources_are_those_of_each_chunk(make_executor: Make) -> None:
    executor = make_executor()
    with pytest.raises(InvalidResourceSpecification):
        executor.map(echo, [1], resource_specification={"core": 1})
    fresh = {"function_exec_mode": "L1", "priority": 3, "cores": 1}
    pids = list(executor.map(lambda x: os.getpid(), range(4), chunksize=2, resource_specification=fresh))
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_long_calls_use_all_slots(make_executor: Make) -> None:
    executor = make_executor()
    executor.wait_for_nodes(1, SECONDS)

    def work(x: int) -> int:
        spin(0.05)
        return os.getpid()

    assert len(set(executor.map(work, range(20)))) == 2


# --- ends ---


def test_closed_iterator_cancels_what_has_not_begun(make_executor: Make, gate: Gate) -> None:
    """But no call that has begun: it ends as it would have."""
    executor = make_executor(cores=3)
    executor.wait_for_nodes(1, SECONDS)
    results = executor.map(gate.task, itertools.count(), resource_specification={"cores": 1.4})
    gate.wait(2)
    results.close()  # type: ignore[attr-defined]
    assert settle(executor.outstanding) == 0
    pids = {int(path.suffix[1:]) for path in gate.directory.iterdir()}
    # The node learns of the end before it gets another call.
    assert executor.submit(echo, {"cores": 0.1}, "other").result(SECONDS) == "other"
    assert all(map(psutil.pid_exists, pids)), "no call was interrupted"
    gate.open()
    assert executor.submit(echo, {"cores": 3}, "next").result(SECONDS) == "next"
    assert len(gate.begun()) == 2, "no other call has begun"


def test_shutdown_ends_all(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    results = executor.map(gate.task, range(10))
    futures = executor.submit_many(gate.task, [(number,) for number in range(10)])
    gate.wait(2)
    executor.shutdown()
    with pytest.raises(TaskCancelled):
        next(results)
    assert {type(future.exception(SECONDS)) for future in futures} <= {TaskCancelled, ExecutorShutDown}
    with pytest.raises(ExecutorShutDown):
        executor.map(echo, [1])
    with pytest.raises(ExecutorShutDown):
        executor.submit_many(echo, [(1,)])


def test_executor_that_was_not_started(engine: str) -> None:
    executor = TaskVineExecutor(engine=engine)  # type: ignore[arg-type]
    with pytest.raises(ExecutorNotStarted):
        executor.map(echo, [1])


def test_lost_node_costs_no_call(make_executor: Make, tmp_path: Path) -> None:
    executor = make_executor(worker_launch_method="factory", min_workers=1, max_workers=1)

    def work(x: int) -> int:
        spin(0.001)
        if x == 700:
            (tmp_path / "half").touch()
        return x

    futures = executor.submit_many(work, [(number,) for number in range(1500)])
    eventually((tmp_path / "half").exists)
    (node,) = executor.nodes
    psutil.Process(node["pid"]).kill()
    assert [future.result(SECONDS) for future in futures] == list(range(1500))


# --- beside a DataFlowKernel ---


@pytest.mark.parametrize("results", ["value", "reference"])
def test_under_a_dfk_results_come_home(engine: str, run_dir: str, results: Any) -> None:
    executor = TaskVineExecutor(engine=engine, cores=2, results=results)  # type: ignore[arg-type]
    with parsl.load(Config(executors=[executor], dependency_resolver=DAG_RESOLVER, run_dir=run_dir)):
        app = parsl.python_app(echo)
        future = app(20)
        assert list(executor.map(abs, range(-500, 0))) == list(range(500, 0, -1))
        arrays = list(executor.map(np.ones, [100_000] * 4, chunksize=2))
        assert {type(array) for array in arrays} == {np.ndarray}
        assert future.result() == 20
        assert list(executor.map(echo, [future.result()])) == [20]


PROGRAM = """
import itertools, signal, sys, threading, os
from taskvine_exec import TaskVineExecutor

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for programs in the background

def work(x):
    import time
    time.sleep(0.01)
    return x

with TaskVineExecutor(engine=sys.argv[1], cores=2) as executor:
    executor.start()
    results = executor.map(work, itertools.count())
    next(results)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        for result in results:
            pass
    except KeyboardInterrupt:
        print("interrupted")
    print(sum(executor.map(abs, range(-10, 0))))
"""


def test_ctrl_c_ends_the_iterator_and_nothing_else(engine: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, engine], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert (run.returncode, run.stdout) == (0, "interrupted\n55\n"), run.stderr
