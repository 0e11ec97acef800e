"""Who is measured."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from parsl.executors.base import ParslExecutor

from benchmarks.suite import work

Call = Callable[..., Any]
"""Called with a function and its arguments, futures of earlier calls among them; returns a future."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a contender is started with.

    Parameters
    ----------
    cores : int
        Of each node: calls that run at once.
    nodes : int
        How many.
    direct : bool
        Whether calls go to the executor past the DataFlowKernel.
    context : tuple
        A function and its arguments, for the library's context.
    modules : tuple of str
        Modules for the library to import.
    """

    cores: int = 2
    nodes: int = 1
    direct: bool = False
    context: tuple[Any, ...] = ()
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Session:
    """A contender that has been started.

    Parameters
    ----------
    call : callable
        See :data:`Call`.
    executor : object
        Parsl's, if it is one.
    as_completed : callable
        For its futures.
    """

    call: Call
    executor: Any = None
    as_completed: Callable[[list[Any]], Iterable[Any]] = as_completed


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the table.

    Parameters
    ----------
    key : str
        What it is called on the command line.
    title : str
        What it is called in tables.
    open : callable
        Starts it with a :class:`Setting`, and ends it.
    modules : tuple of str
        What it needs; imported before anything is timed.
    programs : tuple of str
        What it needs on the path.
    """

    key: str
    title: str
    open: Callable[[Setting], AbstractContextManager[Session]]
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = field(default=())

    def missing(self) -> str | None:
        """Why it cannot run here, if it cannot."""
        for module in self.modules:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                return f"{module.partition('.')[0]} is not installed"
        for program in self.programs:
            if shutil.which(program) is None:
                return f"{program} is not on the path"
        return None


# --- on Parsl ---


class Finished(ParslExecutor):
    """The ceiling of the DataFlowKernel: its futures are finished when it returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.label = "finished"

    def submit(self, func: Any, resource_specification: dict[str, Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.settle(future, partial(func, *args, **kwargs))
        return future

    def settle(self, future: Future[Any], call: Callable[[], Any]) -> None:
        future.set_result(7)

    def shutdown(self) -> None:
        super().shutdown()


class Inline(Finished):
    """Calls the function there and then."""

    def settle(self, future: Future[Any], call: Callable[[], Any]) -> None:
        future.set_result(call())


class Held(Finished):
    """What the DataFlowKernel itself keeps of tasks that wait: only the first calls are made, the rest at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Future[Any]] = []

    def settle(self, future: Future[Any], call: Callable[[], Any]) -> None:
        self._held.append(future)

    def shutdown(self) -> None:
        for future in self._held:
            future.set_result(7)
        super().shutdown()


def _provider(setting: Setting) -> Any:
    from parsl.providers import LocalProvider

    return LocalProvider(init_blocks=setting.nodes, min_blocks=setting.nodes, max_blocks=setting.nodes)


def _ours(engine: Any, mode: Any, setting: Setting) -> Any:
    from taskvine_exec import TaskVineExecutor

    options: dict[str, Any] = {}
    if setting.context:
        function, *arguments = setting.context
        options["library_config"] = {"context": function, "context_args": tuple(arguments)}
    if setting.modules:
        options.setdefault("library_config", {})["import_modules"] = setting.modules
    return TaskVineExecutor(
        label="taskvine",
        engine=engine,
        function_exec_mode=mode,
        cores=setting.cores,
        provider=_provider(setting),
        **options,
    )


def _threads(setting: Setting) -> Any:
    from parsl.executors import ThreadPoolExecutor

    return ThreadPoolExecutor(max_threads=setting.cores * setting.nodes)


def _htex(setting: Setting) -> Any:
    from parsl.executors import HighThroughputExecutor

    # As parsl/tests/configs/htex_local.py, without encryption and the workers' debugging log.
    return HighThroughputExecutor(
        label="htex",
        encrypted=False,
        cores_per_worker=1,
        max_workers_per_node=setting.cores,
        provider=_provider(setting),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _upstream(mode: Any, setting: Setting) -> Any:
    from parsl.executors.taskvine import TaskVineExecutor, TaskVineFactoryConfig, TaskVineManagerConfig

    library = {"num_slots": setting.cores} if mode == "serverless" else None
    nodes = setting.nodes
    return TaskVineExecutor(
        label="upstream",
        worker_launch_method="factory",
        function_exec_mode=mode,
        # Without a port, its factory asks a catalog server on the network where the manager listens.
        manager_config=TaskVineManagerConfig(
            port=_free_port(), address="127.0.0.1", shared_fs=True, library_config=library
        ),
        factory_config=TaskVineFactoryConfig(
            min_workers=nodes, max_workers=nodes, cores=setting.cores, workers_per_cycle=nodes
        ),
    )


@contextmanager
def _on_parsl(
    make: Callable[[Setting], Any], setting: Setting, *, resolver: bool = False, alone: bool = True
) -> Iterator[Session]:
    """An executor in a DataFlowKernel, or if it can do without and calls are to be direct, alone."""
    import parsl
    from parsl.config import Config

    executor = make(setting)
    if setting.direct and alone:
        executor.start()
        try:
            yield Session(call=partial(_submit, executor), executor=executor)
        finally:
            executor.shutdown()
        return
    options: dict[str, Any] = {}
    if resolver:
        from taskvine_exec import DAG_RESOLVER

        options["dependency_resolver"] = DAG_RESOLVER
    config = Config([executor], strategy="none", initialize_logging=False, run_dir="runinfo", **options)
    apps: dict[Any, Any] = {}

    def call(function: Callable[..., Any], *args: Any) -> Any:
        app = apps.get(function)
        if app is None:
            app = apps[function] = parsl.python_app(function)
        return app(*args)

    with parsl.load(config):
        yield Session(call=partial(_submit, executor) if setting.direct else call, executor=executor)


def _submit(executor: Any, function: Callable[..., Any], *args: Any) -> Any:
    return executor.submit(function, {}, *args)


# --- others ---


@contextmanager
def _dask(setting: Setting) -> Iterator[Session]:
    import distributed

    cluster_class: Any = distributed.LocalCluster
    client_class: Any = distributed.Client

    workers = setting.cores * setting.nodes
    with (
        cluster_class(n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        client_class(cluster) as client,
    ):
        yield Session(call=partial(client.submit, pure=False), as_completed=distributed.as_completed)


@contextmanager
def _pool(setting: Setting) -> Iterator[Session]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Spawned, as whatever else is started here: forking a process with threads is no choice that a user has for long.
    with ProcessPoolExecutor(setting.cores * setting.nodes, multiprocessing.get_context("spawn")) as pool:
        yield Session(call=pool.submit)


@contextmanager
def _executorlib(setting: Setting) -> Iterator[Session]:
    from executorlib import SingleNodeExecutor

    with contextlib.redirect_stdout(None):
        executor = SingleNodeExecutor(max_workers=setting.cores * setting.nodes, block_allocation=True)
    with executor:
        yield Session(call=executor.submit)


def _contender(key: str, title: str, open: Any, *modules: str, programs: tuple[str, ...] = ()) -> Contender:
    return Contender(key=key, title=title, open=open, modules=modules, programs=programs)


def _own() -> Iterator[Contender]:
    for name, engine, modules, programs in (
        ("ours", "embedded", (), ()),
        ("vine", "taskvine", ("ndcctools",), ("vine_worker",)),
    ):
        for mode in ("L2", "L1"):
            for resolver in (False, True):
                key = name + ("" if mode == "L2" else "-L1") + ("-dag" if resolver else "")
                title = f"TaskVineExecutor, {engine}, {mode}" + (", DAG_RESOLVER" if resolver else "")
                make = partial(_on_parsl, partial(_ours, engine, mode), resolver=resolver)
                yield _contender(key, title, make, "parsl", "taskvine_exec.executor", *modules, programs=programs)


_VINE = ("vine_worker", "vine_factory")

CONTENDERS: dict[str, Contender] = {
    contender.key: contender
    for contender in (
        _contender("null", "finished futures", partial(_on_parsl, lambda _: Finished()), "parsl"),
        _contender("inline", "in the same process", partial(_on_parsl, lambda _: Inline()), "parsl"),
        _contender("held", "futures that do not finish", partial(_on_parsl, lambda _: Held()), "parsl"),
        _contender("threads", "ThreadPoolExecutor", partial(_on_parsl, _threads), "parsl.executors.threads"),
        *_own(),
        _contender(
            "htex", "HighThroughputExecutor", partial(_on_parsl, _htex, alone=False), "parsl.executors.high_throughput"
        ),
        _contender(
            "upstream",
            "parsl's TaskVineExecutor, serverless",
            partial(_on_parsl, partial(_upstream, "serverless"), alone=False),
            "parsl.executors.taskvine",
            "ndcctools",
            programs=_VINE,
        ),
        _contender(
            "upstream-regular",
            "parsl's TaskVineExecutor, regular",
            partial(_on_parsl, partial(_upstream, "regular"), alone=False),
            "parsl.executors.taskvine",
            "ndcctools",
            programs=_VINE,
        ),
        _contender("dask", "dask.distributed", _dask, "distributed"),
        _contender("executorlib", "executorlib", _executorlib, "executorlib"),
        _contender("pool", "ProcessPoolExecutor", _pool, "concurrent.futures.process"),
    )
}
"""The table, by key."""


def warm_up(session: Session, calls: int) -> None:
    """Have every worker run something."""
    for future in [session.call(work.noop, "") for _ in range(calls)]:
        future.result()
