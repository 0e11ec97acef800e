"""Futures with a lighter condition behave like others; with the hook off, they have the usual one."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from taskvine_exec.parsl_hooks.conditions import LightFuture
from taskvine_exec.parsl_hooks.switches import CONDITIONS
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch


@pytest.fixture(autouse=True)
def on(switch: Switch) -> bool:
    """Whether futures are light."""
    return switch(CONDITIONS)


def in_thread(call: Any) -> tuple[threading.Thread, list[Any]]:
    """Call a function in a thread; its result is appended to the list."""
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.append(call()))
    thread.start()
    return thread, said


def waits(future: LightFuture) -> bool:
    """Whether a thread waits for it."""
    return bool(waiters(future))


def waiters(future: LightFuture) -> Any:
    condition: Any = future._condition
    real = condition if isinstance(condition, threading.Condition) else condition._real
    return () if real is None else real._waiters


def until(look: Any) -> None:
    for _ in range(10_000):
        if look():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never came to be")


def test_light_future_has_all_attributes() -> None:
    """Another Python may give futures another attribute, which then has to be set here too."""
    ordinary, ours = vars(Future()), vars(LightFuture())
    assert ordinary.keys() <= ours.keys()
    for name in ordinary.keys() - {"_condition"}:
        assert ours[name] == ordinary[name], name


def test_waiting_thread_gets_the_result() -> None:
    future = LightFuture()
    thread, said = in_thread(lambda: future.result(30))
    until(lambda: waits(future))
    future.set_result(7)
    thread.join()
    assert said == [7]


def test_all_waiting_threads_get_the_exception() -> None:
    future = LightFuture()
    threads = [in_thread(lambda: future.exception(30)) for _ in range(3)]
    until(lambda: len(waiters(future)) == 3)
    error = ValueError("no")
    future.set_exception(error)
    for thread, said in threads:
        thread.join()
        assert said == [error]


def test_waiting_times_out() -> None:
    with pytest.raises(concurrent.futures.TimeoutError):
        LightFuture().result(0.01)


def test_cancellation_wakes_waiting_threads() -> None:
    future = LightFuture()

    def wait() -> str:
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(30)
        return "cancelled"

    thread, said = in_thread(wait)
    until(lambda: waits(future))
    assert future.cancel()
    thread.join()
    assert said == ["cancelled"]


def test_many_futures_are_waited_for_at_once() -> None:
    futures = [LightFuture() for number in range(5)]
    thread, said = in_thread(lambda: [future.result() for future in concurrent.futures.as_completed(futures, 30)])
    other, found = in_thread(lambda: concurrent.futures.wait(futures, 30))
    until(lambda: all(len(future._waiters) == 2 for future in futures))
    for number in (3, 0, 4, 1, 2):
        futures[number].set_result(number)
    thread.join()
    other.join()
    assert sorted(said[0]) == [0, 1, 2, 3, 4]
    assert found[0].done == set(futures)


def test_callbacks_are_called_once_and_released(on: bool) -> None:
    class Callback:
        calls = 0

        def __call__(self, future: Future[Any]) -> None:
            type(self).calls += 1

    future, callback = LightFuture(), Callback()
    gone = weakref.ref(callback)
    future.add_done_callback(callback)
    del callback
    future.set_result(None)
    gc.collect()
    assert (gone() is None) is on
    future.add_done_callback(Callback())  # it is done, so this returns at once
    assert Callback.calls == 2


def test_lock_excludes_only_other_threads() -> None:
    future = LightFuture()
    with future._condition:
        assert not future.done()  # takes the lock again
        thread, said = in_thread(lambda: future._condition.acquire(blocking=False))
        thread.join()
        assert said == [False]
    assert future._condition.acquire(blocking=False)
    future._condition.release()


def test_garbage_collector_has_few_objects(on: bool) -> None:
    def tracked(make: Any) -> int:
        gc.collect()
        before = len(gc.get_objects())
        made = [make() for _ in range(100)]
        gc.collect()
        return (len(gc.get_objects()) - before) // len(made)

    assert tracked(LightFuture) <= tracked(Future) - (5 if on else 0)
