"""Blocks under Parsl's scaling strategies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.data_provider.files import File
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors.errors import BadStateException
from parsl.jobs.states import TERMINAL_STATES, JobState
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor
from tests.conftest import Gate, eventually, first_node

Load = Callable[..., DataFlowKernel]
PERIOD = 0.05


def polls(dfk: DataFlowKernel, count: int) -> None:
    """Wait until the strategy has decided ``count`` more times."""
    strategy = dfk.job_status_poller._strategy
    decide, done = strategy.strategize, []

    def counted(executors: Any) -> None:
        decide(executors)
        done.append(True)

    strategy.strategize = counted
    eventually(lambda: len(done) >= count)
    strategy.strategize = decide


def make(init: int = 1, least: int = 0, most: int = 4, **settings: Any) -> TaskVineExecutor:
    provider = LocalProvider(init_blocks=init, min_blocks=least, max_blocks=most, **settings)
    return TaskVineExecutor(label="tv", cores=1, provider=provider)


def active(executor: TaskVineExecutor) -> list[str]:
    return [block for block, status in executor.status_facade.items() if status.state not in TERMINAL_STATES]


@pytest.mark.parametrize("strategy", ["none", "simple"])
@pytest.mark.parametrize("init", [0, 1, 2])
def test_init_blocks_are_launched_once(load: Load, strategy: str, init: int) -> None:
    executor = make(init)
    dfk = load([executor], strategy=strategy, strategy_period=PERIOD)
    assert len(executor.blocks_to_job_id) == init  # at the start, not at the first poll
    polls(dfk, 3)
    assert len(executor.blocks_to_job_id) == init
    assert executor.wait_for_nodes(init, 30)


def test_blocks_added_after_the_start_count(load: Load) -> None:
    executor = make(1)
    dfk = load([executor], strategy="simple", strategy_period=PERIOD)
    executor.scale_out_facade(1)
    polls(dfk, 2)
    assert len(executor.blocks_to_job_id) == 2


def test_blocks_scale_out_to_max_blocks(load: Load, gate: Gate) -> None:
    executor = make(1, most=3)
    dfk = load([executor], strategy="simple", strategy_period=PERIOD)
    app = parsl.python_app(gate.task)
    futures = [app(number) for number in range(10)]
    gate.wait(3)
    polls(dfk, 2)
    assert active(executor) == ["0", "1", "2"]
    gate.open()
    assert {future.result()[1] for future in futures} == {"0", "1", "2"}


def test_no_blocks_are_added_without_load(load: Load, gate: Gate) -> None:
    executor = make(1)
    dfk = load([executor], strategy="none", strategy_period=PERIOD)
    app = parsl.python_app(gate.task)
    futures = [app(number) for number in range(5)]
    polls(dfk, 3)
    gate.open()
    assert {future.result()[1] for future in futures} == {"0"}


@pytest.mark.parametrize("least", [0, 1])
def test_blocks_scale_in_when_idle_and_out_again(load: Load, least: int, gate: Gate) -> None:
    executor = make(2, least)
    load([executor], strategy="simple", strategy_period=PERIOD, max_idletime=0.1)
    eventually(lambda: len(active(executor)) == least)
    assert executor.status_facade["1"].state == JobState.SCALED_IN
    eventually(lambda: len(executor.nodes) == least)
    app = parsl.python_app(gate.task)
    futures = [app(number) for number in range(3)]
    gate.wait(3)
    gate.open()
    assert {future.result()[1] for future in futures} == ({"0", "2", "3"} if least else {"2", "3", "4"})


def test_last_block_with_data_stays(load: Load, tmp_path: Path) -> None:
    """By default Parsl cancels every block after two idle minutes."""
    executor = make(2)
    load([executor], strategy="simple", strategy_period=PERIOD, max_idletime=0.1)

    @parsl.python_app
    def write(outputs: Any = ()) -> None:
        with open(outputs[0], "w") as file:
            file.write("kept")

    @parsl.python_app
    def block(inputs: Any = ()) -> str | None:
        import os

        return os.environ.get("PARSL_WORKER_BLOCK_ID")

    kept = File("taskvinetemp:///kept")
    write(outputs=[kept]).result()
    eventually(lambda: active(executor) == [])
    eventually(lambda: len(executor.nodes) == 1)
    with open(executor.fetch(kept, tmp_path / "fetched", 30)) as file:
        assert file.read() == "kept"
    assert block(inputs=[kept]).result() is not None
    with open(executor.fetch(kept, tmp_path / "fetched again", 30)) as file:
        assert file.read() == "kept"
    executor.forget(kept)
    eventually(lambda: not executor.nodes)


def test_killed_block_is_replaced(load: Load, gate: Gate) -> None:
    """Parsl's error handler would give up an executor whose only block has failed."""
    executor = make(1, most=1)
    load([executor], strategy="simple", strategy_period=PERIOD)
    app = parsl.python_app(gate.task)
    future = app()
    gate.wait(1)
    os.kill(first_node(executor)["pid"], signal.SIGKILL)
    gate.wait(2)
    gate.open()
    assert future.result() == ("task", "1")
    assert not executor.bad_state_is_set


@pytest.mark.parametrize("strategy", ["none", "simple"])
@pytest.mark.parametrize("init", [0, 1])
def test_failing_blocks_fail_the_executor(load: Load, strategy: str, init: int) -> None:
    executor = make(init, worker_init="echo no such module >&2; exit 3")
    load([executor], strategy=strategy, strategy_period=PERIOD)
    if not init and strategy == "none":
        executor.scale_out_facade(1)
    app = parsl.python_app(lambda: 0)
    for _ in range(2):
        assert isinstance(error := app().exception(30), BadStateException)
        assert "no such module" in str(error)


def test_cleanup_cancels_running_tasks(load: Load, gate: Gate) -> None:
    executor = make(2)
    dfk = load([executor], strategy="simple", strategy_period=PERIOD)
    app = parsl.python_app(gate.task)
    futures = [app(number) for number in range(4)]
    gate.wait(2)
    dfk.cleanup()
    assert all(future.exception(0) is not None for future in futures)


def test_factory_and_manual_launch_have_no_blocks(load: Load) -> None:
    executors = [
        TaskVineExecutor(label="factory", cores=1, worker_launch_method="factory"),
        TaskVineExecutor(label="manual", cores=1, worker_launch_method="manual"),
    ]
    dfk = load(executors, strategy="simple", strategy_period=PERIOD)
    assert parsl.python_app(lambda: 0, executors=["factory"])().result(30) == 0
    assert dfk.job_status_poller._executors == []
