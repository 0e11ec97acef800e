"""Simulated nodes: the core and the pool of slots of real nodes, on imagined processes and files.

:class:`~taskvine_manager.node.core.NodeCore` and :class:`~taskvine_manager.node.pool.Pool` decide what becomes of
tasks, as on the nodes of the embedded engine. Here their actions take simulated time, and files have no bytes.
"""

from __future__ import annotations

import itertools
import struct
from collections import deque
from functools import partial

from taskvine_manager.node.calls import Call, Ending, Grant, Resources, needed, shares
from taskvine_manager.node.core import Actions, NodeCore
from taskvine_manager.node.devices import Devices
from taskvine_manager.node.pool import STUCK_SECONDS, Fork, Pool, Slot
from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import Completed, Crowded, FileCached, Replica, Returned, Run
from taskvine_manager.scheduling.tasks import Task
from taskvine_manager.wire.messages import L1, Completion, NodeInfo
from taskvine_tune.simulation.files import LARGE, Files, Surroundings
from taskvine_tune.simulation.network import Port

__all__ = ["ImaginedNode", "pack", "unpack"]

SMALL = b"small"
"""Stands for every result that is sent with its completion."""
CANCELLED = failure.lost("cancelled", "cancelled while it ran")
"""Failure record of a task that is cancelled."""


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


class Simulated(Call):
    """A task on a node, how long it runs, and the bytes of its outputs."""

    __slots__ = ("again", "began", "length", "sizes", "stages")

    def __init__(self, task: Task, process_cores: float, slot_cores: float) -> None:
        super().__init__(task.invocation, task.profile, needed(task.profile, process_cores, slot_cores))
        self.length, self.sizes = unpack(task.invocation.arguments)
        self.again = task.origin is not None or task.attempts > 0
        self.began: float | None = None
        self.stages = 0
        """Files that must still come before it has been staged."""


class ImaginedNode:
    """A simulated node.

    Parameters
    ----------
    info
        The resources that it offers.
    disk
        Most bytes that it holds.
    around
        Its environment.
    """

    def __init__(self, info: NodeInfo, disk: float, around: Surroundings) -> None:
        self.info = info
        self.port = Port(around.cluster.bandwidth)
        self.is_alive = True
        self.files = Files(info.name, self.port, disk, around, lambda: self.is_alive, self._pump)
        self._around = around
        self._shares = shares(info.cores, info.slots)
        self._cold = int(info.slots or info.cores) if around.cluster.setup else 0
        self._calls: dict[int, Simulated] = {}
        devices = Devices(map(str, range(info.gpus)), info.gpu_memory)
        self._resources = Resources(info.cores, info.memory, devices)
        self._pool: Pool[Slot] = Pool(self._resources)
        self._pool.most_calls = around.most_calls
        self._core = NodeCore(self.files, self._calls)
        self._core.do = Actions(
            stage=self._stage,
            add=self._pool.add,
            pump=self._pump,
            run=self._run_staged,
            keep=self._keep,
            complete=self._complete,
            crowded=lambda number, size: around.say(Crowded(info.name, number, size)),
            returned=lambda numbers: around.say(Returned(info.name, tuple(numbers))),
            forget=self._forget,
        )
        self._numbers = itertools.count()
        self._looks = False
        self._processes: deque[Simulated] = deque()  # L1 tasks that wait for resources
        self._running: dict[int, Grant] = {}  # L1 tasks, and their gpus
        self._staging: dict[int, Simulated] = {}
        self._outbox: list[Completion] = []
        self._packed = -1.0

    # --- instructions ---

    def run(self, run: Run) -> None:
        """Take tasks."""
        for task in run.tasks:
            call = self._calls[task.invocation.number] = Simulated(task, *self._shares)
            self._core.take(call, run)
        self._pump()

    def fetch(self, file: str, source: Replica) -> None:
        """Fetch a replica."""

        def came(problem: str | None) -> None:
            if problem is not None:
                self._around.say(FileCached(self.info.name, file, 0, f"{problem}: {source.node}", source=source.node))
            self._core.came([file])

        self._core.fetching([file])
        self.files.bring(file, source, came)

    def drop(self, files: list[str]) -> None:
        """Remove replicas; results without disk space are tried again."""
        for file in files:
            self.files.drop(file)
        self._core.room_came()
        self._pump()

    def full(self, numbers: list[int]) -> None:
        """Fail tasks whose results have no disk space."""
        self._core.give_up(numbers)
        self._pump()

    def kill(self, numbers: list[int]) -> None:
        """End tasks."""
        wanted = set(numbers)
        queued: list[Call] = [call for call in self._processes if call.invocation.number in wanted]
        self._processes = deque(call for call in self._processes if call.invocation.number not in wanted)
        ending = [self._calls[number] for number in self._running if number in wanted]
        for slot in list(self._pool.slots.values()):
            if any(call.invocation.number in wanted for call in slot.calls):
                self._take_back(slot)
                if slot.calls[0].invocation.number in wanted:
                    ending.append(self._first(slot))
                    self._pool.remove(slot)
        queued += self._pool.withdraw(wanted)
        self._core.cancel(wanted, queued)
        for number in wanted & self._staging.keys():
            self._staging[number].kill_record = CANCELLED
        for call in ending:
            self._stop(call)
            self._core.ended(call, Ending(failure.LOST, CANCELLED, 0.0, 0.0))
        self._pump()

    def die(self) -> None:
        """Remove the node with all its tasks and files."""
        self.is_alive = False
        for call in self._calls.values():
            self._stop(call)
        self._around.network.cut(self.port)

    # --- tasks ---

    def _run_staged(self, call: Call) -> None:
        if call.profile.mode == L1:
            self._processes.append(self._calls[call.invocation.number])
        else:
            self._pool.add(call)
        self._pump()

    def _pump(self) -> None:
        """Start the tasks whose resources are free."""
        while self._processes and self._resources.fits(self._processes[0].need):
            call = self._processes.popleft()
            grant = self._running[call.invocation.number] = self._resources.grant(call.need)
            self._resources.take(call.need, grant)
            self._begin(call)
        pool, now = self._pool, self._around.clock.now
        while pool.pending:
            choice = pool.choose(now)
            if choice is None:
                return
            if isinstance(choice, Slot):
                self._send_first(choice, now)
            else:
                assert isinstance(choice, Fork), f"slots hold no memory here: {choice}"
                for idle in pool.displaced_by(choice):
                    pool.remove(idle)
                pool.admit(Slot(next(self._numbers), choice.need, choice.grant))

    def _send_first(self, slot: Slot, now: float) -> None:
        is_idle = not slot.calls
        calls = self._pool.occupy(slot, now)
        slot.functions.update(call.profile.function for call in calls)
        self._pool.handed(slot, len(calls), now)
        if is_idle:
            self._begin(self._first(slot), slot)
        if len(slot.calls) > 1 and not self._looks:
            self._looks = True
            self._around.clock.after(STUCK_SECONDS, self._look)

    def _look(self) -> None:
        """Take tasks back from slots that are busy with a long one, as real nodes do every now and then."""
        if not self.is_alive:
            return
        stuck, self._looks = self._pool.stuck(self._around.clock.now)
        for slot in stuck:
            self._take_back(slot)
        self._pump()
        if self._looks:
            self._around.clock.after(STUCK_SECONDS, self._look)

    def _take_back(self, slot: Slot) -> None:
        self._pool.taken_back(slot, {call.invocation.number for call in itertools.islice(slot.calls, 1, None)})

    def _first(self, slot: Slot) -> Simulated:
        return self._calls[slot.calls[0].invocation.number]

    def _begin(self, call: Simulated, slot: Slot | None = None) -> None:
        around, cluster = self._around, self._around.cluster
        call.began = around.clock.now
        large = sum(size for size in call.sizes if size > around.inline_limit)
        seconds = cluster.overhead + call.length + large / cluster.write_rate
        if self._cold:
            self._cold -= 1
            seconds += cluster.setup
        around.clock.after(seconds, self._ended, call, slot)

    def _stop(self, call: Simulated) -> None:
        """Stop a task, if it runs: count its time, and free its resources if it is an L1 task."""
        if call.began is None:
            return
        self._around.ran(self._around.clock.now - call.began, again=call.again)
        call.began = None
        if (grant := self._running.pop(call.invocation.number, None)) is not None:
            self._resources.give(call.need, grant)

    def _ended(self, call: Simulated, slot: Slot | None) -> None:
        if not (self.is_alive and call.began is not None and self._calls.get(call.invocation.number) is call):
            return  # it was cancelled, or the node was lost
        self._stop(call)
        if slot is not None:
            slot.heard = self._around.clock.now
            self._pool.ended(slot, True, call.length)
            if slot.calls:
                self._begin(self._first(slot), slot)
        self._core.ended(call, Ending(failure.RETURNED, SMALL, 0.0, call.length))
        if slot is not None and not slot.calls:
            self._pool.free(slot)
        self._pump()

    def _keep(self, call: Call, ending: Ending) -> None:
        """Store the outputs of a task, if there is disk space."""
        if ending.outcome != failure.RETURNED:
            self._core.kept(call, ending)
            return
        outputs, sizes = call.invocation.outputs, self._calls[call.invocation.number].sizes
        limit = self._around.inline_limit
        made = tuple(
            (use.source, size, 1)
            for use, size in zip(outputs, sizes, strict=True)
            if use.kind != "value" or size > limit
        )
        size = sum(entry[1] for entry in made if entry[0] not in self.files)
        if not self.files.fits(size):
            lost = ending._replace(outcome=failure.LOST, body=failure.lost("disk-full", "no room for the result"))
            self._core.await_room(call, size, partial(self._keep, call, ending), partial(self._core.kept, call, lost))
            return
        for name, length, _ in made:
            self.files.store(name, length)
        is_large = any(use.kind == "value" and size > limit for use, size in zip(outputs, sizes, strict=True))
        self._core.kept(call, ending._replace(body=LARGE if is_large else SMALL, made=made))

    def _complete(self, call: Call, ending: Ending) -> None:
        if self._packed != self._around.clock.now or not self._outbox:
            self._outbox = []
            self._packed = self._around.clock.now
            self._around.say(Completed(self.info.name, self._outbox))
        number, seconds = call.invocation.number, self._calls[call.invocation.number].length
        self._outbox.append(
            Completion(number, ending.outcome, ending.body, self.info.name, 0.0, 0.0, seconds, ending.made)
        )

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.invocation.number, None)

    # --- files for tasks ---

    def _stage(self, call: Call, run: Run) -> None:
        """Bring a task's inputs, all at once."""
        number, uses = call.invocation.number, call.invocation.inputs
        staged = self._staging[number] = self._calls[number]
        fetched = [use.source for use in uses if use.kind != "local" and use.source in run.sources]
        paths = [use.source for use in uses if use.kind == "local"]
        problems: list[bytes] = []

        def came(file: str, problem: str | None) -> None:
            if problem is not None:
                reason = f"{file} could not be fetched from {run.sources[file].node}"
                problems.append(failure.lost(problem, reason, name=file))
            staged.stages -= 1
            if not staged.stages:
                done()

        def done() -> None:
            del self._staging[number]
            if not problems:
                self._core.give_results(call, run.values)
            self._core.came(fetched)
            self._core.staged(call, call.kill_record or next(iter(problems), None))

        staged.stages = len(fetched) + len(paths) + 1
        self._core.fetching(fetched)
        for file in fetched:
            self.files.bring(file, run.sources[file], partial(came, file))
        for path in paths:
            self.files.bring_input(path, run.copies.get(path), partial(came, path))
        came("", None)
