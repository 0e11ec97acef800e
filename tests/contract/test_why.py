"""What the command says of real runs: why tasks wait, failed or were run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from taskvine_exec import TaskVineExecutor
from taskvine_exec.command.runs import is_live
from taskvine_exec.errors import NodeLost, SlotDied
from taskvine_exec.insight.fold import read_state
from taskvine_exec.insight.summary import summarize
from taskvine_exec.insight.why import Cause, explain, explain_run
from tests.conftest import Gate, eventually, first_node
from tests.integration.test_programs import ROOTS

Make = Callable[..., TaskVineExecutor]


def why(executor: TaskVineExecutor, number: int) -> Cause | None:
    """Explain a task, once the record has it."""
    state = read_state(executor.run.places.record)
    return explain(state, number, is_live=is_live(state)) if number in state.tasks else None


def root(executor: TaskVineExecutor, number: int, kind: str) -> Cause:
    """Wait until the first cause of a task's state is of a kind."""
    return eventually(lambda: (cause := why(executor, number)) and cause.root.kind == kind and cause.root)  # type: ignore[no-any-return]


def say(executor: TaskVineExecutor, *words: str) -> str:
    """Run the command on an executor's log directory."""
    name, *options = words
    path = os.pathsep.join(filter(None, [*ROOTS, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "taskvine_exec", name, executor.run.places.log, *options],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "300"},  # paths may be long
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_no_node(make_executor: Make) -> None:
    executor = make_executor(worker_launch_method="manual")
    executor.submit(int, {})
    assert root(executor, 0, "no-block")
    assert "no node is there" in say(executor, "why", "0")
    if executor.engine == "taskvine":
        eventually(lambda: read_state(executor.run.places.record).entrance.startswith("nodes connect to "))


def test_busy_node_and_the_command_while_the_run_goes_on(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(cores=1)
    futures = [executor.submit(gate.task, {"cores": 1}, number) for number in range(3)]
    gate.wait(1)
    eventually(lambda: (cause := why(executor, 2)) and any(each.kind == "full" for _, each in cause.walk()))
    said = json.loads(say(executor, "status", "--json"))
    assert said["run"] == "goes on"
    assert said["engine"] == executor.engine
    assert sum(said["states"].values()) == 3
    assert [node["name"] for node in said["nodes"]] == [first_node(executor)["name"]]
    gate.open()
    for future in futures:
        future.result(30)
    eventually(lambda: json.loads(say(executor, "status", "--json"))["states"]["returned"] == 3)


def test_failure_is_the_root(make_executor: Make) -> None:
    executor = make_executor()
    assert isinstance(executor.submit(int, {}, "no number").exception(30), ValueError)
    cause = root(executor, 0, "error")
    assert cause.text == "ValueError: invalid literal for int() with base 10: 'no number'"
    assert cause.text in say(executor, "why", "int")


def test_missing_module(make_executor: Make) -> None:
    def imports() -> None:
        import no_such_module  # type: ignore[import-not-found] # noqa: F401

    executor = make_executor()
    assert isinstance(executor.submit(imports, {}).exception(30), ModuleNotFoundError)
    assert "No module named 'no_such_module'" in root(executor, 0, "error").text


def test_dead_slot(make_executor: Make) -> None:
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    executor = make_executor()
    assert isinstance(executor.submit(dies, {}).exception(30), SlotDied)
    assert root(executor, 0, "slot-died")


def test_failing_context(make_executor: Make) -> None:
    def fails() -> dict[str, Any]:
        raise KeyError("no model")

    executor = make_executor(library_config={"context": fails}, function_exec_mode="L2")
    assert executor.submit(int, {}).exception(60) is not None
    assert "no model" in str(root(executor, 0, "context"))


def test_lost_node(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(worker_launch_method="factory", min_workers=1, max_workers=1)
    future = executor.submit(gate.task, {})
    gate.wait(1)
    node = first_node(executor)
    eventually(lambda: (cause := why(executor, 0)) and cause.kind == "assigned")
    os.kill(node["pid"], signal.SIGKILL)
    eventually(lambda: node["name"] not in [other["name"] for other in executor.nodes])
    gate.open()
    future.result(60)
    cause = root(executor, 0, "node-lost")
    assert cause.node == node["name"]


def test_task_whose_nodes_were_all_lost(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(worker_launch_method="factory", min_workers=1, max_workers=1, max_retries=1)
    future = executor.submit(gate.task, {})
    lost: list[str] = []
    for starts in (1, 2):
        gate.wait(starts)
        node = eventually(lambda: next((node for node in executor.nodes if node["name"] not in lost), None))
        lost.append(node["name"])
        os.kill(node["pid"], signal.SIGKILL)
    assert isinstance(future.exception(90), NodeLost)
    assert "on each of the 2 nodes" in root(executor, 0, "poison").text


def test_killed_manager(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    executor.submit(gate.task, {})
    gate.wait(1)
    eventually(lambda: (cause := why(executor, 0)) and cause.kind == "assigned")
    os.kill(executor.run.manager.pid, signal.SIGKILL)
    assert root(executor, 0, "manager-gone")
    state = read_state(executor.run.places.record)
    assert summarize(state, is_live=is_live(state)).run == "killed"
    assert "its manager is gone" in say(executor, "status")


def test_idle_run(make_executor: Make) -> None:
    executor = make_executor()
    assert executor.submit(int, {}).result(30) == 0
    eventually(lambda: explain_run(read_state(executor.run.places.record)).root.kind == "program")


@pytest.mark.parametrize("command", ["trace", "dot", "graphml", "logs"])
def test_other_commands_on_a_run_that_goes_on(make_executor: Make, gate: Gate, command: str) -> None:
    executor = make_executor()
    executor.submit(gate.task, {})
    gate.wait(1)
    eventually(lambda: (cause := why(executor, 0)) and cause.kind == "assigned")
    assert ("hold" if command != "logs" else "manager.log") in say(executor, command)
    gate.open()
