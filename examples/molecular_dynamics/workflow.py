"""The workflow in Parsl: chains of segments, one per replica, each followed by its analysis."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import apps
import numpy as np
import parsl
from parsl import File, python_app
from parsl.config import Config
from parsl.dataflow.futures import AppFuture
from parsl.executors import ThreadPoolExecutor
from physics import Analysis
from report import Mode, ModeRun, TaskTimes

run_segment = python_app(apps.segment)
run_analysis = python_app(apps.analysis)


@dataclass(frozen=True)
class Plan:
    """The computation, independent of how it is run.

    Attributes
    ----------
    structure : Path
        The xyz file from which all replicas start.
    replicas : int
        Number of replicas, their temperatures evenly spaced.
    segments : int
        Segments per replica, the first of which equilibrates.
    steps : int
        Time steps per segment.
    seed : int
        Seed of the whole run.
    coldest, hottest : float
        Range of temperatures (K).
    """

    structure: Path
    replicas: int
    segments: int
    steps: int
    seed: int
    coldest: float = 300.0
    hottest: float = 1200.0

    @property
    def temperatures(self) -> list[float]:
        """Temperature of each replica (K)."""
        return [float(t) for t in np.linspace(self.coldest, self.hottest, self.replicas)]

    @property
    def tasks(self) -> int:
        """Number of tasks: all segments, and one analysis per replica."""
        return self.replicas * (self.segments + 1)


def submit(plan: Plan, file_of: Callable[[str], File]) -> tuple[list[AppFuture], list[AppFuture]]:
    """Submit the whole workflow without waiting for any task.

    Parameters
    ----------
    plan : Plan
        What to compute.
    file_of : callable
        Makes the Parsl file for a trajectory of the given name.

    Returns
    -------
    segments, analyses : list of AppFuture
        All tasks of each kind; the analyses in the order of the replicas.
    """
    segments: list[AppFuture] = []
    trajectories: list[list[Future[Any]]] = [[] for _ in range(plan.replicas)]
    # Segment by segment instead of replica by replica, so that all chains advance together.
    for index in range(plan.segments):
        for replica, temperature in enumerate(plan.temperatures):
            chain = trajectories[replica]
            future = run_segment(
                index,
                temperature,
                plan.steps,
                # With a seed per segment, its noise does not depend on where it runs, or what ran there before.
                (plan.seed, replica, index),
                inputs=[chain[-1] if chain else File(plan.structure)],
                outputs=[file_of(f"replica{replica}-seg{index}.npz")],
            )
            segments.append(future)
            chain.append(future.outputs[0])
    analyses = [
        run_analysis(temperature, inputs=chain)
        for temperature, chain in zip(plan.temperatures, trajectories, strict=True)
    ]
    return segments, analyses


def run_mode(
    plan: Plan,
    mode: Mode,
    *,
    engine: Literal["auto", "embedded", "taskvine"],
    nodes: int,
    replication: int,
    output: Path,
    on_done: Callable[[], None],
) -> ModeRun:
    """Run the workflow with the TaskVineExecutor.

    Parameters
    ----------
    plan : Plan
        What to compute.
    mode : {"L1", "L2"}
        "L1" runs each task in a fresh process, "L2" as a function call in a warm library.
    engine : {"auto", "embedded", "taskvine"}
        Engine of the executor.
    nodes : int
        Number of nodes that share the cores of this machine.
    replication : int
        Number of nodes that keep a copy of each trajectory.
    output : Path
        Directory for Parsl's run directory.
    on_done : callable
        Called once per task, as it completes.

    Returns
    -------
    ModeRun
        Numbers and timings.
    """
    # Imported here, so that the physics can be run without the executor.
    from parsl.providers import LocalProvider

    from taskvine_exec import TaskVineExecutor

    executor = TaskVineExecutor(
        label="md",
        engine=engine,
        function_exec_mode=mode,
        provider=LocalProvider(init_blocks=nodes, min_blocks=nodes, max_blocks=nodes),
        cores=max(1, available_cores() // nodes),
        tune_parameters={"temp-replica-count": replication},
    )
    # Trajectories never leave the nodes: a taskvinetemp file stays on its task's node until the executor ends.
    return _run(plan, mode, executor, lambda name: File(f"taskvinetemp:///{name}"), output, on_done)


def run_in_threads(
    plan: Plan, mode: Mode, *, threads: int, output: Path, scratch: Path, on_done: Callable[[], None]
) -> ModeRun:
    """Run the workflow in threads of this process, with ordinary files in ``scratch``, to check only the physics."""
    executor = TimedThreads(label="md", max_threads=threads)
    return _run(plan, mode, executor, lambda name: File(str(scratch / f"{mode}-{name}")), output, on_done)


def _run(
    plan: Plan,
    mode: Mode,
    executor: Any,
    file_of: Callable[[str], File],
    output: Path,
    on_done: Callable[[], None],
) -> ModeRun:
    """Run the workflow with any executor that reports ``taskvine_times`` and ``stats()``."""
    config = Config(executors=[executor], strategy="none", run_dir=str(output / "runinfo"), initialize_logging=False)
    with parsl.load(config):
        begin = time.perf_counter()
        segments, analyses = submit(plan, file_of)
        # In order of completion, so that the first failure is raised, not one of its consequences.
        for future in as_completed([*segments, *analyses]):
            future.result()
            on_done()
        results: tuple[Analysis, ...] = tuple(future.result() for future in analyses)
        wall_time = time.perf_counter() - begin
        moved = int(executor.stats()["bytes_between_nodes"])
    times = tuple(task_times(future) for future in [*segments, *analyses])
    return ModeRun(mode, wall_time, times, moved, results)


def task_times(future: AppFuture) -> TaskTimes:
    """Return the times of a finished task's stages, as recorded by the executor."""
    executor_future: Any = future.task_record["exec_fu"]
    noted = executor_future.taskvine_times
    return TaskTimes(noted.submitted, noted.dispatched, noted.started, noted.finished, noted.node)


def available_cores() -> int:
    """Count the cores that this process may use."""
    # macOS has no affinity.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class TimedThreads(ThreadPoolExecutor):
    """Parsl's thread executor, with the timings that the report needs."""

    def submit(
        self, func: Callable[..., Any], resource_specification: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Submit a function, and record when it runs."""
        noted = SimpleNamespace(submitted=time.time(), node="threads")

        def timed(*args: Any, **kwargs: Any) -> Any:
            noted.dispatched = noted.started = time.time()
            try:
                return func(*args, **kwargs)
            finally:
                noted.finished = time.time()

        future = super().submit(timed, resource_specification, *args, **kwargs)
        future.taskvine_times = noted
        return future

    def stats(self) -> dict[str, int]:
        """Return the executor's counters; threads move no data."""
        return {"bytes_between_nodes": 0}
