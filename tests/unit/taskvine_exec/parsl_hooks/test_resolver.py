"""DAG_RESOLVER's hooks, with the record of a consumer as the DFK makes it."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from parsl.dataflow.futures import AppFuture

from taskvine_exec.parsl_hooks import frames
from taskvine_exec.parsl_hooks.resolver import DAG_RESOLVER
from taskvine_exec.parsl_hooks.switches import RESOLVER, STAND_INS
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch


class Kernel:
    """A DFK with one executor that makes edges, and one that does not."""

    def __init__(self) -> None:
        self.monitoring = None
        ours = SimpleNamespace(edge_to=lambda future: ("edge to", future.tid))
        self.executors: Any = {"ours": ours, "other": SimpleNamespace()}
        self.count = 0

    def task(self, executor: str = "ours", **other: Any) -> Any:
        self.count += 1
        task = {"id": self.count, "dfk": self, "executor": executor, "join": False, "memoize": False, "kwargs": {}}
        return {**task, **other}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A DFK that submits one consumer to our executor. Its log is quiet."""
    made = Kernel()
    consumer = made.task()
    monkeypatch.setattr(frames, "consumer", lambda: consumer)
    monkeypatch.setattr(logging.getLogger("parsl.dataflow.dflow"), "level", logging.WARNING)
    logging.getLogger("parsl.dataflow.dflow").manager._clear_cache()  # type: ignore[attr-defined]
    return made


def finished(record: Any, result: object = "result") -> AppFuture:
    future = AppFuture(record)
    future.set_result(result)
    return future


def test_task_of_the_same_executor_becomes_an_edge(kernel: Kernel, switch: Switch) -> None:
    on = switch(RESOLVER)
    future = finished(kernel.task())
    argument = {"a": [future, 1]}
    assert DAG_RESOLVER.traverse_to_gather(argument) == ([] if on else [future])
    expected = ("edge to", future.tid) if on else "result"
    assert DAG_RESOLVER.traverse_to_unwrap(argument) == {"a": [expected, 1]}


def test_other_futures_are_waited_for(kernel: Kernel, switch: Switch) -> None:
    switch(RESOLVER)
    plain: Future[Any] = Future()
    plain.set_result("result")
    elsewhere = [Kernel().task(), kernel.task("other"), kernel.task(join=True), kernel.task(memoize=True)]
    for future in [plain, *map(finished, elsewhere)]:
        assert DAG_RESOLVER.traverse_to_gather([future]) == [future]
        assert DAG_RESOLVER.traverse_to_unwrap([future]) == ["result"]


def test_unknown_consumer_waits_for_all_futures(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> None:
    monkeypatch.setattr(frames, "consumer", lambda: None)
    future = finished(kernel.task())
    assert DAG_RESOLVER.traverse_to_gather(future) == [future]
    assert DAG_RESOLVER.traverse_to_unwrap(future) == "result"


@pytest.mark.parametrize("reader", ["log", "monitoring", None])
def test_dependencies_are_listed_if_the_list_is_read(
    kernel: Kernel, reader: str | None, monkeypatch: pytest.MonkeyPatch, switch: Switch
) -> None:
    on = switch(STAND_INS)
    if reader == "log":
        monkeypatch.setattr(logging.getLogger("parsl.dataflow.dflow"), "level", logging.INFO)
        logging.getLogger("parsl.dataflow.dflow").manager._clear_cache()  # type: ignore[attr-defined]
    kernel.monitoring = object() if reader == "monitoring" else None  # type: ignore[assignment]
    parent = kernel.task()
    future = AppFuture(parent)
    listed = DAG_RESOLVER.traverse_to_gather(future)
    assert len(listed) == (0 if reader is None and on else 1)
    for stand_in in listed:
        assert isinstance(stand_in, AppFuture)
        assert stand_in.done()
        assert stand_in.tid == parent["id"]
        assert stand_in.task_record["dfk"] is kernel
        assert stand_in is not future
        called: list[Any] = []
        stand_in.add_done_callback(called.append)
        assert called == [stand_in]
