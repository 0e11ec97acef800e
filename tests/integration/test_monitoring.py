"""Parsl's monitoring, whose messages travel over the channel of results."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.dataflow.dflow import DataFlowKernel

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor

pytest.importorskip("sqlalchemy")

import sqlite3

from parsl.monitoring import MonitoringHub

Load = Callable[..., DataFlowKernel]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "monitoring.db"


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def hub(database: Path, interval: float) -> MonitoringHub:
    return MonitoringHub(logging_endpoint=f"sqlite:///{database}", resource_monitoring_interval=interval)


def test_monitoring_fills_its_tables(load: Load, database: Path) -> None:
    executor = TaskVineExecutor(label="tv", cores=2)
    dfk = load([executor], monitoring=hub(database, 0.2))

    @parsl.python_app
    def spin(seconds: float, parsl_resource_specification: Any = None) -> float:
        import time

        time.sleep(seconds)
        return seconds

    specifications = [{"function_exec_mode": mode} for mode in ("L1", "L2", "L2")]
    futures = [spin(0.5, parsl_resource_specification=specification) for specification in specifications]
    for future in futures:
        future.result()
    dfk.cleanup()

    assert rows(database, "SELECT COUNT(*) FROM workflow WHERE time_began AND time_completed") == [(1,)]
    assert rows(database, "SELECT tasks_completed_count, tasks_failed_count FROM workflow") == [(3, 0)]
    assert rows(database, "SELECT task_id, task_func_name FROM task ORDER BY task_id") == [
        (number, "spin") for number in range(3)
    ]
    tries = "SELECT task_id, task_executor, block_id FROM try WHERE task_try_time_running ORDER BY task_id"
    assert rows(database, tries) == [(number, "tv", "0") for number in range(3)]
    states = rows(database, "SELECT DISTINCT task_status_name FROM status WHERE task_id = 2")
    assert {"launched", "running", "running_ended", "exec_done"} <= {state for (state,) in states}
    assert rows(database, "SELECT DISTINCT task_id FROM resource ORDER BY task_id") == [(0,), (1,), (2,)]
    assert rows(database, "SELECT MIN(psutil_process_memory_resident) > 0 FROM resource") == [(1,)]
    assert rows(database, "SELECT DISTINCT block_id, executor_label FROM block") == [("0", "tv")]
    assert rows(database, "SELECT COUNT(*) >= 2 FROM block") == [(1,)]


def test_functions_are_sent_once(load: Load, database: Path) -> None:
    """Parsl wraps a monitored function again for each call."""
    executor = TaskVineExecutor(label="tv", cores=2)
    dfk = load([executor], monitoring=hub(database, 0))

    @parsl.python_app
    def same(x: int) -> int:
        return x

    futures = [same(number) for number in range(200)]
    assert [future.result() for future in futures] == list(range(200))
    assert executor._submitter.functions.count == 1
    dfk.cleanup()
    assert rows(database, "SELECT COUNT(*) FROM try WHERE block_id = '0'") == [(200,)]
    assert rows(database, "SELECT COUNT(*) FROM status WHERE task_status_name = 'running_ended'") == [(200,)]


def test_dependencies_of_edges_are_in_the_table(load: Load, database: Path) -> None:
    dfk = load([TaskVineExecutor(label="tv", cores=1)], monitoring=hub(database, 0), dependency_resolver=DAG_RESOLVER)

    @parsl.python_app
    def join(*parts: Any) -> Any:
        return parts

    first, second = join(), join()
    assert join(first, [second, join(first)]).result() == ((), [(), ((),)])
    dfk.cleanup()
    depends = "SELECT task_id, task_depends FROM task ORDER BY task_id"
    assert rows(database, depends) == [(0, ""), (1, ""), (2, "0"), (3, "0,1,2")]
