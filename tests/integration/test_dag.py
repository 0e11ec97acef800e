"""DAG_RESOLVER: which dependencies become edges at the manager, and which ones Parsl waits for."""

from __future__ import annotations

import gc
import tempfile
import threading
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import parsl
import pytest
from parsl.concurrent import ParslPoolExecutor
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.errors import DependencyError
from parsl.executors import ThreadPoolExecutor
from parsl.providers import LocalProvider

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.errors import ArgumentNotSerializable
from tests.conftest import Gate, eventually, settle

LARGE = 100_000  # doubles: far more than fits a message
Load = Callable[..., DataFlowKernel]


@pytest.fixture
def dag(load: Load, engine: str) -> TaskVineExecutor:
    """An executor under a DFK with the resolver."""
    dfk = load([TaskVineExecutor(label="tv", cores=2, engine=engine)], dependency_resolver=DAG_RESOLVER)
    executor = dfk.executors["tv"]
    assert isinstance(executor, TaskVineExecutor)
    return executor


@parsl.python_app
def increment(x: Any) -> Any:
    return x + 1


@parsl.python_app
def make(count: int, fill: float = 1.0) -> Any:
    import numpy as np

    return np.full(count, fill)


@parsl.python_app
def add(a: Any, b: Any) -> Any:
    a += b  # writable and private
    return a


@parsl.python_app
def wait_for(path: str) -> int:
    import time
    from pathlib import Path

    while not Path(path).exists():
        time.sleep(0.005)
    return 1


@parsl.python_app
def fail(reason: str) -> None:
    raise ValueError(reason)


@parsl.python_app
def total(thing: Any) -> float:
    def walk(item: Any) -> float:
        if isinstance(item, dict):
            return sum(walk(value) for value in item.values())
        if isinstance(item, (list, tuple, set)):
            return sum(walk(value) for value in item)
        return float(np_sum(item))

    from numpy import sum as np_sum

    return walk(thing)


def test_consumers_are_submitted_before_producers_are_done(dag: TaskVineExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    future = wait_for(str(gate))
    for _ in range(5):
        future = increment(future)
    assert settle(lambda: dag.stats()["tasks_waiting"] != 5) is False
    eventually(lambda: dag.outstanding() == 1)  # the manager reports the number of waiting tasks in another message
    gate.touch()
    assert future.result(30) == 6


@pytest.mark.parametrize("count", [1, LARGE])
def test_edges_are_found_at_any_depth(dag: TaskVineExecutor, count: int) -> None:
    parts = [make(count, float(number)) for number in range(5)]
    nested = [parts[0], (parts[1], [parts[2]]), {"a": {"b": [parts[3]]}, "c": parts[4]}]
    assert total(nested).result(30) == 10.0 * count


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass
class Box:
    content: Any
    label: str = ""


@pytest.mark.parametrize("count", [1, LARGE])
@pytest.mark.parametrize("pending", [True, False])
def test_edges_are_found_in_subclasses_and_dataclasses(
    dag: TaskVineExecutor, gate: Gate, count: int, pending: bool
) -> None:
    held = parsl.python_app(gate.task)
    parts = [make(count, float(number)) for number in range(5)]
    if pending:  # so that the futures become edges before their results exist
        first = held()
        parts.append(parsl.python_app(lambda array, _: array)(parts[0], first))
    else:
        parts.append(parts[0])
        for part in parts:
            part.result(30)
    counted: defaultdict[str, Any] = defaultdict(list, k=parts[1])
    argument = [OrderedDict(b=parts[2], a=counted), Pair(parts[3], [parts[4]]), Box({"k": parts[5]}, "x")]

    @parsl.python_app
    def look(argument: Any) -> Any:
        ordered, pair, box = argument
        kinds = [type(each).__name__ for each in (ordered, ordered["a"], pair, box)]
        values = [ordered["b"], ordered["a"]["k"], pair.first, pair.second[0], box.content["k"]]
        return kinds, list(ordered), ordered["a"]["new"], box.label, [float(value.sum()) for value in values]

    future = look(argument)
    gate.open()
    kinds, order, new, label, sums = future.result(60)
    assert kinds == ["OrderedDict", "defaultdict", "Pair", "Box"]
    assert (order, new, label) == (["b", "a"], [], "x")
    assert sums == [2.0 * count, 1.0 * count, 3.0 * count, 4.0 * count, 0.0]


@pytest.mark.parametrize("resolver", [DAG_RESOLVER, None])
def test_argument_with_cycles_and_no_future_works(load: Load, resolver: Any) -> None:
    load(dependency_resolver=resolver)
    tree: dict[str, Any] = {"name": "root", "children": []}
    tree["children"].append({"name": "leaf", "parent": tree})
    name = parsl.python_app(lambda node, _: node["children"][0]["parent"]["children"][0]["name"])
    assert name(tree, increment(1)).result(60) == "leaf"


def test_cycle_that_contains_a_future_is_refused(dag: TaskVineExecutor) -> None:
    looped: list[Any] = [increment(1)]
    looped.append(looped)
    with pytest.raises(ValueError, match="a future inside a list that contains itself"):
        total(looped)
    assert increment(1).result(60) == 2
    parsl.dfk().wait_for_current_tasks()


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.mark.parametrize("resolver", [DAG_RESOLVER, None])
def test_future_left_in_an_argument_is_located(load: Load, resolver: Any) -> None:
    load(dependency_resolver=resolver)
    kept = increment(1)
    app = parsl.python_app(lambda *args, **kwargs: 1)
    error = app(1, {"k": Holder([kept])}).exception(60)
    assert isinstance(error, ArgumentNotSerializable)
    assert "args[1]['k'].value[0] is a future that was not replaced" in str(error)
    assert "x.value is a future" in str(app(x=Holder(kept)).exception(60))
    for done_or_not in (kept, increment(increment(1))):
        assert "args[0].value is a future" in str(app(Holder(done_or_not)).exception(60))


def test_sum_tree_of_large_arrays(dag: TaskVineExecutor) -> None:
    level = [make(LARGE, float(number)) for number in range(8)]
    leaves = list(level)
    while len(level) > 1:
        level = [add(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
    assert np.array_equal(level[0].result(30), np.full(LARGE, 28.0))
    # The sums were computed in place, on private copies of their inputs.
    assert [leaf.result(30)[0] for leaf in leaves] == [float(number) for number in range(8)]


def test_result_requested_before_the_launch(dag: TaskVineExecutor) -> None:
    for _ in range(20):
        assert isinstance(make(LARGE).result(30), np.ndarray)


def test_every_call_of_result_returns_the_same_object(dag: TaskVineExecutor) -> None:
    future = make(LARGE)
    assert future.result(30) is future.result(30)


def test_failure_fails_each_consumer_once(dag: TaskVineExecutor) -> None:
    broken = fail("on purpose")
    plain, nested = increment(broken), total([1, {"deep": broken}])
    grandchild = increment(plain)
    for future, parent in ((plain, broken), (nested, broken)):
        error = future.exception(30)
        assert isinstance(error, DependencyError)
        ((cause, task),) = error.dependent_exceptions_tids
        assert isinstance(cause, ValueError)
        assert task == f"task {parent.tid}"
        assert error.task_id == future.tid
    assert isinstance(grandchild.exception(30), DependencyError)


def test_retry_of_the_parent_saves_its_consumers(load: Load, tmp_path: Path) -> None:
    load(dependency_resolver=DAG_RESOLVER, retries=2)

    @parsl.python_app
    def second_time_lucky(marker: str) -> int:
        from pathlib import Path

        if not Path(marker).exists():
            Path(marker).touch()
            raise RuntimeError("first time")
        return 41

    assert increment(second_time_lucky(str(tmp_path / "marker"))).result(30) == 42


def test_consumers_on_other_executors_get_values(run_dir: str, load: Load) -> None:
    load(
        [
            TaskVineExecutor(label="tv", cores=1),
            TaskVineExecutor(label="other", cores=1),
            ThreadPoolExecutor(label="threads", max_threads=1),
        ],
        dependency_resolver=DAG_RESOLVER,
    )
    here = {
        label: (parsl.python_app(executors=[label])(_fill), parsl.python_app(executors=[label])(_sum))
        for label in ("tv", "other", "threads")
    }
    for source, _ in here.values():
        for _, sink in here.values():
            made = source(LARGE)
            assert sink([made, {"again": made}]).result(30) == 2.0 * LARGE
            assert sink([made[0]]).result(30) == 1.0


def _fill(count: int) -> Any:
    import numpy as np

    return np.ones(count)


def _sum(things: list[Any]) -> float:
    return float(sum((thing["again"] if isinstance(thing, dict) else thing).sum() for thing in things))


def test_join_apps_and_lifted_access_work(dag: TaskVineExecutor) -> None:
    @parsl.join_app
    def double(future: Any) -> Any:
        return add(make(LARGE), make(LARGE))

    @parsl.python_app
    def table() -> dict[str, Any]:
        import numpy as np

        return {"array": np.arange(100_000)}

    assert increment(double(make(LARGE)))[3].result(30) == 3.0
    assert table()["array"][7].result(30) == 7
    assert make(LARGE).shape.result(30) == (LARGE,)


def test_memoization_sees_values(dag: TaskVineExecutor) -> None:
    text = parsl.python_app(cache=True)(_text)
    assert text(LARGE).result(30) == "x" * LARGE
    second = text(LARGE)
    assert second.result(30) == "x" * LARGE
    assert second.task_record["from_memo"]

    @parsl.python_app(cache=True)
    def size(text: str) -> int:
        return len(text)

    assert size(parsl.python_app(_text)(LARGE)).result(30) == LARGE
    again = size(parsl.python_app(_text)(LARGE))
    assert again.result(30) == LARGE
    assert again.task_record["from_memo"]
    assert size(text(LARGE)).result(30) == LARGE


def _text(count: int) -> str:
    return "x" * count


def test_chain_keeps_neither_files_nor_task_records(dag: TaskVineExecutor) -> None:
    class Marker(list[int]):
        """A weakly referable argument that shows whose task record is alive."""

    markers = []
    future = make(LARGE)
    for _ in range(50):
        marker = Marker()
        markers.append(weakref.ref(marker))
        future = parsl.python_app(_add_one)(future, marker)
        del marker
    assert future.result(60)[0] == 51.0
    gc.collect()
    assert settle(lambda: len(dag.stats()["replicas"]) > 3) is False
    assert settle(lambda: (gc.collect() and None) or sum(ref() is not None for ref in markers) > 3) is False


def _plus_one(x: int) -> int:
    return x + 1


def _add_one(array: Any, marker: Any) -> Any:
    return array + 1.0


def test_dropping_a_future_removes_its_file(dag: TaskVineExecutor) -> None:
    future = make(LARGE)
    future.result(30)
    assert len(dag.stats()["replicas"]) == 1
    del future
    gc.collect()
    assert settle(lambda: len(dag.stats()["replicas"])) == 0


def test_references_of_tasks_are_freed_without_a_collection(dag: TaskVineExecutor) -> None:
    held = make(LARGE)
    gc.disable()
    try:
        last = make(LARGE)
        for _ in range(20):
            last = add(last, held)
        last.result()
        eventually(lambda: len(dag.stats()["replicas"]) == 2)
        assert held.task_record["app_fu"] is held
        assert (held.result() == 1.0).all()
    finally:
        gc.enable()


def test_without_edges_small_results_are_not_kept(dag: TaskVineExecutor) -> None:
    futures = [increment(number) for number in range(200)]
    assert [future.result(30) for future in futures] == list(range(1, 201))
    assert dag.stats()["replicas"] == {}


def test_held_future_keeps_no_inputs(dag: TaskVineExecutor) -> None:
    last = add(make(LARGE, 1.0), make(LARGE, 2.0))
    assert last.result(30)[0] == 3.0
    eventually(lambda: gc.collect() >= 0 and list(dag.stats()["replicas"]) == [f"result-{last.tid}"])


def test_values_cross_nodes(load: Load) -> None:
    provider = LocalProvider(init_blocks=2, min_blocks=2, max_blocks=2)
    dfk = load([TaskVineExecutor(label="tv", cores=1, provider=provider)], dependency_resolver=DAG_RESOLVER)
    executor = dfk.executors["tv"]
    assert executor.wait_for_nodes(2, 30)
    parts = [make(LARGE, float(number)) for number in range(8)]
    assert total(parts).result(30) == 28.0 * LARGE
    assert total([total(parts), increment(parts[1])]).result(30) == 30.0 * LARGE


def test_calls_wait_on_their_node_for_transfers(load: Load) -> None:
    """The tasks are sent to the node one after the other, while the file is fetched for the first one."""
    provider = LocalProvider(init_blocks=2, max_blocks=2)
    load([TaskVineExecutor(label="tv", cores=2, provider=provider)], dependency_resolver=DAG_RESOLVER)
    executor = parsl.dfk().executors["tv"]
    assert executor.wait_for_nodes(2, 30)

    @parsl.python_app
    def total(array: Any, directory: str) -> tuple[str, float]:
        import os
        import time
        from pathlib import Path

        Path(directory, str(os.getpid())).touch()
        while len(os.listdir(directory)) < 4:  # two on each node
            time.sleep(0.005)
        return os.environ["PARSL_WORKER_BLOCK_ID"], float(array.sum())

    with tempfile.TemporaryDirectory() as directory:
        array = make(16 << 20)  # 128 MB
        assert array.exception() is None
        futures = []
        for number in range(4):
            futures.append(total(array, directory))
            eventually(lambda number=number: executor.outstanding() == number + 1)
        assert sorted(future.result(60) for future in futures) == [(block, float(16 << 20)) for block in "0011"]
    if executor.settings.engine == "embedded":
        assert executor.stats()["tasks_returned"] == 0


def test_callbacks_may_read_large_results(dag: TaskVineExecutor) -> None:
    seen: list[float] = []
    done = threading.Event()

    def look(future: Any) -> None:
        seen.append(future.result()[0])
        done.set()

    make(LARGE, 3.0).add_done_callback(look)
    assert done.wait(30)
    assert seen == [3.0]


def test_l1_tasks_have_edges(dag: TaskVineExecutor) -> None:
    @parsl.python_app
    def in_a_fresh_process(a: Any, b: Any, parsl_resource_specification: Any = None) -> Any:
        return a + b

    fresh = {"function_exec_mode": "L1"}
    small = in_a_fresh_process(1, 2, parsl_resource_specification=fresh)
    large = in_a_fresh_process(make(LARGE), small, parsl_resource_specification=fresh)
    assert increment(large).result(30)[0] == 5.0


@pytest.mark.parametrize(("count", "size"), [(1500, 200), (10_000, 1)])
def test_one_call_takes_thousands_of_small_results(load: Load, tmp_path: Path, count: int, size: int) -> None:
    @parsl.python_app
    def text(length: int) -> str:
        return "x" * length

    @parsl.python_app
    def length(texts: list[str]) -> int:
        return sum(map(len, texts))

    load([TaskVineExecutor(label="tv", cores=1)], dependency_resolver=DAG_RESOLVER)
    gate = tmp_path / "gate"
    first = wait_for(str(gate))  # all later dependencies are edges
    future = length([text(size) for _ in range(count)])
    gate.touch()
    assert first.result(30) == 1
    assert future.result(60) == count * size


def test_failed_task_fails_a_very_long_chain(load: Load, engine: str, gate: Gate) -> None:
    load([TaskVineExecutor(label="tv", cores=2, engine=engine)], dependency_resolver=DAG_RESOLVER)

    @parsl.python_app
    def head(directory: str) -> None:
        import os
        import time

        while not os.path.exists(os.path.join(directory, "open")):
            time.sleep(0.01)
        raise ValueError("the root cause")

    link = parsl.python_app(lambda x: x)
    futures = [head(str(gate.directory))]
    for _ in range(4_000):  # several times the recursion limit
        futures.append(link(futures[-1]))
    gate.open()
    error = futures[-1].exception(120)
    assert isinstance(error, DependencyError)
    assert error.__cause__ is futures[0].exception()
    assert len(str(error)) < 200
    assert all(future.done() for future in futures)
    assert increment(1).result(60) == 2


def test_task_records_are_not_changed(load: Load, engine: str) -> None:
    executor = TaskVineExecutor(label="tv", cores=2, engine=engine)
    dfk = load([executor], dependency_resolver=DAG_RESOLVER, garbage_collect=False)
    first = increment(1)
    second = increment(first)
    assert second.result(60) == 3
    tid = first.tid
    del first
    gc.collect()
    for number in (tid, second.tid):
        record = dfk.tasks[number]
        assert record["id"] == number
        assert record["status"].name == "exec_done"
        assert record["app_fu"].result(0) in (2, 3)
    assert dfk.tasks[tid]["exec_fu"].result() == 2
    dfk.wait_for_current_tasks()


def test_referenced_record_stays_complete(dag: TaskVineExecutor) -> None:
    held = increment(1).task_record  # as a loop over dfk.tasks does
    child = increment(held["app_fu"])
    assert child.result(60) == 3
    eventually(held["app_fu"].done)
    assert {"id", "app_fu", "exec_fu", "status", "dfk", "kwargs"} <= held.keys()


def test_finished_future_behaves_as_before(dag: TaskVineExecutor, tmp_path: Path) -> None:
    future = parsl.python_app(lambda x, stdout: x)(7, stdout=str(tmp_path / "out"))
    assert future.result(60) == 7
    assert future.task_record["app_fu"] is future
    assert future.task_record["id"] == future.tid
    assert future.task_status() == "exec_done"
    assert future.stdout == str(tmp_path / "out")
    with pytest.raises(KeyError):
        future.task_record["nothing"]


def test_waiting_for_tasks_while_futures_are_freed(dag: TaskVineExecutor, gate: Gate) -> None:
    held = parsl.python_app(gate.task)()
    with ParslPoolExecutor(dfk=parsl.dfk()) as pool:
        for round_ in range(10):
            pairs = [pool.submit(_plus_one, pool.submit(_plus_one, number)) for number in range(10)]
            assert [pair.result(60) for pair in pairs] == [number + 2 for number in range(10)], round_
        del pairs
        gate.open()
        parsl.dfk().wait_for_current_tasks()
    assert held.done()
