"""Fixtures of tests with Parsl's DataFlowKernel, scripts and examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import parsl
import pytest
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel

from taskvine_exec import TaskVineExecutor
from tests.contract.conftest import engine, mode

__all__ = ["engine", "mode"]


@pytest.fixture(autouse=True)
def _clean(nothing_left: str) -> None:
    """Check after each integration test that nothing remains."""


@pytest.fixture
def load(run_dir: str) -> Iterator[Callable[..., DataFlowKernel]]:
    """Load Parsl with a TaskVineExecutor (or ``executors``); clean up after the test."""

    def make(executors: list[Any] | None = None, **config: Any) -> DataFlowKernel:
        config = {"strategy": "none", "run_dir": run_dir, "initialize_logging": False, **config}
        return parsl.load(Config(executors=executors or [TaskVineExecutor(label="tv", cores=2)], **config))

    yield make
    if parsl.DataFlowKernelLoader._dfk is not None:
        parsl.dfk().cleanup()
        parsl.clear()
