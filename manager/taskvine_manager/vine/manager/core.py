"""The core of the TaskVine engine: events in, instructions out, without ndcctools, sockets or clocks.

Only :meth:`Core.handle` changes its state. The dependency graph holds tasks that wait for files of other tasks, and the
backlog holds tasks that could run. TaskVine gets only the parcels that nodes can take. A parcel's TaskVine task is a
:class:`~taskvine_manager.vine.manager.records.Flight`. It ends with an answer of a node's supervisor, or with only a
result of TaskVine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import INLINE_LIMIT, Payload
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.vine.manager import failures
from taskvine_manager.vine.manager.batching import MOST, Backlog, Estimates, Need, Room
from taskvine_manager.vine.manager.cargo import Cargo
from taskvine_manager.vine.manager.events import (
    CACHED,
    Abort,
    Again,
    Answered,
    Asked,
    BatchOf,
    Cancelled,
    Clock,
    Connected,
    CutShort,
    Cycle,
    Discard,
    Draining,
    Event,
    Failed,
    Fetched,
    FilesLost,
    Finish,
    Forgotten,
    FunctionsGone,
    Instruction,
    Launch,
    Locate,
    NotRemade,
    Placed,
    Refused,
    Reinstall,
    Release,
    Renew,
    Retired,
    SayNodes,
    Staged,
    Submitted,
    WaitFor,
    Wanted,
)
from taskvine_manager.vine.manager.fleet import Fleet
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.records import (
    HOME,
    Case,
    Copy,
    Fetch,
    Flight,
    Greeting,
    Job,
    Probe,
    Rescue,
    TempFile,
    VineNode,
)
from taskvine_manager.vine.parcels import Parcel
from taskvine_manager.wire.messages import Completion, FileUse, Profile

URGENT = 1e299
"""Priority of TaskVine tasks that run no user task: greetings, cancellations, collection."""
PIECE = 4 << 20
"""Bytes of a file that are fetched at a time; each piece blocks the manager for about ten milliseconds."""
BRIEF = 400
"""Largest result, in bytes, that surely fits in standard output with the rest of its answer."""
MOST_RENEWALS = 10
"""Times that a task is retried without a charge because a node had lost or spoiled one of its inputs."""
BATCHES = "batches"
"""TaskVine's category of parcels of several tasks."""


class Core:
    """State machine that decides which parcels TaskVine gets, and what happens to tasks when they end.

    Parameters
    ----------
    max_retries : int or None
        Retries of a task whose worker was lost; None for no limit.
    uniform : bool
        Whether all nodes are alike, so that a task that does not fit one node will never fit any.
    slots : int or None
        Tasks that every node runs at once; None for as many as it has cores.
    wait_for_nodes : int
        Nodes that must have joined before anything runs.
    batching : bool
        Whether short tasks share parcels.
    local : bool
        Whether nodes are on this machine: large values are then named by path.
    inline_limit : int
        Bytes of the largest result that is sent with its answer.
    min_nodes : int
        Nodes that are never dismissed, even when idle.
    idle_timeout : float
        Seconds without work after which a node is dismissed; 0 for never.
    """

    def __init__(
        self,
        *,
        max_retries: int | None = 1,
        uniform: bool = True,
        slots: int | None = None,
        wait_for_nodes: int = 0,
        batching: bool = True,
        local: bool = True,
        inline_limit: int = INLINE_LIMIT,
        min_nodes: int = 0,
        idle_timeout: float = 0.0,
    ) -> None:
        self._max_retries = max_retries
        self._uniform = uniform
        self._wait_for_nodes = wait_for_nodes
        self._batching = batching
        self._local = local
        self._inline_limit = inline_limit
        self.jobs: dict[int, Job] = {}
        self.done = 0
        self.retried = 0
        self._said: list[Instruction] = []
        self._graph = DependencyGraph()
        self._holdings = Holdings(self._said.append, self._is_needed)
        self._fleet = Fleet(
            self._said.append, self._rescue, slots=slots, min_nodes=min_nodes, idle_timeout=idle_timeout
        )
        self._functions: dict[str, Payload] = {}
        self._profiles: dict[int, Profile] = {}
        self._estimates = Estimates()
        self._backlog = Backlog(self._estimates, lambda job: job.over, self._near, enabled=batching)
        self._hopeless: list[Job] = []
        self._suspects: list[Job] = []
        self._flights: dict[int, Flight] = {}
        self._numbers = itertools.count(1)
        self._sequence = itertools.count()
        self._fetching = 0
        self._handlers: dict[type, Callable[[Any], None]] = {
            Submitted: self._on_submitted,
            Retired: self._on_retired,
            FunctionsGone: self._on_functions_gone,
            Cancelled: self._on_cancelled,
            Forgotten: self._on_forgotten,
            Asked: self._on_asked,
            Wanted: self._on_wanted,
            FilesLost: self._on_files_lost,
            NotRemade: self._on_not_remade,
            Draining: self._on_draining,
            WaitFor: self._on_wait_for,
            BatchOf: self._on_batch_of,
            Connected: self._on_connected,
            Placed: self._on_placed,
            Answered: self._on_answered,
            Failed: self._on_failed,
            Refused: self._on_refused,
            CutShort: self._on_cut_short,
            Cycle: self._on_cycle,
            Clock: self._on_clock,
        }

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event, and return the resulting instructions, in order."""
        self._handlers[type(event)](event)
        said = self._said.copy()
        self._said.clear()
        return said

    # --- state ---

    @property
    def waiting(self) -> int:
        """Tasks that wait for files of other tasks, minus the reads of files that the user has asked for."""
        return len(self._graph) - self._fetching

    @property
    def demand(self) -> int:
        """Tasks that run or could run now."""
        return len(self._backlog) + len(self._suspects) + sum(len(flight.jobs) for flight in self._flights.values())

    @property
    def has_work(self) -> bool:
        """Whether tasks wait for free resources."""
        return bool(self._backlog or self._suspects)

    @property
    def draining(self) -> bool:
        """Whether nodes of a block still have to be released."""
        return self._fleet.draining

    @property
    def nodes(self) -> dict[str, VineNode]:
        """The connected workers."""
        return self._fleet.nodes

    @property
    def values(self) -> dict[str, Payload]:
        """Small results that other tasks may read."""
        return self._holdings.values

    @property
    def temps(self) -> dict[str, TempFile]:
        """Temp files by name."""
        return self._holdings.temps

    @property
    def most_stored(self) -> int:
        """Highest total size of all temp files so far, in bytes."""
        return self._holdings.most_stored

    @property
    def irreplaceable(self) -> list[str]:
        """Existing temp files that must not be recreated."""
        return list(self._holdings.irreplaceable())

    def lost_record(self, file: str) -> bytes:
        """Return the failure record of a file that cannot be read."""
        return self._holdings.lost_record(file)

    def states(self) -> list[tuple[int, str, str, int]]:
        """Return number, state, node and charged attempts of every task, as for :meth:`Engine.snapshot`."""
        return [(number, *self._state(job), job.tries) for number, job in self.jobs.items()]

    def _state(self, job: Job) -> tuple[str, str]:
        if job.flight is None:
            return ("ready" if self._graph.is_ready(job.invocation.number) else "waiting"), ""
        return "assigned", self._fleet.name(job.flight.where)

    # --- tasks arrive and end ---

    def _on_submitted(self, event: Submitted) -> None:
        self._functions.update(event.functions)
        self._profiles.update((profile.number, profile) for profile in event.profiles)
        for invocation in event.invocations:
            job = Job(invocation, self._profiles[invocation.profile], next(self._sequence))
            self.jobs[invocation.number] = job
            needs, makes = _ids(invocation.inputs), _ids(invocation.outputs)
            if needs or makes:
                try:
                    ready = self._graph.add(invocation.number, needs, makes)
                except ValueError as error:
                    self._fail(job, failure.lost("file-missing", str(error), path=needs[0]))
                    continue
                if not ready:
                    continue
            self._ready(job)

    def _on_retired(self, event: Retired) -> None:
        for number in event.profiles:
            self._profiles.pop(number, None)

    def _on_functions_gone(self, event: FunctionsGone) -> None:
        """Make nodes forget functions that they were sent and that no task needs."""
        for key in event.functions:
            self._functions.pop(key, None)
        for node in self.nodes.values():
            if held := node.functions & event.functions.keys():
                node.functions -= held
                numbers = tuple(number for key in held for number in event.functions[key])
                kept = tuple((key, b"") for key in sorted(held))
                self._send(node, Parcel("retire", next(self._numbers), kept, numbers=numbers, brief=True))

    def _ready(self, job: Job) -> None:
        temps = [use.source for use in job.invocation.inputs if use.source in self.temps]
        if gone := next((name for name in temps if self.temps[name].gone), None):
            self._fail(job, self.lost_record(gone))
        elif self._could(job):
            # A reader of temp files is placed where they are, and its TaskVine task must not end before it does.
            job.alone = job.alone or bool(temps)
            if job.suspect:
                self._suspects.append(job)
            else:
                self._backlog.push(job)

    def _could(self, job: Job) -> bool:
        """Return whether any node can ever hold a task; if all nodes are alike and none can, fail the task."""
        if self._fleet.could(job.need):
            return True
        if not self._uniform:
            self._hopeless.append(job)  # a larger node may join later
            return False
        asked = {name: getattr(job.profile, name) for name in Need._fields}
        requested = {name: amount for name, amount in asked.items() if amount is not None}
        reason = "it asks for more than the largest node has"
        self._fail(job, failure.lost("unsatisfiable", reason, requested=requested, largest=self._fleet.largest()))
        return False

    def _judge(self) -> None:
        """Check again which tasks fit no node, after nodes have joined."""
        waiting, self._hopeless = self._hopeless, []
        for job in waiting:
            if not job.over:
                self._ready(job)
        if self._uniform:
            for job in self._backlog.remove(lambda need: not self._fleet.could(need)):
                if not job.over:
                    self._ready(job)

    def _on_cancelled(self, event: Cancelled) -> None:
        running: dict[str, list[int]] = {}
        for number in event.numbers:
            job = self.jobs.get(number)
            if job is None:
                continue
            flight = job.flight
            self._over(job)
            self._abandon_outputs(job)
            if flight is None:
                continue
            if flight.node is None and len(flight.jobs) == 1:
                self._abort(flight)
            elif flight.node in self.nodes:
                running.setdefault(str(flight.node), []).append(number)
        for address, chosen in running.items():
            if self.nodes[address].ours:
                self._send(
                    self.nodes[address], Parcel("cancel", next(self._numbers), numbers=tuple(chosen), brief=True)
                )

    def _over(self, job: Job) -> None:
        job.over = True
        self.jobs.pop(job.invocation.number, None)
        self._graph.prune(job.invocation.number)
        if isinstance(job.invocation.arguments, str):
            self._said.append(Discard(job.invocation.arguments))
        for use in job.invocation.inputs:
            if use.kind != "local":
                self._tidy(use.source)

    def _fail(self, job: Job, record: bytes, node: str = "") -> None:
        self._over(job)
        self._finish(Completion(job.invocation.number, failure.LOST, record, node, 0.0, 0.0, 0.0))
        self._abandon_outputs(job)

    def _finish(self, completion: Completion, value: str = "") -> None:
        self.done += 1
        self._said.append(Finish(completion, value))

    def _abandon_outputs(self, job: Job) -> None:
        """Give up the outputs of a task that ended without them.

        The user's process tells their readers, and may run the task again.
        """
        for name in _ids(job.invocation.outputs):
            self._holdings.abandon(name)

    # --- files ---

    def _is_needed(self, name: str) -> bool:
        return bool(self._graph.consumers(name))

    def _tidy(self, name: str) -> None:
        if self._holdings.tidy(name):
            self._graph.lost(name)

    def _on_forgotten(self, event: Forgotten) -> None:
        for name in event.files:
            if self._holdings.forget(name):
                self._graph.lost(name)

    def _on_asked(self, event: Asked) -> None:
        temp = self.temps.get(event.file)
        is_there = event.file in self.values or (temp is not None and temp.node)
        if not is_there and self._graph.makers(event.file):
            self._holdings.ask(event.file, event.request)
        else:
            self._said.append(Locate(event.request, event.file))

    def _on_wanted(self, event: Wanted) -> None:
        """Make a node read a piece of a file; to fetch it through TaskVine would block the manager until all is there.

        If no node has the file, TaskVine recreates it.
        """
        flight = Flight(next(self._numbers), errand=Fetch(event.file))
        if event.file not in self.temps:  # it was forgotten meanwhile
            self._said.append(Fetched(flight.number, event.file, False))
            return
        self._fetching += 1
        parcel = Parcel("read", flight.number, staged={event.file: "i0"}, numbers=(event.offset, PIECE))
        self._launch(flight, parcel, inputs=(Staged("temp", event.file, "i0"),), near=True)

    def _on_files_lost(self, event: FilesLost) -> None:
        for name in event.files:
            if (temp := self.temps.get(name)) is None:
                continue
            temp.gone = True
            for number in self._graph.consumers(name):
                job = self.jobs.get(number)
                if job is not None and job.flight is None:
                    self._fail(job, self.lost_record(name))

    def _on_not_remade(self, event: NotRemade) -> None:
        """End the tasks and reads that wait for a file that TaskVine would try to recreate for ever."""
        temp = self.temps.get(event.file)
        node = temp.node if temp is not None else ""
        reason = f"{event.file} was lost with node {node}, and making it again failed: {event.reason}"
        record = failure.lost("file-lost", reason, node=node, name=event.file)
        for flight in [flight for flight in self._flights.values() if flight.node is None]:
            errand = flight.errand
            if isinstance(errand, Fetch) and errand.file == event.file:
                flight.errand = None
                self._fetching -= 1
                self._said.append(Fetched(flight.number, event.file, False, record))
                self._abort(flight)
        for number in self._graph.consumers(event.file):
            job = self.jobs.get(number)
            if job is None or not self._graph.is_ready(number):
                continue
            if job.flight is None or job.flight.node is None:
                self._fail(job, record)
                if job.flight is not None:
                    self._abort(job.flight)

    def lineage(self, file: str) -> tuple[int, tuple[str, ...]] | None:
        """Return the flight that would recreate a temp file, and the temp files that it reads; None if none would."""
        temp = self._holdings.find(file)
        return (temp.flight.number, temp.flight.reads) if temp is not None and temp.flight is not None else None

    def given(self, file: str) -> list[str]:
        """Return the user's files that TaskVine reads to recreate a temp file."""
        temp = self._holdings.find(file)
        if temp is None or temp.flight is None:
            return []
        return [each for each in temp.flight.given if self._holdings.find(each) is None]

    # --- workers ---

    def _on_connected(self, event: Connected) -> None:
        for address, said in event.joined.items():
            node = self._fleet.join(address, said, event.now)
            if node.ours:
                number = next(self._numbers)
                self._send(node, Parcel("hello", number), Flight(number, errand=Greeting()))
        for address in event.gone:
            self._fleet.leave(address)
        if event.gone:
            self._lost_nodes()
        if event.joined:
            self._judge()
        for name in [name for name, temp in self.temps.items() if temp.replicas > 1]:
            self._copy(name)
        if event.joined or event.gone:
            self._said.append(SayNodes())
        if self._fleet.draining:
            self._fleet.drain(self._is_busy)

    def _on_wait_for(self, event: WaitFor) -> None:
        self._wait_for_nodes = event.nodes

    def _on_batch_of(self, event: BatchOf) -> None:
        self._backlog.most = event.calls or MOST

    def _on_draining(self, event: Draining) -> None:
        self._fleet.give_up(event.block)
        self._fleet.drain(self._is_busy)

    def _on_clock(self, event: Clock) -> None:
        busy = {flight.node for flight in self._flights.values() if flight.jobs}
        self._fleet.retire(event.now, busy, lambda name: bool(self._holdings.only_on(name)))

    def _is_busy(self, node: VineNode) -> bool:
        return any(
            node.address in (flight.node, flight.pinned) and (flight.jobs or isinstance(flight.errand, Rescue))
            for flight in self._flights.values()
        )

    def _rescue(self, node: VineNode, others: list[VineNode]) -> bool:
        """Make another node copy the files that only this one has; return whether there are any."""
        precious = self._holdings.only_on(node.name)
        if precious and others:
            target = others[0]
            wanted = [(name, temp) for name, temp in precious if temp.rescue != target.address]
            for _, temp in wanted:
                temp.rescue = target.address
            if wanted:
                inputs = tuple(Staged("temp", name, f"i{count}") for count, (name, _) in enumerate(wanted))
                flight = Flight(next(self._numbers), errand=Rescue(tuple(name for name, _ in wanted)))
                self._send(target, Parcel("hello", flight.number), flight, inputs)
        return bool(precious)

    def _copy(self, name: str) -> None:
        """Make more nodes copy a file, up to the replicas that the user wants: TaskVine has one count for all files."""
        temp = self.temps[name]
        if temp.replicas < 2 or not temp.node or temp.gone:
            return
        temp.copies &= self.nodes.keys()
        if temp.copies and temp.node not in [node.name for node in self.nodes.values()]:
            temp.node = self.nodes[temp.copies.pop()].name
        free = [
            node
            for node in self.nodes.values()
            if not node.draining and node.ours and node.name != temp.node and node.address not in temp.copies
        ]
        for node in free[: temp.replicas - 1 - len(temp.copies)]:
            temp.copies.add(node.address)
            flight = Flight(next(self._numbers), errand=Copy(name))
            self._send(node, Parcel("hello", flight.number), flight, (Staged("temp", name, "i0"),))

    def _rescued(self, files: tuple[str, ...], address: str | None, *, well: bool) -> None:
        for temp in filter(None, map(self.temps.get, files)):
            temp.rescue = ""
            if well and address in self.nodes:
                temp.node = self.nodes[address].name

    def _lost_nodes(self) -> None:
        """Charge the tasks whose node was lost: TaskVine would retry them for ever, even if they crash every node."""
        for flight in list(self._flights.values()):
            if flight.where is None or flight.where in self.nodes:
                continue
            self._abort(flight)
            for job in flight.jobs.values():
                reason, node = f"its worker was lost, at attempt {job.tries + 1}", self._fleet.name(flight.where)
                self._again(job, failure.lost("node-lost", reason, node=node), node)

    # --- to TaskVine ---

    def _on_cycle(self, event: Cycle) -> None:
        rooms = self._fleet.rooms
        if not rooms or (self._fleet.joined < self._wait_for_nodes and not self.done):
            return
        if self._suspects and not any(job.suspect for f in self._flights.values() for job in f.jobs.values()):
            self._fly_suspect(rooms)
        if self._backlog:
            for room, taken, jobs in self._backlog.take(rooms):
                self._fly(jobs, room, taken)

    def _fly_suspect(self, rooms: list[Room]) -> None:
        """Retry one task whose node was lost; others wait, or they would be charged if it brings down the next node."""
        self._suspects = [job for job in self._suspects if not job.over]
        if self._suspects:
            job = self._suspects[0]
            room = self._backlog.place(job, job.need, rooms)
            if room is not None:
                del self._suspects[0]
                room.take(job.need)
                self._fly([job], room, job.need)

    def _near(self, job: Job, room: Room) -> float:
        """Return the size in bytes of a task's inputs that were created on a node."""
        temps = (self.temps.get(use.source) for use in job.invocation.inputs)
        return float(sum(temp.size for temp in temps if temp is not None and temp.node == room.key))

    def _fly(self, jobs: list[Job], room: Room, taken: Need | None) -> None:
        flight = Flight(next(self._numbers), {job.invocation.number: job for job in jobs}, room, taken)
        functions = {job.profile.function: self._functions[job.profile.function] for job in jobs}
        flight.functions = tuple(functions)
        cargo = Cargo(flight.number, functions.items(), self.values, local=self._local)
        temps: list[tuple[FileUse, bool]] = []
        for job in jobs:
            outputs = [use for use in job.invocation.outputs if self._stays(job, use)]
            cargo.add(job, outputs)
            temps += [(use, job.profile.recoverable) for use in outputs if use.kind != "local"]
            job.flight = flight
        for use, recoverable in temps:
            self._holdings.expect(
                use.source,
                flight,
                cargo.reads,
                cargo.reads_by_path,
                recoverable=recoverable,
                replicas=use.replicas,
            )
        node = self._fleet.of(room)
        if node.ours:  # only our workers have a feature to tie a task to
            flight.pinned = node.address
            node.functions.update(map(str, functions))  # plain copies: a key object must end with its last profile
        self._launch(
            flight,
            cargo.parcel(brief=len(jobs) == 1 and not cargo.outputs and self._is_brief(jobs[0])),
            inputs=tuple(cargo.inputs),
            outputs=tuple(cargo.outputs),
            priority=jobs[0].priority,
            category=jobs[0].category if len(jobs) == 1 else BATCHES,
            feature=node.name if node.ours else None,
            near=bool(cargo.reads),
            running_time_min=max(job.profile.running_time_min or 0.0 for job in jobs),
        )

    def _is_brief(self, job: Job) -> bool:
        """Return whether a task's answer is probably small; if it is not, it takes another round trip."""
        largest = self._estimates.largest(job.category)
        return largest is None or largest <= BRIEF

    def _stays(self, job: Job, use: FileUse) -> bool:
        """Return whether an output is a TaskVine file; a result is one unless results of its category are small."""
        if use.kind != "value":
            return True
        largest = self._estimates.largest(job.category)
        return not self._batching or self._backlog.most < 2 or largest is None or largest > self._inline_limit

    def _send(
        self, node: VineNode, parcel: Parcel, flight: Flight | None = None, inputs: tuple[Staged, ...] = ()
    ) -> None:
        """Send a parcel that runs no user task to one node."""
        flight = flight or Flight(parcel.number)
        flight.pinned = node.address
        self._launch(flight, parcel, inputs=inputs, feature=node.name)

    def _launch(
        self,
        flight: Flight,
        parcel: Parcel,
        *,
        inputs: tuple[Staged, ...] = (),
        outputs: tuple[Staged, ...] = (),
        priority: float = URGENT,
        category: str = "",
        feature: str | None = None,
        near: bool = False,
        running_time_min: float = 0.0,
    ) -> None:
        flight.node = None
        flight.given = {staged.source: staged.kind for staged in inputs if staged.kind in CACHED}
        self._flights[flight.number] = flight
        self._said.append(
            Launch(flight.number, parcel, inputs, outputs, priority, category, feature, near, running_time_min)
        )

    def _abort(self, flight: Flight) -> None:
        del self._flights[flight.number]
        self._said.append(Abort(flight.number))
        self._land(flight, well=False)

    # --- from TaskVine ---

    def _on_placed(self, event: Placed) -> None:
        for number, node in event.nodes.items():
            if (flight := self._flights.get(number)) is not None:
                flight.node = node

    def _on_answered(self, event: Answered) -> None:
        flight = self._flights.pop(event.flight, None)
        if flight is None:
            return
        node = self.nodes.get(event.node)
        if isinstance(flight.errand, Greeting):
            self._fleet.greeted(flight.pinned, event.info)
        for completion in event.completions:
            self._completed(completion, flight, event.spooled or {})
        if event.open and flight.jobs and node is not None:
            if not flight.temps:
                self._said.append(Release(flight.number))
            self._send(node, Parcel("collect", flight.number), flight)
            return
        for job in list(flight.jobs.values()):
            self._again(job, failure.lost("node-lost", "its node has no record of it any more", node=event.node))
        self._land(flight, well=not flight.jobs)

    def _on_failed(self, event: Failed) -> None:
        if event.result == "missing library":
            self._said.append(Reinstall())
        flight = self._flights.pop(event.flight, None)
        if flight is None:
            return
        if event.result == failures.FORSAKEN and self._examine(flight):
            self._land(flight, well=False)
            return
        fault = failures.verdict(event.result).fault
        for job in flight.jobs.values():
            if job.over:
                continue
            record = failures.record(event.result, job.tries + 1)
            if fault is failures.Fault.TASK:
                self._fail(job, record)
            else:
                self._again(job, record)
        self._land(flight, well=False)

    def _examine(self, flight: Flight) -> bool:
        """Find out which input the node has lost; return whether there is anything to find out.

        A worker gives a task up if a file is missing from its cache. TaskVine does not say which file, and would send
        the task there for ever.
        """
        if isinstance(flight.errand, Fetch):
            self._renew(flight.errand.file)
            return True
        node = self.nodes.get(str(flight.where))
        jobs = [job for job in flight.jobs.values() if not job.over]
        needed = {use.source for job in jobs for use in job.invocation.inputs}
        over = {use.source for job in flight.jobs.values() for use in job.invocation.inputs} - needed
        files = [file for file in flight.given if file not in over]  # includes functions and shared arguments
        if not jobs or not files or node is None:
            return False
        case = Case(jobs, len(files))
        for job in jobs:
            job.flight = None
        for file in files:
            probe = Flight(next(self._numbers), errand=Probe(file, case))
            inputs = (Staged(flight.given[file], file, "i0"),)
            if node.ours:
                self._send(node, Parcel("hello", probe.number, brief=True), probe, inputs)
            else:
                self._launch(probe, Parcel("hello", probe.number, brief=True), inputs=inputs, near=True)
        return True

    def _examined(self, probe: Probe, where: str, *, well: bool) -> None:
        case = probe.case
        temp = self.temps.get(probe.file)
        if not well and temp is not None and not temp.recoverable:
            # A transfer may have failed for other reasons: ask the node that created the file.
            maker = next((node for node in self.nodes.values() if node.name == temp.node), None)
            if maker is not None and maker.ours and maker.address != where:
                again = Flight(next(self._numbers), errand=probe)
                parcel = Parcel("hello", again.number, brief=True)
                self._send(maker, parcel, again, (Staged("temp", probe.file, "i0"),))
                return
        case.open -= 1
        if not well:
            case.bad.append(probe.file)
        if case.open:
            return
        for file in case.bad:
            self._renew(file)
        for job in case.jobs:
            if job.over:
                continue
            if case.bad:
                words = f"its node had lost {', '.join(sorted(case.bad))}"
                self._renewed(job, failure.lost("file-lost", words, name=case.bad[0]))
            else:
                self._again(job, failures.record(failures.FORSAKEN, job.tries + 1))

    def _renew(self, file: str) -> None:
        """Make TaskVine send a file again or recreate it, because a node has lost or spoiled its replica."""
        temp = self._holdings.find(file)
        self._said.append(Renew(file, temp is None or temp.recoverable or temp.node == HOME))

    def _renewed(self, job: Job, record: bytes) -> None:
        """Retry a task that could not read an input, without a charge: the input is renewed."""
        job.flight = None
        job.renewals += 1
        if job.renewals > MOST_RENEWALS:
            self._fail(job, record)
            return
        self._said.append(Again(job.invocation.number, failure.brief(record)))
        self._ready(job)

    def _on_cut_short(self, event: CutShort) -> None:
        self._renew(event.file)

    def _on_refused(self, event: Refused) -> None:
        flight = self._flights.pop(event.flight, None)
        if flight is None:
            return
        for job in flight.jobs.values():
            if not job.over:
                self._fail(job, event.record)
        self._land(flight, well=False)

    def _land(self, flight: Flight, *, well: bool) -> None:
        """Finish a flight, which was successful if ``well`` is true."""
        if flight.room is not None:
            if flight.taken is None:
                flight.room.batches -= 1
            else:
                flight.room.give(flight.taken)
            flight.room = None
        self._holdings.land(flight)
        errand = flight.errand
        if isinstance(errand, Rescue):
            self._rescued(errand.files, flight.pinned, well=well)
        elif isinstance(errand, Copy) and not well and (temp := self.temps.get(errand.file)) is not None:
            temp.copies.discard(str(flight.pinned))
        elif isinstance(errand, Fetch):
            self._fetching -= 1
            self._said.append(Fetched(flight.number, errand.file, well))
        elif isinstance(errand, Probe):
            # If the node was lost meanwhile, the failure says nothing about the file.
            where = str(flight.where)
            self._examined(errand, where, well=well or where not in self.nodes)

    def _again(self, job: Job, record: bytes, node: str = "") -> None:
        """Retry a task that was lost, or give it up."""
        job.flight = None
        if job.over:
            return
        job.tries += 1
        job.suspect = True
        if self._max_retries is not None and job.tries > self._max_retries:
            self._fail(job, record, node)
        else:
            self.retried += 1
            self._said.append(Again(job.invocation.number, failure.brief(record)))
            self._ready(job)

    def _completed(self, completion: Completion, flight: Flight, spooled: dict[str, int]) -> None:
        job = flight.jobs.pop(completion.number, None)
        body = completion.body
        if job is None or job.over:
            if isinstance(body, str) and body:
                self._said.append(Discard(body))
            return
        job.flight = None
        if completion.outcome == failure.RETURNED:
            size = len(body) if isinstance(body, bytes) else self._inline_limit + 1
            self._estimates.learn(job.category, completion.seconds, size)
            self._keep(job, completion, spooled)
        elif completion.outcome == failure.LOST and failure.lost_file(body) is not None:
            assert isinstance(body, bytes)
            self._renew(str(failure.lost_file(body)))
            self._renewed(job, body)
        else:
            self._over(job)
            self._abandon_outputs(job)
            self._finish(completion)

    def _keep(self, job: Job, completion: Completion, spooled: dict[str, int]) -> None:
        """Take over a task's outputs, and finish the task."""
        body = completion.body
        made = {name: size for name, size, _ in completion.made}
        value = ""
        for use in job.invocation.outputs:
            if use.kind == "local":
                continue
            if use.kind == "value":
                value = use.source
            if use.source in made:
                self._holdings.made(use.source, made[use.source], completion.node)
                self._copy(use.source)
                continue
            self._holdings.remove(use.source)  # a small result after all
            if isinstance(body, str) and not self._local:  # a large result that was expected to be small
                self._holdings.adopt(use.source, body, spooled.get(body, 0))
            else:
                self.values[use.source] = body
        self._finish(completion, value)
        there = _ids(job.invocation.outputs)
        ready = self._graph.made(there)
        self._over(job)
        for number in ready:
            if (follower := self.jobs.get(number)) is not None:
                self._ready(follower)
        for name in there:
            self._tidy(name)
            for request in self._holdings.asked(name):
                self._said.append(Locate(request, name))


def _ids(uses: Iterable[FileUse]) -> list[str]:
    return [use.source for use in uses if use.kind != "local"]
