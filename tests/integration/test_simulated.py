"""A real run can be simulated from its record, and takes about as long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import parsl
from parsl.data_provider.files import File
from parsl.dataflow.dflow import DataFlowKernel
from parsl.providers import LocalProvider

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor, TaskVineManagerConfig
from taskvine_manager.record import read_record
from taskvine_tune.simulation.api import recorded, simulate
from taskvine_tune.simulation.calibration import calibrate

Load = Callable[..., DataFlowKernel]


def leaf(number: int) -> bytes:
    import time

    time.sleep(0.05)
    return bytes(100_000 + number)


def join(a: bytes, b: bytes, inputs: tuple[File, ...] = (), outputs: tuple[File, ...] = ()) -> bytes:
    import time

    time.sleep(0.05)
    if outputs:
        with open(outputs[0], "wb") as file:
            file.write(a)
    return a + b


def test_run_is_replayed_from_its_record(load: Load) -> None:
    provider = LocalProvider(init_blocks=2, min_blocks=2, max_blocks=2)
    # The time to import Parsl, for Files, is no part of the tasks' run times in the record.
    manager = TaskVineManagerConfig(library_config={"import_modules": ["parsl"]})
    executor = TaskVineExecutor(label="tv", cores=1, provider=provider, manager_config=manager)
    kernel = load([executor], dependency_resolver=DAG_RESOLVER)
    assert executor.wait_for_nodes(2, 30)
    make, add = parsl.python_app(leaf), parsl.python_app(join)
    leaves = [make(number) for number in range(8)]
    sums = [add(a, b) for a, b in zip(leaves[::2], leaves[1::2], strict=True)]
    kept = add(sums[0], sums[1], outputs=[File("taskvinetemp:///kept")])
    last = add(sums[2], kept, inputs=[kept.outputs[0]])
    assert len(last.result()) == 600_000 + 0 + 1 + 2 + 3 + 4 + 5
    assert [each.exception() for each in sums] == [None] * 4  # no task reads the last one
    record = str(next(Path(kernel.run_dir).rglob("record.msgpack")))
    kernel.cleanup()

    workload, cluster = recorded(record), calibrate(record)
    jobs = list(workload.jobs())
    assert workload.count == len(jobs) == len(read_record(record).submitted) == 14
    assert sorted(each.size for job in jobs for each in job.outputs)[0] >= 100_000
    assert [len(job.inputs) for job in jobs] == [0] * 8 + [2] * 6
    assert (cluster.nodes, cluster.slots) == (2, 1)
    outcome = simulate(workload, cluster)
    assert (outcome.done, outcome.failed, outcome.rerun) == (14, 0, 0)
    seconds = sum(job.seconds for job in jobs)
    assert seconds > 14 * 0.05
    assert outcome.makespan > seconds / 2
    assert workload.measured is not None
    # No time is counted twice. The run may take longer than the simulation: a loaded machine can stop single processes
    # for a second, and the calibration takes medians.
    assert outcome.makespan < 1.5 * workload.measured
