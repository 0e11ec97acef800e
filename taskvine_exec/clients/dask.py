"""A scheduler for Dask graphs: dask.delayed, dask.array, dask.dataframe and xarray on a TaskVineExecutor.

    parsl.load(local_config())
    dask.config.set(scheduler=taskvine_exec.clients.dask.get)

The graph is culled, linear chains are fused, and each remaining task is sent to the manager at once, with edges in
place of its dependencies. Results stay on nodes until no task needs them. Only the wanted keys' results come home.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

import dask
from dask.callbacks import local_callbacks, unpack_callbacks
from dask.core import flatten
from dask.order import order
from dask.sizeof import sizeof
from dask.utils import ensure_dict, key_split
from parsl.dataflow.errors import PropagatedException

from taskvine_exec.bulk.dependent import DependentCalls
from taskvine_exec.clients.loaded import loaded
from taskvine_exec.errors import ExecutorNotStarted
from taskvine_exec.executor import TaskVineExecutor
from taskvine_exec.submitter import Prepared
from taskvine_exec.values import Value
from taskvine_manager.runtime import execution

try:
    from dask._task_spec import (
        Alias,
        DataNode,
        Dict,
        GraphNode,
        List,
        Set,
        Task,
        TaskRef,
        Tuple,
        convert_legacy_graph,
        fuse_linear_task_spec,
    )
except ImportError as missing:
    raise ImportError(f"dask {dask.__version__} is too old: pip install 'dask>=2025.1'") from missing

Graph = dict[Hashable, Any]
"""Nodes of a graph by their keys, all in Dask's task specification."""

SHARED_FROM = 1 << 20
"""Bytes from which data in the graph that several tasks read is stored once, as a task of its own."""
_CONTAINERS = {List: list, Tuple: tuple, Set: set}
_OWN_ANNOTATIONS = frozenset({"resources", "priority", "retries"})
"""Annotations that change how tasks run here. Others are for Dask's own schedulers."""


class DaskScheduler:
    """A scheduler for ``dask.compute(scheduler=...)`` and ``dask.config.set(scheduler=...)``.

    As a context manager, it is Dask's default scheduler meanwhile, and dataframes are shuffled by tasks. If its
    executor has not been started, it is started, and shut down at the end.

    Parameters
    ----------
    executor : TaskVineExecutor, optional
        Where tasks run. Default: the TaskVineExecutor of the Config that ``parsl.load`` has loaded.
    fuse : bool
        Whether linear chains of tasks become one task. Graphs with annotations of resources, priority or retries are
        never fused.
    resources : dict, optional
        Resource specification of all tasks. ``dask.annotate(resources=...)`` overrides it, key by key.
    retries : int
        How often a failed task runs again. ``dask.annotate(retries=...)`` overrides it.
    """

    def __init__(
        self,
        executor: TaskVineExecutor | None = None,
        *,
        fuse: bool = True,
        resources: Mapping[str, Any] | None = None,
        retries: int = 0,
    ) -> None:
        self._executor = executor
        self._fuse = fuse
        self._resources = dict(resources or {})
        self._retries = retries
        self._open: ExitStack | None = None

    def __call__(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        """Compute the results of some keys of a graph. Dask calls this.

        Parameters
        ----------
        dsk : mapping or expression
            The graph.
        keys : key, or nested list of keys
            The wanted keys.
        **kwargs
            ``resources``, ``retries`` and ``fuse`` as for the class; they come from ``compute(...)``. Dask passes other
            keywords too, which are ignored.

        Returns
        -------
        Any
            The result of the key, or nested tuples of results.

        Raises
        ------
        Exception
            The first exception of a task, with its traceback from the node. The other tasks are cancelled.
        parsl.errors.ConfigurationError
            If no executor is given and none is loaded, or several are.
        """
        annotations = _annotations(dsk)
        graph = convert_legacy_graph(ensure_dict(dsk if isinstance(dsk, Mapping) else dsk.__dask_graph__()))
        wanted = set(flatten([keys] if not isinstance(keys, list) else keys))
        graph = _culled(graph, wanted)
        if kwargs.get("fuse", self._fuse) and not annotations:
            graph = _culled(fuse_linear_task_spec(graph, wanted), wanted)
        calls = self.executor.dependent_calls()
        resources = {**self._resources, **(kwargs.get("resources") or {})}
        computation = _Computation(calls, graph, wanted, annotations, resources, kwargs.get("retries", self._retries))
        try:
            computation.run()
            found = {key: computation.result(key) for key in wanted}
        except BaseException as error:  # Ctrl-C too
            calls.cancel(f"the computation of a Dask graph has ended: {type(error).__name__}")
            raise
        return _nested(keys, found)

    get = __call__

    @property
    def executor(self) -> TaskVineExecutor:
        """The executor that runs tasks now.

        Raises
        ------
        parsl.errors.ConfigurationError
            If none was given and none is loaded, or several are.
        """
        if self._executor is not None:
            return self._executor
        return loaded("the Dask graph", "give one: DaskScheduler(TaskVineExecutor())")

    def __enter__(self) -> DaskScheduler:
        with ExitStack() as stack:
            executor = self.executor
            try:
                _ = executor.run
            except ExecutorNotStarted:
                stack.callback(executor.shutdown)
                executor.start()
            stack.enter_context(dask.config.set({"scheduler": self, "dataframe.shuffle.method": "tasks"}))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._open is not None
        self._open.close()


def get(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Compute the results of some keys of a graph on the loaded TaskVineExecutor, as :class:`DaskScheduler` does."""
    return DaskScheduler()(dsk, keys, **kwargs)


class _Computation:
    """One graph: its tasks are submitted in Dask's order, and the wanted ones are awaited.

    Parameters
    ----------
    calls : DependentCalls
        Submits tasks.
    graph : dict
        The graph, culled.
    wanted : set
        The keys whose results are wanted.
    annotations : dict
        The annotations of some keys.
    resources, retries
        Defaults of all tasks.
    """

    def __init__(
        self,
        calls: DependentCalls,
        graph: Graph,
        wanted: set[Hashable],
        annotations: dict[Hashable, dict[str, Any]],
        resources: dict[str, Any],
        retries: int,
    ) -> None:
        self._calls = calls
        self._graph = graph
        self._wanted = wanted
        self._annotations = annotations
        self._resources = resources
        self._retries = retries
        self._readers = Counter(key for node in graph.values() for key in node.dependencies)
        self._callers = Counter(id(node.func) for node in graph.values() if isinstance(node, Task))
        self._values: dict[Hashable, Value] = {}
        self._data: dict[Hashable, Any] = {}
        self._prepared: dict[Hashable, Prepared] = {}
        self._settled: SimpleQueue[tuple[Hashable, Value]] = SimpleQueue()

    def run(self) -> None:
        """Run all tasks; return when the wanted results exist.

        Raises
        ------
        Exception
            The first exception of a task.
        """
        graph = self._graph
        ranks = order(graph)
        with local_callbacks() as callbacks:
            events = _Events(callbacks, graph)
            try:
                events.start()
                awaited = 0
                for key in sorted(graph, key=ranks.__getitem__):
                    value = self._submit(key, graph[key])
                    if value is None:
                        continue
                    self._values[key] = value
                    if key in self._wanted or events.any:
                        awaited += 1
                        events.begun(key)
                        value.when_settled(partial(self._put, key))
                    self._release(graph[key].dependencies)
                for _ in range(awaited):
                    key, value = self._settled.get()
                    if value.error is not None:
                        raise _cause(value.error)
                    events.ended(key)
            except BaseException:
                events.finish(failed=True)
                raise
            events.finish(failed=False)

    def result(self, key: Hashable) -> Any:
        """Return the result of a wanted key, whose task has ended."""
        return self._data[key] if key in self._data else self._values[key].read()

    def _put(self, key: Hashable, value: Value) -> None:
        self._settled.put((key, value))

    def _release(self, keys: Iterable[Hashable]) -> None:
        """Drop the values of keys that no further task of the graph reads. Their readers keep them meanwhile."""
        for key in keys:
            self._readers[key] -= 1
            if not self._readers[key] and key not in self._wanted:
                self._values.pop(key, None)
                self._data.pop(key, None)

    def _submit(self, key: Hashable, node: GraphNode) -> Value | None:
        """Submit a node; return its value, or None if its data is here already."""
        if isinstance(node, DataNode):
            return self._submit_data(key, node.value)
        if isinstance(node, Alias):
            if (value := self._values.get(node.target)) is None:
                self._data[key] = self._data[node.target]
                self._release(node.dependencies)
            return value
        retries = self._annotations.get(key, {}).get("retries", self._retries)
        function, args, kwargs = self._call(node)
        if self._callers[id(function)] > 1:
            return self._calls.submit(self._prepare(key, function), args, kwargs, retries)
        # A function of one task alone is an argument: nothing of it is kept for later tasks.
        return self._calls.submit(self._prepare(key, execution.apply), (function, *args), kwargs, retries)

    def _call(self, node: GraphNode) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return a node as a function and its arguments."""
        if isinstance(node, Task):
            with suppress(_Nested):
                args = tuple(map(self._argument, node.args))
                return node.func, args, {name: self._argument(value) for name, value in node.kwargs.items()}
        return node, ({key: self._found(key) for key in node.dependencies},), {}

    def _submit_data(self, key: Hashable, data: Any) -> Value | None:
        if self._readers[key] > 1 and sizeof(data) >= SHARED_FROM:
            if key in self._wanted:
                self._data[key] = data
            return self._calls.submit(self._prepare(key, execution.apply), (operator.getitem, (data,), 0), {})
        self._data[key] = data
        return None

    def _argument(self, argument: Any) -> Any:
        """Return what stands for an argument of a Dask task in a call.

        Raises
        ------
        _Nested
            If it is a task within the task, which must run on the node.
        """
        if isinstance(argument, TaskRef):
            return self._found(argument.key)
        if not isinstance(argument, GraphNode):
            return argument
        if isinstance(argument, Alias):
            return self._found(argument.target)
        if isinstance(argument, DataNode):
            return argument.value
        container = _CONTAINERS.get(type(argument))
        if container is not None:
            return container(map(self._argument, argument.args))
        if type(argument) is Dict:
            items = list(map(self._argument, argument.args))
            return dict(zip(items[::2], items[1::2], strict=True))
        raise _Nested

    def _found(self, key: Hashable) -> Any:
        value = self._values.get(key)
        return self._data[key] if value is None else value.argument()

    def _prepare(self, key: Hashable, function: Callable[..., Any]) -> Prepared:
        category = _category(key)
        asked = dict(self._resources)
        annotation = self._annotations.get(key)
        if annotation is not None:
            asked.update(annotation.get("resources", {}))
            if "priority" in annotation:
                asked["priority"] = annotation["priority"]
        asked.setdefault("category", category)
        known = (id(function), category, repr(asked))
        prepared = self._prepared.get(known)
        if prepared is None:
            name = category if function is execution.apply else None
            prepared = self._prepared[known] = self._calls.prepare(function, asked, name)
        return prepared


class _Nested(Exception):
    """An argument of a task is a task."""


class _Events:
    """Calls of Dask's callbacks, such as its progress bar. Results that stay on nodes are None for them.

    Parameters
    ----------
    callbacks : iterable of tuple
        The callbacks, as Dask has them.
    graph : dict
        The graph that is computed.
    """

    def __init__(self, callbacks: Iterable[tuple[Any, ...]], graph: Graph) -> None:
        self._callbacks = list(callbacks)
        _, self._start_state, self._pretask, self._posttask, _ = unpack_callbacks(self._callbacks)
        self._started: list[tuple[Any, ...]] = []
        self.any = bool(self._callbacks)
        self._graph = graph
        self._state: dict[str, Any] = {"running": set(), "finished": set(), "ready": [], "waiting": {}, "cache": {}}

    def start(self) -> None:
        """Say that the computation begins."""
        if not self.any:
            return
        for each in self._callbacks:
            if each[0]:
                each[0](self._graph)
            self._started.append(each)
        for key, node in self._graph.items():
            if isinstance(node, DataNode):
                self._state["cache"][key] = node.value
            else:
                self._state["waiting"][key] = set(node.dependencies)
        for start_state in self._start_state:
            start_state(self._graph, self._state)

    def begun(self, key: Hashable) -> None:
        """Say that a task was submitted."""
        self._state["waiting"].pop(key, None)
        self._state["running"].add(key)
        for each in self._pretask:
            each(key, self._graph, self._state)

    def ended(self, key: Hashable) -> None:
        """Say that a task has returned."""
        self._state["running"].discard(key)
        self._state["finished"].add(key)
        for each in self._posttask:
            each(key, None, self._graph, self._state, None)

    def finish(self, *, failed: bool) -> None:
        """Say that the computation has ended, to those who know that it began."""
        for *_, finish in self._started:
            if finish:
                finish(self._graph, self._state, failed)


def _cause(error: BaseException) -> BaseException:
    """Return the exception of the task that failed first."""
    while isinstance(error, PropagatedException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _category(key: Hashable) -> str:
    return str(key_split(key)).encode("utf-8", "replace").decode() or "dask"


def _nested(keys: Any, found: Mapping[Hashable, Any]) -> Any:
    return tuple(_nested(each, found) for each in keys) if isinstance(keys, list) else found[keys]


def _culled(graph: Mapping[Hashable, Any], wanted: Iterable[Hashable]) -> Graph:
    """Return the part of a graph that the wanted keys need.

    Raises
    ------
    KeyError
        If a key is missing.
    """
    culled: Graph = {}
    work = list(wanted)
    while work:
        key = work.pop()
        if key in culled:
            continue
        node = culled[key] = graph[key]
        work.extend(node.dependencies)
    return culled


def _annotations(dsk: Any) -> dict[Hashable, dict[str, Any]]:
    """Return the annotations of a graph that concern us, by key."""
    found: dict[Hashable, dict[str, Any]] = {}
    for name, key, value in _each_annotation(dsk):
        if name in _OWN_ANNOTATIONS:
            found.setdefault(key, {})[name] = value
    return found


def _each_annotation(dsk: Any) -> Iterator[tuple[str, Hashable, Any]]:
    if hasattr(dsk, "__dask_annotations__"):
        for name, by_key in dsk.__dask_annotations__().items():
            for key, value in by_key.items():
                yield name, key, value
        return
    for layer in getattr(dsk, "layers", {}).values():
        for name, value in (layer.annotations or {}).items():
            for key in layer:
                yield name, key, value(key) if callable(value) else value
