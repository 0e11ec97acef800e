"""The core of the TaskVine engine: events in, instructions out, without ndcctools, sockets or clocks.

Only :meth:`Core.handle` changes its state. The dependency graph holds tasks that wait for files of other tasks, and the
backlog holds tasks that could run. TaskVine gets a parcel of tasks only when a node can take it. A parcel ends with an
answer of the node's supervisor (:class:`Answered`), or without one, when TaskVine only says that it failed
(:class:`Failed`). Parcels that hold no user's tasks but work of the engine itself have an *errand*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskvine_manager.record import events as recorded
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.scheduling.checking import Checker, check
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.vine.manager import failures, invariants
from taskvine_manager.vine.manager.batching import Room
from taskvine_manager.vine.manager.cargo import Cargo
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.events import (
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
    FilesLost,
    Forgotten,
    FunctionsGone,
    Instruction,
    Launch,
    Locate,
    Looked,
    NotRemade,
    Placed,
    Record,
    Refused,
    Reinstall,
    Release,
    Retired,
    SayNodes,
    Submitted,
    WaitFor,
    Wanted,
)
from taskvine_manager.vine.manager.examination import Examination
from taskvine_manager.vine.manager.fleet import Fleet
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.reads import Reads
from taskvine_manager.vine.manager.reasons import Reasons
from taskvine_manager.vine.manager.replication import Replication
from taskvine_manager.vine.manager.sent import Copy, Fetch, Greeting, Probe, Rescue, SentParcel, SentParcels
from taskvine_manager.vine.manager.tasks import Need, State, Task
from taskvine_manager.vine.manager.workload import Workload
from taskvine_manager.vine.parcels import Parcel
from taskvine_manager.wire.messages import Completion, FileUse

BRIEF = 400
"""Largest result, in bytes, that surely fits in standard output with the rest of its answer."""
BATCHES = "batches"
"""TaskVine's category of parcels of several tasks."""


class Core:
    """State machine that decides which parcels TaskVine gets, and what happens to tasks when they end.

    The shell may read its parts ``workload``, ``files`` and ``fleet``, but not change them.

    Parameters
    ----------
    config : VineConfig
        Settings of the engine.
    check : bool
        Whether the core checks its state after events, and keeps the story of each task for errors.
    details : bool
        Whether the core returns details for the record of the run.
    """

    def __init__(self, config: VineConfig, *, check: bool = False, details: bool = False) -> None:
        self._checker = Checker() if check else None
        self._wait_for_nodes = config.wait_for_nodes
        self._local = config.local
        self._inline_limit = config.nodes.inline_limit
        self._functions: dict[str, Payload] = {}
        self._said: list[Instruction] = []
        self._details: list[recorded.Event] | None = [] if details else None
        self._graph = DependencyGraph()
        say = self._said.append
        self._sent = SentParcels(say)
        self.files = Holdings(say, self._graph.consumers, self._graph.lost, self._details)
        self.fleet = Fleet(say, config, self._details)
        self.workload = Workload(say, self._graph, self.files, self.fleet, config, self._checker, self._details)
        self._reads = Reads(say, self.files, self._sent)
        self._replication = Replication(self.files, self._sent, self.fleet.nodes, self._details)
        self.reasons = Reasons(self.workload, self.fleet, self._sent.has_suspect, self._details)
        self._examination = Examination(self.files, self.fleet, self._sent, self.workload)
        self.parts = invariants.Parts(self._graph, self.workload, self.files, self.fleet, self._sent, self._reads)
        """The parts of the core, to look at."""
        self.handlers: dict[type, Callable[[Any], None]] = {
            Submitted: self._on_submitted,
            Retired: lambda event: self.workload.retire(event.profiles),
            FunctionsGone: self._on_functions_gone,
            Cancelled: self._on_cancelled,
            Forgotten: self._on_forgotten,
            Asked: self._on_asked,
            Wanted: self._reads.wanted,
            FilesLost: self._on_files_lost,
            NotRemade: self._on_not_remade,
            Draining: self._on_draining,
            WaitFor: self._on_wait_for,
            BatchOf: lambda event: self.workload.limit_batches(event.tasks),
            Connected: self._on_connected,
            Placed: self._sent.placed,
            Answered: self._on_answered,
            Failed: self._on_failed,
            Refused: self._on_refused,
            CutShort: lambda event: self.files.renew(event.file),
            Cycle: self._on_cycle,
            Clock: self._on_clock,
            Looked: lambda event: self.reasons.look(self._wait_for_nodes),
        }
        """What is called for each type of event."""
        self.errands: dict[type, Callable[..., None]] = {
            Greeting: lambda *_, well: None,  # its answer counts
            Rescue: self._replication.rescued,
            Copy: self._replication.copied,
            Fetch: self._reads.ended,
            Probe: self._examination.probed,
        }
        """What is called when an errand of each type has ended."""

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event, and return the resulting instructions, in order.

        Raises
        ------
        InvariantBroken
            If the core checks its state, and finds that it contradicts itself.
        """
        if self._checker is not None:
            self._checker.begin(event)
        self.handlers[type(event)](event)
        if self._checker is not None:
            self._checker.end(invariants.INVARIANTS, self.parts, self.parts.size)
        if self._details:
            self._said.append(Record(self._details.copy()))
            self._details.clear()
        said = self._said.copy()
        self._said.clear()
        return said

    def check(self) -> None:
        """Check the state now.

        Raises
        ------
        InvariantBroken
            If it contradicts itself.
        """
        check(invariants.INVARIANTS, self.parts)

    # --- state ---

    @property
    def waiting(self) -> int:
        """Tasks that wait for files of other tasks, minus the reads of files that the user has asked for."""
        return len(self._graph.lacking) - self._reads.open

    @property
    def demand(self) -> int:
        """Tasks that run or could run now."""
        return self.workload.queued + self._sent.count_tasks()

    def states(self) -> list[tuple[int, str, str, int]]:
        """Return number, state, node and charged attempts of every task, as for :meth:`Engine.snapshot`."""
        return [(number, *self._state(task), task.attempts) for number, task in self.workload.tasks.items()]

    def _state(self, task: Task) -> tuple[str, str]:
        if (sent := self._sent.of(task)) is not None:
            return "assigned", self.fleet.name(sent.where)
        return ("waiting" if task.state is State.WAITING else "ready"), ""

    # --- from the user's process ---

    def _on_submitted(self, event: Submitted) -> None:
        self._functions.update(event.functions)
        self.workload.add(event.profiles, event.invocations)

    def _on_functions_gone(self, event: FunctionsGone) -> None:
        """Make nodes forget functions that they were sent and that no task needs."""
        for key in event.functions:
            self._functions.pop(key, None)
        for node in self.fleet.nodes.values():
            if held := node.functions & event.functions.keys():
                node.functions -= held
                numbers = tuple(number for key in held for number in event.functions[key])
                kept = tuple((key, b"") for key in sorted(held))
                self._sent.tell(node, Parcel("retire", self._sent.number(), kept, numbers=numbers, brief=True))

    def _on_cancelled(self, event: Cancelled) -> None:
        running: dict[str, list[int]] = {}
        for number in event.numbers:
            task = self.workload.tasks.get(number)
            if task is None:
                continue
            sent = self._sent.of(task)
            self.workload.cancel(task)
            if sent is None:
                continue
            if sent.node is None and len(sent.tasks) == 1:
                self._abort(sent)
            elif sent.node in self.fleet.nodes:
                running.setdefault(str(sent.node), []).append(number)
        for address, chosen in running.items():
            node = self.fleet.nodes[address]
            if node.ours:
                self._sent.tell(node, Parcel("cancel", self._sent.number(), numbers=tuple(chosen), brief=True))

    def _on_forgotten(self, event: Forgotten) -> None:
        for name in event.files:
            if self.files.is_there(name) or self._graph.makers(name):  # otherwise it never will be there
                self.files.forget(name)

    def _on_asked(self, event: Asked) -> None:
        if not self.files.is_there(event.file) and self._graph.makers(event.file):
            self.files.ask(event.file, event.request)
        else:
            self._said.append(Locate(event.request, event.file))

    # --- lost files ---

    def _on_files_lost(self, event: FilesLost) -> None:
        for name in event.files:
            if not self.files.lose(name):
                continue
            for number in self._graph.consumers(name):
                task = self.workload.tasks.get(number)
                if task is not None and task.state is not State.ASSIGNED:
                    self.workload.fail(task, self.files.lost_record(name))

    def _on_not_remade(self, event: NotRemade) -> None:
        """End the tasks and reads that wait for a file that TaskVine tries to recreate in vain."""
        temp = self.files.temps.get(event.file)
        node = temp.node if temp is not None else ""
        reason = f"{event.file} was lost with node {node}, and making it again failed: {event.reason}"
        record = failure.lost("file-lost", reason, node=node, name=event.file)
        self._reads.give_up(event.file, record)
        for number in self._graph.consumers(event.file):
            task = self.workload.tasks.get(number)
            if task is None or task.state is State.WAITING:
                continue
            sent = self._sent.of(task)
            if sent is None or sent.node is None:
                self.workload.fail(task, record)
                if sent is not None:
                    self._abort(sent)

    # --- workers ---

    def _on_connected(self, event: Connected) -> None:
        for address, said in event.joined.items():
            node = self.fleet.join(address, said, event.now)
            if node.ours:
                self._sent.hello(node, Greeting())
        for address in event.gone:
            self.fleet.leave(address)
        if event.gone:
            self._charge_lost()
        if event.joined:
            self.workload.reconsider()
        self._replication.replicate_all()
        if event.joined or event.gone:
            self._said.append(SayNodes())
        if self.fleet.draining:
            self.fleet.drain(self._sent.is_busy, self._replication.rescue)

    def _charge_lost(self) -> None:
        """Count an attempt of each task whose node was lost. TaskVine would retry them without a limit."""
        for sent in self._sent.lost(self.fleet.nodes):
            self._abort(sent)
            for task in sent.tasks.values():
                reason, node = f"its worker was lost, at attempt {task.attempts + 1}", self.fleet.name(sent.where)
                self.workload.retry(task, failure.lost("node-lost", reason, node=node), node)

    def _on_draining(self, event: Draining) -> None:
        self.fleet.give_up(event.block)
        self.fleet.drain(self._sent.is_busy, self._replication.rescue)

    def _on_wait_for(self, event: WaitFor) -> None:
        self._wait_for_nodes = event.nodes

    def _on_clock(self, event: Clock) -> None:
        self.fleet.dismiss_idle(event.now, self._sent.working(), self.files.only_on, self._replication.rescue)

    # --- to TaskVine ---

    def _on_cycle(self, event: Cycle) -> None:
        rooms = self.fleet.rooms
        if not rooms or (self.fleet.joined < self._wait_for_nodes and not self.workload.done):
            return
        for room, taken, tasks in self.workload.take(rooms, self._sent.has_suspect):
            self._run(tasks, room, taken)

    def _run(self, tasks: list[Task], room: Room, taken: Need | None) -> None:
        """Give TaskVine a parcel of tasks for a node."""
        library = tasks[0].need.library if taken is None else None
        sent = SentParcel(self._sent.number(), {task.invocation.number: task for task in tasks}, room, taken, library)
        functions = {task.profile.function: self._functions[task.profile.function] for task in tasks}
        sent.functions = tuple(functions)
        cargo = Cargo(sent.number, functions.items(), self.files.values, local=self._local)
        temps: list[tuple[FileUse, bool]] = []
        for task in tasks:
            outputs = [use for use in task.invocation.outputs if self._stays(task, use)]
            cargo.add(task, outputs)
            temps += [(use, task.profile.recoverable) for use in outputs if use.kind != "local"]
            task.parcel = sent.number
            task.move(State.ASSIGNED, room.key)
        if temps:
            sent.reads, sent.reads_by_path = cargo.reads, cargo.reads_by_path
        for use, recoverable in temps:
            self.files.expect(use.source, sent, recoverable=recoverable, replicas=use.replicas)
        node = self.fleet.of(room)
        if self._details is not None:
            local = sum(int(self.workload.near(task, room)) for task in tasks) if cargo.reads else 0
            total = sum(map(self.workload.bytes_read, tasks)) if cargo.reads else 0
            numbers, queue = list(sent.tasks), room.batches
            self._details.append(recorded.Placed(node.name, numbers, "parcel", local, total - local, queue))
        if node.ours:  # only our workers have a feature to tie a task to
            sent.pinned = node.address
            node.functions.update(map(str, functions))  # plain copies: a key object must end with its last profile
        first, single = tasks[0], len(tasks) == 1
        launch = Launch(
            cargo.parcel(brief=single and not cargo.outputs and self._is_brief(first)),
            inputs=tuple(cargo.inputs),
            outputs=tuple(cargo.outputs),
            priority=first.profile.priority,
            category=first.profile.category if single else BATCHES,
            feature=node.name if node.ours else None,
            near=bool(cargo.reads),
            running_time_min=max(task.profile.running_time_min or 0.0 for task in tasks),
        )
        self._sent.launch(sent, launch)

    def _is_brief(self, task: Task) -> bool:
        """Whether a task's answer is probably small enough for standard output. If it is not, it takes another trip."""
        largest = self.workload.estimates.largest.get(task.profile.category)
        return largest is None or largest <= BRIEF

    def _stays(self, task: Task, use: FileUse) -> bool:
        """Whether an output stays on its node as a TaskVine file. Results of categories with small ones do not."""
        if use.kind != "value":
            return True
        largest = self.workload.estimates.largest.get(task.profile.category)
        return not self.workload.batches or largest is None or largest > self._inline_limit

    # --- from TaskVine ---

    def _on_answered(self, event: Answered) -> None:
        sent = self._sent.take(event.parcel)
        if sent is None:
            return
        if isinstance(sent.errand, Greeting):
            self.fleet.greeted(sent.pinned, event.info)
            self.workload.reconsider()  # the node has said how much memory its gpus have
        for completion in event.completions:
            self._completed(completion, sent, event.spooled or {})
        node = self.fleet.nodes.get(event.node)
        if node is not None and event.libraries is not None:
            node.room.warm = event.libraries
            if self._details is not None:
                self._details.append(recorded.Libraries(node.name, event.libraries))
        if event.open and sent.tasks and node is not None:
            if not sent.temps:
                self._said.append(Release(sent.number))
            self._sent.tell(node, Parcel("collect", sent.number), sent)
            return
        for task in list(sent.tasks.values()):
            record = failure.lost("node-lost", "its node has no record of it any more", node=event.node)
            self.workload.retry(task, record)
        self._end(sent, well=not sent.tasks)

    def _on_failed(self, event: Failed) -> None:
        if event.result == "missing library":
            self._said.append(Reinstall())
        sent = self._sent.take(event.parcel)
        if sent is None:
            return
        forsaken = event.result == failures.FORSAKEN
        if forsaken and isinstance(sent.errand, Fetch):
            self.files.renew(sent.errand.file)
        elif not (forsaken and self._examination.begin(sent)):
            is_retried = failures.verdict(event.result).is_retried
            for task in sent.tasks.values():
                record = failures.record(event.result, task.attempts + 1)
                if is_retried:
                    self.workload.retry(task, record)
                elif task.state is not State.DONE:
                    self.workload.fail(task, record)
        self._end(sent, well=False)

    def _on_refused(self, event: Refused) -> None:
        sent = self._sent.take(event.parcel)
        if sent is None:
            return
        for task in sent.tasks.values():
            if task.state is not State.DONE:
                self.workload.fail(task, event.record)
        self._end(sent, well=False)

    def _completed(self, completion: Completion, sent: SentParcel, spooled: dict[str, int]) -> None:
        task = sent.tasks.pop(completion.number, None)
        body = completion.body
        if task is None or task.state is State.DONE:
            if isinstance(body, str) and body:
                self._said.append(Discard(body))
        elif completion.outcome == failure.RETURNED:
            size = len(body) if isinstance(body, bytes) else self._inline_limit + 1
            self.workload.estimates.learn(task.profile.category, completion.seconds, size)
            self.workload.returned(task, completion, self._keep(task, completion, spooled))
        elif completion.outcome == failure.LOST and (file := failure.lost_file(body)) is not None:
            assert isinstance(body, bytes)
            self.files.renew(file)
            self.workload.retry_renewed(task, body)
        else:
            self.workload.end(task, completion)

    def _keep(self, task: Task, completion: Completion, spooled: dict[str, int]) -> str:
        """Take over a task's outputs; return the id of its result, if other tasks may read it."""
        body = completion.body
        made = {name: size for name, size, _ in completion.made}
        value = ""
        for use in task.invocation.outputs:
            if use.kind == "local":
                continue
            if use.kind == "value":
                value = use.source
            if use.source in made:
                self.files.made(use.source, made[use.source], completion.node)
                self._replication.replicate(use.source)
            elif isinstance(body, str) and not self._local:  # a large result that was expected to be small
                self.files.adopt(use.source, body, spooled.get(body, 0))
            else:  # a small result, or a large one on this machine
                self.files.keep(use.source, body)
        return value

    # --- parcels end ---

    def _abort(self, sent: SentParcel) -> None:
        self._sent.withdraw(sent)
        self._end(sent, well=False)

    def _end(self, sent: SentParcel, *, well: bool) -> None:
        """Finish a parcel: free its room and its files. ``well`` says whether it was successful."""
        sent.leave_room()
        self.files.release(sent)
        if sent.errand is not None:
            self.errands[type(sent.errand)](sent, sent.errand, well=well)
