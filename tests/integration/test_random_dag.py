"""Random DAGs give the results of a serial run, and kept results outlive the node that made them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import pytest
from parsl.dataflow.dflow import DataFlowKernel
from parsl.providers import LocalProvider

from benchmarks import random_dag
from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from tests.conftest import eventually

Load = Callable[..., DataFlowKernel]
DOUBLES = 5_000  # 40 KB: more than fits a message


@pytest.mark.parametrize(("seed", "nodes", "hold"), [(0, 1, False), (1, 3, True), (2, 2, False), (3, 2, True)])
def test_random_dag_equals_a_serial_run(load: Load, seed: int, nodes: int, hold: bool) -> None:
    provider = LocalProvider(init_blocks=nodes, min_blocks=nodes, max_blocks=nodes)
    executor = TaskVineExecutor(label="tv", cores=1, provider=provider)
    load([executor], dependency_resolver=DAG_RESOLVER)
    assert executor.wait_for_nodes(nodes, 30)
    dag = random_dag.draw(300, 10 * (seed + 1), seed)
    expected = random_dag.serially(dag, DOUBLES)
    app = parsl.python_app(random_dag.mix)
    found = {number: random_dag.digest(result) for number, result in random_dag.results(app, dag, DOUBLES, hold=hold)}
    assert found == {number: digest for number, digest in expected.items() if number in found}
    consumed = {parent for node in dag for parent in node.parents}
    assert found.keys() == (expected.keys() if hold else expected.keys() - consumed)
    stats = executor.stats()
    assert stats["tasks_recovered"] == stats["tasks_retried"] == 0
    # No future is held any more.
    eventually(lambda: gc.collect() >= 0 and executor.stats()["replicas"] == {})
    assert executor.stats()["bytes_stored"] == 0


def test_random_dag_depends_on_its_seed() -> None:
    assert random_dag.draw(300, 20, 1) == random_dag.draw(300, 20, 1) != random_dag.draw(300, 20, 2)
    digests = random_dag.serially(random_dag.draw(100, 10, 1), DOUBLES)
    assert len(set(digests.values())) == 100  # a result in the place of another would be noticed


def test_result_can_be_read_after_its_node_was_scaled_in(load: Load, tmp_path: Path) -> None:
    provider = LocalProvider(init_blocks=2, min_blocks=1, max_blocks=2)
    executor = TaskVineExecutor(label="tv", cores=1, provider=provider)
    load([executor], dependency_resolver=DAG_RESOLVER, strategy="simple", strategy_period=0.05, max_idletime=1)
    assert executor.wait_for_nodes(2, 30)

    @parsl.python_app
    def make(account: str, number: int) -> Any:
        import os
        import time

        import numpy as np

        with open(account, "a") as file:
            file.write(f"{number}\n")
        while len(open(account).read().split()) < 2:
            time.sleep(0.005)  # both at once: each on another node
        return np.full(1 << 22, float(os.environ["PARSL_WORKER_BLOCK_ID"]) + 10 * number)  # 32 MB

    account = tmp_path / "account"
    futures = [make(str(account), number) for number in range(2)]
    eventually(lambda: all(future.done() for future in futures))
    (kept,) = eventually(lambda: [node["name"] for node in executor.nodes] if len(executor.nodes) == 1 else [])
    results = [future.result(30) for future in futures]
    made = [float(result[0]) - 10 * number for number, result in enumerate(results)]
    assert sorted(made) == [0.0, 1.0]  # one on each block
    for number, (block, result) in enumerate(zip(made, results, strict=True)):
        assert np.array_equal(result, np.full(1 << 22, block + 10 * number))
    assert {node["name"] for node in executor.nodes} == {kept}
    assert sorted(account.read_text().split()) == ["0", "1"]
    stats = executor.stats()
    assert stats["tasks_recovered"] == stats["tasks_retried"] == 0
    if executor.settings.engine == "embedded":  # TaskVine does not report the bytes sent between its workers
        assert stats["bytes_between_nodes"] >= 32 << 20  # files of the other node came here before it left
