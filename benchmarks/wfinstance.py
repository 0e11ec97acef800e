"""Instances of WfCommons run for real, with tasks that sleep and files of zeros, and their simulations.

    python -m benchmarks.wfinstance A.json --scale 0.01               run times and files of a hundredth
    python -m benchmarks.wfinstance A.json B.json --bytes 1e-4        files of a ten-thousandth
    python -m benchmarks.wfinstance A.json --nodes 4 --slots 8 --json out.json

Each task reads its inputs, sleeps for its run time, and writes its outputs. Files that tasks write are temp files, the
others lie in the directory of the program. Tasks only sleep, so nodes may have more slots than the machine has cores.
The run time in an instance includes reading and writing: scale files so that these take little time.

Short tasks run in all slots first, so that no process starts during the run. The makespan of the run lasts from the
first submission until the manager knows of the last end. It is compared with that of two simulations: one that knows
only the instance, the nodes and their slots (``instance``), and one that also knows what
:func:`~taskvine_tune.simulation.calibration.calibrate` finds in the record of the run (``calibrated``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import parsl
from parsl.config import Config
from parsl.data_provider.files import File
from parsl.providers import LocalProvider

from benchmarks import apart
from taskvine_exec import DAG_RESOLVER, TaskVineExecutor, TaskVineManagerConfig
from taskvine_manager.record import Record, read_record
from taskvine_tune.command.terminal import positive
from taskvine_tune.simulation import instances
from taskvine_tune.simulation.api import Cluster, simulate
from taskvine_tune.simulation.calibration import calibrate
from taskvine_tune.wfformat.instances import Instance, read_instance

__all__ = ["Compared", "compare", "main", "scaled"]

CHUNK = 1 << 20
ROUNDS, WARM_SECONDS = 2, 0.2
"""Tasks in each slot before the instance, and their run time."""


class Compared(NamedTuple):
    """Makespans in seconds of a run and of its simulations."""

    name: str
    tasks: int
    measured: float
    instance: float
    calibrated: float


def scaled(instance: Instance, time: float, size: float, slots: int) -> Instance:
    """Return an instance with other run times and sizes, whose tasks fit on nodes of some slots."""
    tasks = {
        name: task._replace(seconds=task.seconds * time, cores=task.cores and min(max(1, round(task.cores)), slots))
        for name, task in instance.tasks.items()
    }
    return dataclasses.replace(instance, tasks=tasks, sizes={file: int(n * size) for file, n in instance.sizes.items()})


def compare(instance: Instance, nodes: int, slots: int) -> Compared:
    """Run an instance in the working directory, and simulate it.

    Parameters
    ----------
    instance
        The instance, scaled to what the machine can do.
    nodes, slots
        Number of nodes, and slots of each.

    Returns
    -------
    Compared
        The makespans.
    """
    record, first = _run(instance, nodes, slots)
    begin = min(each.time for number, each in record.submitted.items() if number >= first)
    measured = max(each.time for each in record.done.values()) - begin
    workload = instances.workload(instance)
    like = dataclasses.replace(calibrate(record), startup=0.0, setup=0.0)  # the nodes were warm
    plain, calibrated = (simulate(workload, cluster).makespan for cluster in (Cluster(nodes, slots), like))
    return Compared(instance.name, workload.count, measured, plain, calibrated)


def _run(instance: Instance, nodes: int, slots: int) -> tuple[Record, int]:
    """Run an instance on warm nodes; return the record, and the number of the instance's first task."""
    provider = LocalProvider(init_blocks=nodes, min_blocks=nodes, max_blocks=nodes)
    # Nodes import Parsl, for Files, before the first task.
    manager = TaskVineManagerConfig(library_config={"import_modules": ["parsl"]})
    executor = TaskVineExecutor(cores=slots, provider=provider, manager_config=manager)
    config = Config([executor], strategy="none", initialize_logging=False, dependency_resolver=DAG_RESOLVER)
    with parsl.load(config) as kernel:
        if not executor.wait_for_nodes(nodes, 120):
            raise SystemExit(f"{nodes} nodes did not join within two minutes")
        warm = [_warm(WARM_SECONDS) for _ in range(ROUNDS * nodes * slots)]
        for future in warm:
            future.result()
        for future in _submitted(instance):
            future.result()
        run_dir = kernel.run_dir
    return read_record(next(Path(run_dir).rglob("record.msgpack"))), len(warm)


@parsl.python_app
def _warm(seconds: float) -> None:
    import time

    time.sleep(seconds)


def _submitted(instance: Instance) -> list[Any]:
    """Submit all tasks, and return their futures."""
    writers = instance.writers
    files: dict[str, Any] = {}
    for number, (name, size) in enumerate(instance.sizes.items()):
        if name not in writers:
            path = Path(f"input{number}").absolute()
            with path.open("wb") as file:
                file.truncate(size)
            files[name] = File(str(path))
    places = {name: f"taskvinetemp:///file{number}" for number, name in enumerate(writers)}
    workload = instances.workload(instance)
    apps = [parsl.python_app(_named(kind.name)) for kind in workload.kinds]
    futures: dict[str, Any] = {}
    for job, task in zip(workload.jobs(), instance.tasks.values(), strict=True):
        read = {writers[name] for name in task.inputs if name in writers}
        resources = {"parsl_resource_specification": {"cores": task.cores}} if task.cores else {}
        future = apps[job.kind](
            task.seconds,
            [instance.sizes[name] for name in task.outputs],
            *(futures[parent] for parent in task.parents if parent not in read),
            inputs=[files[name] for name in task.inputs],
            outputs=[File(places[name]) for name in task.outputs],
            **resources,
        )
        futures[task.id] = future
        files.update(zip(task.outputs, future.outputs, strict=True))
    return list(futures.values())


def _named(category: str) -> Callable[..., None]:
    """Return the function of tasks under another name, because the name of a function is its tasks' category."""

    def work(
        seconds: float,
        sizes: Sequence[int],
        *after: object,
        inputs: Any = (),
        outputs: Any = (),
        parsl_resource_specification: Any = None,
    ) -> None:
        import time

        for path in inputs:
            with open(path, "rb") as file:
                while file.read(CHUNK):
                    pass
        time.sleep(seconds)
        for path, size in zip(outputs, sizes, strict=True):
            with open(path, "wb") as file:
                for begin in range(0, size, CHUNK):
                    file.write(bytes(min(CHUNK, size - begin)))

    work.__name__ = category
    return work


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and simulate instances, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("instances", nargs="+", metavar="INSTANCE", help="a JSON file of WfFormat")
    add("--scale", type=positive, default=0.01, help="factor of run times, and of files (%(default)s)")
    add("--bytes", type=positive, help="factor of sizes of files, if it is another one")
    add("--nodes", type=int, default=2, help="number of nodes (%(default)s)")
    add("--slots", type=int, default=4, help="slots of each node (%(default)s)")
    add("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    sizes = options.scale if options.bytes is None else options.bytes
    read = [scaled(read_instance(path), options.scale, sizes, options.slots) for path in options.instances]
    found = []
    for instance in read:
        with _directory():
            found.append(compare(instance, options.nodes, options.slots))
    _report(found)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**apart.machine(), "runs": [each._asdict() for each in found]}, file, indent=2)


@contextmanager
def _directory() -> Iterator[None]:
    """Work in a new directory."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        os.chdir(directory)
        try:
            yield
        finally:
            os.chdir(before)


def _report(found: list[Compared]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("instance", "tasks", "measured (s)", "instance (s)", "error", "calibrated (s)", "error")
    for each in found:
        guesses = [
            word
            for guess in (each.instance, each.calibrated)
            for word in (f"{guess:.2f}", f"{guess / each.measured - 1:+.1%}")
        ]
        table.add_row(each.name, f"{each.tasks:,}", f"{each.measured:.2f}", *guesses)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
