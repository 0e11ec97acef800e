"""Our engine for Globus Compute, driven as the endpoint drives it, in the test's own process."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parsl.errors import ConfigurationError

from taskvine_exec import engines as our_engines
from tests.pages import ROOT, Block, blocks

pytest.importorskip("globus_compute_endpoint")

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import Task
from globus_compute_endpoint import engines
from globus_compute_endpoint.endpoint.config.utils import load_config_yaml
from globus_compute_endpoint.engines import GCFuture
from globus_compute_sdk.serialize import ComputeSerializer

from taskvine_exec.clients import globus, registration
from taskvine_exec.clients.globus import TaskVineEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
Start = Callable[..., TaskVineEngine]
SERIALIZER = ComputeSerializer()
PAGE = [block for block in blocks(ROOT / "docs" / "how-to" / "globus-compute.md") if block.language == "yaml"]


@pytest.fixture
def start(engine: str, tmp_path: Path) -> Iterator[Start]:
    """Start engines, which are shut down after the test."""
    started: list[TaskVineEngine] = []

    def make(*, monitored: bool = False, **settings: Any) -> TaskVineEngine:
        made = TaskVineEngine(engine=engine, max_workers_per_node=1, **settings)
        started.append(made)
        made.start(endpoint_id=uuid.uuid4(), run_dir=str(tmp_path), monitored=monitored)
        return made

    yield make
    for each in started:
        each.shutdown()


def send(engine: TaskVineEngine, function: Callable[..., Any], *args: Any) -> GCFuture:
    """Submit a task, as the endpoint's interchange does."""
    number = uuid.uuid4()
    parts = [SERIALIZER.serialize(part) for part in (function, args, {})]
    future = GCFuture(number, function_id=uuid.uuid4())
    engine.submit(future, messagepack.pack(Task(task_id=number, task_buffer=SERIALIZER.pack_buffers(parts))), {})
    return future


def value(future: GCFuture) -> Any:
    result = messagepack.unpack(future.result(100))
    assert result.error_details is None, result.data
    return SERIALIZER.deserialize(result.data)


def test_placement_is_reported(start: Start) -> None:
    """Audited endpoints learn where a task ran, before they learn its result."""
    engine = start(monitored=True)
    future = send(engine, abs, -2)
    blocks: list[Any] = []
    future.bind("block_id", lambda _, block: blocks.append((block, future.done())))
    assert value(future) == 2
    assert blocks == [("0", False)]
    assert future.job_id == engine.executor.blocks["0"]
    assert engine.executor.graph().number_of_nodes() > 0


def test_functions_are_categories(start: Start) -> None:
    engine = start()
    first, second = send(engine, abs, -2), send(engine, len, "abc")
    assert (value(first), value(second)) == (2, 3)
    categories = {data.get("category") for _, data in engine.executor.graph().nodes(data=True)}
    assert {str(first.function_id), str(second.function_id)} <= categories


def test_categories_are_limited(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    """An endpoint may run for months, and each registration of a function has a new id."""
    monkeypatch.setattr(globus, "_MOST_CATEGORIES", 1)
    engine = start()
    futures = [send(engine, abs, -number) for number in range(3)]
    assert [value(future) for future in futures] == [0, 1, 2]
    categories = {data.get("category") for _, data in engine.executor.graph().nodes(data=True)}
    assert [str(future.function_id) in categories for future in futures] == [True, False, False]


def test_a_node_in_a_container(start: Start, tmp_path: Path) -> None:
    """The command that makes the container is put around the command of the node."""
    options = f"touch {tmp_path}/mark; env INSIDE={{EXECUTOR_RUNDIR}} {{EXECUTOR_LAUNCH_CMD}}"
    engine = start(container_type="custom", container_cmd_options=options)
    assert value(send(engine, abs, -2)) == 2
    assert (tmp_path / "mark").exists()
    assert f"INSIDE={tmp_path}" in engine.executor.launch_cmd


@pytest.mark.parametrize("block", PAGE, ids=lambda block: block.name)
def test_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, block: Block) -> None:
    """The YAML on the page makes an engine, where TaskVine is installed."""
    monkeypatch.setattr(our_engines, "module_is_there", lambda: True)
    monkeypatch.setattr(our_engines, "worker_is_there", lambda name: True)
    monkeypatch.setattr(our_engines, "import_problem", lambda: None)
    monkeypatch.setattr(engines, "__getattr__", None, raising=False)
    registration.add_engine(engines)
    config = load_config_yaml(block.code)
    assert isinstance(config.engine, TaskVineEngine)
    config.engine.shutdown()


def test_there_are_such_blocks() -> None:
    assert len(PAGE) > 1


def test_high_assurance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    TaskVineEngine(engine="embedded").assert_ha_compliant()
    monkeypatch.setattr(our_engines, "module_is_there", lambda: True)
    monkeypatch.setattr(our_engines, "worker_is_there", lambda name: True)
    remote = {"engine": "taskvine", "address": "login1.example.org", "provider": far_away()}
    with pytest.raises(ValueError, match="encrypted"):
        TaskVineEngine(encrypted=False, **remote).assert_ha_compliant()
    with pytest.raises(ValueError, match="enable_peer_transfers"):
        TaskVineEngine(**remote).assert_ha_compliant()
    TaskVineEngine(enable_peer_transfers=False, **remote).assert_ha_compliant()


def far_away() -> Any:
    from parsl.providers import SlurmProvider

    return SlurmProvider(partition="compute", mem_per_node=8, cores_per_node=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"library_config": {"context": "os:absent"}}, "cannot be imported"),
        ({"library_config": {"context": "no.such.module:name"}}, "cannot be imported"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaskVineEngine(engine="embedded", **settings)
