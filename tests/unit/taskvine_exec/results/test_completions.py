"""From the manager's messages to completed futures, and results that stay on nodes until then."""

from __future__ import annotations

import gc
import logging
import os
import pickle
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from taskvine_exec.errors import ExecutorShutDown, FileLost
from taskvine_exec.results.advice import WorkingDirectories
from taskvine_exec.results.completions import Completions
from taskvine_exec.results.futures import TaskFuture
from taskvine_exec.results.node_files import NodeFiles
from taskvine_exec.results.pending import PendingTasks
from taskvine_exec.session import Session
from taskvine_exec.submission.temp_files import TempFiles
from taskvine_exec.values import Value
from taskvine_manager.runtime import failure, payload
from taskvine_manager.wire.messages import Completion

TEXT = "x" * (payload.INLINE_LIMIT + 1)


class Manager:
    """A link to a manager that answers requests in order."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.answers: list[Any] = []

    def say(self, *message: Any) -> None:
        self.said.append(message)

    def ask(self, kind: str, *rest: Any, timeout: float | None = None) -> Future[Any]:
        self.said.append((kind, *rest))
        answer: Future[Any] = Future()
        answer.set_result(self.answers.pop(0))
        return answer


class Home:
    """The parts of an executor that receive results."""

    def __init__(self, directory: Path) -> None:
        self.manager: Any = Manager()
        self.directory = directory
        self.session = Session("ex", RuntimeError)
        self.session.begin(self.manager)
        self.temp_files = TempFiles()
        self.tasks = PendingTasks({}, lambda numbers: None)
        self.node_files = NodeFiles("ex", self.session, sealed=False)
        directories = WorkingDirectories(None, in_place=False)
        self.completions = Completions(
            "ex", self.session, self.tasks, self.node_files, self.temp_files, directories, None
        )

    def submitted(self, number: int, value: Value | None = None) -> TaskFuture:
        future = TaskFuture(number, 0.0)
        future.value = value
        self.tasks.futures[number] = future
        return future

    def written(self, content: Any = TEXT, name: str = "replica") -> tuple[str, str, int, int]:
        """Return the replica of an encoded value: its node, path, size and stamp."""
        self.directory.joinpath(name).mkdir()
        path = payload.encode(content, str(self.directory / name), pickle.dumps)
        assert isinstance(path, str)
        status = os.stat(path)
        return "n1", path, status.st_size, status.st_ctime_ns

    def complete(self, *completions: Completion) -> None:
        for _ in self.completions.complete(completions):
            pass

    def on_node(self, number: int = 0) -> tuple[TaskFuture, tuple[str, str, int, int]]:
        """Make the future of a task whose large result has stayed on a node; return it and the replica."""
        future = self.submitted(number, Value(f"result-{number}", number))
        replica = self.written(TEXT, f"first-{number}")
        self.complete(returned(number, replica[1], made=((f"result-{number}", *replica[2:]),)))
        return future, replica


def returned(number: int, body: payload.Payload, **rest: Any) -> Completion:
    facts: dict[str, Any] = {"made": (), "left": (), **rest}
    return Completion(number, failure.RETURNED, body, "n1", 1.0, 2.0, 3.0, facts["made"], facts["left"])


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_small_results_come_home(home: Home) -> None:
    futures = [home.submitted(number) for number in range(3)]
    home.complete(*(returned(number, pickle.dumps(number)) for number in range(3)))
    assert [future.result(0) for future in futures] == [0, 1, 2]
    assert not home.tasks.futures
    assert not home.manager.said


def test_tasks_are_completed_one_with_each_step(home: Home) -> None:
    futures = [home.submitted(number) for number in range(2)]
    steps = home.completions.complete(tuple(returned(number, pickle.dumps(number)) for number in range(2)))
    next(steps)
    assert [future.done() for future in futures] == [True, False]


def test_completion_of_a_failed_task_is_ignored(home: Home) -> None:
    home.complete(returned(5, pickle.dumps(5)))
    assert not home.manager.said


def test_temp_files_are_marked_as_made(home: Home) -> None:
    home.submitted(0)
    home.complete(returned(0, pickle.dumps(0), made=(("x@1", 10, 20),)))
    assert home.temp_files.made == {"x@1"}


def test_unread_small_result_is_forgotten(home: Home) -> None:
    home.submitted(0, Value("result-0", 0))
    home.complete(returned(0, pickle.dumps(0)))
    assert home.manager.said == [("forget", ["result-0"])]


def test_large_result_is_loaded_when_read(home: Home) -> None:
    future, _ = home.on_node()
    value = future.result(0)
    assert isinstance(value, Value)
    assert value.load() == TEXT
    assert not home.manager.said
    del value, future
    gc.collect()
    assert home.manager.said == [("forget", ["result-0"])]


def test_callback_may_raise_anything(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    def leave(future: Future[Any]) -> None:
        raise SystemExit(3)

    first, second = home.submitted(0), home.submitted(1)
    first.add_done_callback(leave)
    with caplog.at_level(logging.ERROR):
        home.complete(returned(0, pickle.dumps(0)), returned(1, pickle.dumps(1)))
    assert (first.result(0), second.result(0)) == (0, 1)
    assert "a callback of task 0's future raised" in caplog.text


def test_undeclared_files_are_mentioned_once_per_app(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        home.complete(*(returned(number, b"", left=("f", "log.txt")) for number in range(3)))
    assert caplog.text.count("app 'f' wrote files that it does not declare: 'log.txt'") == 1


def test_another_replica_is_read_after_a_loss(home: Home) -> None:
    future, replica = home.on_node()
    other = home.written(TEXT, "second")
    os.unlink(replica[1])
    home.manager.answers = [other]
    assert future.result(0).load() == TEXT
    assert home.manager.said == [("spoiled", "n1", "result-0", replica[3]), ("locate", "result-0")]


def test_result_may_be_part_of_the_answer(home: Home) -> None:
    future, replica = home.on_node()
    os.unlink(replica[1])
    home.manager.answers = [pickle.dumps("small")]
    assert future.result(0).load() == "small"


def test_manager_explains_a_lost_result(home: Home) -> None:
    future, replica = home.on_node()
    os.unlink(replica[1])
    home.manager.answers = [(pickle.dumps({"kind": "file-lost", "name": "result-0", "reason": "no node has it"}),)]
    with pytest.raises(FileLost, match="no node has it"):
        future.result(0).load()


def test_missing_result_is_given_up(home: Home) -> None:
    future, replica = home.on_node()
    os.unlink(replica[1])
    home.manager.answers = [replica] * 10
    with pytest.raises(FileLost, match="none of its replicas could be read"):
        future.result(0).load()


def test_unread_results_are_kept_at_the_end(home: Home) -> None:
    future, replica = home.on_node()
    home.session.end()
    home.node_files.keep(home.manager)
    os.unlink(replica[1])
    assert future.result(0).load() == TEXT


def test_no_result_is_located_after_the_end(home: Home, tmp_path: Path) -> None:
    home.session.end()
    home.node_files.keep(home.manager)
    with pytest.raises(ExecutorShutDown):
        home.node_files.copy("x@1", tmp_path / "x", None)


def test_a_temp_file_is_copied_from_the_next_replica(home: Home, tmp_path: Path) -> None:
    gone, there = home.written("a" * len(TEXT), "gone"), home.written(TEXT, "there")
    os.unlink(gone[1])
    home.manager.answers = [gone, there]
    target = home.node_files.copy("x@1", tmp_path / "new" / "x", None)
    assert target == str(tmp_path / "new" / "x")
    assert Path(target).read_bytes() == Path(there[1]).read_bytes()
    assert ("spoiled", "n1", "x@1", gone[3]) in home.manager.said


def test_temp_file_without_a_readable_replica_is_lost(home: Home, tmp_path: Path) -> None:
    gone = home.written(TEXT, "gone")
    os.unlink(gone[1])
    home.manager.answers = [gone] * 10
    with pytest.raises(FileLost, match="none of its replicas could be read"):
        home.node_files.copy("x@1", tmp_path / "x", None)


def test_forked_child_leaves_the_link_alone(home: Home) -> None:
    future, _ = home.on_node()
    home.session.leave_to_parent()
    del future
    gc.collect()
    assert not home.manager.said
