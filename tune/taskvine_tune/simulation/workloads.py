"""What a simulation runs: jobs that take so long and make results of such sizes, generated or out of a record.

Jobs come one after another, in the order in which they are submitted, and each names only what earlier ones make. So a
workload of millions is never held as a whole.
"""

from __future__ import annotations

import math
import os
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from taskvine_tune.errors import BadSimulation

if TYPE_CHECKING:
    from taskvine_manager.record import Record

__all__ = ["GENERATORS", "Job", "Kind", "Result", "Workload", "generate", "read", "recorded"]


class Kind(NamedTuple):
    """What many jobs share, as in :class:`taskvine_manager.wire.messages.Profile`; memory in MB, times in s."""

    name: str = "job"
    mode: str = "L2"
    cores: float | None = None
    memory: float | None = None
    disk: float | None = None
    gpus: int | None = None
    priority: float = 0.0
    category: str = "job"
    recoverable: bool = True
    running_time_min: float | None = None


class Result(NamedTuple):
    """A file that a job makes: its name, its bytes, and whether it is a ``"value"`` or a named ``"temp"`` file."""

    name: str
    size: int
    kind: str = "value"
    replicas: int = 0


class Job(NamedTuple):
    """One call.

    ``seconds`` is how long it runs; ``inputs`` are names of results of earlier jobs, ``temps`` of their named temp
    files, ``reads`` paths of users' files; ``kind`` is the place of its :class:`Kind` in the workload; ``submitted`` is
    when it comes, in seconds from the beginning. ``forgets`` names results that nobody asks for any more, each with a
    count: from when this job is submitted, and so many have ended.
    """

    seconds: float
    inputs: tuple[str, ...] = ()
    outputs: tuple[Result, ...] = ()
    kind: int = 0
    submitted: float = 0.0
    forgets: tuple[tuple[str, int], ...] = ()
    is_final: bool = False
    """Whether its results are for the user, who has them brought home."""
    reads: tuple[str, ...] = ()
    temps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workload:
    """A list of jobs that can be gone through any number of times.

    Parameters
    ----------
    name
        What it is called in tables.
    count
        How many jobs there are.
    jobs
        Begins to yield them, in the order in which they are submitted.
    kinds
        What they refer to as theirs.
    files
        Bytes of users' files that jobs read, by path.
    measured
        Seconds that the run took which this is the record of; None if there was none.
    """

    name: str
    count: int
    jobs: Callable[[], Iterator[Job]] = field(repr=False)
    kinds: tuple[Kind, ...] = (Kind(),)
    files: Mapping[str, int] = field(default_factory=dict)
    measured: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadSimulation("there are no jobs")


# ---- Generated


class _Draw:
    """How long jobs take: with a mean, and a spread around it (sigma of a log-normal distribution)."""

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
    # As a binary counter: a sum follows what it adds up as soon as that is submitted, and little is open at a time.
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
    # What a layer reads is drawn before the layer above it is submitted: only then is it known who is read by nobody.
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


#: Shapes of graphs that can be generated.
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
    """Make a workload of a given shape.

    Parameters
    ----------
    kind
        ``"independent"``; ``"chain"``, each on the result of the one before; ``"tree"``, a pairwise sum (of an odd
        number of jobs: one fewer of an even one); ``"map-reduce"``, rounds of ``width`` maps and, for each ``fan`` of
        them, a reduce that reads all maps of its round; ``"layered"``, random layers of ``width``, each job reading
        ``fan`` results of the layer before.
    tasks
        How many jobs.
    seconds
        The mean run time of a job.
    size
        Bytes of each result.
    spread
        The sigma of log-normally distributed run times; 0 for run times that are all alike.
    width, fan
        See ``kind``.
    seed
        Of all that is drawn.

    Returns
    -------
    Workload
        The same jobs each time it is gone through. Results that no job reads are brought to the user.

    Raises
    ------
    BadSimulation
        If there is no such kind, or a number makes no sense.
    """
    if kind not in GENERATORS:
        raise BadSimulation(f"no graphs of kind {kind!r} can be generated, only {', '.join(GENERATORS)}")
    for name, value, least in (("tasks", tasks, 1), ("width", width, 1), ("fan", fan, 1), ("size", size, 0)):
        if value < least:
            raise BadSimulation(f"{name} must be at least {least}, not {value}")
    for name, number in (("seconds", seconds), ("spread", spread)):
        if not 0 <= number < math.inf:
            raise BadSimulation(f"{name} must be a number of at least 0, not {number}")
    count = tasks - 1 if kind == "tree" and tasks % 2 == 0 else tasks

    def jobs() -> Iterator[Job]:
        return GENERATORS[kind](tasks, _Draw(seconds, spread, seed), size, width, fan)

    return Workload(f"{kind} of {count} jobs", count, jobs)


# ---- Recorded


def recorded(record: str | os.PathLike[str] | Record, *, paced: bool = True) -> Workload:
    """Make a workload of the record of a run.

    Run times, sizes, edges, categories, requests and priorities are the record's. What was run more than once there is
    here once. What the user had forgotten when so many had ended is forgotten when as many have ended here. Users'
    files have the sizes that they have now, or none. Records do not say how many replicas were asked for of one file.

    Parameters
    ----------
    record
        The file ``record.msgpack`` in an executor's log directory, or what was read of it.
    paced
        Whether jobs are submitted when they were in the run; else all at once.

    Returns
    -------
    Workload
        Of all invocations.

    Raises
    ------
    BadSimulation
        If the file cannot be read, or holds no run with an end: an invocation in it never ended, or did not return.
    """
    record = read(record)
    _check(record)
    jobs, kinds = _jobs(record, paced)
    paths = {path for job in jobs for path in job.reads}
    files = {path: os.path.getsize(path) if os.path.isfile(path) else 0 for path in sorted(paths)}
    first = min(each.time for each in record.submitted.values())
    last = max(each.time for each in record.done.values())
    return Workload(f"record of {len(jobs)} jobs", len(jobs), lambda: iter(jobs), kinds, files, last - first)


def read(record: str | os.PathLike[str] | Record) -> Record:
    """Read a record, if that has not been done.

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
        raise BadSimulation("nothing was submitted in the run that was recorded")
    open_ended = [number for number in record.submitted if number not in record.done and number not in record.cancelled]
    if open_ended:
        cut = "" if record.ended is not None else " (it was cut short, or the run still goes on)"
        raise BadSimulation(
            f"{len(open_ended)} of {len(record.submitted)} invocations have no end in the record{cut}, "
            f"the first is {open_ended[0]}"
        )
    if all(number in record.cancelled for number in record.submitted):
        raise BadSimulation("all that was submitted was cancelled")
    for number, done in record.done.items():
        if done.outcome != 0 and number not in record.cancelled:
            name = record.profiles[record.submitted[number].profile].name
            why = f"lost: {done.kind}" if done.kind else "it raised"
            raise BadSimulation(f"invocation {number} ({name}) did not return in the run that was recorded ({why})")


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
            # A small result is no file that its node has made; what it was is the invocation's own size.
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
    return jobs, tuple(Kind(*profile[2:]) for profile in record.profiles.values())
