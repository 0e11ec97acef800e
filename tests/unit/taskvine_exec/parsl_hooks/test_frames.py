"""Facts read from Parsl's frames, in a real DataFlowKernel and its strategy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.config import Config
from parsl.dataflow.dependency_resolvers import SHALLOW_DEPENDENCY_RESOLVER, DependencyResolver
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors import ThreadPoolExecutor
from parsl.jobs.job_status_poller import JobStatusPoller

from taskvine_exec.parsl_hooks import frames
from taskvine_exec.parsl_hooks.switches import FRAMES
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch


class Seen:
    """A DFK whose resolver and executor note what they read from frames."""

    def __init__(self, directory: Path) -> None:
        seen = self
        self.launched: list[Any] = []
        self.started: list[Any] = []
        self.gathered: list[tuple[object, Any]] = []
        self.unwrapped: list[tuple[object, Any, bool]] = []

        class Executor(ThreadPoolExecutor):
            def start(self) -> None:
                seen.started.append(frames.starting())
                super().start()  # type: ignore[no-untyped-call]

            def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
                seen.launched.append(frames.launched())
                future: Future[Any] = super().submit(*args, **kwargs)
                return future

        def gather(argument: object) -> Any:
            self.gathered.append((argument, frames.consumer()))
            return SHALLOW_DEPENDENCY_RESOLVER.traverse_to_gather(argument)

        def unwrap(argument: object) -> Any:
            self.unwrapped.append((argument, frames.consumer(), frames.unwraps_inputs()))
            return SHALLOW_DEPENDENCY_RESOLVER.traverse_to_unwrap(argument)

        config = Config(
            executors=[Executor(label="ex", max_threads=1)],
            dependency_resolver=DependencyResolver(traverse_to_gather=gather, traverse_to_unwrap=unwrap),
            run_dir=str(directory),
            initialize_logging=False,
            strategy="none",
        )
        self.dfk = DataFlowKernel(config)


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Seen]:
    made = Seen(tmp_path)
    yield made
    made.dfk.cleanup()


def test_the_kernel_that_starts_an_executor_is_known(tmp_path: Path, switch: Switch) -> None:
    on = switch(FRAMES)
    seen = Seen(tmp_path)
    seen.dfk.cleanup()
    assert seen.started == [seen.dfk if on else None]


def test_task_is_known_while_its_arguments_are_searched(seen: Seen, switch: Switch) -> None:
    on = switch(FRAMES)
    app = parsl.python_app(lambda x, inputs=(): [x, *inputs], data_flow_kernel=seen.dfk)
    first = app(1)
    assert first.result(60) == [1]
    second = app(2, inputs=[first, 3])
    assert second.result(60) == [2, [1], 3]
    tasks = [record["id"] if record else None for record in seen.launched]
    assert tasks == ([first.tid, second.tid] if on else [None, None])
    assert [record["id"] if record else None for argument, record in seen.gathered if argument == 2] == (
        [second.tid] if on else [None]
    )
    listed = [whole for _, record, whole in seen.unwrapped if record is not None and record["id"] == second.tid]
    assert listed == ([False, True, False, False] if on else [])  # an argument, the list inputs, and its two items


def test_no_task_is_known_elsewhere() -> None:
    assert frames.launched() is None
    assert frames.starting() is None
    assert frames.consumer() is None
    assert not frames.unwraps_inputs()
    assert not frames.run_ends()
    assert not frames.strategy_calls()
    assert not frames.scales_only_at_start()


class Scaled:
    """An executor as Parsl's strategy sees one; it notes what it reads from frames when it is scaled."""

    label = "ex"
    status_polling_interval = 1
    bad_state_is_set = False
    status_facade: dict[str, Any]

    def __init__(self) -> None:
        self.status_facade = {}
        self.provider = self
        self.init_blocks = 1
        self.min_blocks, self.max_blocks, self.workers_per_node, self.nodes_per_block, self.parallelism = 0, 1, 1, 1, 1
        self.out: list[tuple[bool, bool]] = []
        self.into: list[bool] = []
        self.scaled = threading.Event()

    def poll_facade(self) -> None:
        pass

    def handle_errors(self, status: object) -> None:
        pass

    def outstanding(self) -> int:
        return 0

    def scale_out_facade(self, count: int) -> None:
        self.out.append((frames.strategy_calls(), frames.scales_only_at_start()))
        self.scaled.set()

    def scale_in_facade(self, count: int) -> None:
        self.into.append(frames.run_ends())


@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_scaling_by_parsl_is_recognised(strategy: str, switch: Switch) -> None:
    on = switch(FRAMES)
    scaled: Any = Scaled()
    poller = JobStatusPoller(strategy=strategy, max_idletime=60.0, strategy_period=0.01)
    poller.add_executors([scaled])
    assert scaled.scaled.wait(30)
    scaled.scale_out_facade(1)  # by hand
    scaled.scale_in_facade(1)
    poller.close()
    at_start, by_hand = scaled.out
    assert at_start == (True, strategy == "none" or not on)
    assert by_hand == ((False, False) if on else (True, True))
    assert scaled.into == [False, on]
