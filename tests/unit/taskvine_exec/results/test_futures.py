"""From a completion to a future: a task returned, raised an exception, or was lost."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from taskvine_exec.errors import ExceptionNotSerializable, NodeLost, ResultNotSerializable
from taskvine_exec.results.advice import WorkingDirectories
from taskvine_exec.results.futures import TaskFuture, settle
from taskvine_exec.values import Place, Value, Where
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import Completion


def completion(outcome: int, body: Any, **times: float) -> Completion:
    return Completion(5, outcome, body, "n1", times.get("dispatched", 0.0), times.get("started", 0.0), 0.25)


def settled(given: Completion, value: Value | None = None, **how: Any) -> TaskFuture:
    future = TaskFuture(5, 10.0)
    future.value = value
    settle(future, given, lambda value, timeout: "loaded", **how)
    return future


def raised(error: BaseException) -> bytes:
    """The record of an exception that a function on a node raises."""
    try:
        raise error
    except BaseException as caught:
        return failure.raised(caught, ())


class Unloadable:
    def __reduce__(self) -> Any:
        return os.listdir, ("/no/such/directory",)


class UnloadableError(Exception):
    """Loads where it was made, and nowhere else."""

    elsewhere = False

    def __reduce__(self) -> Any:
        return UnloadableError.load, ()

    @staticmethod
    def load() -> UnloadableError:
        if UnloadableError.elsewhere:
            raise SystemExit("its module ends Python")
        return UnloadableError()


class SilentError(Exception):
    def __repr__(self) -> str:
        raise SystemExit("its repr ends Python")


# --- results ---


def test_result_and_times_of_a_task() -> None:
    future = settled(completion(failure.RETURNED, pickle.dumps([1, 2]), dispatched=11.0, started=12.0))
    assert future.result(0) == [1, 2]
    assert future.taskvine_times == (10.0, 11.0, 12.0, 12.25, "n1")


def test_task_that_was_never_started_has_no_times() -> None:
    assert settled(completion(failure.RETURNED, pickle.dumps(1))).taskvine_times is None


def test_result_in_a_file_is_read_and_its_file_removed(tmp_path: Path) -> None:
    (tmp_path / "result").write_bytes(pickle.dumps("large"))
    body = str(tmp_path / "result")
    assert settled(completion(failure.RETURNED, body)).exception(0) is not None  # it is no file of ours
    assert not os.path.exists(body)


def test_small_result_that_others_may_read_comes_home() -> None:
    value = Value("result-5", 5)
    assert settled(completion(failure.RETURNED, pickle.dumps([1])), value).result(0) == [1]
    assert value.place is Place.HOME


@pytest.mark.parametrize("is_proxy", [False, True])
def test_large_result_stays_on_its_node(is_proxy: bool) -> None:
    value = Value("result-5", 5)
    given = completion(failure.RETURNED, "/node/file")._replace(made=(("other", 1, 2), ("result-5", 30, 40)))
    future = settled(given, value, proxy=(lambda value: ("proxy of", value)) if is_proxy else None)
    assert future.result(0) == (("proxy of", value) if is_proxy else value)
    assert value.where == Where("n1", "/node/file", 30, 40)
    assert value.load() == "loaded"


def test_proxy_that_cannot_be_made_fails_the_task() -> None:
    def refuse(value: Value) -> None:
        raise RuntimeError("no proxies today")

    future = settled(completion(failure.RETURNED, "/node/file"), Value("result-5", 5), proxy=refuse)
    with pytest.raises(RuntimeError, match="no proxies today"):
        future.result(0)


def test_result_that_cannot_be_loaded_here_says_why() -> None:
    error = settled(completion(failure.RETURNED, pickle.dumps(Unloadable()))).exception(0)
    assert isinstance(error, ResultNotSerializable)
    assert (error.task_id, error.subject) == (5, "the result")
    assert "it cannot be loaded here: FileNotFoundError" in str(error)
    assert isinstance(error.__cause__, FileNotFoundError)


@pytest.mark.parametrize("outcome", [failure.RETURNED, failure.LOST])
def test_future_that_was_cancelled_stays_so(outcome: int) -> None:
    future = TaskFuture(5, 10.0)
    future.cancel()
    settle(future, completion(outcome, pickle.dumps(1)), lambda value, timeout: None)
    with pytest.raises(CancelledError):
        future.result(0)


# --- exceptions and losses ---


def test_exception_has_its_remote_traceback() -> None:
    error = settled(completion(failure.RAISED, raised(ValueError("of the app")))).exception(0)
    assert isinstance(error, ValueError)
    assert error.args == ("of the app",)
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code.co_name == "raised"


def test_exception_that_cannot_be_loaded_here_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    body = raised(UnloadableError())
    monkeypatch.setattr(UnloadableError, "elsewhere", True)
    error = settled(completion(failure.RAISED, body)).exception(0)
    assert isinstance(error, ExceptionNotSerializable)
    assert error.reason == "it cannot be loaded here: SystemExit: its module ends Python"
    assert error.subject == "UnloadableError"
    assert "raise error" in error.remote_traceback
    assert isinstance(error.__cause__, SystemExit)


def test_exception_that_would_end_the_thread_is_replaced() -> None:
    error = settled(completion(failure.RAISED, raised(KeyboardInterrupt()))).exception(0)
    assert isinstance(error, ExceptionNotSerializable)
    assert error.reason == "here it is a KeyboardInterrupt, which would end the thread"


def test_exception_whose_repr_raises_is_replaced() -> None:
    error = settled(completion(failure.RAISED, raised(SilentError()))).exception(0)
    assert isinstance(error, ExceptionNotSerializable)
    assert error.reason == "its __repr__ raises SystemExit"
    assert isinstance(error.__cause__, SilentError)


@pytest.mark.parametrize("in_place", [True, False])
def test_note_says_where_a_missing_file_is(in_place: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "node"
    elsewhere.mkdir()
    (tmp_path / "data.csv").touch()
    monkeypatch.chdir(elsewhere)
    body = raised(FileNotFoundError(2, "No such file or directory", "data.csv"))
    monkeypatch.chdir(tmp_path)
    directories = WorkingDirectories(str(tmp_path), in_place)
    error = settled(completion(failure.RAISED, body), directories=directories).exception(0)
    assert isinstance(error, FileNotFoundError)
    (note,) = vars(error)["__notes__"]
    assert f"'data.csv' exists in {tmp_path}, but the task ran in {elsewhere} on node n1" in note
    assert ("when the executor was started" in note) is in_place


def test_lost_task_has_the_class_and_node_of_its_loss() -> None:
    error = settled(completion(failure.LOST, failure.lost("node-lost", "it was killed", stderr=None))).exception(0)
    assert isinstance(error, NodeLost)
    assert (error.task_id, error.node, error.reason, error.stderr) == (5, "n1", "it was killed", "")


@pytest.mark.parametrize("body", [b"no pickle", pickle.dumps({"kind": "unheard-of"}), pickle.dumps({})])
def test_record_that_cannot_be_read_is_an_error_of_the_task(body: bytes) -> None:
    error = settled(completion(failure.LOST, body)).exception(0)
    assert isinstance(error, ResultNotSerializable)
    assert "it cannot be loaded here" in error.reason
