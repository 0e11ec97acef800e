"""results='reference': proxies that fetch their value at the first use, and travel by reference."""

from __future__ import annotations

import builtins
import copy
import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
from parsl.errors import OptionalModuleMissing

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import ArgumentNotSerializable, FileLost
from taskvine_manager.runtime import payload
from tests.conftest import Gate, eventually, first_node, settle

proxystore = pytest.importorskip("proxystore.proxy")

LARGE = 100_000
Make = Callable[..., TaskVineExecutor]


def make(count: int, fill: float = 1.0) -> Any:
    import numpy as np

    return np.full(count, fill)


def add(a: Any, b: Any) -> Any:
    a += b
    return a


def kind(value: Any) -> str:
    return type(value).__name__


def total(nested: Any) -> float:
    return float(sum(array.sum() for array in [nested["a"], *nested["b"]]))


@pytest.fixture
def executor(make_executor: Make, mode: str) -> TaskVineExecutor:
    return make_executor(results="reference", function_exec_mode=mode)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of values that this process has read."""
    paths: list[str] = []
    read = payload.read

    def spy(encoded: payload.Payload, *rest: Any) -> Any:
        if isinstance(encoded, str):
            paths.append(encoded)
        return read(encoded, *rest)

    monkeypatch.setattr(payload, "read", spy)
    return paths


def is_resolved(proxy: Any) -> bool:
    return bool(proxystore.is_resolved(proxy))


def test_proxy_behaves_as_the_value(executor: TaskVineExecutor) -> None:
    result = executor.submit(make, {}, LARGE).result(30)
    assert type(result).__mro__[1] is proxystore.Proxy
    assert isinstance(result, np.ndarray)
    assert np.array_equal(result, np.ones(LARGE))
    assert (result + 1)[0] == 2.0
    assert len(result) == LARGE
    result[0] = 5.0
    assert result[0] == 5.0
    text = executor.submit(lambda: {"key": "x" * LARGE}, {}).result(30)
    assert isinstance(text, dict)
    assert text == {"key": "x" * LARGE}
    assert f"{text['key'][:3]}" == "xxx"


def test_small_results_are_values(executor: TaskVineExecutor) -> None:
    assert type(executor.submit(make, {}, 10).result(30)) is np.ndarray
    assert settle(lambda: executor.stats()["replicas"]) == {}


def test_value_is_fetched_at_its_first_use(executor: TaskVineExecutor, decoded: list[str]) -> None:
    future = executor.submit(make, {}, LARGE)
    first = future.result(30)
    assert "returned ResultProxy" in repr(future)
    second = executor.submit(make, {}, LARGE, fill=2.0).result(30)
    assert executor.submit(total, {}, {"a": first, "b": [second, first]}).result(30) == 4.0 * LARGE
    both = executor.submit(add, {}, first, b=second).result(30)
    assert executor.submit(kind, {}, both).result(30) == "ndarray"
    for proxy in (first, second, both):
        assert "nodes" in repr(proxy)
        assert not is_resolved(proxy)
    assert decoded == []
    assert both[0] == 3.0
    assert len(decoded) == 1
    assert is_resolved(both)
    assert not is_resolved(first)


def test_message_of_a_reference_is_small(executor: TaskVineExecutor, gate: Gate) -> None:
    proxy = executor.submit(make, {}, LARGE).result(30)
    assert proxy[0] == 1.0  # it is used, but not fetched
    future = executor.submit(lambda array, task: task()[0] + str(array.nbytes), {}, proxy, gate.task)
    gate.wait(1)
    spool = executor.run.places.spool  # the directory of large arguments
    assert not [file for _, _, files in os.walk(spool, followlinks=True) for file in files if "value" in file][1:]
    assert len(future.needs) == 1
    gate.open()
    assert future.result(30) == f"task{8 * LARGE}"
    assert settle(lambda: len(future.needs)) == 0


def test_other_executors_get_the_value(executor: TaskVineExecutor, make_executor: Make) -> None:
    proxy = executor.submit(make, {}, LARGE).result(30)
    for other in (make_executor(), make_executor(results="reference")):
        assert other.submit(kind, {}, proxy).result(30) == "ndarray"
        assert other.submit(total, {}, {"a": proxy, "b": []}).result(30) == LARGE
    for dumps in (pickle.dumps, cloudpickle.dumps):
        back = pickle.loads(dumps([proxy, proxy]))
        assert type(back[0]) is np.ndarray
        assert back[0] is back[1]
    assert type(copy.copy(proxy)) is np.ndarray
    assert copy.deepcopy(proxy) is not proxystore.extract(proxy)


def test_function_that_captures_a_proxy_carries_the_value(executor: TaskVineExecutor) -> None:
    proxy = executor.submit(make, {}, LARGE).result(30)
    assert executor.submit(lambda: kind(proxy) + str(proxy.sum()), {}).result(30) == f"ndarray{float(LARGE)}"


def test_result_lives_as_long_as_its_proxy(executor: TaskVineExecutor) -> None:
    proxy = executor.submit(make, {}, LARGE).result(30)
    gc.collect()
    assert len(executor.stats()["replicas"]) == 1
    assert proxy[0] == 1.0
    del proxy
    gc.collect()
    assert settle(lambda: executor.stats()["replicas"]) == {}


def test_pending_consumer_keeps_the_result(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(results="reference", cores=1)
    proxy = executor.submit(make, {}, LARGE).result(30)
    executor.submit(gate.task, {})
    gate.wait(1)
    future = executor.submit(kind, {}, proxy)
    del proxy
    gc.collect()
    assert len(executor.stats()["replicas"]) == 1
    gate.open()
    assert future.result(30) == "ndarray"
    assert settle(lambda: (gc.collect() and None) or executor.stats()["replicas"]) == {}


def test_result_of_a_lost_node_cannot_be_used(make_executor: Make) -> None:
    executor = make_executor(results="reference", worker_launch_method="factory", min_workers=1, max_workers=1)
    once = {"recoverable": False}
    untouched, touched = (executor.submit(make, once, LARGE).result(30) for _ in range(2))
    again = executor.submit(make, {}, LARGE).result(30)
    assert touched[0] == 1.0
    pid = first_node(executor)["pid"]
    directory = first_node(executor)["directory"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in {node["pid"] for node in executor.nodes} and not os.path.exists(directory))
    with pytest.raises(FileLost):
        untouched[0]
    with pytest.raises(FileLost):  # every time
        isinstance(untouched, dict)
    with pytest.raises(FileLost):
        pickle.dumps(untouched)
    assert touched.sum() == LARGE
    assert isinstance(executor.submit(kind, {}, untouched).exception(30), FileLost)
    assert again.sum() == LARGE


def test_forgotten_result_cannot_be_used(executor: TaskVineExecutor) -> None:
    untouched, touched = (executor.submit(make, {}, LARGE).result(30) for _ in range(2))
    assert touched[0] == 1.0
    executor.forget(untouched)
    executor.forget(touched)
    assert settle(lambda: executor.stats()["replicas"]) == {}
    with pytest.raises(FileLost):
        untouched[0]
    with pytest.raises(ArgumentNotSerializable, match="has been forgotten"):
        executor.submit(kind, {}, untouched)
    assert executor.submit(kind, {}, touched).result(30) == "ndarray"
    assert touched[1] == 1.0


def test_callbacks_may_use_a_proxy(executor: TaskVineExecutor) -> None:
    seen: list[float] = []
    done = threading.Event()

    def look(future: Any) -> None:
        seen.append(float(future.result()[0]))
        done.set()

    executor.submit(make, {}, LARGE, 3.0).add_done_callback(look)
    assert done.wait(30)
    assert seen == [3.0]


def test_proxies_can_be_used_after_shutdown(make_executor: Make) -> None:
    executor = make_executor(results="reference")
    untouched, touched = (executor.submit(make, {}, LARGE).result(30) for _ in range(2))
    assert touched[0] == 1.0
    executor.shutdown()
    assert touched[1] == 1.0
    assert untouched[0] == 1.0
    assert pickle.loads(pickle.dumps(untouched))[1] == 1.0


def test_missing_proxystore_is_reported_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("proxystore"):
            raise ModuleNotFoundError("No module named 'proxystore'", name="proxystore")
        return real(name, *rest, **named)

    monkeypatch.delitem(__import__("sys").modules, "taskvine_exec.results.proxies", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(OptionalModuleMissing, match=r"pip install 'taskvine-exec\[proxystore\]'"):
        TaskVineExecutor(results="reference")
    assert TaskVineExecutor().results == "value"
