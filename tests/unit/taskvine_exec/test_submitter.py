"""From an app call to messages for the manager."""

from __future__ import annotations

import errno
import gc
import pickle
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from parsl.data_provider.files import File
from parsl.dataflow.errors import DependencyError
from parsl.dataflow.futures import AppFuture
from parsl.executors.errors import InvalidResourceSpecification

from taskvine_exec.config import EmbeddedSettings
from taskvine_exec.config.settings import LibrarySettings
from taskvine_exec.errors import ArgumentNotSerializable, DiskFull, FileLost
from taskvine_exec.results.pending import PendingTasks
from taskvine_exec.session import Session
from taskvine_exec.submission.files import FileRules
from taskvine_exec.submission.remote import staging_providers
from taskvine_exec.submission.temp_files import TempFiles
from taskvine_exec.submitter import Submitter
from taskvine_exec.values import Value
from taskvine_manager.runtime import payload
from taskvine_manager.runtime.search_path import of_this_process
from taskvine_manager.wire.messages import L1, L2, FileUse, Invocation, Library, Profile


class Link:
    """The messages that would be sent to a manager."""

    def __init__(self) -> None:
        self.functions: list[tuple[str, payload.Payload]] = []
        self.profiles: list[Profile] = []
        self.invocations: list[Invocation] = []
        self.at_once: list[bool] = []
        self.retired: list[int] = []
        self.error: BaseException | None = None

    def define(self, functions: list[tuple[str, payload.Payload]], profiles: list[Profile]) -> None:
        self.functions += functions
        self.profiles += profiles

    def submit(self, invocation: Invocation, *, at_once: bool = False) -> None:
        if self.error is not None:
            raise self.error
        self.invocations.append(invocation)
        self.at_once.append(at_once)

    def retire(self, profiles: list[int], size: int) -> None:
        self.retired += profiles


class Sent:
    """A submitter, and its messages."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.link: Any = Link()
        self.session = Session("ex", RuntimeError)
        self.session.begin(self.link)
        self.cancelled: list[list[int]] = []
        self.tasks = PendingTasks({}, self.cancelled.append)
        self.temp_files = TempFiles()
        self.submitter = Submitter(
            self.session,
            self.link,
            self.tasks,
            EmbeddedSettings(**{"function_exec_mode": L2, "worker_launch_method": "manual", **settings}),
            str(directory),
            of_this_process(),
            FileRules(
                temp_files=self.temp_files,
                shared_fs=False,
                storage=staging_providers(None, self.temp_files),
                directory=str(directory),
            ),
            references=None,
            under_dfk=False,
        )

    def submit(self, func: Any, *args: Any, asks: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return self.submitter.submit(func, asks or {}, args, kwargs)


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    return Sent(tmp_path)


def test_a_function_and_its_profile_are_sent_once(sent: Sent) -> None:
    futures = [sent.submit(len, "ab") for _ in range(3)]
    assert [future.parsl_executor_task_id for future in futures] == [0, 1, 2]
    assert sent.tasks.futures == dict(enumerate(futures))
    assert len(sent.link.functions) == len(sent.link.profiles) == 1
    assert [(each.number, each.profile) for each in sent.link.invocations] == [(0, 0), (1, 0), (2, 0)]


def test_few_tasks_are_sent_at_once(sent: Sent) -> None:
    for _ in range(6):
        sent.submit(int)
    assert sent.link.at_once == [True] * 4 + [False] * 2


def test_each_specification_makes_a_profile_of_the_same_function(sent: Sent) -> None:
    sent.submit(int)
    sent.submit(int, asks={"cores": 2, "function_exec_mode": "L1", "priority": 3})
    sent.submit(int, asks={"category": "mine"})
    assert len(sent.link.functions) == 1
    first, second, third = sent.link.profiles
    assert (first.mode, first.category) == (L2, "int")
    assert (second.mode, second.cores, second.priority) == (L1, 2, 3)
    assert third.category == "mine"


def test_call_gets_its_share_of_the_library(tmp_path: Path) -> None:
    sent = Sent(tmp_path, slots=4, library_cores=8.0, library_memory=400.0)
    for asks in ({}, {"cores": 3}, {"function_exec_mode": "L1"}):
        sent.submit(int, asks=asks)
    assert [(each.cores, each.memory) for each in sent.link.profiles] == [(2, 100), (3, 100), (None, None)]


def test_a_function_without_users_is_retired(sent: Sent) -> None:
    def function() -> None:
        pass

    sent.submit(function)
    del function
    gc.collect()
    assert sent.link.retired == [0]


def test_nothing_is_retired_after_the_end(sent: Sent) -> None:
    def function() -> None:
        pass

    sent.submit(function)
    sent.session.leave_to_parent()
    del function
    gc.collect()
    assert not sent.link.retired


def test_an_interrupted_submission_leaves_no_task(sent: Sent) -> None:
    sent.link.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        sent.submit(int)
    assert not sent.tasks.futures


@pytest.mark.parametrize("size", [10, 100_000])
def test_arguments_travel_in_the_message_or_in_a_file(sent: Sent, size: int) -> None:
    sent.submit(len, [bytes(size)])
    body = sent.link.invocations[0].arguments
    assert isinstance(body, bytes if size == 10 else str)
    args, _ = payload.decode(body)
    assert args == ([bytes(size)],)


def test_unpicklable_argument_is_refused(sent: Sent) -> None:
    with pytest.raises(ArgumentNotSerializable, match=r"task 0: an argument cannot be serialized \(len\)"):
        sent.submit(len, (each for each in ()))
    assert not sent.tasks.futures


def test_future_left_in_the_arguments_is_named(sent: Sent) -> None:
    with pytest.raises(ArgumentNotSerializable, match=r"args\[0\]\[1\] is a future that was not replaced"):
        sent.submit(len, [0, Future()])


def test_task_reads_results_of_others(sent: Sent) -> None:
    value = Value("result-7", 7)
    sent.submit(len, value.argument())
    assert sent.link.invocations[0].inputs == (FileUse("value", "", "result-7"),)


@pytest.mark.parametrize("settled", ["before", "after"])
def test_task_fails_with_the_task_whose_result_it_reads(sent: Sent, settled: str) -> None:
    record: Any = {"id": 7}
    producer = AppFuture(record)
    argument = Value.of(producer).argument()
    end = partial(producer.set_exception, ValueError("why"))
    if settled == "before":
        end()
    future = sent.submit(len, argument)
    if settled == "after":
        end()
    assert isinstance(future.exception(0), DependencyError)
    assert sent.cancelled == [[0]]


def temp(name: str = "x") -> File:
    return File(f"taskvinetemp:///{name}")


def test_temp_files_are_edges(sent: Sent) -> None:
    sent.submit(pickle.dump, outputs=[temp()])
    sent.submit(pickle.load, inputs=[temp()])
    first, second = sent.link.invocations
    assert [use.source for use in first.outputs] == [use.source for use in second.inputs] == ["x@t0"]


def test_a_task_fails_with_the_task_that_makes_its_input(sent: Sent) -> None:
    made, read = sent.submit(pickle.dump, outputs=[temp()]), sent.submit(pickle.load, inputs=[temp()])
    sent.tasks.fail(0, ValueError("why"))
    assert isinstance(made.exception(0), ValueError)
    assert isinstance(read.exception(0), DependencyError)


def test_a_task_fails_if_its_input_was_not_made(sent: Sent) -> None:
    made, read = sent.submit(pickle.dump, outputs=[temp()]), sent.submit(pickle.load, inputs=[temp()])
    sent.tasks.futures.pop(0)
    made.set_result(None)
    with pytest.raises(FileLost, match="the task that should make x@t0 has ended without it"):
        read.result(0)


# --- arguments that cannot be sent ---


@pytest.mark.parametrize("nested", [False, True])
def test_file_that_no_task_makes_is_refused(sent: Sent, nested: bool) -> None:
    file = File("taskvinetemp:///nowhere")
    with pytest.raises(FileNotFoundError, match="no task of this executor has been asked to make it"):
        sent.submit(len, [file] if nested else file)
    assert sent.tasks.futures == {}
    assert sent.link.invocations == []


def test_arguments_that_find_no_space_say_where(sent: Sent) -> None:
    class Large:
        def __reduce__(self) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device", "/full")

    with pytest.raises(DiskFull, match="the arguments of len cannot be stored: No space left on device") as caught:
        sent.submit(len, Large())
    assert caught.value.path == "/full"


def test_future_that_was_left_is_named_by_its_place(sent: Sent) -> None:
    class Model:
        def __init__(self) -> None:
            self.weights = [Future[Any]()]

    with pytest.raises(ArgumentNotSerializable, match=r"model\.weights\[0\] is a future that was not replaced"):
        sent.submit(len, model=Model())


LIBRARIES = {
    "plain": LibrarySettings(cores=4.0, memory=100.0, slots=2),
    "model": LibrarySettings(gpus=2, slots=2),
}


def test_profile_says_which_library_runs_the_call(tmp_path: Path) -> None:
    sent = Sent(tmp_path, libraries=LIBRARIES, library_memory=10.0)
    for asks in ({"library": "plain"}, {"library": "plain", "memory": 70, "cores": 1}, {"library": "model"}, {}):
        sent.submit(int, asks=asks)
    first, second, third, fourth = sent.link.profiles
    assert first.library == second.library == Library("plain", 2, 100.0, 0)
    assert (first.cores, first.memory) == (2.0, 50.0)
    assert (second.cores, second.memory) == (1.0, 70.0)
    assert (third.library, third.memory, third.gpus) == (Library("model", 2, None, 2), None, None)
    assert (fourth.library, fourth.memory) == (None, 10.0)


def test_call_of_a_library_is_a_function_call(tmp_path: Path) -> None:
    sent = Sent(tmp_path, libraries=LIBRARIES, function_exec_mode=L1)
    sent.submit(int, asks={"library": "plain"})
    sent.submit(int)
    assert [profile.mode for profile in sent.link.profiles] == [L2, L1]


@pytest.mark.parametrize(
    ("asks", "key", "says"),
    [
        ({"library": "modle"}, "library", "Unknown library 'modle': did you mean 'model'?"),
        ({"library": "xyz"}, "library", "Unknown library 'xyz': known are model, plain."),
        ({"library": "model", "gpus": 1}, "gpus", "the library 'model' shares out its own 2 gpus"),
        ({"library": "plain", "memory": 101}, "memory", "the library 'plain' has only 100 MB"),
        ({"library": "plain", "function_exec_mode": "L1"}, "library", "library needs the mode 'L2'"),
        ({"library": ""}, "library", "must be a non-empty string"),
    ],
)
def test_library_that_cannot_run_a_call_is_refused(tmp_path: Path, asks: dict[str, Any], key: str, says: str) -> None:
    sent = Sent(tmp_path, libraries=LIBRARIES)
    with pytest.raises(InvalidResourceSpecification) as caught:
        sent.submit(int, asks=asks)
    assert caught.value.invalid_keys == {key}
    assert says in str(caught.value)
    assert (sent.tasks.futures, sent.link.profiles, sent.link.functions) == ({}, [], [])


def test_library_of_an_executor_without_any_is_refused(sent: Sent) -> None:
    with pytest.raises(InvalidResourceSpecification, match="the executor has no libraries"):
        sent.submit(int, asks={"library": "model"})
