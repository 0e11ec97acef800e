"""results='reference' under Parsl, with and without DAG_RESOLVER."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import pytest
from parsl.dataflow.dependency_resolvers import DEEP_DEPENDENCY_RESOLVER
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.monitoring import MonitoringHub

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_manager.runtime import payload
from tests.conftest import settle

proxystore = pytest.importorskip("proxystore.proxy")

LARGE = 100_000
Load = Callable[..., DataFlowKernel]


def references(label: str = "tv") -> TaskVineExecutor:
    return TaskVineExecutor(label=label, cores=2, results="reference")


@pytest.fixture(params=["stock", "deep", "dag"])
def resolver(request: pytest.FixtureRequest) -> Any:
    return {"stock": None, "deep": DEEP_DEPENDENCY_RESOLVER, "dag": DAG_RESOLVER}[request.param]


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


def _make(count: int, fill: float = 1.0) -> Any:
    import numpy as np

    return np.full(count, fill)


def _add(a: Any, b: Any, inputs: Any = ()) -> Any:
    return a + b + sum(inputs)


def _kind(value: Any) -> str:
    return type(value).__name__


make, add, kind = parsl.python_app(_make), parsl.python_app(_add), parsl.python_app(_kind)


def test_tree_of_proxies_fetches_nothing(load: Load, resolver: Any, decoded: list[str]) -> None:
    load([references()], dependency_resolver=resolver)
    level = [make(LARGE, float(number)) for number in range(8)]
    while len(level) > 1:
        level = [add(a, b, inputs=[a]) for a, b in zip(level[::2], level[1::2], strict=True)]
    top = level[0].result(30)
    again = add(top, top, inputs=[top])
    assert kind(again.result(30)).result(30) == "ndarray"
    assert decoded == []
    assert not proxystore.is_resolved(top)
    expected = 0.0
    values = [float(number) for number in range(8)]
    while len(values) > 1:
        values = [2 * a + b for a, b in zip(values[::2], values[1::2], strict=True)]
    expected = values[0]
    assert np.array_equal(top, np.full(LARGE, expected))
    assert isinstance(again.result(), np.ndarray)
    assert again.result()[0] == 3 * expected
    assert len(decoded) == 2


def test_other_executors_get_the_value(load: Load, resolver: Any, run_dir: str) -> None:
    load([references(), references("other"), ThreadPoolExecutor(label="threads")], dependency_resolver=resolver)
    here = {label: parsl.python_app(executors=[label])(_kind) for label in ("tv", "other")}
    future = parsl.python_app(executors=["tv"])(_make)(LARGE)
    summed = parsl.python_app(executors=["threads"])(lambda array: float(array.sum()))
    for argument in (future, future.result(30)):
        assert {app(argument).result(30) for app in here.values()} == {"ndarray"}
        assert summed(argument).result(30) == LARGE


@pytest.mark.slow
def test_high_throughput_executor_gets_the_value(load: Load) -> None:
    htex = HighThroughputExecutor(label="htex", max_workers_per_node=1, address="127.0.0.1", encrypted=False)
    load([references(), htex])
    made = parsl.python_app(executors=["tv"])(_make)(LARGE)
    # A builtin, because its workers cannot import this module. It would return the class of a proxy.
    assert parsl.python_app(executors=["htex"])(repr)(made).result(60) == repr(np.ones(LARGE))


def test_join_apps_and_lifted_access_work(load: Load, resolver: Any) -> None:
    load([references()], dependency_resolver=resolver)

    @parsl.join_app
    def double(array: Any) -> Any:
        assert array[0] == 1.0
        return add(array, array)

    assert double(make(LARGE))[3].result(30) == 2.0
    assert make(LARGE).shape.result(30) == (LARGE,)


def test_memoized_apps_use_values(load: Load, resolver: Any) -> None:
    load([references()], dependency_resolver=resolver)

    @parsl.python_app
    def text(count: int) -> str:
        return "x" * count

    @parsl.python_app(cache=True)
    def twice(text: str) -> str:
        return text + text

    for argument in (text(LARGE), text(LARGE).result(30), "x" * LARGE):
        assert type(twice(argument).result(30)) is str
    last = twice(text(LARGE))
    assert last.result(30) == "x" * 2 * LARGE
    assert last.task_record["from_memo"]


def test_results_are_removed_with_their_proxies(load: Load, resolver: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "parsl")  # pytest keeps log records, and Parsl logs futures at the level DEBUG
    executor = load([references()], dependency_resolver=resolver).executors["tv"]
    assert isinstance(executor, TaskVineExecutor)
    future = make(LARGE)
    for _ in range(20):
        future = add(future, 1.0)
    proxy = future.result(30)
    del future
    assert settle(lambda: (gc.collect() and None) or len(executor.stats()["replicas"]) > 3) is False
    assert proxy[0] == 21.0
    del proxy
    assert settle(lambda: (gc.collect() and None) or len(executor.stats()["replicas"]) > 2) is False


def test_forgotten_result_fails_its_new_consumers(load: Load, resolver: Any) -> None:
    executor = load([references()], dependency_resolver=resolver).executors["tv"]
    assert isinstance(executor, TaskVineExecutor)
    untouched, touched = make(LARGE), make(LARGE)
    assert touched.result(30)[0] == 1.0
    for future in (untouched, touched):
        executor.forget(future.result(30))
    assert "forgotten" in repr(kind(untouched).exception(30))
    assert kind(touched).result(30) == "ndarray"


def test_retry_uses_the_reference_again(load: Load, resolver: Any, tmp_path: Path) -> None:
    load([references()], dependency_resolver=resolver, retries=1)

    @parsl.python_app
    def second_time_lucky(array: Any, marker: str) -> Any:
        from pathlib import Path

        if not Path(marker).exists():
            Path(marker).touch()
            raise RuntimeError("first time")
        return array + 1

    assert second_time_lucky(make(LARGE), str(tmp_path / "marker")).result(30)[0] == 2.0


@pytest.mark.slow
def test_monitoring_fetches_nothing(load: Load, decoded: list[str], tmp_path: Path) -> None:
    hub = MonitoringHub(resource_monitoring_enabled=False, logging_endpoint=f"sqlite:///{tmp_path}/monitoring.db")
    load([references()], monitoring=hub)

    @parsl.python_app
    def first(inputs: Any = ()) -> Any:
        return inputs[0][0]

    assert first(inputs=[make(LARGE)]).result(30) == 1.0
    assert decoded == []
