"""Dask graphs on the executor: equal results, data that stays on nodes, losses, errors and interruptions."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import psutil
import pytest
from parsl.concurrent import ParslPoolExecutor
from parsl.config import Config
from parsl.errors import ConfigurationError
from parsl.executors.errors import InvalidResourceSpecification

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import FunctionNotSerializable, TaskCancelled
from taskvine_exec.values import Value
from tests.conftest import Gate, eventually

dask = pytest.importorskip("dask", minversion="2025.1")
da = pytest.importorskip("dask.array")

from dask.callbacks import Callback  # noqa: E402

from taskvine_exec.clients.dask import DaskScheduler, get  # noqa: E402

embedded_only = pytest.mark.parametrize("engine", ["embedded"], indirect=True)


@pytest.fixture
def make(engine: str, run_dir: str) -> Iterator[Callable[..., TaskVineExecutor]]:
    """Start executors; they are shut down after the test."""
    made: list[TaskVineExecutor] = []

    def start(**settings: Any) -> TaskVineExecutor:
        executor = TaskVineExecutor(engine=engine, label=f"dask{len(made)}", **{"cores": 2, **settings})
        executor.run_dir = run_dir
        made.append(executor)
        executor.start()
        return executor

    yield start
    for executor in made:
        executor.shutdown()


@pytest.fixture
def executor(make: Callable[..., TaskVineExecutor]) -> TaskVineExecutor:
    """An executor with one node."""
    return make()


@pytest.fixture
def scheduler(executor: TaskVineExecutor) -> Iterator[DaskScheduler]:
    """Dask's default scheduler, during the test."""
    with DaskScheduler(executor) as scheduler:
        yield scheduler


def inc(x: int) -> int:
    return x + 1


def add(x: Any, y: Any) -> Any:
    return x + y


def large(fill: float) -> Any:
    return np.full(500_000, float(fill))


# --- equal results ---


def test_keys_may_be_nested_and_graphs_of_any_form(scheduler: DaskScheduler) -> None:
    graph = {"x": 1, "y": (inc, "x"), "alias": "y", "list": ["x", "y", 5], ("z", 0): (add, (inc, "alias"), 10)}
    assert scheduler(graph, [["y", "x"], ("z", 0), "alias"]) == ((2, 1), 13, 2)
    assert scheduler(graph, "list") == [1, 2, 5]
    assert scheduler(graph, []) == ()
    assert scheduler.get({"x": {"data": 1}}, "x") == {"data": 1}
    with pytest.raises(KeyError, match="missing"):
        scheduler(graph, ["missing"])


def test_delayed_containers_and_keywords(scheduler: DaskScheduler) -> None:
    def call(items: list[int], *, table: dict[str, int], retries: int, prepared: int) -> tuple[Any, ...]:
        return sorted(items), table, retries, prepared

    one, two = dask.delayed(inc)(0), dask.delayed(inc)(1)
    made = dask.delayed(call)([one, (two,)][:1], table={"two": two}, retries=one, prepared=two)
    assert made.compute() == ([1], {"two": 2}, 1, 2)
    assert dask.compute({"a": one, "b": [two, {two}]}) == ({"a": 1, "b": [2, {2}]},)


def test_a_tree_of_delayed_functions(scheduler: DaskScheduler, executor: TaskVineExecutor) -> None:
    level = [dask.delayed(inc)(number) for number in range(32)]
    while len(level) > 1:
        level = [dask.delayed(add)(*pair) for pair in zip(level[::2], level[1::2], strict=True)]
    assert level[0].compute() == sum(range(1, 33))
    assert executor.stats()["tasks_done"] == 63


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "reductions": lambda x: da.stack([x.std(), x.max(), (x @ x.T).sum()]),
    "rechunk": lambda x: x.rechunk((20, 100)).cumsum(axis=1),
    "stencil": lambda x: x.map_overlap(lambda block: np.roll(block, 1, 0) + block, depth=1, boundary="periodic"),
    "svd": lambda x: da.linalg.svd(x.rechunk((50, 100)))[1],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(scheduler: DaskScheduler, name: str) -> None:
    made = ARRAYS[name](da.random.default_rng(1).normal(size=(100, 100), chunks=50))
    np.testing.assert_allclose(made.compute(), made.compute(scheduler="threads"))


def test_dataframes(scheduler: DaskScheduler) -> None:
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame({"key": [number % 5 for number in range(60)], "value": np.arange(60.0)})
    table = dd.from_pandas(frame, npartitions=4)
    means = table.groupby("key").value.mean().compute().sort_index()
    pd.testing.assert_series_equal(means, frame.groupby("key").value.mean())
    shuffled = table.shuffle("key", npartitions=3).map_partitions(len).compute()
    assert sum(shuffled) == 60
    assert set(shuffled) <= {0, 12, 24, 36, 48, 60}
    joined = table.merge(table.groupby("key").value.max().to_frame("most").reset_index(), on="key").compute()
    assert (joined.most >= joined.value).all()


def test_a_climatology_of_xarray(scheduler: DaskScheduler) -> None:
    xr = pytest.importorskip("xarray")
    pd = pytest.importorskip("pandas")
    time = pd.date_range("2001-01-01", periods=730)
    values = da.random.default_rng(3).normal(size=(730, 4, 6), chunks=(100, 2, 6))
    field = xr.DataArray(values, dims=("time", "lat", "lon"), coords={"time": time})
    months = field.groupby("time.month")
    anomaly = (months - months.mean("time")).std(("lat", "lon"))
    xr.testing.assert_allclose(anomaly.compute(), anomaly.compute(scheduler="threads"))


@pytest.mark.parametrize("fuse", [True, False])
def test_chains_become_one_task(executor: TaskVineExecutor, fuse: bool) -> None:
    last = dask.delayed(inc)(0)
    for _ in range(9):
        last = dask.delayed(inc)(last)
    assert last.compute(scheduler=DaskScheduler(executor, fuse=fuse)) == 10
    assert executor.stats()["tasks_done"] == (1 if fuse else 10)


def test_many_threads_compute_at_once(scheduler: DaskScheduler) -> None:
    with ThreadPoolExecutor(8) as pool:
        totals = [pool.submit(dask.delayed(sum)([dask.delayed(inc)(n), n]).compute) for n in range(16)]
        assert [each.result(60) for each in totals] == [2 * n + 1 for n in range(16)]


# --- data ---


def test_only_wanted_results_come_home(
    scheduler: DaskScheduler, executor: TaskVineExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = Value.load

    def counted(value: Value, timeout: float | None = None) -> Any:
        loaded.append(value.number)
        return load(value, timeout)

    monkeypatch.setattr(Value, "load", counted)
    level = [dask.delayed(large)(number) for number in range(8)]
    while len(level) > 1:
        level = [dask.delayed(add)(*pair) for pair in zip(level[::2], level[1::2], strict=True)]
    total = level[0].compute()
    assert set(total) == {28.0}
    assert len(loaded) == 1
    eventually(lambda: executor.stats()["bytes_stored"] == 0)


def test_intermediate_results_are_released_while_the_graph_runs(executor: TaskVineExecutor) -> None:
    last = dask.delayed(large)(0)
    for _ in range(20):
        last = dask.delayed(add)(last, 1)
    total = dask.delayed(sum)([last[:3]]).compute(scheduler=DaskScheduler(executor, fuse=False))
    assert list(total) == [20.0] * 3
    assert executor.stats()["bytes_stored_at_most"] < 10 * 4_000_000


def test_data_of_several_tasks_is_stored_once(scheduler: DaskScheduler, executor: TaskVineExecutor) -> None:
    data = np.arange(1_000_000.0)
    graph: dict[Any, Any] = {"data": data, **{("sum", n): (add, "data", n) for n in range(4)}}
    graph["last"] = (lambda *arrays: [float(each[-1]) for each in arrays], *[("sum", n) for n in range(4)])
    assert scheduler(graph, "last") == [999_999.0, 1_000_000.0, 1_000_001.0, 1_000_002.0]
    assert executor.stats()["tasks_done"] == 6
    assert scheduler(graph, "data") is data


def test_results_outlive_the_executor(executor: TaskVineExecutor) -> None:
    found = dask.delayed(large)(7).compute(scheduler=DaskScheduler(executor))
    executor.shutdown()
    assert set(found) == {7.0}


def test_a_killed_node_costs_no_results(make: Callable[..., TaskVineExecutor], gate: Gate) -> None:
    executor = make(cores=1, worker_launch_method="factory", min_workers=2, max_workers=2)
    assert executor.wait_for_nodes(2, 60)
    hold = gate.task

    def held(data: Any, name: int) -> Any:
        hold(name)
        return data[:3] + name

    parts = [dask.delayed(held)(dask.delayed(large)(n), n) for n in range(4)]
    total = dask.delayed(lambda parts: [float(each.sum()) for each in parts])(parts)
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(total.compute, scheduler=DaskScheduler(executor, fuse=False))
        gate.wait(2)
        os.kill(executor.nodes[0]["pid"], signal.SIGKILL)
        gate.open()
        assert computing.result(90) == [0.0, 6.0, 12.0, 18.0]
    stats = executor.stats()
    assert stats["tasks_retried"] + stats["tasks_recovered"] > 0


@embedded_only
def test_the_users_process_stays_small(scheduler: DaskScheduler) -> None:
    dask.delayed(large)(0).compute()
    stop, most = threading.Event(), [0]
    process = psutil.Process()
    before = process.memory_info().rss

    def watch() -> None:
        while not stop.wait(0.005):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    x = da.ones((40_000, 1000), chunks=(2000, 1000))  # 320 MB
    assert (x + 1).sum(axis=0).compute().sum() == 80_000_000
    stop.set()
    watcher.join()
    assert most[0] - before < 100e6


# --- errors ---


def test_the_first_exception_is_raised_and_the_rest_is_cancelled(
    scheduler: DaskScheduler, executor: TaskVineExecutor, gate: Gate
) -> None:
    def fails(name: str) -> None:
        raise ZeroDivisionError(name)

    # One of the two slots is left to the task that fails.
    waits = dask.delayed(inc)(dask.delayed(gate.task)("waits"))
    with pytest.raises(ZeroDivisionError, match="it") as caught:
        dask.compute(dask.delayed(inc)(dask.delayed(fails)("it")), waits)
    assert caught.traceback[-1].name == "fails"
    eventually(lambda: not executor.outstanding())
    gate.open()
    assert dask.delayed(inc)(1).compute() == 2


def test_functions_that_cannot_be_sent_are_named(scheduler: DaskScheduler, executor: TaskVineExecutor) -> None:
    rows = iter(x for x in range(3))  # a generator

    def reads_on(x: int) -> int:
        return x + next(rows)

    with pytest.raises(FunctionNotSerializable, match="reads_on"):
        scheduler({"a": (reads_on, 1), "b": (reads_on, 2)}, ["a", "b"])
    eventually(lambda: not executor.outstanding())


def test_ctrl_c_cancels_all_tasks(scheduler: DaskScheduler, executor: TaskVineExecutor, gate: Gate) -> None:
    def interrupt() -> None:
        gate.wait(2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        dask.compute([dask.delayed(gate.task)(number) for number in range(8)])
    thread.join()
    eventually(lambda: not executor.outstanding())
    gate.open()
    assert dask.delayed(inc)(1).compute() == 2


def test_the_end_of_the_executor_ends_the_computation(
    scheduler: DaskScheduler, executor: TaskVineExecutor, gate: Gate
) -> None:
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(dask.delayed(gate.task)("one").compute)
        gate.wait(1)
        executor.shutdown()
        with pytest.raises(TaskCancelled):
            computing.result(30)


# --- annotations ---


def test_resources_of_annotations_choose_the_mode(scheduler: DaskScheduler) -> None:
    def pid(number: int) -> int:
        return os.getpid()

    with dask.annotate(resources={"function_exec_mode": "L1"}):
        fresh = [dask.delayed(pid)(number) for number in range(4)]
    warm = [dask.delayed(pid)(number) for number in range(8)]
    assert len(set(dask.compute(*fresh))) == 4
    assert len(set(dask.compute(*warm))) <= 2
    assert len(set(dask.compute(*warm, resources={"function_exec_mode": "L1"}))) == 8
    with dask.annotate(resources={"GPU": 1}), pytest.raises(InvalidResourceSpecification, match="gpus"):
        dask.delayed(inc)(1).compute()


def test_failed_tasks_are_retried(scheduler: DaskScheduler, tmp_path: Path) -> None:
    def fails_twice(name: str) -> Any:
        for attempt in range(2):
            try:
                os.close(os.open(tmp_path / f"{name}.{attempt}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            raise OSError(f"attempt {attempt}")
        return np.full(100_000, 2.0)

    with pytest.raises(OSError, match="attempt 1"):
        dask.delayed(add)(dask.delayed(fails_twice)("a"), 1).compute(retries=1)
    with dask.annotate(retries=2):
        array = dask.delayed(fails_twice)("b")
    assert dask.delayed(add)(array, 1).compute(optimize_graph=False)[-1] == 3.0


def test_categories_are_the_prefixes_of_keys(scheduler: DaskScheduler, executor: TaskVineExecutor) -> None:
    dask.compute(*[dask.delayed(inc)(number) for number in range(3)])
    found = {data["category"] for _, data in executor.graph().nodes(data=True) if "category" in data}
    assert found == {"inc"}


def test_callbacks_see_each_task(scheduler: DaskScheduler) -> None:
    seen: dict[str, list[Any]] = {"start": [], "begun": [], "ended": [], "finish": []}
    with Callback(
        start=lambda graph: seen["start"].append(len(graph)),
        pretask=lambda key, *_: seen["begun"].append(key),
        posttask=lambda key, *_: seen["ended"].append(key),
        finish=lambda graph, state, failed: seen["finish"].append((len(state["finished"]), failed)),
    ):
        assert scheduler({"x": 1, "y": (inc, "x"), "z": (add, "y", "y")}, "z", fuse=False) == 4
        with pytest.raises(TypeError):
            scheduler({"bad": (inc, None)}, "bad")
    assert seen["begun"] == ["y", "z", "bad"]
    assert seen["ended"] == ["y", "z"]
    assert seen["finish"] == [(2, False), (0, True)]


# --- executors ---


def test_the_loaded_executor_is_found(engine: str, run_dir: str) -> None:
    config = Config(executors=[TaskVineExecutor(engine=engine, cores=1)], run_dir=run_dir, strategy="none")
    with parsl.load(config), dask.config.set(scheduler=get):
        assert da.ones(10, chunks=5).sum().compute() == 10
        with DaskScheduler():
            assert dask.delayed(inc)(1).compute() == 2
        assert dask.delayed(inc)(1).compute() == 2


@embedded_only
def test_no_executor_or_several_is_an_error(engine: str, run_dir: str) -> None:
    with pytest.raises(ConfigurationError, match="no TaskVineExecutor is loaded"):
        dask.delayed(inc)(1).compute(scheduler=get)
    two = [TaskVineExecutor(engine=engine, label=name, cores=1) for name in ("left", "right")]
    with (
        parsl.load(Config(executors=two, run_dir=run_dir, strategy="none")),
        pytest.raises(ConfigurationError, match="left, right"),
    ):
        dask.delayed(inc)(1).compute(scheduler=get)


@embedded_only
def test_an_executor_of_its_own_ends_with_the_block(engine: str) -> None:
    executor = TaskVineExecutor(engine=engine, cores=1)
    with DaskScheduler(executor):
        assert dask.delayed(inc)(1).compute() == 2
        process = executor.run.manager.pid
    assert not psutil.pid_exists(process)
    assert dask.config.get("scheduler", None) is None


def test_parsls_pool_is_a_scheduler_too(engine: str, run_dir: str) -> None:
    config = Config(executors=[TaskVineExecutor(engine=engine, cores=1)], run_dir=run_dir, strategy="none")
    with ParslPoolExecutor(config) as pool:
        assert da.ones(10, chunks=5).sum().compute(scheduler=pool) == 10
