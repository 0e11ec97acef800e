"""The executor from its start to its end. A thread of the test takes the part of its manager, and of nodes."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parsl.data_provider.files import File
from parsl.errors import ConfigurationError, OptionalModuleMissing
from parsl.executors.errors import BadStateException
from parsl.monitoring.message_type import MessageType

from taskvine_exec import TaskVineExecutor, engines, launch
from taskvine_exec.config import VineSettings
from taskvine_exec.errors import (
    ExecutorNotStarted,
    ExecutorShutDown,
    ManagerLost,
    RunDirNotWritable,
    TaskCancelled,
    WorkerLaunchFailed,
)
from taskvine_manager import cleanup
from taskvine_manager.record import Recorder
from taskvine_manager.runtime import failure
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import Completion, Profile
from tests.conftest import eventually


class Manager:
    """Answers questions as the test says, and ends when it is told to. ``said`` has all other messages."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.answers: dict[str, Any] = {"stats": {}, "graph": {"tasks": (), "files": ()}}
        self.said: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self._channel = Channel(self.theirs)
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.theirs.settimeout(None)
        while not self._channel.ended:
            self._channel.read()
            while (message := self._channel.next()) is not None:
                kind, *rest = message
                if kind == "locate":
                    self.tell("located", rest[0], self.answers["locate"])
                elif kind in self.answers:
                    self.tell(kind, rest[0], self.answers[kind])
                elif kind == "stop":
                    self.end()
                else:
                    self.said.put(message)

    def tell(self, *message: Any) -> None:
        with self._sending:
            self._channel.send(*message)

    def done(self, number: int, result: Any, **fields: Any) -> None:
        completion = Completion(number, failure.RETURNED, pickle.dumps(result), "n1", 1.0, 2.0, 0.5)
        self.tell("done", [completion._replace(**fields)], 0)

    def heard(self, kind: str) -> tuple[Any, ...]:
        """The next message of a kind."""
        while (message := self.said.get(timeout=30))[0] != kind:
            pass
        return message[1:]

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        self.ours.close()
        self._thread.join()
        self.theirs.close()
        self.process.kill()
        self.process.communicate()


class Started:
    """A started executor and its manager."""

    def __init__(self, executor: TaskVineExecutor, manager: Manager) -> None:
        self.executor, self.manager = executor, manager


Make = Callable[..., Started]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, nothing_left: str) -> Iterator[Make]:
    """Start an executor whose nodes are started by hand, which nobody does."""
    managers: list[Manager] = []
    executors: list[TaskVineExecutor] = []

    def start_manager(places: launch.Places, claim: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
        managers.append(Manager())
        return managers[-1].process, managers[-1].ours

    def begin(**settings: Any) -> Started:
        executors.append(TaskVineExecutor(engine="embedded", worker_launch_method="manual", **settings))
        executors[-1].start()
        return Started(executors[-1], managers[-1])

    kill_strays = cleanup.kill_strays
    monkeypatch.setattr(cleanup, "kill_strays", lambda base, grace: kill_strays(base))
    monkeypatch.setattr(launch, "start_manager", start_manager)
    yield begin
    for executor in executors:
        executor.shutdown()
    for manager in managers:
        manager.close()


START_MANAGER = launch.start_manager
NODE = {"name": "n1", "cores": 3, "memory": 1.0, "disk": 1.0, "gpus": 0, "slots": None, "block": "", "pid": 1}
NODE["directory"] = "/node"


# --- tasks ---


def test_task_is_sent_and_its_result_comes_home(make: Make) -> None:
    started = make()
    future = started.executor.submit(abs, {"cores": 1}, -3)
    assert started.executor.outstanding() == 1
    ((_,), (profile,), (call,)) = started.manager.heard("submit")
    assert (Profile(*profile).name, call[0]) == ("abs", future.parsl_executor_task_id)
    started.manager.done(call[0], 3)
    assert future.result(30) == 3
    assert future.taskvine_times is not None
    assert future.taskvine_times.node == "n1"
    assert started.executor.outstanding() == 0


def test_waiting_tasks_are_not_outstanding(make: Make) -> None:
    started = make()
    futures = [started.executor.submit(abs, {}, -number) for number in range(3)]
    started.manager.tell("waiting", 2)
    eventually(lambda: started.executor.outstanding() == 1)
    started.executor.shutdown()
    for future in futures:
        assert isinstance(future.exception(0), TaskCancelled)


def test_executor_takes_tasks_only_between_start_and_shutdown(make: Make) -> None:
    with pytest.raises(ExecutorNotStarted):
        TaskVineExecutor(engine="embedded").submit(abs, {}, 1)
    executor = make().executor
    executor.start()  # a second time: nothing happens
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(ExecutorShutDown):
        executor.submit(abs, {}, 1)
    with pytest.raises(ExecutorShutDown):
        executor.start()


def test_executor_that_was_never_started_can_be_shut_down() -> None:
    executor = TaskVineExecutor(engine="embedded")
    executor.shutdown()
    with pytest.raises(ExecutorShutDown):
        executor.start()


def test_task_that_is_submitted_while_the_executor_ends_is_cancelled(make: Make) -> None:
    executor = make().executor

    class Argument:
        def __reduce__(self) -> Any:
            executor.shutdown()
            return dict, ()

    assert isinstance(executor.submit(abs, {}, Argument()).exception(0), TaskCancelled)


# --- messages ---


def test_nodes_are_known_once_they_have_joined(make: Make) -> None:
    started = make()
    before = started.executor.workers_per_node
    assert not started.executor.wait_for_nodes(1, timeout=0)
    started.manager.tell("nodes", [NODE])
    assert started.executor.wait_for_nodes(1, timeout=30)
    assert started.executor.nodes == [NODE]
    assert started.executor.workers_per_node == 3
    assert before >= 1


def test_notice_is_logged_and_unknown_messages_are_errors(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    started = make(label="tv")
    started.manager.tell("unheard-of", 1)
    started.manager.tell("notice", "look at this")
    eventually(lambda: "executor tv: look at this" in caplog.text)
    assert "the manager sent a message of the unknown kind 'unheard-of'" in caplog.text


def test_monitoring_messages_reach_parsls_queue(make: Make) -> None:
    started = make()
    message = (MessageType.RESOURCE_INFO, {"task_id": 1})
    started.manager.tell("radio", [pickle.dumps(message)])  # without monitoring it is dropped
    started.executor.monitoring_messages = received = queue.Queue()  # type: ignore[assignment]
    started.manager.tell("radio", [b"no message", pickle.dumps(message)])
    assert received.get(timeout=30) == message


@pytest.mark.parametrize(
    ("message", "error"),
    [(("broken", "a fault"), ManagerLost), (("nodes-fail", "no program", "its output"), WorkerLaunchFailed)],
)
def test_failure_that_the_manager_reports_fails_all_tasks(make: Make, message: Any, error: type[Exception]) -> None:
    started = make()
    future = started.executor.submit(abs, {}, 1)
    started.manager.tell(*message)
    failed = future.exception(30)
    assert isinstance(failed, error) or isinstance(failed.__cause__ if failed else None, error)
    assert started.executor.bad_state_is_set
    with pytest.raises(BadStateException, match=message[1]) as caught:
        started.executor.submit(abs, {}, 1)
    assert isinstance(caught.value.__cause__, error)


def test_death_of_the_manager_fails_all_tasks_and_removes_its_directory(make: Make) -> None:
    started = make()
    future = started.executor.submit(abs, {}, 1)
    started.manager.process.send_signal(signal.SIGKILL)
    failed = future.exception(30)
    assert isinstance(failed, ManagerLost)
    assert "it was killed by signal 9" in failed.reason
    eventually(lambda: not os.path.exists(started.executor.run.places.base))


def test_first_failure_is_kept(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = make().executor
    for reason in ("first", "second"):
        executor.set_bad_state_and_fail_all(ManagerLost(task_id=None, reason=reason))
    assert "first" in str(executor.executor_exception)
    assert "second" not in caplog.text


# --- files, statistics and tuning ---


def test_temp_file_is_copied_home_and_forgotten(make: Make, tmp_path: Path) -> None:
    started = make()
    file = File("taskvinetemp:///grid")
    with pytest.raises(FileNotFoundError, match="no task of this executor"):
        started.executor.fetch(file, tmp_path / "copy")
    future = started.executor.submit(abs, {}, 1, outputs=[file])
    ((_,), _, (call,)) = started.manager.heard("submit")
    (use,) = call[4]
    replica = tmp_path / "replica"
    replica.write_text("data")
    status = replica.stat()
    started.manager.answers["locate"] = ("n1", str(replica), status.st_size, status.st_ctime_ns)
    started.manager.done(call[0], 1, made=((use[2], 4, 1),))
    assert future.result(30) == 1
    copied = started.executor.fetch(file, tmp_path / "new" / "copy", timeout=30)
    assert Path(copied).read_text() == "data"
    started.executor.forget(file)
    assert started.manager.heard("forget") == ((use[2],),)
    with pytest.raises(FileNotFoundError):
        started.executor.forget(file)


def test_statistics_count_large_arguments(make: Make) -> None:
    started = make()
    data = b"x" * (2 << 20)
    started.executor.submit(len, {}, data)
    started.executor.submit(len, {}, data)
    started.manager.answers["stats"] = {"tasks_done": 7}
    stats = started.executor.stats()
    assert stats == {"tasks_done": 7, "arguments_stored": len(data), "arguments_shared": len(data)}


def test_tuning_reaches_the_manager_if_it_is_valid(make: Make) -> None:
    started = make()
    started.executor.tune({"keepalive_timeout": 7})
    assert started.manager.heard("tune") == ({"keepalive-timeout": 7},)
    assert started.executor.run.link.patience.timeout == 7
    with pytest.raises(ConfigurationError, match="did you mean"):
        started.executor.tune({"keepalive_timeouts": 7})
    assert started.executor.run.link.patience.timeout == 7


def test_graph_is_made_from_the_record(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ExecutorShutDown):
        _ended().graph()
    started = make(vine_log_dir=str(tmp_path / "logs"))
    recorder = Recorder(started.executor.run.places.record)
    recorder.close()
    with pytest.raises(ValueError, match="does not name a graph format"):
        started.executor.graph(tmp_path / "graph.png")
    assert list(started.executor.graph(tmp_path / "graph.dot").nodes) == []
    assert (tmp_path / "graph.dot").read_text() == "digraph run {\n}\n"
    started.executor.shutdown()
    assert list(started.executor.graph().nodes) == []


def _ended() -> TaskVineExecutor:
    executor = TaskVineExecutor(engine="embedded")
    executor.shutdown()
    return executor


# --- start ---


def test_command_for_a_node_by_hand(make: Make) -> None:
    executor = make().executor
    assert executor.launch_cmd.startswith(sys.executable)
    assert executor.launch_cmd.endswith(f"node {cleanup.CONNECT} {executor.run.places.base}")


def test_log_directory_that_cannot_be_made_is_an_error(make: Make, tmp_path: Path, nothing_left: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirNotWritable, match="Not a directory"):
        make(vine_log_dir=str(tmp_path / "file" / "logs"))
    assert os.listdir(nothing_left) == []


def test_runs_in_one_log_directory_have_records_of_their_own(make: Make, tmp_path: Path) -> None:
    records = [make(vine_log_dir=str(tmp_path)).executor.run.places.record for _ in range(3)]
    assert list(map(os.path.basename, records)) == ["record.msgpack", "record-2.msgpack", "record-3.msgpack"]


def test_context_is_written_for_the_nodes(make: Make) -> None:
    executor = make(library_config={"context": dict, "context_kwargs": {"a": 1}}).executor
    with open(os.path.join(executor.run.places.base, "node.config"), "rb") as file:
        function, args, kwargs = pickle.loads(pickle.load(file).context)
    assert (function, args, kwargs) == (dict, (), {"a": 1})


def test_leftovers_of_killed_runs_are_removed(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "taskvine_exec")
    monkeypatch.setattr("taskvine_manager.node.leftovers.sweep", lambda directory: [f"{directory}/taskvine-old"])
    make(label="tv")
    eventually(lambda: "/taskvine-old, left behind by a killed run" in caplog.text)


def test_settings_are_those_of_the_chosen_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "choose", lambda asked, worker: ("taskvine", "a test says so"))
    settings = TaskVineExecutor(worker_launch_method="factory", ssl=True, batching=False).settings
    assert isinstance(settings, VineSettings)
    assert (settings.ssl, settings.batching) == (True, False)


def test_results_by_reference_need_proxystore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "taskvine_exec.results.proxies", None)
    with pytest.raises(OptionalModuleMissing, match=r"pip install 'taskvine-exec\[proxystore\]'"):
        TaskVineExecutor(engine="embedded", results="reference")


def test_manager_gets_its_end_of_the_link_and_a_listening_socket(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "manager.py"
    program.write_text(
        "import socket, sys\n"
        "base, listener, link, pid = sys.argv[2:]\n"
        "socket.socket(fileno=int(link)).sendall(f'{base} {pid}'.encode())\n"
        "print(socket.socket(fileno=int(listener)).getsockname())\n"
    )
    places = make().executor.run.places
    monkeypatch.setattr(launch, "PROGRAM", str(program))
    with open(os.devnull) as claim:
        process, end = START_MANAGER(places, claim.fileno())
    with end:
        assert process.wait(30) == 0
        assert end.recv(1000).decode() == f"{places.base} {os.getpid()}"
    with open(places.manager_output) as file:
        assert file.read().strip() == os.path.join(places.base, "manager.sock")
    with pytest.raises(OSError, match="in use"):
        START_MANAGER(places, 0)
