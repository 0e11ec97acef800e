"""DAG_RESOLVER: the dependency DAG goes to the manager instead of being waited for in the DFK.

``Config(dependency_resolver=DAG_RESOLVER)`` changes what becomes of futures in an app's arguments, at any depth of
lists, tuples, sets, dicts, their subclasses, and dataclasses. The future of a task of the same TaskVineExecutor is not
waited for: the consumer is submitted at once, with an :class:`~taskvine_exec.values.Edge` in the future's place. Every
other future gets the ordinary wait and value.
"""

from __future__ import annotations

import functools
import logging
from concurrent.futures import Future
from typing import Any, cast

from parsl.app.futures import DataFuture
from parsl.dataflow.dependency_resolvers import DependencyResolver
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.futures import AppFuture

from taskvine_exec.parsl_hooks import containers, frames
from taskvine_exec.values import Value

_dfk_logger = logging.getLogger("parsl.dataflow.dflow")


class _Finished(AppFuture):
    """Stands in the DFK's list of dependencies for a future that is not waited for, where somebody reads that list.

    It is done, it carries the parent's task id for monitoring, and keeps no ancestor alive. One is made for every edge,
    by the thread that submits: it takes what never changes, its locks among it, from one that was made the usual way.
    """

    def __init__(self, parent: AppFuture) -> None:
        self.__dict__.update(_finished().__dict__)
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._outputs: list[DataFuture] = []
        record: Any = {"id": parent.tid, "dfk": parent.task_record["dfk"]}
        self.task_record = record


@functools.cache
def _finished() -> AppFuture:
    record: Any = {"id": -1, "dfk": None}
    future = AppFuture(record)
    future.set_result(None)
    return future


def gather(argument: object) -> list[Future[Any]]:
    """Futures that the DFK is to wait for before it launches the consumer of an argument.

    Each costs the DFK a look at whether the consumer is ready, even one that is done.

    Raises
    ------
    ValueError
        If a container holds a future and contains itself: the call of the app raises it.
    """
    found = containers.find(argument)
    if not found:
        return []
    containers.order(argument)
    consumer = frames.consumer()
    if consumer is not None and isinstance(argument, list) and argument is consumer["kwargs"].get("inputs"):
        return []  # the DFK asks again for each of its items
    waited: list[Future[Any]] = []
    for future in found:
        if not _is_edge(future, consumer):
            waited.append(future)
        elif consumer is not None and _is_watched(consumer["dfk"]):
            waited.append(_Finished(cast("AppFuture", future)))
    return waited


def _is_watched(kernel: DataFlowKernel) -> bool:
    """Whether dependencies go into monitoring's table or the log."""
    return kernel.monitoring is not None or _dfk_logger.isEnabledFor(logging.INFO)


def unwrap(argument: object) -> object:
    """An argument with its futures replaced: by an edge, or by the value.

    Raises
    ------
    TypeError
        If a container cannot be copied with other items.
    Exception
        What a future raised that is no edge. Those among the items of ``inputs`` are left in place: the DFK unwraps
        each of them after the list, and would count a failure twice.
    """
    if not containers.find(argument):
        return argument
    consumer = frames.consumer()
    lenient = not containers.is_future(argument) and frames.unwraps_inputs()
    return containers.replace(argument, lambda future: _one(future, consumer, lenient))


DAG_RESOLVER = DependencyResolver(traverse_to_gather=gather, traverse_to_unwrap=unwrap)
"""The resolver to give to ``parsl.Config``."""


def _one(future: Future[Any], consumer: dict[str, Any] | None, lenient: bool) -> Any:
    if _is_edge(future, consumer):
        assert isinstance(future, AppFuture)
        return Value.of(future).argument()
    if lenient and future.exception() is not None:
        return future
    return future.result()


def _is_edge(future: Future[Any], consumer: dict[str, Any] | None) -> bool:
    """Whether a consumer gets a future as an edge: both are tasks of one TaskVineExecutor, under one DFK.

    Memoization's keys are made of values, and what a join app's future will stand for no engine knows.
    """
    if consumer is None or not isinstance(future, AppFuture) or isinstance(future, DataFuture):
        return False
    parent = future.task_record
    if parent["dfk"] is not consumer["dfk"] or parent["executor"] != consumer["executor"]:
        return False
    if parent["join"] or parent["memoize"] or consumer["join"] or consumer["memoize"]:
        return False
    executor = consumer["dfk"].executors.get(consumer["executor"])
    return bool(getattr(executor, "takes_edges", False))
