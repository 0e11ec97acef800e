"""One call that cannot be sent, staged or cleaned up fails alone: the run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from parsl.data_provider.files import File
from parsl.executors.errors import InvalidResourceSpecification

import tests.contract.test_unusual_calls as this_module
from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import FileMissing, FunctionNotLoadable, OutputMissing

Make = Callable[..., TaskVineExecutor]
DEEP = "/".join(["d"] * 1100)


@pytest.fixture
def working_directory() -> str:
    """Stage files into sandboxes."""
    return "sandbox"


class OddName:
    """A callable whose name is not a string."""

    __name__ = 5

    def __call__(self) -> str:
        return "called"


def named(name: str) -> Callable[[], str]:
    def call() -> str:
        return "called"

    call.__name__ = name
    return call


def write(outputs: Any = ()) -> None:
    for file in outputs:
        with open(file.filepath, "w") as stream:
            stream.write("written")


def read(inputs: Any = ()) -> str:
    with open(inputs[0].filepath) as stream:
        return stream.read()


def make_deep_directory() -> None:
    for _ in range(1100):
        os.mkdir("d")
        os.chdir("d")


cloudpickle.register_pickle_by_value(this_module)


def test_call_that_cannot_be_sent_is_refused(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    with pytest.raises(InvalidResourceSpecification):
        executor.submit(read, {"gpus": 2**64})
    with pytest.raises(InvalidResourceSpecification):
        executor.submit(read, {"category": "\ud800"})
    with pytest.raises(ValueError, match="surrogate"):
        executor.submit(write, {}, outputs=[File("a\ud800b")])
    assert executor.submit(named("\ud800"), {}).result(30) == "called"
    assert executor.submit(len, {}, "abc").result(30) == 3


def test_callable_whose_name_is_not_a_string(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    error = executor.submit(OddName(), {}).exception(30)
    assert error is None or isinstance(error, FunctionNotLoadable)  # a class that is pickled by value needs a string
    assert executor.submit(len, {}, "abc").result(30) == 3


def test_too_deep_paths_fail_the_task(
    make_executor: Make, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    executor = make_executor(function_exec_mode=mode)
    written = executor.submit(write, {}, outputs=[File(f"{DEEP}/x")]).exception(30)
    assert written is None or isinstance(written, OutputMissing)
    missing = executor.submit(read, {}, inputs=[File(f"{DEEP}/missing")]).exception(30)
    assert isinstance(missing, FileMissing)
    assert executor.submit(len, {}, "abc").result(30) == 3


def test_very_deep_directory_is_removed(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    for _ in range(3):  # nothing of it remains, neither for the next call nor after the end
        assert executor.submit(make_deep_directory, {}).result(30) is None
