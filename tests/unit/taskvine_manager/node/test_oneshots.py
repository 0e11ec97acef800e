"""L1 tasks on a node: they start, end, and are cancelled. A small program acts as a task's process."""

from __future__ import annotations

import ast
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager import cleanup
from taskvine_manager.node.calls import Call, Need, Resources, Shared
from taskvine_manager.node.devices import Devices, Gpus
from taskvine_manager.node.limits import Kills
from taskvine_manager.node.oneshots import OneShots
from taskvine_manager.node_parameters import MAX_TASK_STDOUT_STORAGE
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import L1, Invocation, Profile

# The arguments of a task are the program that its process runs.
PROGRAM = """
import os, pickle, sys, time
directory = sys.argv[1]
with open(os.path.join(directory, "task"), "rb") as file:
    task = pickle.load(file)
def answer(body=b""):
    with open(os.path.join(directory, "outcome"), "wb") as file:
        pickle.dump((0, body, 1.0, 0.5), file)
exec(task["arguments"])
"""
PROFILE = Profile(1, "f", "name of f", L1, None, None, None, None, 0.0, "f")


class Node:
    """A node with two cores and two gpus that runs L1 tasks."""

    def __init__(self, directory: Path, init_command: str = "", /, **config: Any) -> None:
        self.directory = directory
        self.resources = Resources(2.0, 1000.0, Devices(["0", "1"]))
        self.endings: list[tuple[int, int, Payload, float, float]] = []
        settings: dict[str, Any] = {
            **dict.fromkeys(("sys_path", "context", "directory", "memory_group", "temporary")),
            "spool": str(directory),
            "log": str(directory),
            "inline_limit": 1000,
            "env_vars": {},
            "gpu_kind": None,
            **config,
        }
        self.tasks = OneShots(
            [sys.executable, "-ISc", PROGRAM],
            init_command,
            dict(os.environ),
            Shared(settings, {"f": b"code of f"}, self.resources, self._report, Kills([], 0.0, lambda path: None)),
        )

    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        self.endings.append((call.invocation.number, outcome, body, started, seconds))

    def add(self, number: int, program: str, cores: float = 1.0, gpus: int = 0) -> Call:
        """Queue a task, and start it if its resources are free."""
        call = Call(Invocation(number, 1, program.encode()), PROFILE, Need(cores, 0.0, Gpus(gpus)))
        call.directory = str(self.directory / f"t{number}")
        (self.directory / f"t{number}" / "sandbox").mkdir(parents=True)
        self.tasks.pending.append(call)
        self.tasks.pump()
        return call

    def numbers(self) -> list[int]:
        """Return the numbers of the tasks that run."""
        return [call.invocation.number for _, call in self.tasks.running()]

    def reap(self) -> None:
        """Wait for the end of all running processes, and reap them."""
        for pid in self.tasks.processes():
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.tasks.reap()

    def result(self) -> Payload:
        """Wait for the only task; return its answer."""
        self.reap()
        ((_, outcome, body, started, seconds),) = self.endings
        assert (outcome, started, seconds) == (failure.RETURNED, 1.0, 0.5)
        return body

    def record(self) -> dict[str, Any]:
        """Wait for the only task, which is lost; return its failure record."""
        self.reap()
        ((_, outcome, body, started, seconds),) = self.endings
        assert (outcome, started, seconds) == (failure.LOST, 0.0, 0.0)
        assert isinstance(body, bytes)
        record: dict[str, Any] = pickle.loads(body)
        return record


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.tasks.stop()


def test_task_runs_in_its_sandbox(node: Node, tmp_path: Path) -> None:
    call = node.add(1, "answer(os.getcwd().encode())")
    assert node.result() == os.fsencode(tmp_path / "t1" / "sandbox")
    assert call.dispatched > 0
    assert node.tasks.processes() == set()


def test_task_runs_in_the_users_directory(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    node = Node(tmp_path, directory=str(tmp_path / "project"))
    node.add(1, "answer(os.getcwd().encode())")
    assert node.result() == os.fsencode(tmp_path / "project")


def test_task_gets_its_function_and_the_results_that_it_reads(node: Node) -> None:
    call = Call(Invocation(1, 1, b"answer(repr(task).encode())"), PROFILE, Need(1.0, 0.0))
    call.directory, call.values = str(node.directory), {"1@r": b"result"}
    (node.directory / "sandbox").mkdir()
    node.tasks.pending.append(call)
    node.tasks.pump()
    body = node.result()
    assert isinstance(body, bytes)
    task = ast.literal_eval(body.decode())
    assert (task["function"], task["values"], task["inline_limit"]) == (b"code of f", {"1@r": b"result"}, 1000)
    assert "log" not in task


def test_task_waits_until_its_resources_are_free(node: Node) -> None:
    node.add(1, "answer()", cores=1.0)
    node.add(2, "answer()", cores=2.0)
    node.add(3, "answer()", cores=1.0)
    assert node.numbers() == [1], "the third task may not overtake the second"
    node.reap()
    assert node.numbers() == [2]
    node.reap()
    node.reap()
    assert [number for number, *_ in node.endings] == [1, 2, 3]
    assert node.resources.cores == 2.0


def test_task_uses_as_many_threads_as_it_has_cores(node: Node) -> None:
    node.add(1, "answer(os.environ['OMP_NUM_THREADS'].encode())", cores=2.0)
    assert node.result() == b"2"


def test_task_sees_only_its_gpus(tmp_path: Path) -> None:
    node = Node(tmp_path, gpu_kind="nvidia")
    program = "answer(os.environ['CUDA_VISIBLE_DEVICES'].encode())"
    node.add(1, program, gpus=1)
    node.add(2, program, gpus=1)
    assert node.resources.devices.free == []
    node.reap()
    assert sorted(str(body) for _, _, body, _, _ in node.endings) == ["b'0'", "b'1'"]
    assert node.resources.devices.free == ["0", "1"]


def test_temporary_directory_of_a_task_is_removed_with_it(tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    node = Node(tmp_path, temporary=str(tmp_path / "short"))
    node.add(1, "answer(os.environ['TMPDIR'].encode())")
    assert node.result() == os.fsencode(tmp_path / "short" / "t1")
    assert list((tmp_path / "short").iterdir()) == []


def test_task_whose_process_dies_is_lost(node: Node) -> None:
    node.add(1, "print('at the end', flush=True); sys.exit(3)")
    record = node.record()
    assert (record["kind"], record["reason"]) == ("slot-died", "while it ran name of f")
    assert (record["exit_code"], record["signal"], record["stderr"]) == (3, None, "at the end\n")


@pytest.mark.parametrize("outcome", ["", "no pickle"])
def test_task_with_a_damaged_outcome_is_lost(node: Node, outcome: str) -> None:
    node.add(1, f"open(os.path.join(directory, 'outcome'), 'w').write({outcome!r})")
    assert node.record()["exit_code"] == 0


def test_processes_of_a_task_that_has_ended_are_killed(node: Node) -> None:
    node.add(1, "child = os.fork(); child or time.sleep(1000); answer(b'%d' % child)")
    body = node.result()
    assert isinstance(body, bytes)
    assert cleanup.ends(int(body), 10)


def test_init_command_runs_before_the_task(tmp_path: Path) -> None:
    node = Node(tmp_path, "export NAME=value")
    node.add(1, "answer(os.environ['NAME'].encode())")
    assert node.result() == b"value"


def test_task_whose_init_command_fails_is_lost(tmp_path: Path) -> None:
    node = Node(tmp_path, "echo why; false")
    node.add(1, "answer()")
    record = node.record()
    assert (record["kind"], record["reason"], record["stderr"]) == ("environment", "init_command failed", "why\n")


@pytest.mark.parametrize(("target", "kind"), [("/dev/full", "disk-full"), ("/proc/cmdline", "slot-died")])
def test_task_that_cannot_be_started_is_lost(tmp_path: Path, target: str, kind: str) -> None:
    (tmp_path / "short").mkdir()
    node = Node(tmp_path, temporary=str(tmp_path / "short"))
    call = Call(Invocation(1, 1, b"answer()"), PROFILE, Need(1.0, 0.0, Gpus(1.0)))
    call.directory = str(tmp_path / "t1")
    (tmp_path / "t1").mkdir()
    (tmp_path / "t1" / "task").symlink_to(target)  # the file in which the task is written for its process
    node.tasks.pending.append(call)
    node.tasks.pump()
    record = node.record()
    assert (record["kind"], record["path"]) == (kind, call.directory)
    assert record["reason"].startswith("name of f cannot be started: [Errno ")
    assert (node.resources.cores, node.resources.devices.free) == (2.0, ["0", "1"])
    assert list((tmp_path / "short").iterdir()) == []


def test_cancelled_task_is_killed_and_reported(node: Node) -> None:
    node.add(1, "answer(); time.sleep(1000)")
    assert node.tasks.cancel({1}, failure.lost("cancelled", "why")) == []
    assert node.record()["kind"] == "cancelled", "not what it had answered"


def test_uninterrupted_task_that_is_cancelled_runs_to_its_end(node: Node) -> None:
    call = node.add(1, "answer()")
    call.profile = call.profile._replace(uninterrupted=True)
    assert node.tasks.cancel({1}, b"") == []
    node.reap()
    assert [(number, outcome) for number, outcome, *_ in node.endings] == [(1, failure.RETURNED)]


def test_cancelled_task_that_has_not_begun_is_returned(node: Node) -> None:
    node.add(1, "answer()", cores=2.0)
    second, third = node.add(2, "answer()"), node.add(3, "answer()")
    assert node.tasks.cancel({2, 99}, b"") == [second]
    assert list(node.tasks.pending) == [third]
    assert node.tasks.hand_back() == [third]
    assert not node.tasks.pending
    node.reap()
    assert [number for number, *_ in node.endings] == [1]


def test_task_of_an_unknown_function_is_a_mistake(node: Node) -> None:
    call = Call(Invocation(1, 1, b""), PROFILE._replace(function="g"), Need(1.0, 0.0))
    call.directory = str(node.directory)
    node.tasks.pending.append(call)
    with pytest.raises(KeyError):
        node.tasks.pump()


def test_output_of_tasks_is_logged(node: Node, tmp_path: Path) -> None:
    node.add(1, "print('first', flush=True); print('second', file=sys.stderr); answer()")
    node.add(2, "answer()")
    node.reap()
    assert (tmp_path / "tasks.log").read_text() == "--- task 1 (name of f)\nfirst\nsecond\n"


def test_output_of_a_task_is_cut(node: Node, tmp_path: Path) -> None:
    node.tasks.tune({MAX_TASK_STDOUT_STORAGE: 5})
    node.tasks.tune({})
    node.add(1, "print('123456789'); answer()")
    node.reap()
    node.tasks.tune({MAX_TASK_STDOUT_STORAGE: 3})
    node.add(2, "print('12'); answer()")
    node.reap()
    assert (tmp_path / "tasks.log").read_text() == (
        "--- task 1 (name of f)\n12345\n--- cut after 5 bytes\n--- task 2 (name of f)\n12\n"
    )


def test_end_of_the_node_ends_its_tasks(node: Node) -> None:
    node.add(1, "time.sleep(1000)")
    node.add(2, "time.sleep(1000)")
    running = dict(node.tasks.running())
    assert set(running) == node.tasks.processes()
    node.tasks.stop()
    for pid in running:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
