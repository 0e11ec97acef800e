"""Results on nodes, as the user's process refers to them."""

from __future__ import annotations

import gc
import pickle
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import pytest
from parsl.data_provider.files import File
from parsl.dataflow.futures import AppFuture

from taskvine_exec.errors import ExecutorShutDown, FileLost, ResultNotSerializable
from taskvine_exec.values import Copy, Edge, Place, Value, collect
from taskvine_manager.runtime import values
from tests.conftest import eventually


def task(tid: int = 7) -> AppFuture:
    """Make the future of a task, which refers to its record as the DFK's does."""
    record: Any = {"id": tid, "dfk": None}
    future = AppFuture(record)
    record["app_fu"] = future
    return future


def decoded(argument: object, **provided: bytes) -> Any:
    """Return what a task gets for an argument, given the encoded values that are sent with it."""
    values.provide(dict(provided))
    return values.decode(pickle.dumps(argument))


class Loads:
    """A loader that notes its timeouts, and returns or raises what the test has prepared."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.timeouts: list[float | None] = []

    def __call__(self, value: Value, timeout: float | None) -> Any:
        self.timeouts.append(timeout)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


# --- which value ---


def test_task_has_one_value() -> None:
    future = task()
    value = Value.of(future)
    assert Value.of(future) is value
    assert (value.number, value.producer, value.place) == ("result-7", 7, Place.PENDING)


def test_threads_that_ask_at_once_get_the_same_value() -> None:
    future, found = task(), []
    gate = threading.Barrier(8)

    def ask() -> None:
        gate.wait()
        found.append(Value.of(future))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_call_without_a_task_has_a_value_that_is_settled() -> None:
    value = Value.unattended(3)
    settled: list[Value] = []
    value.when_settled(settled.append)
    assert settled == [value]
    assert value.number == "call-3"


# --- arguments ---


def test_edge_is_pickled_as_a_reference() -> None:
    value = Value("result-1", 1)
    assert not value.has_edges
    edge = value.argument()
    assert isinstance(edge, Edge)
    assert value.has_edges
    assert decoded([edge, edge], **{"result-1": pickle.dumps("result")}) == ["result", "result"]
    assert repr(edge) == "<Edge to result-1, not there yet>"


def test_edge_of_an_ended_task_keeps_no_value() -> None:
    edge = Edge(Value("result-1", 1))
    edge.let_go()
    assert repr(edge) == "<Edge to result-1>"
    with pytest.raises(pickle.PicklingError, match="the task that <Edge to result-1> was an argument of is over"):
        pickle.dumps(edge)


def test_values_among_arguments_are_collected() -> None:
    first, second = Value("result-1", 1), Value("result-2", 2)
    edges = [first.argument(), second.argument(), first.argument()]
    _, found, seen = collect(pickle.dumps, edges)
    assert found == [first, second]
    assert seen == edges
    assert collect(pickle.dumps, "no edges")[1:] == ([], [])
    assert collect(lambda *args: args, 1, 2)[0] == (1, 2)


@pytest.mark.parametrize("result", [1, "text", None, File("/data")])
def test_small_result_that_is_here_is_its_own_argument(result: object) -> None:
    value = Value("result-1", 1)
    value.comes_home(result, pickle.dumps(result))
    assert value.place is Place.HOME
    assert value.argument() is result


def test_consumer_gets_a_result_as_its_task_returned_it() -> None:
    value, result = Value("result-1", 1), [1, 2]
    value.comes_home(result, pickle.dumps(result))
    result.append(3)
    copy = value.argument()
    assert isinstance(copy, Copy)
    assert repr(copy) == "<copy of result-1>"
    first, again = decoded([copy, copy])
    assert first == [1, 2]
    assert first is again


def test_result_without_an_encoding_is_passed_as_it_is() -> None:
    value, result = Value("result-1", 1), [1, 2]
    value.error = FileLost(task_id=1, reason="why", name="result-1")
    value.comes_home(result)
    assert value.argument() is result
    assert value.error is None


# --- loading ---


def test_result_on_nodes_is_loaded() -> None:
    value, load = Value("result-1", 1), Loads("first", "second")
    value.stays(load)
    assert value.place is Place.NODES
    assert not value.is_read
    assert value.load(5.0) == "first"
    assert value.is_read
    assert value.load() == "second"
    assert load.timeouts == [5.0, None]


def test_replaced_loader_is_followed() -> None:
    value, second = Value("result-1", 1), Loads("from a file")

    def first(value: Value, timeout: float | None) -> Any:
        value.stays(second)
        raise ExecutorShutDown(label="tv")

    value.stays(first)
    assert value.load() == "from a file"


def test_loader_of_an_ended_executor_is_an_error() -> None:
    value = Value("result-1", 1)
    value.stays(Loads(ExecutorShutDown(label="tv")))
    with pytest.raises(ExecutorShutDown):
        value.load()


def test_error_of_loading_is_raised() -> None:
    value = Value("result-1", 1)
    value.stays(Loads(ValueError("of the user")))
    with pytest.raises(ValueError, match="of the user"):
        value.load()
    assert not value.is_read


def test_result_that_would_end_a_thread_is_an_error() -> None:
    value = Value("result-1", 1)
    value.stays(Loads(SystemExit("by its own method"), KeyboardInterrupt()))
    with ThreadPoolExecutor(1) as threads:
        error = threads.submit(value.load).exception(10)
    assert isinstance(error, ResultNotSerializable)
    assert "it cannot be loaded here: SystemExit: by its own method" in str(error)
    with pytest.raises(KeyboardInterrupt):  # Ctrl-C, in the main thread
        value.load()


# --- its end ---


def test_nodes_forget_unreferenced_results() -> None:
    forgotten: list[str] = []
    value = Value("result-1", 1)
    value.when_gone(forgotten.append)
    edge = value.argument()
    del value
    gc.collect()
    assert forgotten == []
    edge.let_go()
    gc.collect()
    assert forgotten == ["result-1"]


def test_result_that_the_user_has_dropped_cannot_be_read() -> None:
    forgotten: list[str] = []
    value = Value("result-1", 1)
    value.when_gone(forgotten.append)
    value.stays(Loads("result"))
    value.forgotten()
    assert value.place is Place.NOWHERE
    assert isinstance(value.error, FileLost)
    with pytest.raises(FileLost, match="its result has been forgotten"):
        value.load()
    del value
    gc.collect()
    assert forgotten == [], "the nodes know already"


def test_result_dropped_before_its_end() -> None:
    value = Value("result-1", 1)
    value.forgotten()
    assert value.place is Place.NOWHERE


def test_end_of_its_task_is_reported() -> None:
    future = task()
    value, told = Value.of(future), list[Value]()
    value.when_settled(told.append)
    assert told == []
    future.set_result(1)
    value.when_settled(told.append)
    assert told == [value, value]


def test_result_of_a_failed_task_has_no_place() -> None:
    future, error = task(), ValueError("why")
    value = Value.of(future)
    future.set_exception(error)
    assert (value.place, value.error) == (Place.NOWHERE, error)


# --- futures whose result is on nodes ---


def on_nodes(*answers: Any) -> tuple[AppFuture, Loads]:
    """Make a task that is done and whose result is on nodes."""
    future, load = task(), Loads(*answers)
    value = Value.of(future)
    value.stays(load)
    future.set_result(value)
    return future, load


def test_future_loads_its_result_once() -> None:
    future, load = on_nodes("result")
    assert future.result(5) == "result"
    assert future.result() == "result"
    (timeout,) = load.timeouts
    assert timeout is not None
    assert 0 < timeout <= 5


def test_future_whose_result_cannot_be_loaded_tries_again() -> None:
    future, _ = on_nodes(FutureTimeout(), "result")
    with pytest.raises(FutureTimeout):
        future.result(5)
    assert future.result() == "result"


def test_future_of_a_task_that_is_not_done_times_out() -> None:
    future = task()
    Value.of(future)
    with pytest.raises(FutureTimeout):
        future.result(0.01)


def test_future_of_a_failed_task_raises() -> None:
    future = task()
    Value.of(future)
    future.set_exception(ValueError("why"))
    with pytest.raises(ValueError, match="why"):
        future.result(5)


def test_cancelled_future_raises() -> None:
    future = task()
    Value.of(future)
    Future.cancel(future)
    with pytest.raises(CancelledError):
        future.result(5)


@pytest.mark.parametrize("outcome", ["result", ValueError("why")])
def test_early_waiter_gets_the_loaded_result(outcome: Any) -> None:
    future, load = task(), Loads("loaded")
    got: list[Any] = []

    def wait() -> None:
        try:
            got.append(future.result(timeout=30))
        except ValueError as error:
            got.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: future._condition._waiters)  # type: ignore[attr-defined]
    value = Value.of(future)
    value.stays(load)
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(value)
    thread.join(10)
    assert got == ["loaded" if outcome == "result" else outcome]


def test_future_that_is_done_does_not_keep_its_record_alive() -> None:
    future, _ = on_nodes("result")
    record: Any = future.task_record
    assert record["app_fu"] is future
    assert record["id"] == 7
    with pytest.raises(KeyError):
        record["unknown"]
    del future
    with pytest.raises(KeyError):
        record["app_fu"]
