"""Large results in the user's process: read when asked for, kept while anybody may ask."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import pytest
from parsl.dataflow.dflow import DataFlowKernel

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec import executor as executor_module
from taskvine_exec.errors import FileUnreadable, ResultNotSerializable
from taskvine_manager.runtime import payload

Load = Callable[..., DataFlowKernel]
LARGE = 250_000  # doubles: mapped where they are read


@pytest.fixture
def start(load: Load, engine: str) -> Callable[..., TaskVineExecutor]:
    """Load Parsl with an executor on one of the engines."""

    def make(resolver: Any = DAG_RESOLVER, **settings: Any) -> TaskVineExecutor:
        executor = TaskVineExecutor(label="tv", engine=engine, **{"cores": 2, **settings})
        load([executor], dependency_resolver=resolver)
        return executor

    return make


@parsl.python_app
def make(number: int, account: str = os.devnull, parsl_resource_specification: Any = None) -> Any:
    import numpy as np

    with open(account, "a") as file:
        file.write("x")
    return np.full(250_000, float(number))


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Lower the limit on descriptors while the test runs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 40, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("resolver", [DAG_RESOLVER, None])
def test_more_results_are_held_than_descriptors_are_left(
    start: Callable[..., TaskVineExecutor], few_descriptors: None, resolver: Any, tmp_path: Path
) -> None:
    executor = start(resolver)
    account = tmp_path / "account"
    futures = [make(number, str(account)) for number in range(100)]
    held = [future.result(60) for future in futures]
    assert [array[0] for array in held] == [float(number) for number in range(100)]
    assert account.read_text() == "x" * 100
    assert executor.stats()["tasks_recovered"] == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
@pytest.mark.parametrize("place", ["check", "read"])
def test_a_result_that_cannot_be_read_just_now_is_kept_and_not_made_again(
    start: Callable[..., TaskVineExecutor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, place: str
) -> None:
    executor = start()
    account = tmp_path / "account"
    future = make(3, str(account), parsl_resource_specification={"recoverable": False})
    assert future.exception(60) is None

    def refuse(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        if place == "check":
            patched.setattr(executor_module, "check", refuse)
        else:
            patched.setattr(payload, "_bytes_of", refuse)
        for _ in range(2):
            with pytest.raises(FileUnreadable, match="is there, but cannot be read"):
                future.result(60)
    assert future.result(60)[0] == 3.0
    assert account.read_text() == "x"
    assert executor.stats()["tasks_recovered"] == 0


def _load_broken(path: str) -> Any:
    if os.path.exists(path):
        return "loaded"
    raise FileNotFoundError(errno.ENOENT, "no such file", path)


class Broken:
    """Cannot be loaded until a file is there; what it raises looks like the loss of a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_broken, (self.path,)


def test_a_result_whose_class_fails_to_load_is_kept_and_not_made_again(
    start: Callable[..., TaskVineExecutor], tmp_path: Path
) -> None:
    executor = start()
    account, needed = tmp_path / "account", tmp_path / "needed"

    @parsl.python_app
    def broken(path: str, account: str) -> Any:
        with open(account, "a") as file:
            file.write("x")
        return [Broken(path), "x" * 100_000]

    future = broken(str(needed), str(account))
    assert future.exception(60) is None
    with pytest.raises(ResultNotSerializable, match="no such file"):
        future.result(60)
    needed.touch()
    assert future.result(60)[0] == "loaded"
    assert account.read_text() == "x"
    assert executor.stats()["tasks_recovered"] == 0
    assert np.array_equal(make(1).result(60)[:2], [1.0, 1.0])
