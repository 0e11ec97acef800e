"""Workloads and clusters from instances of WfFormat."""

from __future__ import annotations

import re
from statistics import median

from taskvine_tune.simulation.model import Cluster
from taskvine_tune.simulation.workloads import Job, Kind, Result, Workload
from taskvine_tune.wfformat.instances import Instance, Task

__all__ = ["machines", "workload"]

_NUMBER = re.compile(r"_(ID)?\d+$")
"""The number at the end of a task's name, which differs between tasks that do the same."""


def workload(instance: Instance) -> Workload:
    """Create a workload from an instance.

    All tasks are submitted at once. Tasks whose names differ only in a number at the end have the same category. Files
    that tasks write are temp files, which stay on their nodes until the end. Files that no task writes are the user's.

    Parameters
    ----------
    instance
        The instance.

    Returns
    -------
    Workload
        Its tasks. ``measured`` is the instance's makespan.
    """
    writers = instance.writers
    awaited = {parent for task in instance.tasks.values() for parent in _awaited(task, writers)}
    kinds: dict[tuple[str, float | None], int] = {}
    jobs = []
    for task in instance.tasks.values():
        kind = kinds.setdefault((_NUMBER.sub("", task.name) or task.name, task.cores), len(kinds))
        outputs = [Result(file, instance.sizes[file], "temp") for file in task.outputs]
        if task.id in awaited:
            outputs.append(Result(_end(task.id), 0))
        jobs.append(
            Job(
                task.seconds,
                inputs=tuple(map(_end, _awaited(task, writers))),
                outputs=tuple(outputs),
                kind=kind,
                reads=tuple(file for file in task.inputs if file not in writers),
                temps=tuple(file for file in task.inputs if file in writers),
            )
        )
    names = tuple(Kind(name, cores=cores, category=name) for name, cores in kinds)
    files = {file: size for file, size in instance.sizes.items() if file not in writers}
    name = f"{instance.name} of {len(jobs)} tasks"
    return Workload(name, len(jobs), lambda: iter(jobs), names, files, instance.makespan)


def _awaited(task: Task, writers: dict[str, str]) -> list[str]:
    """Return the parents of a task whose files it does not read."""
    read = {writers[file] for file in task.inputs if file in writers}
    return [parent for parent in task.parents if parent not in read]


def _end(task: str) -> str:
    """Return the name of an empty result, for tasks that wait for another task and read none of its files."""
    return f"end of {task}"


def machines(instance: Instance, *, nodes: int) -> Cluster:
    """Return a cluster like the machines that ran an instance.

    Parameters
    ----------
    instance
        The instance.
    nodes
        The number of nodes if the instance names no machines.

    Returns
    -------
    Cluster
        As many nodes as there are machines, each with the median of their cores. Everything else has its default.
    """
    cores = [each for each in instance.machines if each is not None]
    return Cluster(len(instance.machines) or nodes, int(median(cores)) if cores else 1)
