"""A run in the `Trace Event Format`_, for Perfetto and chrome://tracing.

Each node is a process of the trace, and each of its slots a thread. The record does not say which slot ran a task, so
tasks are put into the first lane that is free. Copies to a node have other lanes.

.. _Trace Event Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import heapq
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TextIO

from taskvine_exec.insight.fold import Fold
from taskvine_exec.insight.state import State, Task
from taskvine_manager.record import events

MOST_ARROWS = 20_000
"""Maximum number of dependencies that are drawn, because viewers are slow with more."""
_RUN, _COPIES = 1, 10_000
"""Number of the trace's first process, which is the run itself; number of a node's first lane for copies."""


class Attempt(NamedTuple):
    """A task on a node that it left without an end."""

    number: int
    node: str
    begin: float
    end: float
    why: str


class Copy(NamedTuple):
    """A copy of a file to a node."""

    file: str
    node: str
    source: str
    begin: float
    end: float
    size: int
    problem: str


class Mark(NamedTuple):
    """Something that happened to a node, or to the run if ``node`` is empty."""

    node: str
    time: float
    text: str


class TraceFold(Fold):
    """Folds a record, and keeps what a trace shows besides the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[Attempt] = []
        self.copies: list[Copy] = []
        self.marks: list[Mark] = []
        self.names: dict[str, float] = {}
        """When each node joined first."""
        before = dict(self.handlers)
        noted: dict[type, Callable[[Any], None]] = {
            events.Requeued: self._note_requeued,
            events.TransferEnded: self._note_transfer,
            events.InputEnded: self._note_input,
            events.NodeStarted: self._note_joined,
            events.NodeEnded: self._note_left,
            events.Evicted: lambda it: self._mark_at(it.node, f"{len(it.files)} replicas evicted"),
            events.Block: lambda it: self._mark_at("", f"block {it.block} {it.state} {it.reason}".strip()),
        }
        for kind, note in noted.items():
            self.handlers[kind] = _first(note, before[kind])

    def _mark_at(self, node: str, text: str) -> None:
        self.marks.append(Mark(node, self.state.now, text))

    def _note_requeued(self, event: events.Requeued) -> None:
        task = self.state.tasks.get(event.number)
        if task is not None and task.placement is not None and not task.outcome:
            self.attempts.append(Attempt(task.number, task.placement.node, task.placed, self.state.now, event.why))

    def _note_transfer(self, event: events.TransferEnded) -> None:
        transfer = self.state.transfers.get((event.file, event.node))
        if transfer is not None:
            begin, end = transfer.since, self.state.now
            self.copies.append(Copy(event.file, event.node, transfer.source, begin, end, event.size, event.problem))

    def _note_input(self, event: events.InputEnded) -> None:
        reading = self.state.reading.get((event.path, event.node))
        if reading is not None:
            problem = "" if event.well else "it cannot be read"
            end = self.state.now
            self.copies.append(Copy(event.path, event.node, reading.source, reading.since, end, event.size, problem))

    def _note_joined(self, event: events.NodeStarted) -> None:
        self.names.setdefault(event.node, self.state.now)
        self._mark_at(event.node, "joined")

    def _note_left(self, event: events.NodeEnded) -> None:
        self._mark_at(event.node, "left" if event.told else f"lost: {event.reason}")


def _first(note: Callable[[Any], None], then: Callable[[Any], None]) -> Callable[[Any], None]:
    def both(event: Any) -> None:
        note(event)
        then(event)

    return both


def read(path: str | os.PathLike[str]) -> TraceFold:
    """Read a record for a trace.

    Raises
    ------
    ValueError
        If the file is not a record, or has an unknown version.
    OSError
        If it cannot be read.
    """
    fold = TraceFold()
    fold.take_all(path)
    return fold


def write(fold: TraceFold, file: TextIO) -> None:
    """Write a trace, one event in a line."""
    file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
    first = True
    for event in trace_events(fold):
        file.write(("" if first else ",\n") + json.dumps(event))
        first = False
    file.write("\n]}\n")


class _Span(NamedTuple):
    """A bar of the trace."""

    begin: float
    end: float
    name: str
    kind: str
    facts: dict[str, Any]
    number: int | None = None


def trace_events(fold: TraceFold) -> Iterator[dict[str, Any]]:
    """Yield the events of a trace. Times are in microseconds since the start of the run."""
    state = fold.state
    nodes: dict[str, list[_Span]] = {name: [] for name in sorted(fold.names, key=lambda name: fold.names[name])}
    copies: dict[str, list[_Span]] = defaultdict(list)
    for task in state.tasks.values():
        if (span := _span(state, task)) is not None:
            nodes.setdefault(task.ran_on or task.node or _last_node(task), []).append(span)
    for attempt in fold.attempts:
        facts = {"task": attempt.number, "ended": attempt.why}
        name = f"{_name(state, attempt.number)} ({attempt.why})"
        nodes.setdefault(attempt.node, []).append(_Span(attempt.begin, attempt.end, name, "attempt", facts))
    for copy in fold.copies:
        nodes.setdefault(copy.node, [])
        facts = {"file": copy.file, "from": copy.source, "bytes": copy.size, "problem": copy.problem}
        copies[copy.node].append(_Span(copy.begin, copy.end, f"copy from {copy.source}", "copy", facts))
    processes = {name: _RUN + 1 + index for index, name in enumerate(nodes)}
    start = state.started
    yield _meta(_RUN, "process_name", name="run")
    places: dict[int, tuple[int, int, _Span]] = {}
    for name, process in processes.items():
        yield _meta(process, "process_name", name=f"node {name}" if name else "no node")
        yield _meta(process, "process_sort_index", sort_index=process)
        for offset, word, spans in ((0, "slot", nodes[name]), (_COPIES, "copies", copies[name])):
            named: set[int] = set()
            for lane, span in _lanes(spans):
                if lane not in named:
                    named.add(lane)
                    yield _meta(process, "thread_name", thread=offset + lane, name=f"{word} {lane}")
                if span.number is not None:
                    places[span.number] = (process, offset + lane, span)
                yield {
                    "ph": "X",
                    "name": span.name,
                    "cat": span.kind,
                    "pid": process,
                    "tid": offset + lane,
                    "ts": _us(span.begin, start),
                    "dur": max(1, _us(span.end, span.begin)),
                    "args": span.facts,
                }
    for mark in fold.marks:
        process = processes.get(mark.node, _RUN)
        scope = "p" if mark.node in processes else "g"
        yield {"ph": "i", "name": mark.text, "pid": process, "tid": 0, "ts": _us(mark.time, start), "s": scope}
    yield from _running(places, start)
    yield from _arrows(state, places, start)


def _us(time: float, since: float) -> int:
    """Return the microseconds between two times; 0 if nodes told nonsense."""
    between = (time - since) * 1e6
    return max(0, round(between)) if math.isfinite(between) else 0


def _meta(process: int, kind: str, *, thread: int = 0, **facts: Any) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": facts}


def _name(state: State, number: int) -> str:
    task = state.tasks.get(number)
    profile = None if task is None else state.profiles.get(task.profile)
    return profile.name if profile is not None else f"task {number}"


def _last_node(task: Task) -> str:
    return task.placement.node if task.placement is not None else ""


def _span(state: State, task: Task) -> _Span | None:
    """Return the bar of a task: from its launch to its end, or to the last entry of the record."""
    if task.dispatched or task.started:
        begin = task.dispatched or task.started
        end = task.started + task.seconds if task.started else task.ended
    elif task.node or (task.placed and task.outcome in ("over", "returned", "raised", "lost")):
        begin, end = task.placed, task.ended or state.now
    else:
        return None
    facts: dict[str, Any] = {
        "task": task.number,
        "state": task.outcome or task.state,
        "category": state.category(task),
        "waited": round(max(0.0, begin - task.submitted), 6),
    }
    if task.placement is not None:
        facts |= {"placed": task.placement.how, "local": task.placement.local, "missing": task.placement.missing}
    if task.failure is not None:
        facts["failure"] = task.failure.kind
    kind = "task" if task.origin is None else "recovery"
    return _Span(begin, max(begin, end), _name(state, task.number), kind, facts, task.number)


def _lanes(spans: Iterable[_Span]) -> Iterator[tuple[int, _Span]]:
    """Yield spans in order of their begin, each with the first lane that is free then."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    lanes = 0
    for span in sorted(spans, key=lambda span: (span.begin, span.end)):
        while busy and busy[0][0] <= span.begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, lanes = lanes, lanes + 1
        heapq.heappush(busy, (span.end, lane))
        yield lane, span


def _running(places: dict[int, tuple[int, int, _Span]], start: float) -> Iterator[dict[str, Any]]:
    """Yield the number of tasks that run, whenever it changes."""
    changes: dict[int, int] = defaultdict(int)
    for _, _, span in places.values():
        changes[_us(span.begin, start)] += 1
        changes[_us(span.end, start)] -= 1
    running = 0
    for time in sorted(changes):
        running += changes[time]
        yield {"ph": "C", "name": "running tasks", "pid": _RUN, "tid": 0, "ts": time, "args": {"tasks": running}}


def _arrows(state: State, places: dict[int, tuple[int, int, _Span]], start: float) -> Iterator[dict[str, Any]]:
    """Yield arrows from the tasks that make files to those that read them."""
    makers: dict[str, int] = {}
    for number in places:
        for use in state.tasks[number].outputs:
            makers.setdefault(use.source, number)
    count = 0
    for number, (process, thread, span) in places.items():
        for use in state.tasks[number].inputs:
            maker = makers.get(use.source)
            if maker is None or maker == number:
                continue
            if count == MOST_ARROWS:
                return
            count += 1
            from_process, from_thread, from_span = places[maker]
            shared = {"name": "data", "cat": "data", "id": count}
            yield {
                **shared,
                "ph": "s",
                "pid": from_process,
                "tid": from_thread,
                "ts": max(_us(from_span.begin, start), _us(from_span.end, start) - 1),
            }
            yield {**shared, "ph": "f", "bp": "e", "pid": process, "tid": thread, "ts": _us(span.begin, start)}
