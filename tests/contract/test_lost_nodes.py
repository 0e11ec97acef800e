"""Nodes that are killed: their tasks run elsewhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import NodeLost
from tests.conftest import Gate, eventually, first_node

Make = Callable[..., TaskVineExecutor]


def kill_a_node(executor: TaskVineExecutor, number: int = 0) -> int:
    assert executor.wait_for_nodes(number + 1, 30)
    pid: int = executor.nodes[number]["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in {node["pid"] for node in executor.nodes})
    return pid


def killer(directory: str | None = None) -> Callable[[], None]:
    """A call that kills its node. With a gate's directory, it does so beside another task at each attempt."""

    def kill_my_node() -> None:
        import os
        import signal
        import time

        if directory:
            open(os.path.join(directory, f"killer{os.getpid()}.x"), "w").close()
            names = [name.partition(".")[0] for name in os.listdir(directory)]
            tries = sum(name.startswith("killer") for name in names)
            while len({name for name in names if not name.startswith("killer")}) < tries:
                time.sleep(0.01)
                names = [name.partition(".")[0] for name in os.listdir(directory)]
        os.kill(int(os.environ["TASKVINE_EXEC_RUN_NODE"].rpartition("-")[2]), signal.SIGKILL)
        time.sleep(60)

    return kill_my_node


def test_tasks_move_to_the_remaining_node(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode, worker_launch_method="factory", min_workers=2, max_workers=2)
    assert executor.wait_for_nodes(2, 30)
    futures = [executor.submit(gate.task, {}, number) for number in range(4)]
    gate.wait(4)
    kill_a_node(executor)
    gate.open()
    assert [future.result(30)[0] for future in futures] == list(range(4))
    assert len(gate.begun()) == 6  # two were run again


def test_block_that_dies_is_replaced_while_tasks_wait(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode)
    futures = [executor.submit(gate.task, {}, number) for number in range(6)]
    gate.wait(2)
    dead = kill_a_node(executor)
    gate.wait(4)
    gate.open()
    assert [future.result(30) for future in futures] == [(number, "1") for number in range(6)]
    eventually(lambda: not psutil.pid_exists(dead))


def test_block_that_dies_idle_is_replaced_for_the_next_task(make_executor: Make) -> None:
    executor = make_executor()
    assert executor.submit(int, {}).result(30) == 0
    kill_a_node(executor)
    eventually(lambda: executor.status_facade["0"].terminal)
    assert list(executor.blocks_to_job_id) == ["0"]
    assert executor.submit(int, {}).result(30) == 0
    assert list(executor.blocks_to_job_id) == ["0", "1"]


def test_new_node_by_hand_takes_over_lost_tasks(
    make_executor: Make, gate: Gate, start_node: Callable[[TaskVineExecutor], int]
) -> None:
    executor = make_executor(worker_launch_method="manual")
    start_node(executor)
    futures = [executor.submit(gate.task, {}, number) for number in range(3)]
    gate.wait(2)
    kill_a_node(executor)
    gate.open()
    start_node(executor)
    assert [future.result(30)[0] for future in futures] == [0, 1, 2]


def test_task_without_retries_fails_with_its_node(make_executor: Make, mode: str, gate: Gate) -> None:
    """Of the calls on the node, only the running one is lost."""
    executor = make_executor(function_exec_mode=mode, max_retries=0)
    futures = [executor.submit(gate.task, {}, number) for number in range(6)]
    gate.wait(2)
    name = first_node(executor)["name"]
    kill_a_node(executor)
    gate.open()
    for future in futures[:2]:
        error = future.exception(30)
        assert isinstance(error, NodeLost)
        assert error.node == name
    assert [future.result(30)[0] for future in futures[2:]] == [2, 3, 4, 5]


@pytest.mark.parametrize("method", ["provider", "factory"])
def test_call_that_kills_its_node_is_given_up(make_executor: Make, mode: str, method: str) -> None:
    """The call is lost after its last attempt; no call behind it is lost."""
    executor = make_executor(function_exec_mode=mode, worker_launch_method=method, cores=1, max_retries=1)
    poison = executor.submit(killer(), {})
    others = [executor.submit(lambda x: x, {}, number) for number in range(20)]
    error = poison.exception(60)
    assert isinstance(error, NodeLost)
    assert error.task_id == 0
    assert "attempt 2" in str(error)
    assert [future.result(30) for future in others] == list(range(20))


def test_call_that_kills_its_node_fails_no_others(make_executor: Make, mode: str, gate: Gate) -> None:
    """A call that ran beside it runs again, but not beside it."""
    executor = make_executor(function_exec_mode=mode, max_retries=1)
    poison = executor.submit(killer(str(gate.directory)), {})
    others = [executor.submit(gate.task, {}, number) for number in range(5)]
    assert isinstance(poison.exception(60), NodeLost)
    gate.open()
    assert [future.result(60)[0] for future in others] == list(range(5))


def test_after_a_lost_node_its_tasks_run_one_by_one(make_executor: Make, gate: Gate) -> None:
    """Other calls run beside them. A node that was told to leave makes no call suspect."""
    executor = make_executor(cores=3, max_retries=2)
    first = [executor.submit(gate.task, {}, f"first{number}") for number in range(3)]
    gate.wait(3)
    kill_a_node(executor)
    second = [executor.submit(gate.task, {}, f"second{number}") for number in range(4)]
    assert gate.wait(6)[-2:] == ["second0", "second1"]
    os.kill(first_node(executor)["pid"], signal.SIGTERM)
    gate.wait(9)
    gate.open()
    for future in first + second:
        future.result(30)


def test_tasks_of_a_terminated_node_run_elsewhere(make_executor: Make, mode: str, gate: Gate) -> None:
    """A batch system ends a block when its time is over: its running calls run elsewhere."""
    executor = make_executor(function_exec_mode=mode)
    futures = [executor.submit(gate.task, {}, number) for number in range(4)]
    gate.wait(2)
    os.killpg(os.getpgid(first_node(executor)["pid"]), signal.SIGTERM)
    gate.wait(4)
    gate.open()
    assert [future.result(30)[0] for future in futures] == list(range(4))


def test_node_may_be_terminated_before_its_library_is_warm(make_executor: Make) -> None:
    executor = make_executor(worker_launch_method="factory")
    futures = [executor.submit(lambda x: x, {}, number) for number in range(4)]
    assert executor.wait_for_nodes(1, 30)
    os.killpg(os.getpgid(first_node(executor)["pid"]), signal.SIGTERM)
    assert [future.result(30) for future in futures] == list(range(4))
