"""Large results in the user's process: read when they are asked for, kept as long as that is possible."""

from __future__ import annotations

import concurrent.futures
import errno
import gc
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import pytest
from parsl.dataflow.dflow import DataFlowKernel

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.errors import FileLost, FileUnreadable, ResultNotSerializable
from taskvine_exec.results import keeping, node_files
from taskvine_manager.runtime import mapping
from tests.conftest import eventually

Load = Callable[..., DataFlowKernel]
LARGE = 250_000  # doubles: the process that reads them maps them


@pytest.fixture
def start(load: Load, engine: str) -> Callable[..., TaskVineExecutor]:
    """Load Parsl with an executor on one of the engines."""

    def make(resolver: Any = DAG_RESOLVER, **settings: Any) -> TaskVineExecutor:
        executor = TaskVineExecutor(label="tv", engine=engine, **{"cores": 2, **settings})
        load([executor], dependency_resolver=resolver)
        return executor

    return make


@parsl.python_app
def make(number: int, account: str = os.devnull, parsl_resource_specification: Any = None) -> Any:
    import numpy as np

    with open(account, "a") as file:
        file.write("x")
    return np.full(250_000, float(number))


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Lower the limit on descriptors while the test runs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 40, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("resolver", [DAG_RESOLVER, None])
def test_more_results_than_descriptors_can_be_held(
    start: Callable[..., TaskVineExecutor], few_descriptors: None, resolver: Any, tmp_path: Path
) -> None:
    executor = start(resolver)
    account = tmp_path / "account"
    futures = [make(number, str(account)) for number in range(100)]
    held = [future.result(60) for future in futures]
    assert [array[0] for array in held] == [float(number) for number in range(100)]
    assert account.read_text() == "x" * 100
    assert executor.stats()["tasks_recovered"] == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
@pytest.mark.parametrize("place", ["check", "read"])
def test_temporarily_unreadable_result_is_not_recreated(
    start: Callable[..., TaskVineExecutor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, place: str
) -> None:
    executor = start()
    account = tmp_path / "account"
    future = make(3, str(account), parsl_resource_specification={"recoverable": False})
    assert future.exception(60) is None

    def refuse(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        if place == "check":
            patched.setattr(keeping, "check", refuse)
        else:
            patched.setattr(mapping, "bytes_of", refuse)
        for _ in range(2):
            with pytest.raises(FileUnreadable, match="exists, but cannot be read"):
                future.result(60)
    assert future.result(60)[0] == 3.0
    assert account.read_text() == "x"
    assert executor.stats()["tasks_recovered"] == 0


def _load_broken(path: str) -> Any:
    if os.path.exists(path):
        return "loaded"
    raise FileNotFoundError(errno.ENOENT, "no such file", path)


class Broken:
    """Cannot be loaded until a file exists; its exception looks like the loss of a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_broken, (self.path,)


def test_result_that_fails_to_load_is_not_recreated(start: Callable[..., TaskVineExecutor], tmp_path: Path) -> None:
    executor = start()
    account, needed = tmp_path / "account", tmp_path / "needed"

    @parsl.python_app
    def broken(path: str, account: str) -> Any:
        with open(account, "a") as file:
            file.write("x")
        return [Broken(path), "x" * 100_000]

    future = broken(str(needed), str(account))
    assert future.exception(60) is None
    with pytest.raises(ResultNotSerializable, match="no such file"):
        future.result(60)
    needed.touch()
    assert future.result(60)[0] == "loaded"
    assert account.read_text() == "x"
    assert executor.stats()["tasks_recovered"] == 0
    assert np.array_equal(make(1).result(60)[:2], [1.0, 1.0])


def end() -> None:
    """End the run as the end of a ``with`` block does."""
    parsl.dfk().cleanup()
    parsl.clear()


def settled(*futures: Any) -> None:
    for future in futures:
        assert future.exception(60) is None


@parsl.python_app
def text(count: int) -> str:
    return "x" * count


@pytest.mark.parametrize("resolver", [DAG_RESOLVER, None])
def test_finished_results_can_be_read_after_the_run(
    start: Callable[..., TaskVineExecutor], mode: str, resolver: Any
) -> None:
    executor = start(resolver, function_exec_mode=mode)
    futures = [make(number) for number in range(4)]
    small, middle = text(10), text(100_000)
    consumer = parsl.python_app(lambda array: array + 1)(futures[0])
    settled(*futures, small, middle, consumer)
    held = futures[1].result(60)
    end()
    assert not os.path.exists(executor.run.places.base)
    assert futures[0].result() is futures[0].result()
    assert futures[1].result() is held
    assert [future.result(1)[-1] for future in futures] == [0.0, 1.0, 2.0, 3.0]
    futures[2].result()[:] = 9.0  # writable, as before
    assert consumer.result()[0] == 1.0
    assert (small.result(), middle.result()) == ("x" * 10, "x" * 100_000)


def test_many_results_are_kept_with_few_descriptors(
    start: Callable[..., TaskVineExecutor], few_descriptors: None
) -> None:
    start()
    futures = [make(number) for number in range(60)] + [text(40_000) for _ in range(60)]
    settled(*futures)
    before = len(os.listdir("/proc/self/fd"))
    end()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert [future.result()[0] for future in futures[:60]] == [float(number) for number in range(60)]
    assert all(future.result() == "x" * 40_000 for future in futures[60:])


def test_results_without_a_future_are_not_kept(start: Callable[..., TaskVineExecutor]) -> None:
    start()
    kept, dropped = make(1), make(2)
    settled(kept, dropped)
    del dropped
    end()
    assert _mapped_results() == 1
    assert kept.result()[0] == 1.0
    del kept
    gc.collect()
    assert _mapped_results() == 0


def _mapped_results() -> int:
    with open("/proc/self/maps") as file:
        return sum(line.endswith("(deleted)\n") and float(line.split()[4]) > 0 and "tv" in line for line in file)


def test_proxy_can_be_used_after_the_run(start: Callable[..., TaskVineExecutor]) -> None:
    pytest.importorskip("proxystore")
    start(None, results="reference")
    proxies = [make(number).result(60) for number in (3, 4)]
    assert proxies[0][0] == 3.0
    end()
    assert [proxy[0] for proxy in proxies] == [3.0, 4.0]


def _result_file(executor: TaskVineExecutor, future: Any) -> str:
    value = future.__dict__["_taskvine_value"]
    return str(os.path.realpath(value.where.path))


@pytest.fixture
def embedded_start(load: Load) -> Callable[..., TaskVineExecutor]:
    """Like ``start``, for tests that remove files from nodes' caches."""

    def make(**settings: Any) -> TaskVineExecutor:
        executor = TaskVineExecutor(label="tv", engine="embedded", **{"cores": 2, **settings})
        load([executor], dependency_resolver=DAG_RESOLVER)
        return executor

    return make


def test_lost_result_is_recreated_at_shutdown(embedded_start: Callable[..., TaskVineExecutor], tmp_path: Path) -> None:
    executor = embedded_start()
    account = tmp_path / "account"
    future = make(5, str(account))
    settled(future)
    os.unlink(_result_file(executor, future))
    end()
    assert future.result()[0] == 5.0
    assert account.read_text() == "xx"


@parsl.python_app
def make_once_then_wait(directory: str, parsl_resource_specification: Any = None) -> Any:
    import os
    import time

    import numpy as np

    if os.path.exists(os.path.join(directory, "ran")):
        open(os.path.join(directory, "again"), "w").close()
        while not os.path.exists(os.path.join(directory, "open")):
            time.sleep(0.01)
    open(os.path.join(directory, "ran"), "w").close()
    return np.full(250_000, 7.0)


def test_late_result_is_a_clear_error(
    embedded_start: Callable[..., TaskVineExecutor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = embedded_start()
    future, other = make_once_then_wait(str(tmp_path)), make(2)
    settled(future, other)
    os.unlink(_result_file(executor, future))
    monkeypatch.setattr(node_files, "_HOME_SECONDS", 0.3)
    begun = time.monotonic()
    end()
    assert time.monotonic() - begun < 30
    with pytest.raises(FileLost, match="did not come home in time"):
        future.result()
    assert other.result()[0] == 2.0


def test_result_that_cannot_be_recreated_is_an_error_after_the_run(
    embedded_start: Callable[..., TaskVineExecutor], tmp_path: Path
) -> None:
    executor = embedded_start()
    future = make_once_then_wait(str(tmp_path), parsl_resource_specification={"recoverable": False})
    settled(future)
    os.unlink(_result_file(executor, future))
    end()
    with pytest.raises(FileLost):
        future.result()
    assert not (tmp_path / "again").exists()


def test_timeout_applies_to_recreated_results(embedded_start: Callable[..., TaskVineExecutor], tmp_path: Path) -> None:
    executor = embedded_start()
    future = make_once_then_wait(str(tmp_path))
    settled(future)
    os.unlink(_result_file(executor, future))
    for seconds in (0.2, 0):
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout=seconds)
    eventually((tmp_path / "again").exists)
    (tmp_path / "open").touch()
    assert future.result(timeout=60)[0] == 7.0
    assert future.result(timeout=0)[0] == 7.0


def test_timeout_applies_in_callbacks(embedded_start: Callable[..., TaskVineExecutor], tmp_path: Path) -> None:
    executor = embedded_start()
    future = make_once_then_wait(str(tmp_path))
    settled(future)
    os.unlink(_result_file(executor, future))
    said: list[Any] = []

    def ask(_: Any) -> None:
        try:
            said.append(future.result(timeout=0.2))
        except concurrent.futures.TimeoutError:
            said.append("too late")

    other = text(10)
    other.add_done_callback(ask)
    settled(other)
    assert eventually(lambda: said) == ["too late"]
    (tmp_path / "open").touch()
    assert future.result(timeout=60)[0] == 7.0


def test_waiting_thread_gets_its_result_at_the_end(
    embedded_start: Callable[..., TaskVineExecutor], tmp_path: Path
) -> None:
    executor = embedded_start()
    future = make_once_then_wait(str(tmp_path))
    settled(future)
    os.unlink(_result_file(executor, future))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(future.result)
        eventually((tmp_path / "again").exists)
        ending = pool.submit(end)
        (tmp_path / "open").touch()
        ending.result(60)
        assert waiting.result(60)[0] == 7.0
    assert future.result()[0] == 7.0


def test_callback_may_end_the_run(embedded_start: Callable[..., TaskVineExecutor]) -> None:
    executor = embedded_start()
    future, last = make(6), text(10)
    settled(future)
    ended = threading.Event()

    def end_it(_: Any) -> None:
        executor.shutdown()
        ended.set()

    last.add_done_callback(end_it)
    assert ended.wait(60)
    assert future.result()[0] == 6.0


@parsl.python_app
def numbers(count: int) -> Any:
    return [float(number) for number in range(count)]


@parsl.python_app
def are_one_object(first: Any, second: Any, nested: Any, inputs: Any = ()) -> bool:
    return first is second is nested["k"][0] is inputs[0]


@parsl.python_app
def spoil(values: Any) -> Any:
    first = values[0]
    values[0] = -1.0
    return first


def _arguments(future: Any, resolver: Any) -> tuple[Any, ...]:
    nested = {"k": [future if resolver is not None else future.result(60)]}
    return future, future, nested


@pytest.mark.parametrize("count", [3, 50_000])
@pytest.mark.parametrize("resolver", [DAG_RESOLVER, None])
def test_aliasing_is_the_same_as_with_pickling(
    start: Callable[..., TaskVineExecutor], count: int, resolver: Any, mode: str
) -> None:
    """Run once with small results and once with large ones."""
    start(resolver, function_exec_mode=mode)
    done = numbers(count)
    settled(done)
    assert are_one_object(*_arguments(done, resolver), inputs=[done]).result(60)
    pending = numbers(count)
    assert are_one_object(*_arguments(pending, resolver), inputs=[pending]).result(60)
    # Each consumer has its own copy, and so has this process.
    assert [spoil(done).result(60) for _ in range(3)] == [0.0] * 3
    assert done.result(60)[0] == 0.0
    done.result()[0] = 5.0
    expected = 0.0 if resolver is DAG_RESOLVER else 5.0  # without the resolver, Parsl passes the object in this process
    assert spoil(done).result(60) == expected
    assert done.result()[0] == 5.0
