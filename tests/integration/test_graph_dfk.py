"""The graph of a run under Parsl, with DAG_RESOLVER: its edges are results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx
import parsl
from parsl.dataflow.dflow import DataFlowKernel

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from tests.conftest import eventually, first_node

Load = Callable[..., DataFlowKernel]


@parsl.python_app
def make(count: int) -> bytes:
    return bytes(count)


@parsl.python_app
def join(a: bytes, b: bytes, marker: str = "") -> bytes:
    import time
    from pathlib import Path

    while marker and not Path(marker).exists():
        time.sleep(0.005)
    return a + b


def test_graph_of_a_tree_before_and_after_its_end(load: Load, tmp_path: Path) -> None:
    executor = load(dependency_resolver=DAG_RESOLVER).executors["tv"]
    assert isinstance(executor, TaskVineExecutor)
    marker = tmp_path / "go"
    large, small = make(100_000), make(10)
    middle = join(large, small, str(marker))
    top = join(middle, middle)

    def begun() -> Any:
        graph = executor.graph()
        # Parsl launches tasks in another thread, so the manager may not know all of them yet.
        states = [graph.nodes.get(number, {}).get("state") for number in (2, 3)]
        return graph if states == ["assigned", "waiting"] else None

    graph = eventually(begun)
    assert networkx.is_directed_acyclic_graph(graph)
    results = [f"result-{future.tid}" for future in (large, small, middle, top)]
    # The small result may have existed before its consumer was sent, which then took it along.
    edges = {(0, results[0]), (results[0], 2), (1, results[1]), (2, results[2]), (results[2], 3), (3, results[3])}
    assert set(graph.edges) - {(results[1], 2)} == edges
    assert graph.nodes[results[0]]["state"] == "there"
    assert graph.nodes[results[0]]["size"] > 100_000
    assert graph.nodes[results[0]]["places"] == first_node(executor)["name"]
    assert graph.nodes[results[2]]["state"] == "pending"
    marker.touch()
    assert len(top.result(30)) == 200_020
    graph = executor.graph(tmp_path / "run.graphml")
    assert [graph.nodes[number]["outcome"] for number in range(4)] == ["returned"] * 4
    assert graph.nodes[results[3]]["state"] == "there"
    assert len(networkx.read_graphml(tmp_path / "run.graphml")) == len(graph)
