"""A lock that makes no convoy, alone and in a real DataFlowKernel."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import parsl
import pytest
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.states import States
from parsl.executors import ThreadPoolExecutor

from taskvine_exec.parsl_hooks import frames, lock
from taskvine_exec.parsl_hooks.switches import FRAMES, LOCK, Hook
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch

PLAIN = type(threading.Lock())


class Executor(ThreadPoolExecutor):
    """An executor with the hook."""

    def start(self) -> None:
        lock.replace(frames.starting())
        super().start()  # type: ignore[no-untyped-call]


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns very often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def kernel(directory: Path, *labels: str) -> DataFlowKernel:
    executors = [Executor(label=label, max_threads=2) for label in labels]
    return DataFlowKernel(Config(executors, run_dir=str(directory), initialize_logging=False, strategy="none"))


def test_it_is_only_tried() -> None:
    class Taken:
        """A lock that another thread releases after two tries."""

        tries: list[Any]

        def __init__(self) -> None:
            self.tries = []

        def acquire(self, *arguments: Any) -> bool:
            self.tries.append(arguments)
            return len(self.tries) > 2

        def release(self) -> None:
            self.tries.clear()

        def locked(self) -> bool:
            return len(self.tries) > 2

        def __exit__(self, *error: object) -> None:
            self.release()

    held = Taken()
    made = lock.without_convoy(held)
    for _ in range(2):
        with made:
            assert held.tries == [(False,)] * 3
        assert held.tries == []


def test_it_excludes_its_own_users_and_those_of_the_lock_itself(quick_switches: None) -> None:
    plain = threading.Lock()
    made, count = lock.without_convoy(plain), 0

    def add(held: Any) -> None:
        nonlocal count
        for _ in range(2000):
            with held:
                before = count
                len(str(before))
                count = before + 1

    threads = [threading.Thread(target=add, args=(each,)) for each in (made, made, plain, lock.without_convoy(plain))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == 8000


def test_it_has_the_methods_of_a_lock() -> None:
    made = lock.without_convoy(threading.Lock())
    assert made.acquire()
    assert made.locked()
    assert not made.acquire(blocking=False)
    assert not made.acquire(timeout=0.01)
    made.release()
    with pytest.raises(ValueError, match="error"), made:
        raise ValueError("an error inside")
    assert not made.locked()


def test_an_interrupt_never_leaves_it_taken() -> None:
    """Ctrl-C may come at any moment: a signal comes after a few microseconds, and raises an exception."""
    made = lock.without_convoy(threading.Lock())

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def take_and_release(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            with made:
                pass

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(1000):
            with pytest.raises(KeyboardInterrupt):
                take_and_release(2e-5 + number * 1e-8)
            assert not made.locked()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("hook", [LOCK, FRAMES])
def test_a_kernel_gets_it_once(hook: Hook, switch: Switch, tmp_path: Path) -> None:
    on = switch(hook)
    dfk = kernel(tmp_path, "one", "two")
    try:
        held = dfk.task_state_counts_lock
        assert (type(held) is not PLAIN) is on
        assert type(held.acquire.__self__) is PLAIN, "the second executor has replaced it again"
        futures = [parsl.python_app(abs, data_flow_kernel=dfk)(-number) for number in range(200)]
        assert [future.result(60) for future in futures] == list(range(200))
        dfk.wait_for_current_tasks()
        assert dfk.task_state_counts[States.exec_done] == 200
        assert not held.locked()
    finally:
        dfk.cleanup()


def test_a_lock_of_another_kind_stays(tmp_path: Path) -> None:
    dfk = kernel(tmp_path)
    try:
        dfk.task_state_counts_lock = other = threading.RLock()
        dfk.add_executors([Executor(label="late")])
        assert dfk.task_state_counts_lock is other
    finally:
        dfk.cleanup()


def test_without_an_interpreter_lock_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    dfk = kernel(tmp_path, "one")
    dfk.cleanup()
    assert type(dfk.task_state_counts_lock) is PLAIN


def test_elsewhere_nothing_is_replaced() -> None:
    lock.replace(None)
