"""Blocks are launched, watched, replaced and cancelled. The test acts as the provider and as the nodes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from parsl.jobs.states import JobState, JobStatus
from parsl.jobs.strategy import Strategy

from taskvine_exec.blocks.executor import BlockExecutor, Told
from taskvine_exec.errors import WorkerLaunchFailed
from tests.conftest import eventually


class Provider:
    """A provider whose jobs have the states that the test sets. It numbers them from 100."""

    label = "provider"
    min_blocks, parallelism, nodes_per_block = 0, 1.0, 1
    cores_per_node = mem_per_node = None
    status_polling_interval = 0.01

    def __init__(self, init_blocks: int = 1, max_blocks: int = 10) -> None:
        self.init_blocks, self.max_blocks = init_blocks, max_blocks
        self.states: dict[int, JobStatus] = {}
        self.commands: list[tuple[str, str]] = []
        self.refuses = False
        self.error: BaseException | None = None

    def submit(self, command: str, tasks_per_node: int, name: str) -> int | None:
        self.commands.append((command, name))
        if self.refuses:
            return None
        self.states[99 + len(self.commands)] = JobStatus(JobState.RUNNING)
        return 99 + len(self.commands)

    def status(self, jobs: list[int]) -> list[JobStatus]:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return [self.states[job] for job in jobs]

    def cancel(self, jobs: list[int]) -> list[bool]:
        for job in jobs:
            self.states[job] = JobStatus(JobState.CANCELLED)
        return [True] * len(jobs)

    def end(self, block: int, code: int | None = 1, state: JobState = JobState.FAILED) -> None:
        self.states[100 + block] = JobStatus(state, f"status of {block}", code)


class Executor(BlockExecutor):
    """An executor whose nodes are those that the test sets."""

    label = "blocks of a test"

    def __init__(self, provider: Any) -> None:
        super().__init__(provider=provider)
        self.drained: list[str] = []
        self.told: list[Told] = []
        self.waiting = 0
        self.when_bad: Callable[[], None] = lambda: None

    def begin(self) -> None:
        self._start_blocks("/scripts")

    def nodes_of(self, *blocks: str) -> None:
        """Make the nodes of these blocks the present ones."""
        self._nodes_are([{"name": f"node-{block}", "block": block, "directory": "/nodes"} for block in blocks])

    def add_task(self) -> None:
        self.waiting += 1
        self._look_now()

    def _tell_blocks(self, blocks: list[Told]) -> None:
        self.told += blocks

    def _drain_block(self, block: str) -> None:
        self.drained.append(block)

    def finish_draining(self, block: str) -> None:
        self._block_drained(block)

    def end(self, *serving: str) -> None:
        self._stop_watching()
        self._end_blocks(set(serving))

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        super().set_bad_state_and_fail_all(exception)
        self.when_bad()

    def outstanding(self) -> int:
        return self.waiting

    def _get_launch_command(self, block_id: str) -> str:
        return f"node --block {block_id}"

    @property
    def workers_per_node(self) -> int:
        return 1

    def submit(self, *_: object) -> Any:
        raise NotImplementedError

    def shutdown(self) -> None:
        raise NotImplementedError

    # --- what Parsl knows ---

    def states(self) -> dict[str, JobState]:
        return {block: status.state for block, status in self.status_facade.items()}


Make = Callable[..., Executor]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Executor] = []

    def begin(*args: Any, **kwargs: Any) -> Executor:
        made.append(Executor(Provider(*args, **kwargs)))
        made[-1].begin()
        return made[-1]

    yield begin
    for executor in made:
        executor.end()


def provider_of(executor: Executor) -> Provider:
    provider: Any = executor.provider
    assert isinstance(provider, Provider)
    return provider


def by_strategy(action: Callable[[], Any]) -> Any:
    """Run a function in a thread named like that of Parsl's strategy; return its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(action()), name="JobStatusPoller-Timer")
    thread.start()
    thread.join(10)
    return results[0]


# --- launching ---


def test_first_blocks_are_launched(make: Make) -> None:
    executor = make(2)
    assert provider_of(executor).commands == [
        ("node --block 0", "parsl.blocks_of_a_test.block-0"),
        ("node --block 1", "parsl.blocks_of_a_test.block-1"),
    ]
    assert [(block, str(job)) for block, job in executor.blocks_to_job_id.items()] == [("0", "100"), ("1", "101")]


def test_states_of_blocks_are_told(make: Make) -> None:
    executor = make(1)
    assert executor.told[0] == ("0", "100", "PENDING", "submitted", None)
    provider_of(executor).end(0, 1)
    eventually(lambda: executor.told[-1] == ("0", "100", "FAILED", "status of 0", 1))


def test_executor_without_a_provider_has_no_blocks() -> None:
    executor = Executor(None)
    executor.begin()
    assert executor.status() == {}
    executor.end()


def test_first_request_of_the_strategy_counts_init_blocks(make: Make) -> None:
    executor = make(2)
    assert by_strategy(lambda: executor.scale_out_facade(3)) == ["2"]
    assert by_strategy(lambda: executor.scale_out_facade(2)) == ["3", "4"]
    assert executor.scale_out_facade(1) == ["5"], "the user asks for one"


def test_block_that_is_not_launched_has_failed(make: Make) -> None:
    executor = make(0)
    provider_of(executor).refuses = True
    assert executor.scale_out_facade(1) == []
    assert executor.states() == {"0": JobState.FAILED}
    assert str(executor.status()["0"].message).endswith("the provider launched no job for block 0")


def test_strategy_launches_no_blocks_just_after_a_failure(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = make(2)
    provider_of(executor).end(1, -9)
    eventually(lambda: "block 1 ended before its node joined" in caplog.text)
    assert by_strategy(lambda: executor.scale_out_facade(3)) == []
    assert executor.scale_out_facade(1) == ["2"], "the user asks for one"


@pytest.mark.parametrize("name", ["none", "simple"])
def test_block_for_tasks_is_launched_by_the_strategy_or_without_it(make: Make, name: str) -> None:
    executor = make(0)
    executor.run_id = "run"  # the executor belongs to a DataFlowKernel
    strategy = Strategy(strategy=name, max_idletime=0.0)
    strategy.add_executors([executor])
    by_strategy(lambda: strategy.strategize([executor]))
    assert provider_of(executor).commands == []
    executor.add_task()
    if name == "simple":
        by_strategy(lambda: strategy.strategize([executor]))
    assert eventually(lambda: provider_of(executor).commands) == [("node --block 0", "parsl.blocks_of_a_test.block-0")]


# --- nodes ---


def test_nodes_can_be_waited_for(make: Make) -> None:
    executor = make()
    assert not executor.wait_for_nodes(1, timeout=0.01)
    threading.Timer(0.01, lambda: executor.nodes_of("0")).start()
    assert executor.wait_for_nodes(1, timeout=10)
    assert [node["name"] for node in executor.nodes] == ["node-0"]


def test_block_with_a_node_runs_whatever_the_provider_says(make: Make) -> None:
    executor = make()
    executor.nodes_of("0")
    provider_of(executor).end(0)
    assert executor.status()["0"].state == JobState.RUNNING


# --- watching ---


def test_provider_that_gives_no_answer_is_asked_again(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = make()
    provider_of(executor).error = OSError("squeue timed out")
    eventually(lambda: "the provider cannot report the state of its jobs: squeue timed out" in caplog.text)
    provider_of(executor).end(0, -9)
    eventually(lambda: executor.states()["0"] == JobState.FAILED)


def test_watching_goes_on_after_any_error(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = make()
    provider_of(executor).error = SystemExit("a provider that ends the program")
    eventually(lambda: "an error while watching blocks" in caplog.text)
    provider_of(executor).end(0, -9)
    eventually(lambda: executor.states()["0"] == JobState.FAILED)


def test_block_that_fails_before_it_has_a_node_is_an_error(make: Make) -> None:
    executor = make()
    provider_of(executor).end(0, 3)
    executor.add_task()
    eventually(lambda: executor.bad_state_is_set)
    error = executor.executor_exception
    assert isinstance(error, WorkerLaunchFailed)
    assert error.reason == "block 0 ended before its node joined: status of 0"
    assert error.exit_code == 3
    assert len(provider_of(executor).commands) == 1


def test_block_whose_node_died_is_replaced(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = make()
    executor.nodes_of("0")
    executor.add_task()
    executor.status()
    executor.nodes_of()
    provider_of(executor).end(0, -9)
    eventually(lambda: len(provider_of(executor).commands) == 2)
    assert "block 0 died: launching another" in caplog.text
    assert not executor.bad_state_is_set


def test_idle_block_that_ended_is_replaced_for_the_next_task(make: Make) -> None:
    executor = make()
    executor.nodes_of("0")
    executor.status()
    executor.nodes_of()
    provider_of(executor).end(0, 0, JobState.COMPLETED)
    eventually(lambda: executor.states() == {"0": JobState.COMPLETED})
    assert len(provider_of(executor).commands) == 1
    executor.add_task()
    eventually(lambda: len(provider_of(executor).commands) == 2)


def test_provider_that_allows_no_blocks_is_a_warning(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = make(0, 0)
    for _ in range(2):
        executor.add_task()
    eventually(lambda: "the provider's max_blocks allows no block: raise it" in caplog.text)
    executor.add_task()
    executor.end()
    assert caplog.text.count("max_blocks") == 1
    assert provider_of(executor).commands == []


def test_jobs_that_wait_for_long_are_mentioned(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("taskvine_exec.blocks.jobs.MENTIONS", (0.01, 1000.0))
    with caplog.at_level(logging.INFO):
        make()
        eventually(lambda: "no node yet after 0 s from block 0 (job 100)" in caplog.text)


# --- scaling in ---


def test_youngest_blocks_leave_first(make: Make) -> None:
    executor = make(3)
    executor.nodes_of("0", "1", "2")
    assert executor.scale_in(2) == ["1", "2"]
    assert executor.drained == ["1", "2"]
    assert provider_of(executor).states[101].state == JobState.RUNNING
    executor.finish_draining("1")
    eventually(lambda: provider_of(executor).states[101].state == JobState.CANCELLED)
    assert provider_of(executor).states[102].state == JobState.RUNNING


def test_blocks_that_parsl_scales_in_are_marked(make: Make) -> None:
    executor = make(2)
    executor.nodes_of("0", "1")
    assert executor.scale_in_facade(1) == ["1"]
    assert executor.states()["1"] == JobState.SCALED_IN
    assert executor.drained == ["1"]


def test_no_more_blocks_leave_than_there_are(make: Make) -> None:
    executor = make(2)
    assert executor.scale_in(5) == ["0", "1"]


# --- the end ---


def test_jobs_are_cancelled_in_the_end(make: Make) -> None:
    executor = make(3)
    executor.nodes_of("0")
    provider_of(executor).end(1, 0, JobState.COMPLETED)
    executor.end("0")
    states = {job: status.state for job, status in provider_of(executor).states.items()}
    assert states == {100: JobState.CANCELLED, 101: JobState.COMPLETED, 102: JobState.CANCELLED}


def test_no_block_is_launched_after_the_end(make: Make) -> None:
    executor = make()
    executor.nodes_of("0")
    executor.end("0")
    executor.nodes_of()
    executor.add_task()
    executor.handle_errors(executor.status())
    assert len(provider_of(executor).commands) == 1
    assert not executor.bad_state_is_set


def test_thread_of_the_watcher_may_end_the_executor(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskvine_exec.blocks.executor._STOP_SECONDS", 1000.0)
    executor = make()
    ended = threading.Event()

    def end() -> None:
        executor.end()
        ended.set()

    executor.when_bad = end
    provider_of(executor).end(0, 3)
    executor.add_task()
    assert ended.wait(30), "it waits for itself"
