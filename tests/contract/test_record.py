"""The record of a run on both engines: what happened to nodes, files and tasks, and why."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.data_provider.files import File

import taskvine_exec
from taskvine_exec import TaskVineExecutor
from taskvine_exec.insight.fold import read_state
from taskvine_exec.insight.state import State
from taskvine_manager.record import entries, events
from tests.conftest import Gate, eventually, first_node
from tests.contract.conftest import embedded_only

Make = Callable[..., TaskVineExecutor]
FILE = "taskvinetemp:///file"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def working_directory() -> str:
    """Stage files into sandboxes."""
    return "sandbox"


def write(outputs):  # type: ignore[no-untyped-def]
    with open(outputs[0].filepath, "w") as stream:
        stream.write("text")


def read(file):  # type: ignore[no-untyped-def]
    with open(file.filepath) as stream:
        return stream.read()


def record_of(executor: TaskVineExecutor) -> str:
    return str(executor.run.places.record)


def state_of(executor: TaskVineExecutor) -> State:
    return read_state(record_of(executor))


def outcome_of(executor: TaskVineExecutor, task: int) -> str:
    """The outcome of a task; empty as long as it is not in the record."""
    found = state_of(executor).tasks.get(task)
    return found.outcome if found is not None else ""


def events_of(executor: TaskVineExecutor) -> list[Any]:
    return [
        event for tag, *rest in entries(record_of(executor)) if tag == "events" for event in events.decoded(rest[1])
    ]


def kill(executor: TaskVineExecutor, node: dict[str, Any]) -> None:
    os.kill(node["pid"], signal.SIGKILL)
    eventually(lambda: node["name"] not in [other["name"] for other in executor.nodes])


def test_killed_node_is_in_the_record(make_executor: Make) -> None:
    """Its start, its end with the exit status, the file that it lost, and why that file's task ran again."""
    executor = make_executor(worker_launch_method="factory", min_workers=1, max_workers=1)
    executor.submit(write, {}, outputs=[File(FILE)]).result(30)
    node = first_node(executor)
    eventually(lambda: any(file.holders for file in state_of(executor).files.values()))
    kill(executor, node)
    assert executor.submit(read, {}, File(FILE)).result(60) == "text"
    eventually(lambda: outcome_of(executor, 1))
    state = eventually(lambda: (now := state_of(executor)).recoveries and now.nodes[node["name"]].status and now)
    gone = state.nodes[node["name"]]
    assert gone.info.pid == node["pid"]
    assert gone.left is not None
    assert gone.left > gone.joined
    assert "connection ended" in gone.reason
    assert gone.status == -signal.SIGKILL
    happened = events_of(executor)
    (lost,) = [event for event in happened if isinstance(event, events.Lost)]
    assert lost.node == node["name"]
    if executor.engine == "embedded":  # TaskVine does not say which task it runs again
        (recovery,) = [event for event in happened if isinstance(event, events.Recovery)]
        assert recovery == events.Recovery(-1, 0, ((lost.file, node["name"]),))
    reader = state.tasks[1]
    assert (reader.state, reader.outcome) == ("done", "returned")
    assert reader.ran_on in state.current_nodes()


def test_retried_task_names_its_lost_node(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(worker_launch_method="factory", min_workers=1, max_workers=1)
    future = executor.submit(gate.task, {})
    gate.wait(1)
    node = first_node(executor)
    running = eventually(lambda: (found := state_of(executor).tasks) and found[0].state == "assigned" and found[0])
    assert running.node == node["name"]
    kill(executor, node)
    gate.open()
    future.result(60)
    task = eventually(lambda: outcome_of(executor, 0) and state_of(executor).tasks[0])
    assert task.attempts == 1
    assert [(why, where) for _, why, where in task.again] == [("node-lost", node["name"])]


def test_failures_have_their_text(make_executor: Make) -> None:
    executor = make_executor()
    futures = [executor.submit(int, {}, "no number") for _ in range(2)]
    for future in futures:
        assert isinstance(future.exception(30), ValueError)
    tasks = eventually(lambda: (found := state_of(executor).tasks) and all(t.failure for t in found.values()) and found)
    first, second = sorted((task.failure for task in tasks.values()), key=lambda each: each.same is not None)
    assert first.kind == "ValueError"
    assert "invalid literal for int() with base 10: 'no number'" in first.text
    assert (second.text, second.same) == ("", first.number)


def test_waiting_task_has_its_reason(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(cores=1)
    futures = [executor.submit(gate.task, {"cores": 1}, number) for number in range(3)]
    gate.wait(1)
    task = eventually(lambda: next((t for t in state_of(executor).tasks.values() if t.waiting), None))
    assert task.waiting.why in ("full", "no-node")
    full = eventually(lambda: [e for e in events_of(executor) if isinstance(e, events.Waiting) and e.why == "full"])
    (node, lacking), *_ = full[0].lacking
    assert (node, lacking) == (first_node(executor)["name"], "cores")
    gate.open()
    for future in futures:
        future.result(30)


def test_library_and_slots_are_in_the_record(make_executor: Make) -> None:
    executor = make_executor(function_exec_mode="L2", library_config={"context": dict, "context_scope": "library"})
    assert executor.submit(int, {}, 5).result(30) == 5

    def steps() -> set[tuple[str, str]]:
        return {(event.kind, event.step) for event in events_of(executor) if isinstance(event, events.Process)}

    eventually(lambda: {("library", "ready"), ("context", "ready"), ("slot", "started")} <= steps())
    node = state_of(executor).nodes[first_node(executor)["name"]]
    assert ("library", "") in node.processes


def test_block_is_in_the_record(make_executor: Make) -> None:
    executor = make_executor()
    assert executor.submit(int, {}).result(30) == 0
    _, block = eventually(lambda: state_of(executor).blocks.get("0"))
    assert block.job == str(executor.blocks_to_job_id["0"])
    assert block.state in ("PENDING", "RUNNING")
    os.kill(first_node(executor)["pid"], signal.SIGKILL)
    ended = eventually(lambda: (found := state_of(executor).blocks["0"][1]).exit_code is not None and found)
    assert (ended.state, ended.exit_code) == ("FAILED", 128 + signal.SIGKILL)


def test_versions_and_settings_are_in_the_record(make_executor: Make) -> None:
    executor = make_executor(max_retries=3)
    facts = eventually(lambda: state_of(executor).facts)
    assert facts["versions"]["taskvine-exec"] == taskvine_exec.__version__
    assert facts["settings"]["max_retries"] == 3


def test_record_of_a_killed_manager_can_be_read(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    executor.submit(gate.task, {})
    gate.wait(1)
    eventually(lambda: (found := state_of(executor).tasks) and found[0].state == "assigned")
    os.kill(executor.run.manager.pid, signal.SIGKILL)
    state = state_of(executor)
    assert state.ended is None
    assert state.tasks[0].node


@embedded_only
def test_replicas_and_transfers(make_executor: Make) -> None:
    executor = make_executor(
        worker_launch_method="factory", min_workers=2, max_workers=2, tune_parameters={"temp-replica-count": 2}
    )
    assert executor.wait_for_nodes(2, 30)
    executor.submit(write, {}, outputs=[File(FILE)]).result(30)
    state = eventually(lambda: (now := state_of(executor)).moved and now)
    (file,) = state.files.values()
    assert set(file.holders) == {node["name"] for node in executor.nodes}
    (started,) = [event for event in events_of(executor) if isinstance(event, events.TransferStarted)]
    assert not started.for_task
    assert {started.node, started.source} == set(file.holders)
    executor.forget(File(FILE))
    eventually(lambda: not state_of(executor).files)
