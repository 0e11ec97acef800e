"""The executor of Globus Compute endpoints, without Globus Compute."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.executors.errors import InvalidResourceSpecification
from parsl.serialize import pack_apply_message

from taskvine_exec.clients.endpoint import NODE_COMMAND, EndpointExecutor


@pytest.fixture
def executor(engine: str, run_dir: str) -> Iterator[EndpointExecutor]:
    """An executor that has not been started."""
    made = EndpointExecutor(engine=engine, cores=2, max_workers_per_node=2, cores_per_worker=1)
    made.run_dir = run_dir
    yield made
    made.shutdown()


def test_payloads(executor: EndpointExecutor) -> None:
    """The function that is named gets the buffer; without one, Parsl's own does."""
    executor.start()
    assert executor._task_counter == 0
    context = {"task_executor": {"f": "pickle.loads", "a": (), "k": {"encoding": "ASCII"}}, "resource_spec": {}}
    assert executor.submit_payload(context, pickle.dumps([1, 2])).result(60) == [1, 2]
    large = bytes(3_000_000)
    assert executor.submit_payload(context, pickle.dumps(large)).result(60) == large
    assert executor.submit_payload({}, pack_apply_message(abs, (-3,), {})).result(60) == 3
    assert executor._task_counter == 3
    with pytest.raises(InvalidResourceSpecification, match="MPI"):
        executor.submit_payload({"resource_spec": {"num_nodes": 2}}, b"")


def test_reports(executor: EndpointExecutor) -> None:
    """Nodes are described as managers of HighThroughputExecutor."""
    executor.start()
    assert executor.wait_for_nodes(1, 60)
    (manager,) = executor.connected_managers()
    assert manager["block_id"] == "0"
    assert executor.blocks[manager["block_id"]]
    assert (manager["worker_count"], manager["tasks"], manager["active"]) == (2, 0, True)
    assert executor.connected_managers()[0]["idle_duration"] > 0
    packages = executor.connected_managers_packages()
    assert packages[manager["manager"]]["parsl"] == manager["parsl_version"]
    reported = (executor.max_workers_per_node, executor.cores_per_worker, executor.mem_per_worker)
    assert reported == (2, 1, None)
    assert executor.prefetch_capacity == 0


def test_busy_workers_are_reported(executor: EndpointExecutor, gate: Any) -> None:
    executor.start()
    futures = [executor.submit(gate.task, {}, number) for number in range(3)]
    gate.wait(2)
    (manager,) = executor.connected_managers()
    assert (manager["tasks"], manager["idle_duration"]) == (2, 0)
    gate.open()
    for future in futures:
        future.result(60)


def test_the_launch_command_can_be_wrapped(executor: EndpointExecutor, tmp_path: Any) -> None:
    assert executor.launch_cmd == NODE_COMMAND
    mark = tmp_path / "mark"
    executor.launch_cmd = f"touch {mark} && {NODE_COMMAND}"
    executor.start()
    assert executor.submit(abs, {}, -1).result(60) == 1
    assert mark.exists()


def test_what_is_encrypted(engine: str) -> None:
    assert EndpointExecutor(engine=engine).encrypted
    assert EndpointExecutor(engine=engine, encrypted=False).encrypted == (engine == "embedded")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"worker_launch_method": "factory"}, "give a provider"),
        ({"launch_cmd": "process_worker_pool.py"}, "starts no node"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EndpointExecutor(engine="embedded", **settings)


def test_a_failed_executor_says_why(executor: EndpointExecutor) -> None:
    executor.set_bad_state_and_fail_all(ZeroDivisionError("as asked"))
    with pytest.raises(ZeroDivisionError, match="as asked"):
        executor.submit_payload({}, b"")
