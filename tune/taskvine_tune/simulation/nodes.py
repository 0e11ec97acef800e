"""Simulated nodes: they answer the scheduler's instructions as nodes of the embedded engine do.

They hold back what a real node holds back (a task whose input is being transferred, a result without disk space), and
report what it reports. Their actions take simulated time, and their files have no bytes.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from typing import Protocol

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import (
    Completed,
    Crowded,
    Event,
    FileCached,
    InputCached,
    InputCopy,
    Replica,
    Returned,
    Run,
)
from taskvine_manager.scheduling.nodes import Node
from taskvine_manager.scheduling.tasks import Task
from taskvine_manager.wire.messages import Completion, NodeInfo
from taskvine_tune.simulation.network import Clock, Network, Port

__all__ = ["ImaginedNode", "Surroundings", "pack", "unpack"]

SMALL = b"small"
"""Stands for every result that is sent with its completion."""
LARGE = "large"
"""Stands for the path of every result that stays on its node."""
RECENT = 256
"""Small results that a node keeps for tasks that arrive later, as a real node does."""


def pack(seconds: float, sizes: tuple[int, ...]) -> bytes:
    """Encode the run time of a simulated task and the sizes of its outputs as its arguments.

    The scheduler keeps arguments for as long as a task may have to run again. The simulation therefore needs no table
    of tasks, which would grow with their number.
    """
    return struct.pack(f"<d{len(sizes)}q", seconds, *sizes)


def unpack(arguments: object) -> tuple[float, tuple[int, ...]]:
    """Decode the arguments from :func:`pack`."""
    assert isinstance(arguments, bytes)
    seconds, *sizes = struct.unpack(f"<d{len(arguments) // 8 - 1}q", arguments)
    return seconds, tuple(sizes)


class Surroundings(Protocol):
    """The environment of a node."""

    clock: Clock
    network: Network
    manager: Port
    latency: float
    overhead: float
    setup: float
    write_rate: float
    inline_limit: int
    input_sizes: dict[str, int]

    def say(self, event: Event) -> None:
        """Send an event to the manager, which takes time."""

    def port(self, node: str) -> Port | None:
        """Return the port of an existing node, or of the manager for the relay's name; None if there is none."""

    def holds(self, node: str, file: str) -> bool:
        """Return whether an existing node has a file."""

    def need(self, node: str, task: Task) -> tuple[float, ...]:
        """Return the resources that a task needs on a node, in the order of the node's total."""

    def ran(self, seconds: float, *, again: bool) -> None:
        """Count the seconds for which a task has run."""

    def fetched(self, source: str, size: int) -> None:
        """Count bytes that were fetched from a source."""


class Call:
    """A task on a node."""

    __slots__ = ("began", "missing", "need", "seconds", "sizes", "task")

    def __init__(self, task: Task, need: tuple[float, ...]) -> None:
        self.task = task
        self.need = need
        self.seconds, self.sizes = unpack(task.invocation.arguments)
        self.missing = 0
        self.began: float | None = None


class Coming:
    """A file that is being transferred to a node: ordered by the manager, or needed by a task."""

    __slots__ = ("is_ordered", "size", "source", "started")

    def __init__(self, source: str, size: int, *, is_ordered: bool) -> None:
        self.source = source
        self.size = size
        self.is_ordered = is_ordered
        self.started = 0.0


class ImaginedNode:
    """A simulated node.

    Parameters
    ----------
    info
        The resources that it offers.
    disk
        Most bytes that it holds.
    bandwidth
        Bytes per second of its port, in each direction.
    around
        Its environment.
    """

    def __init__(self, info: NodeInfo, disk: float, bandwidth: float, around: Surroundings) -> None:
        self.info = info
        self.port = Port(bandwidth)
        self.files: dict[str, int] = {}
        self.is_alive = True
        self._disk = disk
        self._used = 0
        self._around = around
        self._free = Node(info).total
        self._cold = int(info.slots or info.cores) if around.setup else 0
        self._calls: dict[int, Call] = {}
        self._queues: dict[tuple[float, ...], deque[Call]] = {}
        self._waiting: dict[str, list[Call]] = {}
        self._making: dict[str, int] = {}
        self._coming: dict[str, Coming] = {}
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._inputs: set[str] = set()
        self._crowded: dict[int, Call] = {}
        self._outbox: list[Completion] = []
        self._packed = -1.0

    # --- instructions ---

    def run(self, run: Run) -> None:
        """Take tasks."""
        returned: list[int] = []
        for task in run.tasks:
            self._take(task, run, returned)
        if returned:
            self._give_back(returned)
        self._pump()

    def _take(self, task: Task, run: Run, returned: list[int]) -> None:
        invocation = task.invocation
        call = Call(task, self._around.need(self.info.name, task))
        self._calls[invocation.number] = call
        for use in invocation.outputs:
            self._making[use.source] = invocation.number
        for use in invocation.inputs:
            name = use.source
            if use.kind == "local":
                self._bring(name, call, run.copies.get(name))
            elif name in run.values or name in self.files or name in self._recent:
                pass
            elif name in self._coming or name in self._making:
                self._wait(call, name)
            elif name in run.sources:
                self._wait(call, name)
                self._fetch(name, run.sources[name], is_ordered=False)
            else:  # the task that creates it has just failed: the manager knows by now, or soon
                returned.append(invocation.number)
                return
        if not call.missing and invocation.number in self._calls:
            self._enqueue(call)

    def fetch(self, file: str, source: Replica) -> None:
        """Fetch a replica."""
        if file in self.files:
            self._say_cached(file, self.files[file], source.node, 0.0)
        elif file not in self._coming:
            self._fetch(file, source, is_ordered=True)

    def drop(self, files: list[str]) -> None:
        """Remove replicas; results without disk space are tried again."""
        for file in files:
            self._used -= self.files.pop(file, 0)
        crowded, self._crowded = self._crowded, {}
        for call in crowded.values():
            self._keep(call)
        self._pump()

    def full(self, numbers: list[int]) -> None:
        """Fail tasks whose results have no disk space."""
        for call in filter(None, [self._crowded.pop(number, None) for number in numbers]):
            self._lose(call, failure.lost("disk-full", "no room for the result"))

    def kill(self, numbers: list[int]) -> None:
        """End tasks, without a report to the manager."""
        for number in numbers:
            if (call := self._calls.pop(number, None)) is not None:
                self._stop(call)
                self._abandon(call)
        self._pump()

    def die(self) -> None:
        """Remove the node with all its tasks and files."""
        self.is_alive = False
        for call in self._calls.values():
            self._stop(call)
        self._around.network.cut(self.port)

    # --- tasks ---

    def _wait(self, call: Call, name: str) -> None:
        call.missing += 1
        self._waiting.setdefault(name, []).append(call)

    def _has(self, name: str) -> None:
        """Queue the tasks that waited only for this file."""
        for call in self._waiting.pop(name, ()):
            call.missing -= 1
            if not call.missing and self._is_here(call):
                self._enqueue(call)

    def _is_here(self, call: Call) -> bool:
        return self._calls.get(call.task.invocation.number) is call

    def _enqueue(self, call: Call) -> None:
        queue = self._queues.get(call.need)
        if queue is None:
            queue = self._queues[call.need] = deque()
        queue.append(call)

    def _pump(self) -> None:
        """Start the tasks whose resources are free; those with equal needs start in the order in which they became
        ready.
        """
        for need, queue in self._queues.items():
            while queue and all(take <= free + 1e-9 for take, free in zip(need, self._free, strict=True)):
                call = queue.popleft()
                if self._is_here(call):
                    self._begin(call)

    def _begin(self, call: Call) -> None:
        around = self._around
        call.began = around.clock.now
        self._free = tuple(free - take for free, take in zip(self._free, call.need, strict=True))
        large = sum(size for size in call.sizes if size > around.inline_limit)
        seconds = around.overhead + call.seconds + large / around.write_rate
        if self._cold:
            self._cold -= 1
            seconds += around.setup
        around.clock.after(seconds, self._end, call)

    def _stop(self, call: Call) -> None:
        """Free the resources of a task that runs."""
        if call.began is None:
            return
        self._free = tuple(free + take for free, take in zip(self._free, call.need, strict=True))
        again = call.task.origin is not None or call.task.attempts > 0
        self._around.ran(self._around.clock.now - call.began, again=again)
        call.began = None

    def _end(self, call: Call) -> None:
        if not self.is_alive or not self._is_here(call):
            return
        self._stop(call)
        self._keep(call)
        self._pump()

    def _keep(self, call: Call) -> None:
        """Publish the outputs of a task, if there is disk space."""
        if not self._is_here(call):
            return
        limit = self._around.inline_limit
        outputs = call.task.invocation.outputs
        made = [
            (use.source, size, 1)
            for use, size in zip(outputs, call.sizes, strict=True)
            if use.kind != "value" or size > limit
        ]
        size = sum(entry[1] for entry in made if entry[0] not in self.files)
        number = call.task.invocation.number
        if self._used + size > self._disk:
            self._crowded[number] = call
            self._around.say(Crowded(self.info.name, number, size))
            return
        for name, length, _ in made:
            self._used += length - self.files.get(name, 0)
            self.files[name] = length
        body: bytes | str = LARGE if any(use.kind == "value" for use in outputs) and made else SMALL
        for use in outputs:
            if use.kind == "value" and body is SMALL:
                self._recent[use.source] = None
                if len(self._recent) > RECENT:
                    self._recent.popitem(last=False)
        self._complete(call, failure.RETURNED, body, tuple(made))
        for use in outputs:
            self._has(use.source)

    def _lose(self, call: Call, record: bytes) -> None:
        if self._is_here(call):
            self._stop(call)
            self._complete(call, failure.LOST, record, ())
            self._abandon(call)

    def _complete(self, call: Call, outcome: int, body: bytes | str, made: tuple[tuple[str, int, int], ...]) -> None:
        invocation = call.task.invocation
        del self._calls[invocation.number]
        for use in invocation.outputs:
            if self._making.get(use.source) == invocation.number:
                del self._making[use.source]
        if self._packed != self._around.clock.now or not self._outbox:
            self._outbox = []
            self._packed = self._around.clock.now
            self._around.say(Completed(self.info.name, self._outbox))
        self._outbox.append(Completion(invocation.number, outcome, body, self.info.name, 0.0, 0.0, call.seconds, made))

    def _abandon(self, call: Call) -> None:
        """Give back the tasks that wait for the outputs of a failed task."""
        followers: list[int] = []
        for use in call.task.invocation.outputs:
            if self._making.get(use.source) in (None, call.task.invocation.number):
                self._making.pop(use.source, None)
                if use.source not in self._coming:
                    followers += [each.task.invocation.number for each in self._waiting.pop(use.source, ())]
        if followers:
            self._give_back(followers)

    def _give_back(self, numbers: list[int]) -> None:
        """Give tasks that have not begun back to the manager, with those that wait for their outputs."""
        here = []
        while numbers:
            call = self._calls.pop(numbers.pop(0), None)
            if call is not None:
                here.append(call.task.invocation.number)
                for use in call.task.invocation.outputs:
                    if self._making.get(use.source) == here[-1]:
                        del self._making[use.source]
                        numbers += [each.task.invocation.number for each in self._waiting.pop(use.source, ())]
        if here:
            self._around.say(Returned(self.info.name, tuple(sorted(here))))

    # --- transfers ---

    def _fetch(self, file: str, source: Replica, *, is_ordered: bool) -> None:
        """Request a file from another machine; the request takes one latency."""
        coming = Coming(source.node, source.size, is_ordered=is_ordered)
        self._coming[file] = coming
        if self._used + source.size > self._disk:
            self._failed(file, coming, "disk-full")
            return
        self._used += source.size
        self._around.clock.after(self._around.latency, self._asked, file, coming)

    def _asked(self, file: str, coming: Coming) -> None:
        if not self.is_alive or self._coming.get(file) is not coming:
            return
        around = self._around
        port = around.port(coming.source)
        if port is None or not around.holds(coming.source, file):
            self._used -= coming.size
            self._failed(file, coming, "file-lost")
            return
        coming.started = around.clock.now
        around.network.begin(
            port, self.port, coming.size, lambda: self._came(file, coming), lambda: self._cut_off(file, coming)
        )

    def _came(self, file: str, coming: Coming) -> None:
        del self._coming[file]
        self.files[file] = coming.size
        self._around.fetched(coming.source, coming.size)
        self._say_cached(file, coming.size, coming.source, self._around.clock.now - coming.started)
        self._has(file)
        self._pump()

    def _cut_off(self, file: str, coming: Coming) -> None:
        if self.is_alive and self._coming.get(file) is coming:
            self._used -= coming.size
            self._failed(file, coming, "file-lost")

    def _failed(self, file: str, coming: Coming, kind: str) -> None:
        del self._coming[file]
        if coming.is_ordered:
            problem = f"{kind}: {coming.source}"
            self._around.say(FileCached(self.info.name, file, 0, problem, source=coming.source))
        for call in self._waiting.pop(file, ()):
            self._lose(call, failure.lost(kind, f"{file} could not be fetched from {coming.source}", name=file))

    def _say_cached(self, file: str, size: int, source: str, seconds: float) -> None:
        self._around.say(FileCached(self.info.name, file, size, None, 1, seconds, False, source))

    # --- users' files ---

    def _bring(self, path: str, call: Call, copy: InputCopy | None) -> None:
        """Fetch a user's file from another node that has it, or from the manager."""
        if path in self._inputs:
            return
        self._wait(call, path)
        if len(self._waiting[path]) > 1:
            return  # it is being transferred already
        around = self._around
        size = around.input_sizes.get(path, 0)
        port = around.port(copy.node) if copy is not None else None

        def came() -> None:
            self._inputs.add(path)
            around.fetched("user", size) if port is None or copy is None else around.fetched(copy.node, size)
            around.say(InputCached(self.info.name, path, size, path, (1,)))
            self._has(path)
            self._pump()

        def read() -> None:
            if self.is_alive:
                around.network.begin(around.manager, self.port, size, came, _never)

        if port is None:
            around.clock.after(around.latency, read)
        else:
            around.network.begin(port, self.port, size, came, read)  # the user's own file always exists


def _never() -> None:
    raise AssertionError("the manager is never cut off")
