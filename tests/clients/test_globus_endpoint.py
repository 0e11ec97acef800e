"""The process of a Globus Compute user endpoint runs our engine as its YAML asks."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import pytest

from taskvine_exec.clients import registration
from tests.integration.test_programs import ROOTS

pytest.importorskip("globus_compute_endpoint")

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import Result, Task
from globus_compute_sdk.serialize import ComputeSerializer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PROGRAM = Path(__file__).with_name("endpoint_process.py")
FUNCTIONS = runpy.run_path(str(Path(__file__).with_name("endpoint_functions.py")), run_name="__main__")
"""The functions of a user's script, which are pickled by value."""
YAML = """
display_name: test
heartbeat_period: 5
engine:
  type: TaskVineEngine
  engine: {engine}
  max_workers_per_node: 2
  max_retries_on_system_failure: 1
  library_config:
    context: endpoint_context:load
    context_args: [7]
  provider:
    type: LocalProvider
    init_blocks: 1
    max_blocks: 1
"""
CONTEXT = """
def load(number):
    return {"number": number}
"""


class Endpoint:
    """The cloud service's side of an endpoint."""

    def __init__(self, process: subprocess.Popen[str], connection: Connection) -> None:
        self.process = process
        self.heartbeats: list[Any] = []
        self._connection = connection
        self._serializer = ComputeSerializer()
        self._results: dict[uuid.UUID, Result] = {}

    def send(self, function: str, *args: Any, resources: dict[str, Any] | None = None) -> uuid.UUID:
        """Send a call of one of the functions in ``endpoint_functions.py``."""
        number = uuid.uuid4()
        parts = [self._serializer.serialize(part) for part in (FUNCTIONS[function], args, {})]
        task = Task(task_id=number, task_buffer=self._serializer.pack_buffers(parts))
        headers = {
            "function_uuid": str(uuid.uuid4()),
            "task_uuid": str(number),
            "resource_specification": json.dumps(resources),
        }
        self._connection.send((1, headers, messagepack.pack(task)))
        return number

    def result(self, number: uuid.UUID) -> Result:
        """Wait for a task."""
        while number not in self._results:
            self._receive()
        return self._results.pop(number)

    def value(self, number: uuid.UUID) -> Any:
        """Wait for a task's value."""
        result = self.result(number)
        assert result.error_details is None, result.data
        return self._serializer.deserialize(result.data)

    def next_heartbeat(self) -> dict[str, Any]:
        """Wait for the next report of the endpoint."""
        seen = len(self.heartbeats)
        while len(self.heartbeats) == seen:
            self._receive()
        state: dict[str, Any] = self.heartbeats[-1].global_state
        return state

    def _receive(self) -> None:
        assert self._connection.poll(60), "the endpoint says nothing"
        kind, body = self._connection.recv()
        if kind == "results":
            result = messagepack.unpack(body)
            self._results[result.task_id] = result
        elif kind == "heartbeats":
            self.heartbeats.append(messagepack.unpack(body))


@pytest.fixture
def endpoint(tmp_path: Path, nothing_left: str, engine: str) -> Iterator[Endpoint]:
    """A running endpoint."""
    registered = tmp_path / "site"
    registered.mkdir()
    registration.main(["register", "--directory", str(registered)])
    (tmp_path / "endpoint_context.py").write_text(CONTEXT)
    # The registration acts in processes of the endpoint's command only.
    program = tmp_path / "globus-compute-endpoint"
    shutil.copy(PROGRAM, program)
    queues = {f"{name}_queue_info": {"queue": f"{name}s"} for name in ("task", "result", "heartbeat")}
    given = {
        "amqp_creds": {"endpoint_id": str(uuid.uuid4()), **queues},
        "ep_info": {},
        "config": YAML.format(engine=engine),
    }
    (tmp_path / "config" / "ours").mkdir(parents=True)
    paths = [str(tmp_path), *ROOTS, *filter(None, [os.environ.get("PYTHONPATH")])]
    with Listener(str(tmp_path / "cloud"), "AF_UNIX") as listener:
        process = subprocess.Popen(
            [
                sys.executable,
                str(program),
                str(listener.address),
                str(registered),
                *("-c", str(tmp_path / "config"), "_start-user-endpoint", "ours"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(given))
            process.stdin.close()
            with listener.accept() as connection:
                yield Endpoint(process, connection)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def test_an_endpoint_runs_functions(endpoint: Endpoint, tmp_path: Path) -> None:
    """Results, exceptions, large results, contexts and resources; then the endpoint ends as its service asks."""
    tasks = [endpoint.send("power", 2, exponent) for exponent in range(20)]
    assert [endpoint.value(task) for task in tasks] == [2**exponent for exponent in range(20)]
    assert endpoint.value(endpoint.send("large")) == bytes(3_000_000)
    assert endpoint.value(endpoint.send("from_context")) == 7
    failed = endpoint.result(endpoint.send("fail"))
    assert "ValueError: as asked" in str(failed.data)
    refused = endpoint.result(endpoint.send("power", 1, 1, resources={"num_nodes": 2}))
    assert "MPI" in str(refused.data)
    assert endpoint.value(endpoint.send("power", 3, 1, resources={"cores": 1, "memory": 500})) == 3
    state = endpoint.next_heartbeat()
    assert state["engine_type"] == "TaskVineEngine"
    assert (state["managers"], state["total_workers"], state["outstanding_tasks"]) == (1, 2, 0)
    endpoint.process.send_signal(signal.SIGTERM)
    assert endpoint.process.wait(60) == 0
    assert (tmp_path / "config" / "ours" / "TaskVineEngine-EndpointExecutor" / "manager.log").exists()


def test_a_killed_slot_is_retried_by_the_endpoint(endpoint: Endpoint, tmp_path: Path) -> None:
    """max_retries_on_system_failure counts, as with the endpoint's own engine."""
    marks = tmp_path / "marks"
    marks.mkdir()
    assert endpoint.value(endpoint.send("die", str(marks), 1)) == 1
    lost = endpoint.result(endpoint.send("die", str(marks), 100))
    assert "SlotDied" in str(lost.data)
    assert len(list(marks.iterdir())) == 4
