"""Reading instances of WfFormat: the tasks of a workflow, their files and run times, and the machines that ran them.

Version 1.5 keeps the structure of the workflow and its execution in two lists of tasks. The versions before have one,
in which each task holds descriptions of its files. Both become the same :class:`Instance`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple, TypeVar

from taskvine_tune.errors import BadInstance

__all__ = ["VERSIONS", "Instance", "Task", "read_instance"]

VERSIONS = ("1.0", "1.1", "1.2", "1.3", "1.4", "1.5")
"""Versions of the format that can be read."""

T = TypeVar("T")


class Task(NamedTuple):
    """A task of a workflow.

    ``seconds`` is its run time, and ``cores`` the number of cores that it needs, None if it is not known. ``parents``
    are ids of tasks that end before it begins, ``inputs`` and ``outputs`` ids of files.
    """

    id: str
    name: str
    seconds: float
    cores: float | None
    parents: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Instance:
    """A workflow and one run of it.

    Parameters
    ----------
    name
        Its name.
    tasks
        Its tasks by id, each after its parents.
    sizes
        Bytes of its files, by id.
    machines
        Cores of each machine that ran it, None where they are not known.
    makespan
        Seconds that the run took; None if it is not known.
    """

    name: str
    tasks: Mapping[str, Task]
    sizes: Mapping[str, int]
    machines: tuple[int | None, ...] = ()
    makespan: float | None = None

    @property
    def writers(self) -> dict[str, str]:
        """Ids of the tasks that write files, by the file's id."""
        return {file: task.id for task in self.tasks.values() for file in task.outputs}


def read_instance(path: str | os.PathLike[str]) -> Instance:
    """Read an instance.

    A task's parents are those that it names, those that name it as a child, and those that write its inputs.

    Parameters
    ----------
    path
        The JSON file.

    Returns
    -------
    Instance
        The workflow and its run.

    Raises
    ------
    BadInstance
        If it cannot be read, is no instance of these versions, or is not complete and consistent.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            top = json.load(file)
    except OSError as error:
        raise BadInstance(os.fspath(path), error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BadInstance(os.fspath(path), f"it is no JSON file: {error}") from error
    try:
        return _instance(_Table(top, ""))
    except _Wrong as error:
        raise BadInstance(os.fspath(path), str(error)) from error


class _Wrong(Exception):
    """An instance is malformed; the message says how."""


class _Table:
    """A JSON object with its place in the file, which takes values out of it and checks their types."""

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise _Wrong(f"{place or 'its content'} must be an object, not {_shown(value)}")
        self._value = value
        self._place = place

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def _at(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name

    def _take(self, name: str, is_right: Callable[[Any], bool], what: str) -> Any:
        if name not in self._value:
            raise _Wrong(f"{self._at(name)} is missing")
        value = self._value[name]
        if not is_right(value):
            raise _Wrong(f"{self._at(name)} must be {what}, not {_shown(value)}")
        return value

    def text(self, name: str) -> str:
        """Return a text that is not empty."""
        value: str = self._take(name, lambda value: isinstance(value, str) and value != "", "a text")
        return value

    def number(self, *names: str) -> float:
        """Return a number of at least 0, by the first of some names that exists."""
        name = next((name for name in names if name in self), names[0])
        return float(self._take(name, _is_number, "a number of at least 0"))

    def size(self, *names: str) -> int:
        """Return a number of bytes."""
        return int(self.number(*names))

    def table(self, name: str) -> _Table:
        """Return an object."""
        return _Table(self._take(name, lambda value: isinstance(value, dict), "an object"), self._at(name))

    def tables(self, name: str) -> Iterator[_Table]:
        """Yield the objects of a list; of none if it is missing."""
        if name in self:
            values = self._take(name, lambda value: isinstance(value, list), "a list")
            for number, value in enumerate(values):
                yield _Table(value, f"{self._at(name)}[{number}]")

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the different texts of a list, in its order; none if it is missing."""
        if name not in self:
            return ()

        def is_right(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(each, str) for each in value)

        return tuple(dict.fromkeys(self._take(name, is_right, "a list of texts")))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


# ---- The versions


def _instance(top: _Table) -> Instance:
    version = top.text("schemaVersion")
    if version not in VERSIONS:
        raise _Wrong(f"it has version {version} of WfFormat, but only {VERSIONS[0]} to {VERSIONS[-1]} can be read")
    workflow = top.table("workflow")
    read = _two_lists if version == "1.5" else _one_list
    tasks, children, sizes, run = read(workflow)
    _check(tasks, sizes)
    cores = tuple(_cores(each) for each in run.tables("machines"))
    spans = ("makespanInSeconds", "makespan")
    makespan = run.number(*spans) if any(name in run for name in spans) else None
    return Instance(top.text("name"), _in_order(tasks, children), sizes, cores, makespan)


_Read = tuple[list[Task], list[tuple[str, str]], dict[str, int], _Table]
"""The tasks; pairs of a parent and a child; the sizes of files; the table with the makespan and the machines."""


def _two_lists(workflow: _Table) -> _Read:
    """Read version 1.5."""
    structure = workflow.table("specification")
    if "execution" not in workflow:
        raise _Wrong("it has no workflow.execution, so the run times of its tasks are not known")
    execution = workflow.table("execution")
    runs = _unique((each.text("id"), each) for each in execution.tables("tasks"))
    sizes = {each.text("id"): each.size("sizeInBytes") for each in structure.tables("files")}
    tasks, children = [], []
    for each in structure.tables("tasks"):
        name = each.text("id")
        if name not in runs:
            raise _Wrong(f"task {name} is missing in workflow.execution.tasks")
        cores = (runs[name].number("coreCount") if "coreCount" in runs[name] else 0.0) or None
        files = each.texts("inputFiles"), each.texts("outputFiles")
        seconds = runs[name].number("runtimeInSeconds")
        tasks.append(Task(name, each.text("name"), seconds, cores, each.texts("parents"), *files))
        children += [(name, child) for child in each.texts("children")]
    return tasks, children, sizes, execution


def _one_list(workflow: _Table) -> _Read:
    """Read versions before 1.5, in which sizes are bytes whatever the description of the format says."""
    tasks: list[Task] = []
    children: list[tuple[str, str]] = []
    sizes: dict[str, int] = {}
    ids: dict[str, str] = {}
    for each in workflow.tables("jobs" if "jobs" in workflow else "tasks"):
        name = each.text("name")
        number = each.text("id") if "id" in each else name
        ids[number] = number
        # Parents are named by id or by name.
        ids.setdefault(name, number)
        files: dict[str, dict[str, None]] = {"input": {}, "output": {}}
        for file in each.tables("files"):
            link = file.text("link").lower()
            path = (file.text("path") if "path" in file else "") + file.text("name")
            if link not in files:
                raise _Wrong(f"file {path} of task {name}: link must be input or output, not {link}")
            files[link][path] = None
            sizes[path] = max(sizes.get(path, 0), file.size("sizeInBytes", "size"))
        cores = (each.number("cores") if "cores" in each else 0.0) or None
        seconds = each.number("runtimeInSeconds", "runtime")
        reads, writes = tuple(files["input"]), tuple(files["output"])
        tasks.append(Task(number, name, seconds, cores, each.texts("parents"), reads, writes))
        children += [(number, child) for child in each.texts("children")]
    tasks = [task._replace(parents=tuple(ids.get(parent, parent) for parent in task.parents)) for task in tasks]
    return tasks, [(parent, ids.get(child, child)) for parent, child in children], sizes, workflow


def _cores(machine: _Table) -> int | None:
    if "cpu" not in machine:
        return None
    cpu = machine.table("cpu")
    return max(1, int(cpu.number("coreCount", "count"))) if "coreCount" in cpu or "count" in cpu else None


# ---- Consistency


def _unique(items: Iterable[tuple[str, T]]) -> dict[str, T]:
    table: dict[str, T] = {}
    for name, item in items:
        if name in table:
            raise _Wrong(f"two tasks have the id {name}")
        table[name] = item
    return table


def _check(tasks: list[Task], sizes: Mapping[str, int]) -> None:
    """Check that there are tasks, and that each file has a size and at most one writer."""
    if not tasks:
        raise _Wrong("it has no tasks")
    writers: dict[str, str] = {}
    for task in tasks:
        for file in (*task.inputs, *task.outputs):
            if file not in sizes:
                raise _Wrong(f"the size of file {file} of task {task.id} is missing")
        for file in task.outputs:
            if file in writers:
                raise _Wrong(f"file {file} is written by two tasks, {writers[file]} and {task.id}")
            writers[file] = task.id


def _in_order(tasks: list[Task], children: list[tuple[str, str]]) -> dict[str, Task]:
    """Return the tasks by id, each after its parents, which include the writers of its inputs."""
    table = _unique((task.id, task) for task in tasks)
    writers = {file: task.id for task in tasks for file in task.outputs}
    parents = {task.id: dict.fromkeys(task.parents) for task in tasks}
    for parent, child in children:
        if child not in table:
            raise _Wrong(f"task {parent} has the child {child}, which does not exist")
        parents[child][parent] = None
    for task in tasks:
        for parent in task.parents:
            if parent not in table:
                raise _Wrong(f"task {task.id} has the parent {parent}, which does not exist")
        parents[task.id].update(dict.fromkeys(writers[file] for file in task.inputs if file in writers))
    try:
        order = list(TopologicalSorter(parents).static_order())
    except CycleError as error:
        raise _Wrong(f"its tasks wait for each other: {' -> '.join(error.args[1])}") from None
    return {name: table[name]._replace(parents=tuple(parents[name])) for name in order}
