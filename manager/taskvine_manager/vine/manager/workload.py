"""The unfinished tasks: which of them wait for files or room, which are sent next, and how they end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from taskvine_manager import gpu_shares
from taskvine_manager.record import events as recorded
from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.checking import Checker, Story
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.scheduling.tasks import temp_files
from taskvine_manager.vine.manager.batching import MOST, Backlog, Estimates, Room
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.events import Discard, Finish, Locate, RunAgain, Say
from taskvine_manager.vine.manager.fleet import Fleet
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.tasks import RESOURCES, Need, State, Task
from taskvine_manager.wire.messages import Completion, Invocation, Profile

MOST_RENEWALS = 10
"""Times that a task is retried without a charge because a node had lost or spoiled one of its inputs."""


class Workload:
    """The unfinished tasks by number.

    Parameters
    ----------
    say : callable
        Takes instructions for the shell.
    graph : DependencyGraph
        Knows which tasks wait for files of other tasks.
    files : Holdings
        The results and temp files.
    fleet : Fleet
        The workers.
    config : VineConfig
        Settings of the engine.
    checker : Checker or None
        Keeps the stories of tasks, if the core checks itself.
    details : list, optional
        Takes events for the record of the run.
    """

    def __init__(
        self,
        say: Say,
        graph: DependencyGraph,
        files: Holdings,
        fleet: Fleet,
        config: VineConfig,
        checker: Checker | None,
        details: list[recorded.Event] | None = None,
    ) -> None:
        self._details = details
        self._say, self._graph, self._files, self._fleet = say, graph, files, fleet
        self._config, self._checker = config, checker
        self._profiles: dict[int, Profile] = {}
        self._sequence = itertools.count()
        self.estimates = Estimates()
        self.backlog = Backlog(self.estimates, self.near, enabled=config.batching)
        self.unfit: list[Task] = []
        """Tasks that fit none of the present nodes, and some that were cancelled."""
        self.suspects: list[Task] = []
        """Tasks that may have brought a worker down, and wait for their turn, and some that were cancelled."""
        self.tasks: dict[int, Task] = {}
        self.done = 0
        self.retried = 0

    @property
    def queued(self) -> int:
        """Number of tasks that wait for free resources, including some that were cancelled."""
        return len(self.backlog) + len(self.suspects)

    @property
    def batches(self) -> bool:
        """Whether tasks may share parcels."""
        return self._config.batching and self.backlog.most > 1

    def limit_batches(self, most: int) -> None:
        """Set the limit of tasks in one parcel; 0 for the default limit."""
        self.backlog.most = most or MOST

    # --- tasks arrive ---

    def add(self, profiles: Iterable[Profile], invocations: Iterable[Invocation]) -> None:
        """Add tasks, and profiles that are new."""
        self._profiles.update((profile.number, profile) for profile in profiles)
        for invocation in invocations:
            story = Story(self._checker) if self._checker is not None else None
            task = Task(invocation, self._profiles[invocation.profile], next(self._sequence), story)
            self.tasks[invocation.number] = task
            needs, makes = temp_files(invocation.inputs), temp_files(invocation.outputs)
            if needs or makes:
                try:
                    ready = self._graph.add(invocation.number, needs, makes)
                except ValueError as error:
                    self.fail(task, failure.lost("file-missing", str(error), path=needs[0]))
                    continue
                if not ready:
                    continue
            self._queue(task)

    def retire(self, profiles: Iterable[int]) -> None:
        """Forget profiles that no new task has."""
        for number in profiles:
            self._profiles.pop(number, None)

    def _queue(self, task: Task) -> None:
        """Queue a task whose input files exist; fail it if it cannot read one of them, or no node can ever hold it."""
        temps = [use.source for use in task.invocation.inputs if use.source in self._files.temps]
        if gone := next((name for name in temps if self._files.temps[name].gone), None):
            self.fail(task, self._files.lost_record(gone))
        elif self._fleet.could(task.need):
            # A reader of temp files is placed where they are, and its TaskVine task must not end before it does.
            task.alone = task.alone or bool(temps)
            task.move(State.READY)
            if task.suspect:
                self.suspects.append(task)
            else:
                self.backlog.push(task)
        elif self._config.uniform:
            self._refuse(task)
        else:
            task.move(State.UNFIT)
            self.unfit.append(task)

    def _refuse(self, task: Task) -> None:
        asked = {name: getattr(task.profile, name) for name in (*RESOURCES, "gpu_memory")}
        requested = gpu_shares.requested(asked, task.profile.library)
        reason = "it asks for more than the largest node has"
        self.fail(task, failure.lost("unsatisfiable", reason, requested=requested, largest=self._fleet.largest()))

    def reconsider(self) -> None:
        """Check again which tasks fit no node, after nodes have joined."""
        unfit, self.unfit = [task for task in self.unfit if task.state is State.UNFIT], []
        for task in unfit:
            if self._fleet.could(task.need):
                self._queue(task)
            else:
                self.unfit.append(task)
        if self._config.uniform:
            for task in self.backlog.remove(lambda need: not self._fleet.could(need)):
                self._refuse(task)

    # --- tasks are sent ---

    def take(self, rooms: list[Room], has_suspect: Callable[[], bool]) -> list[tuple[Room, Need | None, list[Task]]]:
        """Take the tasks for which nodes have free resources, grouped into parcels; see :meth:`.Backlog.take`.

        Parameters
        ----------
        rooms : list of Room
            Rooms of the nodes that take new work.
        has_suspect : callable
            Whether a task whose node was lost is being retried. Other such tasks wait, or they would be charged if it
            brings down the next node.
        """
        taken: list[tuple[Room, Need | None, list[Task]]] = []
        if self.suspects and not has_suspect():
            self.suspects = [task for task in self.suspects if task.state is State.READY]
            for task in self.suspects[:1]:
                room = self.backlog.place(task, task.need, rooms)
                if room is not None:
                    del self.suspects[0]
                    room.take(task.need)
                    taken.append((room, task.need, [task]))
        if self.backlog:
            taken += self.backlog.take(rooms)
        return taken

    def bytes_read(self, task: Task) -> int:
        """Return the size in bytes of a task's inputs that are temp files."""
        temps = (self._files.temps.get(use.source) for use in task.invocation.inputs)
        return sum(temp.size for temp in temps if temp is not None)

    def near(self, task: Task, room: Room) -> float:
        """Return the size in bytes of a task's inputs that were created on a node."""
        temps = (self._files.temps.get(use.source) for use in task.invocation.inputs)
        return float(sum(temp.size for temp in temps if temp is not None and temp.node == room.key))

    # --- tasks come back ---

    def retry(self, task: Task, record: bytes, node: str = "") -> None:
        """Retry a task that was lost, or give it up."""
        if task.state is State.DONE:
            return
        task.attempts += 1
        task.suspect = True
        max_retries = self._config.max_retries
        if max_retries is not None and task.attempts > max_retries:
            self.fail(task, record, node)
        else:
            self.retried += 1
            self._note(recorded.Requeued(task.invocation.number, "node-lost", task.attempts))
            self._say(RunAgain(task.invocation.number, failure.brief(record)))
            self._queue(task)

    def retry_renewed(self, task: Task, record: bytes) -> None:
        """Retry a task that could not read an input, without a charge: the input is renewed."""
        task.renewals += 1
        if task.renewals > MOST_RENEWALS:
            self.fail(task, record)
            return
        self._note(recorded.Requeued(task.invocation.number, "unreadable", task.attempts))
        self._say(RunAgain(task.invocation.number, failure.brief(record)))
        self._queue(task)

    def _note(self, event: recorded.Event) -> None:
        if self._details is not None:
            self._details.append(event)

    def returned(self, task: Task, completion: Completion, value: str) -> None:
        """Finish a task whose outputs exist; ``value`` is the id of its result, if other tasks may read it."""
        self._finish(completion, value)
        there = temp_files(task.invocation.outputs)
        ready = self._graph.made(there)
        self._over(task)
        for number in ready:
            if (follower := self.tasks.get(number)) is not None:
                self._queue(follower)
        for name in there:
            self._files.tidy(name)
            for request in self._files.asked(name):
                self._say(Locate(request, name))

    def fail(self, task: Task, record: bytes, node: str = "") -> None:
        """Finish a task that is lost, with a failure record."""
        self.end(task, Completion(task.invocation.number, failure.LOST, record, node, 0.0, 0.0, 0.0))

    def end(self, task: Task, completion: Completion) -> None:
        """Finish a task that ended without its outputs.

        The user's process tells their readers, and may run the task again.
        """
        self._over(task)
        self._finish(completion)
        self._abandon_outputs(task)

    def cancel(self, task: Task) -> None:
        """Forget a task whose outcome is no longer wanted."""
        self._over(task)
        self._abandon_outputs(task)

    def _finish(self, completion: Completion, value: str = "") -> None:
        self.done += 1
        self._say(Finish(completion, value))

    def _over(self, task: Task) -> None:
        task.move(State.DONE)
        del self.tasks[task.invocation.number]
        self._graph.prune(task.invocation.number)
        if isinstance(task.invocation.arguments, str):
            self._say(Discard(task.invocation.arguments))
        for use in task.invocation.inputs:
            if use.kind != "local":
                self._files.tidy(use.source)

    def _abandon_outputs(self, task: Task) -> None:
        for name in temp_files(task.invocation.outputs):
            self._files.abandon(name)
