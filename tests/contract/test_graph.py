"""executor.graph(): the run as a graph, while it goes on and afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx
import pytest
from parsl.data_provider.files import File

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import ExecutorNotStarted, ExecutorShutDown
from taskvine_manager.record import read_record
from tests.conftest import Gate, eventually

Make = Callable[..., TaskVineExecutor]


def write(outputs: Any = ()) -> None:
    with open(outputs[0], "w") as file:
        file.write("data")


def read(inputs: Any = ()) -> str:
    with open(inputs[0]) as file:
        return file.read()


def fail() -> None:
    raise ValueError("on purpose")


def exit_hard() -> None:
    import os

    os._exit(3)


def states(graph: networkx.DiGraph) -> dict[Any, tuple[str, str]]:
    return {node: (facts["state"], facts.get("outcome", "")) for node, facts in graph.nodes.items()}


def test_graph_of_a_running_run(make_executor: Make, gate: Gate, tmp_path: Path) -> None:
    executor = make_executor(cores=1)
    made = File("taskvinetemp:///data")
    assert executor.submit(write, {}, outputs=[made]).result(30) is None
    executor.submit(fail, {"category": "failing"}).exception(30)
    executor.submit(exit_hard, {}).exception(30)
    executor.submit(gate.task, {})
    gate.wait(1)
    executor.submit(read, {}, inputs=[made])
    path = tmp_path / "run.dot"
    graph = executor.graph(path)
    file = "data@t0"
    assert states(graph) == {
        0: ("done", "returned"),
        1: ("done", "raised"),
        2: ("done", "lost"),
        3: ("assigned", ""),
        4: ("ready", ""),
        file: ("there", ""),
    }
    assert set(graph.edges) == {(0, file), (file, 4)}
    (node,) = [each["name"] for each in executor.nodes]
    assert graph.nodes[file]["places"] == node
    assert graph.nodes[file]["size"] == 4
    first = graph.nodes[0]
    assert (first["name"], first["node"], first["attempts"]) == ("write", node, 1)
    assert first["submitted"] <= first["started"] + 0.001
    assert first["dispatched"] <= first["started"]
    assert graph.nodes[1]["category"] == "failing"
    assert graph.nodes[2]["reason"] == "slot-died"
    assert path.read_text().startswith("digraph run {")
    gate.open()
    executor.forget(made)


def test_graph_after_the_end_comes_from_the_record(make_executor: Make, gate: Gate, tmp_path: Path) -> None:
    executor = make_executor(cores=1)
    assert executor.submit(len, {}, "abc").result(30) == 3
    running = executor.submit(gate.task, {})
    gate.wait(1)
    executor.shutdown()
    assert running.done()
    graph = executor.graph(tmp_path / "run.graphml")
    assert states(graph) == {0: ("done", "returned"), 1: ("done", "cancelled")}
    assert networkx.read_graphml(tmp_path / "run.graphml").nodes["0"]["name"] == "len"


def test_killed_manager_leaves_its_record(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(cores=1)
    assert executor.submit(len, {}, "abc").result(30) == 3
    running = executor.submit(gate.task, {})
    gate.wait(1)
    executor.graph()  # the completion has been written to the record
    os.kill(executor.run.manager.pid, signal.SIGKILL)
    assert running.exception(30) is not None
    assert states(executor.graph()) == {0: ("done", "returned"), 1: ("unknown", "")}


def test_attempts_count_lost_nodes(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(worker_launch_method="factory", min_workers=1, max_workers=1, cores=1)
    future = executor.submit(gate.task, {})
    gate.wait(1)
    os.kill(executor.nodes[0]["pid"], signal.SIGKILL)
    gate.wait(2)
    assert executor.graph().nodes[0]["attempts"] == 2
    gate.open()
    assert future.result(30)
    assert executor.graph().nodes[0]["attempts"] == 2


def test_cancelled_tasks_are_shown(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(cores=1)
    executor.submit(gate.task, {})
    gate.wait(1)
    executor.run.link.say("cancel", [0])
    eventually(lambda: states(executor.graph()) == {0: ("done", "cancelled")})


def test_runs_with_the_same_log_directory_stay_apart(make_executor: Make, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    for number in range(2):
        executor = make_executor(vine_log_dir=log)
        for _ in range(number + 1):
            executor.submit(len, {}, "abc").result(30)
        executor.shutdown()
        assert len(executor.graph()) == number + 1
    assert len(read_record(os.path.join(log, "record.msgpack")).submitted) == 1
    assert len(read_record(os.path.join(log, "record-2.msgpack")).submitted) == 2


def test_missing_graph_is_an_error(make_executor: Make, tmp_path: Path) -> None:
    with pytest.raises(ExecutorNotStarted):
        TaskVineExecutor().graph()
    executor = make_executor()
    with pytest.raises(ValueError, match="png"):
        executor.graph(tmp_path / "run.png")
    assert len(executor.graph()) == 0
    nowhere = TaskVineExecutor(cores=1)
    nowhere.start()
    nowhere.shutdown()
    with pytest.raises(ExecutorShutDown):
        nowhere.graph()
