"""The executors that are measured."""

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
"""Takes a function and its arguments, which may include futures of earlier calls; returns a future."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The setting with which a contender is started.

    Parameters
    ----------
    cores : int
        Cores of each node, which run one call each at a time.
    nodes : int
        Number of nodes.
    direct : bool
        Whether calls bypass the DataFlowKernel.
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
        Parsl's executor, if there is one.
    as_completed : callable
        Yields its futures as they complete.
    share : callable
        Sends a large argument of several calls ahead, if the user must do that, and returns what stands for it.
    """

    call: Call
    executor: Any = None
    as_completed: Callable[[list[Any]], Iterable[Any]] = as_completed
    share: Callable[[Any], Any] = lambda data: data


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One contender of the table.

    Parameters
    ----------
    key : str
        Name on the command line.
    title : str
        Name in tables.
    open : callable
        Takes a :class:`Setting`; returns a context manager that starts and ends the contender.
    modules : tuple of str
        Required modules, which are imported before anything is timed.
    programs : tuple of str
        Programs that must be on the path.
    """

    key: str
    title: str
    open: Callable[[Setting], AbstractContextManager[Session]]
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = field(default=())

    def missing(self) -> str | None:
        """Return the reason why it cannot run here, or None."""
        for module in self.modules:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                return f"{module.partition('.')[0]} is not installed"
        for program in self.programs:
            if shutil.which(program) is None:
                return f"{program} is not on the path"
        return None


# --- on Parsl ---


class Finished(ParslExecutor):
    """An executor whose futures are finished at once: the upper limit of the DataFlowKernel's rate."""

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
    """An executor that calls functions at submission."""

    def settle(self, future: Future[Any], call: Callable[[], Any]) -> None:
        future.set_result(call())


class Held(Finished):
    """An executor whose futures finish only at shutdown, to measure what the DataFlowKernel keeps of waiting tasks."""

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

    # Like parsl/tests/configs/htex_local.py, but without encryption and the workers' debugging log.
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
        # Without a port, its factory asks a catalog server on the network for the manager's address.
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
    """Run an executor in a DataFlowKernel; without one, if calls are direct and the executor can run alone."""
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
        yield Session(
            call=partial(client.submit, pure=False), as_completed=distributed.as_completed, share=client.scatter
        )


@contextmanager
def _pool(setting: Setting) -> Iterator[Session]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Spawned, like all other contenders: Python deprecates forking a process that has threads.
    with ProcessPoolExecutor(setting.cores * setting.nodes, multiprocessing.get_context("spawn")) as pool:
        yield Session(call=pool.submit)


@contextmanager
def _executorlib(setting: Setting) -> Iterator[Session]:
    from executorlib import SingleNodeExecutor

    with contextlib.redirect_stdout(None):
        executor = SingleNodeExecutor(max_workers=setting.cores * setting.nodes, block_allocation=True)
    with executor:
        yield Session(call=executor.submit)


class _Ray:
    """Futures and remote functions of Ray as the cases use them."""

    def __init__(self, module: Any) -> None:
        self._ray = module
        self._remote: dict[Any, Any] = {}

    def call(self, function: Callable[..., Any], *args: Any) -> _RayFuture:
        if function not in self._remote:
            self._remote[function] = self._ray.remote(function)
        own = (arg.reference if isinstance(arg, _RayFuture) else arg for arg in args)
        return _RayFuture(self._ray, self._remote[function].remote(*own))


@dataclass(frozen=True, eq=False)
class _RayFuture:
    ray: Any
    reference: Any

    def result(self, timeout: float | None = None) -> Any:
        return self.ray.get(self.reference, timeout=timeout)


@contextmanager
def _ray(setting: Setting) -> Iterator[Session]:
    ray = importlib.import_module("ray")
    ray.init(
        address="local",
        num_cpus=setting.cores * setting.nodes,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
    )
    try:
        yield Session(call=_Ray(ray).call, as_completed=iter)
    finally:
        ray.shutdown()


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
        _contender("ray", "Ray", _ray, "ray"),
        _contender("executorlib", "executorlib", _executorlib, "executorlib"),
        _contender("pool", "ProcessPoolExecutor", _pool, "concurrent.futures.process"),
    )
}
"""The table, by key."""


def warm_up(session: Session, calls: int) -> None:
    """Run no-op calls, so that every worker has run something."""
    for future in [session.call(work.noop, "") for _ in range(calls)]:
        future.result()
