"""DAG_RESOLVER: send tasks to the manager before their dependencies are done.

``Config(dependency_resolver=DAG_RESOLVER)`` changes how futures in an app's arguments are handled, at any depth of
lists, tuples, sets, dicts, their subclasses, and dataclasses. If a future belongs to a task of the same
TaskVineExecutor, the consumer is submitted at once, with an :class:`~taskvine_exec.values.Edge` in the future's place.
All other futures are waited for and replaced by their values, as usual.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

from parsl.app.futures import DataFuture
from parsl.dataflow.dependency_resolvers import DependencyResolver
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.futures import AppFuture

from taskvine_exec.parsl_hooks import containers, frames
from taskvine_exec.parsl_hooks.switches import RESOLVER, STAND_INS

_dfk_logger = logging.getLogger("parsl.dataflow.dflow")


class _Finished(AppFuture):
    """Stand-in in the DFK's list of dependencies for a future that becomes an edge.

    Stand-ins are made only if monitoring or the log uses that list. A stand-in is already done, has the task id of the
    parent, and keeps no ancestor alive. There is one for each edge, and it lives as long as the consumer's task record.
    To save memory, all stand-ins share the attributes that never change, locks included, with one ordinary future.
    """

    def __init__(self, parent: AppFuture) -> None:
        record: Any = {"id": parent.tid, "dfk": parent.task_record["dfk"]}
        if not STAND_INS.on:
            super().__init__(record)
            self.set_result(None)
            return
        self.__dict__.update(_finished().__dict__)
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._outputs: list[DataFuture] = []
        self.task_record = record


@functools.cache
def _finished() -> AppFuture:
    record: Any = {"id": -1, "dfk": None}
    future = AppFuture(record)
    future.set_result(None)
    return future


def gather(argument: object) -> list[Future[Any]]:
    """Return the futures that the DFK must wait for before it launches the consumer of an argument.

    Each future, even a done one, costs the DFK a check of whether the consumer is ready.

    Raises
    ------
    ValueError
        If a container holds a future and contains itself. The user sees it at the call of the app.
    """
    if containers.is_future(argument):
        return _waited(cast("Future[Any]", argument), frames.consumer())
    found = containers.find(argument)
    if not found:
        return []
    containers.order(argument)
    consumer = frames.consumer()
    if consumer is not None and isinstance(argument, list) and argument is consumer["kwargs"].get("inputs"):
        return []  # the DFK asks again for each of its items
    return [each for future in found for each in _waited(future, consumer)]


def _waited(future: Future[Any], consumer: dict[str, Any] | None) -> list[Future[Any]]:
    if _edge(future, consumer) is None:
        return [future]
    if consumer is not None and _is_watched(consumer["dfk"]):
        return [_Finished(cast("AppFuture", future))]
    return []


def _is_watched(kernel: DataFlowKernel) -> bool:
    """Whether dependencies are recorded by monitoring or in the log."""
    return not STAND_INS.on or kernel.monitoring is not None or _dfk_logger.isEnabledFor(logging.INFO)


def unwrap(argument: object) -> object:
    """Return an argument with each future replaced by an edge or by its value.

    Raises
    ------
    TypeError
        If a container cannot be copied with other items.
    Exception
        The exception of a future that is not replaced by an edge. A failed future among the items of ``inputs`` is left
        in place: the DFK unwraps each item after the list, and would count the failure twice.
    """
    if containers.is_future(argument):
        return _replacement(cast("Future[Any]", argument), frames.consumer(), lenient=False)
    if not containers.find(argument):
        return argument
    consumer = frames.consumer()
    lenient = frames.unwraps_inputs()
    return containers.replace(argument, lambda future: _replacement(future, consumer, lenient=lenient))


DAG_RESOLVER = DependencyResolver(traverse_to_gather=gather, traverse_to_unwrap=unwrap)
"""The resolver to give to ``parsl.Config``."""


def _replacement(future: Future[Any], consumer: dict[str, Any] | None, *, lenient: bool) -> Any:
    if (edge := _edge(future, consumer)) is not None:
        return edge(future)
    if lenient and future.exception() is not None:
        return future
    return future.result()


def _edge(future: Future[Any], consumer: dict[str, Any] | None) -> Callable[[Future[Any]], Any] | None:
    """Return the method of the executor that makes a consumer's edge to a future; None if the consumer gets the result.

    It gets an edge if both are tasks of the same TaskVineExecutor and DFK. Memoized tasks and join apps get none.
    Memoization needs values for its keys, and the manager does not know which task will make the result of a join app.
    """
    if consumer is None or not RESOLVER.on or not isinstance(future, AppFuture) or isinstance(future, DataFuture):
        return None
    parent = future.task_record
    if parent["dfk"] is not consumer["dfk"] or parent["executor"] != consumer["executor"]:
        return None
    if parent["join"] or parent["memoize"] or consumer["join"] or consumer["memoize"]:
        return None
    return getattr(consumer["dfk"].executors.get(consumer["executor"]), "edge_to", None)
