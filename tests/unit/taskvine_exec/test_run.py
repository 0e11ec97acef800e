"""One run of an executor, from its directories to its end. A small program acts as its manager."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from parsl.errors import ConfigurationError

from taskvine_exec import TaskVineExecutor, launch
from taskvine_exec.config import EngineSettings
from taskvine_exec.errors import ExecutorNotStarted, WorkerLaunchFailed
from taskvine_exec.run import Run, working_directories
from taskvine_manager import cleanup
from taskvine_manager.runtime import search_path
from taskvine_tune.environment import REPORT_VARIABLE
from tests.unit.taskvine_exec.config import derived


class Link:
    """A link to a manager whose answers the test sets."""

    def __init__(self, end: socket.socket, manager: subprocess.Popen[bytes]) -> None:
        self.end = end
        self.manager = manager
        self.patience = self
        self.tuned: list[dict[str, float]] = []
        self.silent = ""
        self.stats: Future[dict[str, Any]] = Future()
        self.ends_in_time = True
        self.stopped: list[float] = []

    def tune(self, parameters: dict[str, float]) -> None:
        self.tuned.append(parameters)

    def ask(self, question: str) -> Future[dict[str, Any]]:
        assert question == "stats"
        return self.stats

    def stop(self, seconds: float) -> bool:
        self.stopped.append(seconds)
        if self.ends_in_time:
            self.manager.communicate()
        return self.ends_in_time

    def close(self) -> None:
        self.end.close()


Make = Callable[..., Run]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, nothing_left: str) -> Iterator[Make]:
    """Make a run whose manager is a process that ends with its standard input."""

    def start(places: launch.Places, claim: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        theirs.close()
        return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL), ours

    monkeypatch.setattr(launch, "start_manager", start)
    made: list[Run] = []

    def begin(settings: EngineSettings | None = None, log: str | None = None, connect: Any = Link) -> Run:
        path = search_path.of_this_process()
        made.append(Run("tv", settings or derived.embedded(), log, path, None, connect))
        return made[-1]

    yield begin
    for run in made:
        run.link.close()
        run.manager.kill()
        run.manager.communicate()
        if os.path.exists(run.places.base):
            run.remove()


def link_of(run: Run) -> Link:
    link: Any = run.link
    assert isinstance(link, Link)
    return link


STATS = {
    "bytes_between_nodes": 1,
    "bytes_stored_at_most": 2,
    "tasks_recovered": 3,
    "tasks_retried": 4,
    "makespan": 5.0,
    "nodes_killed": 6,
}


# --- the start ---


def test_directories_and_configurations_are_made(make: Make) -> None:
    run = make(derived.embedded(tune_parameters={"keepalive-timeout": 7}))
    assert os.stat(run.places.base).st_mode & 0o777 == 0o700
    with open(os.path.join(run.places.base, "manager.config"), "rb") as file:
        assert pickle.load(file)["log"] == run.places.log
    assert link_of(run).manager is run.manager
    assert link_of(run).tuned[0]["keepalive-timeout"] == 7
    assert run.places.log.startswith(run.places.base)


def test_chosen_log_directory_stays(make: Make, tmp_path: Path) -> None:
    run = make(log=str(tmp_path / "logs"))
    run.stop_manager()
    run.remove()
    assert not os.path.exists(run.places.base)
    assert os.path.exists(run.places.record)


def test_failed_start_leaves_nothing(make: Make, nothing_left: str) -> None:
    managers: list[subprocess.Popen[bytes]] = []

    def refuse(end: socket.socket, manager: subprocess.Popen[bytes]) -> None:
        end.close()
        managers.append(manager)
        raise OSError("no threads")

    with pytest.raises(OSError, match="no threads"):
        make(connect=refuse)
    (manager,) = managers
    assert manager.returncode == -signal.SIGKILL
    manager.communicate()
    assert os.listdir(nothing_left) == []


def test_failed_start_of_the_manager_leaves_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, nothing_left: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no processes")

    monkeypatch.setattr(launch, "start_manager", fail)
    with pytest.raises(OSError, match="no processes"):
        make()
    assert os.listdir(nothing_left) == []


def test_executor_has_no_run_before_its_start() -> None:
    with pytest.raises(ExecutorNotStarted):
        TaskVineExecutor().run


# --- while it runs ---


def test_command_of_a_node_names_the_run(make: Make) -> None:
    run = make()
    command = run.node_command("--block", "3")
    assert command[0] == sys.executable
    assert command[2:5] == ["node", cleanup.CONNECT, run.places.base]
    assert command[-2:] == ["--block", "3"]


def test_command_of_a_worker_ends_with_the_managers_address(make: Make) -> None:
    run = make(derived.vine(address="host.example"))
    Path(run.places.base, "vine.address").write_text("9123")
    command = run.node_command("--block", "3")
    assert command[2:6] == ["worker", "--block", "3", cleanup.CONNECT]
    assert command[-2:] == ["host.example", "9123"]


def test_worker_of_a_manager_that_has_ended_is_an_error(make: Make) -> None:
    run = make(derived.vine())
    run.manager.communicate()
    with pytest.raises(WorkerLaunchFailed, match="exited with status 0 before it listened"):
        run.node_command()


@pytest.mark.parametrize(
    ("status", "silent", "output", "said"),
    [
        (3, "", "why", "it exited with status 3; why"),
        (-9, "", "", "it was killed by signal 9; see {log}"),
        (-9, "it was silent", "", "it was killed, because it was silent; see {log}"),
    ],
)
def test_end_of_the_manager_is_explained(make: Make, status: int, silent: str, output: str, said: str) -> None:
    run = make()
    link_of(run).silent = silent
    Path(run.places.manager_output).write_text(output)
    assert run.how_manager_ended(status) == said.format(log=run.places.log)


# --- the report ---


def test_report_of_a_run_has_its_statistics(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(REPORT_VARIABLE, str(tmp_path / "report"))
    run = make()
    link_of(run).stats.set_result(STATS)
    run.write_report(60.0)
    report = json.loads((tmp_path / "report").read_text())
    del report["version"]
    assert report == {
        "wall_seconds": 60.0,
        "bytes_moved": 1,
        "storage_peak_bytes": 2,
        "reexecutions": 7,
        "makespan_seconds": 5.0,
        "losses": 6,
    }


def test_lost_manager_gives_no_report(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(REPORT_VARIABLE, str(tmp_path / "report"))
    run = make()
    link_of(run).stats.set_exception(OSError("it is lost"))
    run.write_report(60.0)
    assert not (tmp_path / "report").exists()


def test_report_that_cannot_be_written_is_logged(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(REPORT_VARIABLE, str(tmp_path))
    run = make()
    link_of(run).stats.set_result(STATS)
    run.write_report(60.0)
    assert "executor tv: the report of the run cannot be written: [Errno 21]" in caplog.text


# --- the end ---


def test_manager_that_ends_in_time_is_not_killed(make: Make) -> None:
    run = make()
    run.stop_manager()
    assert run.manager.wait() == 0
    assert link_of(run).stopped == [5.0]
    assert link_of(run).end.fileno() == -1


def test_manager_that_does_not_end_is_killed(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    run = make()
    link_of(run).ends_in_time = False
    run.stop_manager()
    assert run.manager.returncode == -signal.SIGKILL
    assert "executor tv: its manager did not stop in time and is killed" in caplog.text


def stray(run: Run) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"], env={cleanup.TOKEN: run.places.base})


def test_remaining_processes_and_directories_are_removed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_strays = cleanup.kill_strays
    monkeypatch.setattr(cleanup, "kill_strays", lambda base, grace: kill_strays(base))
    run = make()
    process = stray(run)
    run.remove()
    assert process.wait(10) == -signal.SIGKILL
    assert not os.path.exists(run.places.base)


@pytest.mark.parametrize("may_start_threads", [True, False])
def test_run_of_a_lost_manager_is_removed_soon(
    make: Make, monkeypatch: pytest.MonkeyPatch, may_start_threads: bool
) -> None:
    kill_strays, swept_by = cleanup.kill_strays, list[threading.Thread]()

    def sweep(base: str, grace: float) -> None:
        swept_by.append(threading.current_thread())
        kill_strays(base)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(cleanup, "kill_strays", sweep)
    if not may_start_threads:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    run = make()
    process = stray(run)
    run.clean_up_soon()
    assert process.wait(10) == -signal.SIGKILL
    run.remove()
    assert not os.path.exists(run.places.base)
    assert (swept_by[0] is threading.main_thread()) is not may_start_threads


# --- where apps run ---


@pytest.mark.parametrize(
    ("asked", "settings", "in_place"),
    [
        ("submit", derived.embedded(), True),
        ("sandbox", derived.embedded(), False),
        (None, derived.embedded(), True),
    ],
)
def test_apps_run_in_the_programs_directory(
    asked: Any, settings: EngineSettings, in_place: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = working_directories(asked, settings, "tv")
    assert (found.start, found.in_place) == (str(tmp_path), in_place)


@pytest.mark.parametrize("asked", ["submit", "sandbox", None])
def test_directory_of_the_program_may_have_been_removed(
    asked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    if asked == "submit":
        with pytest.raises(ConfigurationError, match=r"No such file or directory\. Change to a directory"):
            working_directories(asked, derived.embedded(), "tv")
        return
    found = working_directories(asked, derived.embedded(), "tv")
    assert (found.start, found.in_place) == (None, False)
    assert ("executor tv: apps run in private directories, because" in caplog.text) is (asked is None)
