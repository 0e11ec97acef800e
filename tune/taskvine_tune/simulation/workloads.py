"""Workloads for simulations: tasks with run times and result sizes, generated or from a record.

Tasks come one after another, in the order of their submission, and each refers only to results of earlier ones. A
generated workload of millions of tasks is therefore never in memory as a whole.
"""

from __future__ import annotations

import math
import os
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from taskvine_manager.runtime.failure import RETURNED
from taskvine_tune.errors import BadSimulation

if TYPE_CHECKING:
    from taskvine_manager.record import Record

__all__ = ["GENERATORS", "Job", "Kind", "Result", "Workload", "generate", "read", "recorded"]


class Kind(NamedTuple):
    """Properties that many tasks share, as in :class:`taskvine_manager.wire.messages.Profile`; memory in MB, times in
    s. Calls of named libraries are simulated as calls of the default library.
    """

    name: str = "job"
    mode: str = "L2"
    cores: float | None = None
    memory: float | None = None
    disk: float | None = None
    gpus: float | None = None
    priority: float = 0.0
    category: str = "job"
    recoverable: bool = True
    running_time_min: float | None = None
    uninterrupted: bool = False
    gpu_memory: float | None = None


class Result(NamedTuple):
    """A file that a task creates: its name, its bytes, and whether it is a ``"value"`` or a named ``"temp"`` file."""

    name: str
    size: int
    kind: str = "value"
    replicas: int = 0


class Job(NamedTuple):
    """A simulated task.

    ``seconds`` is its run time. ``inputs`` are names of results of earlier tasks, ``temps`` of their named temp files,
    and ``reads`` are paths of users' files. ``kind`` is the index of its :class:`Kind` in the workload, and
    ``submitted`` the time of its submission, in seconds from the beginning. ``forgets`` names results that are not
    needed any more, each with a number of tasks: the result is forgotten once this task is submitted and that many
    tasks have ended.
    """

    seconds: float
    inputs: tuple[str, ...] = ()
    outputs: tuple[Result, ...] = ()
    kind: int = 0
    submitted: float = 0.0
    forgets: tuple[tuple[str, int], ...] = ()
    is_final: bool = False
    """Whether its results are brought to the user."""
    reads: tuple[str, ...] = ()
    temps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workload:
    """A list of tasks that can be iterated any number of times.

    Parameters
    ----------
    name
        Its name in tables.
    count
        Number of tasks.
    jobs
        Returns a new iterator over the tasks, in the order of their submission.
    kinds
        The kinds that tasks refer to.
    files
        Sizes in bytes of the users' files that tasks read, by path.
    measured
        Seconds that the recorded run took; None if there is no record.
    """

    name: str
    count: int
    jobs: Callable[[], Iterator[Job]] = field(repr=False)
    kinds: tuple[Kind, ...] = (Kind(),)
    files: Mapping[str, int] = field(default_factory=dict)
    measured: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadSimulation("there are no tasks")


# ---- Generated


class _Draw:
    """Random run times with a mean and a spread (sigma of a log-normal distribution)."""

    def __init__(self, seconds: float, spread: float, seed: int) -> None:
        self.random = random.Random(seed)
        self._seconds, self._spread = seconds, spread

    def seconds(self) -> float:
        if not self._spread:
            return self._seconds
        # The mean of exp(N(m, s)) is exp(m + s**2 / 2).
        return self._seconds * math.exp(self.random.gauss(-(self._spread**2) / 2, self._spread))


def _made(number: int, size: int) -> tuple[Result, ...]:
    return (Result(f"r{number}", size),)


def _at_once(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple((name, 0) for name in names)


def _independent(count: int, draw: _Draw, size: int, width: int, fan: int) -> Iterator[Job]:
    for number in range(count):
        yield Job(draw.seconds(), (), _made(number, size), is_final=True)


def _chain(count: int, draw: _Draw, size: int, width: int, fan: int) -> Iterator[Job]:
    before: tuple[str, ...] = ()
    for number in range(count):
        is_final = number == count - 1
        yield Job(draw.seconds(), before, _made(number, size), forgets=_at_once(before), is_final=is_final)
        before = (f"r{number}",)


def _tree(count: int, draw: _Draw, size: int, width: int, fan: int) -> Iterator[Job]:
    # Like a binary counter: a sum is submitted as soon as its inputs are, so that few results are open at a time.
    open_sums: list[tuple[int, str]] = []
    leaves = (count + 1) // 2
    number = 0
    for leaf in range(leaves):
        yield Job(draw.seconds(), (), _made(number, size), is_final=leaves == 1)
        open_sums.append((1, f"r{number}"))
        number += 1
        while len(open_sums) > 1 and (open_sums[-1][0] == open_sums[-2][0] or leaf == leaves - 1):
            (low, right), (high, left) = open_sums.pop(), open_sums.pop()
            both = (left, right)
            is_final = low + high == leaves
            yield Job(draw.seconds(), both, _made(number, size), forgets=_at_once(both), is_final=is_final)
            open_sums.append((low + high, f"r{number}"))
            number += 1


def _map_reduce(count: int, draw: _Draw, size: int, width: int, fan: int) -> Iterator[Job]:
    number = 0
    while number < count:
        maps = min(width, count - number - 1) or 1
        names = tuple(f"r{number + place}" for place in range(maps))
        reduces = min(max(1, width // fan), count - number - maps)
        for _ in range(maps):
            yield Job(draw.seconds(), (), _made(number, size), is_final=not reduces)
            number += 1
        for place in range(reduces):
            forgets = _at_once(names) if place == reduces - 1 else ()
            yield Job(draw.seconds(), names, _made(number, size), forgets=forgets, is_final=True)
            number += 1


def _layered(count: int, draw: _Draw, size: int, width: int, fan: int) -> Iterator[Job]:
    # Draw the inputs of the next layer before this one is submitted: they show which results nobody reads.
    first = 0
    reads: list[tuple[str, ...]] = [()] * min(width, count)
    while reads:
        here = range(first, first + len(reads))
        below = min(width, count - here.stop)
        picks = [sorted(draw.random.sample(here, min(fan, len(here)))) for _ in range(below)]
        read = {number for pick in picks for number in pick}
        last: dict[str, int] = {name: place for place, names in enumerate(reads) for name in names}
        ends: dict[int, list[str]] = {}
        for name, place in last.items():
            ends.setdefault(place, []).append(name)
        for place, number in enumerate(here):
            forgets = _at_once(ends.get(place, ()))
            is_final = number not in read
            yield Job(draw.seconds(), reads[place], _made(number, size), forgets=forgets, is_final=is_final)
        first, reads = here.stop, [tuple(f"r{number}" for number in pick) for pick in picks]


#: Kinds of graphs that can be generated.
GENERATORS: Mapping[str, Callable[[int, _Draw, int, int, int], Iterator[Job]]] = {
    "independent": _independent,
    "chain": _chain,
    "tree": _tree,
    "map-reduce": _map_reduce,
    "layered": _layered,
}


def generate(
    kind: str,
    tasks: int,
    *,
    seconds: float = 1.0,
    size: int = 1_000_000,
    spread: float = 0.0,
    width: int = 100,
    fan: int = 2,
    seed: int = 0,
) -> Workload:
    """Generate a workload of a given kind.

    Parameters
    ----------
    kind
        ``"independent"``; ``"chain"``, in which each task reads the result of the one before; ``"tree"``, a pairwise
        sum (of an odd number of tasks: one is left out of an even number); ``"map-reduce"``, rounds of ``width`` maps
        and, for each ``fan`` of them, a reduce that reads all maps of its round; ``"layered"``, random layers of
        ``width``, in which each task reads ``fan`` results of the layer before.
    tasks
        Number of tasks.
    seconds
        The mean run time of a task.
    size
        Bytes of each result.
    spread
        The sigma of log-normally distributed run times; 0 for equal run times.
    width, fan
        See ``kind``.
    seed
        Seed of all random numbers.

    Returns
    -------
    Workload
        The same tasks in each iteration. Results that no task reads are brought to the user.

    Raises
    ------
    BadSimulation
        If there is no such kind, or a number is not valid.
    """
    if kind not in GENERATORS:
        raise BadSimulation(f"there is no kind of graph {kind!r}, only {', '.join(GENERATORS)}")
    for name, value, least in (("tasks", tasks, 1), ("width", width, 1), ("fan", fan, 1), ("size", size, 0)):
        if value < least:
            raise BadSimulation(f"{name} must be at least {least}, not {value}")
    for name, number in (("seconds", seconds), ("spread", spread)):
        if not 0 <= number < math.inf:
            raise BadSimulation(f"{name} must be a number of at least 0, not {number}")
    count = tasks - 1 if kind == "tree" and tasks % 2 == 0 else tasks

    def jobs() -> Iterator[Job]:
        return GENERATORS[kind](tasks, _Draw(seconds, spread, seed), size, width, fan)

    return Workload(f"{kind} of {count} tasks", count, jobs)


# ---- Recorded


def recorded(record: str | os.PathLike[str] | Record, *, paced: bool = True) -> Workload:
    """Create a workload from the record of a run.

    Run times, sizes, dependencies, categories, requests, replicas and priorities are those of the record. Each task
    runs once, even if it was retried. If the user had forgotten a result when a number of tasks had ended, the
    simulation forgets it when the same number have ended. Users' files have their present sizes, or 0 if they do not
    exist.

    Parameters
    ----------
    record
        The file ``record.msgpack`` in an executor's log directory, or a record that was read already.
    paced
        Whether tasks are submitted at their times in the run; otherwise all at once.

    Returns
    -------
    Workload
        All tasks that were not cancelled.

    Raises
    ------
    BadSimulation
        If the file cannot be read, or a task in it has no end or did not return.
    """
    record = read(record)
    _check(record)
    jobs, kinds = _jobs(record, paced)
    paths = {path for job in jobs for path in job.reads}
    files = {path: os.path.getsize(path) if os.path.isfile(path) else 0 for path in sorted(paths)}
    first = min(each.time for each in record.submitted.values())
    last = max(each.time for each in record.done.values())
    return Workload(f"record of {len(jobs)} tasks", len(jobs), lambda: iter(jobs), kinds, files, last - first)


def read(record: str | os.PathLike[str] | Record) -> Record:
    """Read a record, unless it was read already.

    Raises
    ------
    BadSimulation
        If it cannot be read.
    """
    if not isinstance(record, str | os.PathLike):
        return record
    from taskvine_manager.record import read_record

    try:
        return read_record(record)
    except (OSError, ValueError) as error:
        raise BadSimulation(f"the record cannot be read: {error}") from error


def _check(record: Record) -> None:
    if not record.submitted:
        raise BadSimulation("nothing was submitted in the recorded run")
    open_ended = [number for number in record.submitted if number not in record.done and number not in record.cancelled]
    if open_ended:
        cut = "" if record.ended is not None else " (it was cut short, or the run still goes on)"
        raise BadSimulation(
            f"{len(open_ended)} of {len(record.submitted)} tasks have no end in the record{cut}, "
            f"the first is {open_ended[0]}"
        )
    if all(number in record.cancelled for number in record.submitted):
        raise BadSimulation("all tasks in the record were cancelled")
    for number, done in record.done.items():
        if done.outcome != RETURNED and number not in record.cancelled:
            name = record.profiles[record.submitted[number].profile].name
            why = f"lost: {done.kind}" if done.kind else "it raised"
            raise BadSimulation(f"task {number} ({name}) did not return in the recorded run ({why})")


def _jobs(record: Record, paced: bool) -> tuple[list[Job], tuple[Kind, ...]]:
    kinds = {number: place for place, number in enumerate(record.profiles)}
    ends = sorted(done.time for done in record.done.values())
    begin = min(each.time for each in record.submitted.values())
    anchors: dict[str, int] = {}
    for number, invocation in record.submitted.items():
        if number not in record.cancelled:
            anchors.update((use.source, number) for use in (*invocation.inputs, *invocation.outputs))
    forgets: dict[int, list[tuple[str, int]]] = {}
    for file, time in record.forgotten.items():
        if file in anchors:
            forgets.setdefault(anchors[file], []).append((file, bisect_right(ends, time)))
    jobs = []
    for number, invocation in record.submitted.items():
        if number in record.cancelled:
            continue
        done = record.done[number]
        sizes = dict(done.made)
        outputs = tuple(
            # A small result is not among the files that its node created: its size is that of the task's result.
            Result(use.source, sizes.get(use.source, done.size if use.kind == "value" else 0), use.kind, use.replicas)
            for use in invocation.outputs
            if use.kind != "local"
        )
        inputs, temps, reads = (
            tuple(dict.fromkeys(use.source for use in invocation.inputs if use.kind == kind))
            for kind in ("value", "temp", "local")
        )
        submitted = invocation.time - begin if paced else 0.0
        gone = tuple(forgets.get(number, ()))
        place = kinds[invocation.profile]
        jobs.append(Job(done.seconds, inputs, outputs, place, submitted, gone, False, reads, temps))
    return jobs, tuple(Kind(*profile[2:12], gpu_memory=profile.gpu_memory) for profile in record.profiles.values())
